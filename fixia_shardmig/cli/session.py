"""What a command run has: its mapping, where results and progress go, and what a signal does."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from fixia_shardmig.model.errors import SAME_COMMAND, Exit, MappingError, ShardmigError

if TYPE_CHECKING:
    from fixia_shardmig.runner.context import Context

DEFAULT_MAPPING = "shardmig.yaml"
SCHEMA_VERSION = 1
_COMMAND = re.compile(r"shardmig( [a-z-]+| /\S+)+")


def as_json(part: dict[str, Any], *, output: str, migration: str | None) -> str:
    """Return a result as one JSON object, on one line for `jsonl`."""
    head = {"schema_version": SCHEMA_VERSION, "migration": migration}
    whole = head | {name: value for name, value in part.items() if name not in head}
    return json.dumps(whole, indent=None if output == "jsonl" else 2, default=str)


def show_failure(error: ShardmigError, *, code: int, output: str, migration: str | None) -> int:
    """Tell people what failed, scripts too if they asked for JSON, and return the exit code."""
    click.echo(f"shardmig: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    if output in {"json", "jsonl"}:
        failure = {"message": error.message, "hint": error.hint, "exit_code": code}
        next_steps = [error.hint] if _COMMAND.fullmatch(error.hint) else []
        part = {"status": Exit(code).name.lower(), "next_steps": next_steps, "error": failure}
        click.echo(as_json(part, output=output, migration=migration))
    return code


@dataclass(slots=True)
class Session:
    """The global options of one run. `terminated` remembers which signal came."""

    mapping: str | None
    output: str
    verbose: int
    yes: bool
    stop: Event = field(default_factory=Event)
    terminated: bool = False
    migration: str | None = None

    def mapping_file(self) -> Path:
        """Return the mapping: named, or `shardmig.yaml` here or in a parent."""
        if self.mapping:
            return Path(self.mapping)
        here = Path.cwd()
        for folder in (here, *here.parents):
            if (folder / DEFAULT_MAPPING).is_file():
                return folder / DEFAULT_MAPPING
        raise MappingError(
            f"no mapping given, and no {DEFAULT_MAPPING} here or above",
            hint="shardmig --mapping FILE …, or shardmig init --from-url URL > shardmig.yaml",
        )

    @property
    def stopped_code(self) -> Exit | None:
        """Return the exit code of a run that a signal has ended in good order; None without a signal."""
        if not self.stop.is_set():
            return None
        return Exit.TERMINATED if self.terminated else Exit.INTERRUPTED

    def load(self) -> Context:
        """Read and check the mapping against the source."""
        from fixia_shardmig.runner.context import load

        context = load(self.mapping_file(), say=self.say, stop=self.stop)
        self.migration = context.shard_map.name
        return context

    def say(self, line: str) -> None:
        """Show progress on stderr, and in the log."""
        import structlog

        structlog.get_logger().info("progress", text=line)
        click.echo(line, err=True)

    def result(
        self,
        part: dict[str, Any],
        text: str | Callable[[], str],
        *,
        status: str = "ok",
        next_steps: tuple[str, ...] = (),
    ) -> None:
        """Print a command's result: one JSON object, whose status and next steps are the program's, or text."""
        if self.output != "text":
            head = {"status": status, "next_steps": list(next_steps)}
            click.echo(self._json(head | {name: value for name, value in part.items() if name not in head}))
            return
        shown = text() if callable(text) else text
        click.echo(shown.rstrip("\n"))
        for line in (f"next: {step}" for step in next_steps):
            if line not in shown:
                click.echo(line)

    def _json(self, part: dict[str, Any]) -> str:
        return as_json(part, output=self.output, migration=self.migration)

    def failed(self, error: ShardmigError, *, again: str) -> int:
        """Show an error and return its exit code; `again` is the command that goes on from here."""
        import structlog

        code = int((self.stopped_code if error.exit_code == Exit.INTERRUPTED else None) or error.exit_code)
        if isinstance(error, MappingError) and not error.hint:  # each mistake has its own, in its line
            error.hint = f"mend the mapping, then {SAME_COMMAND}"
        error.hint = error.hint.replace(SAME_COMMAND, f"run: {again}")
        structlog.get_logger().error("failed", message=error.message, hint=error.hint, exit_code=code)
        return show_failure(error, code=code, output=self.output, migration=self.migration)

    def broken(self, error: Exception) -> int:
        """Show an error that is nobody's but the program's own; its traceback is in the log, or on stderr with `-v`."""
        import structlog

        structlog.get_logger().error("broken", error=type(error).__name__, exc_info=error)
        cause = ShardmigError(
            f"a mistake in the program itself: {type(error).__name__}: {error}",
            hint="run it again with -v for the traceback, and report that; shardmig status shows what is saved",
        )
        return show_failure(cause, code=int(Exit.FAILED), output=self.output, migration=self.migration)

    def confirm(self, question: str) -> None:
        """Ask before something that cannot be undone; `--yes` answers, and without a terminal nothing is assumed."""
        if self.yes:
            return
        if not sys.stdin.isatty() or not click.confirm(question, err=True):
            raise ShardmigError("not confirmed; nothing was done", hint="answer y, or pass --yes before the command")

    @contextmanager
    def watching_signals(self, *, orderly: bool) -> Iterator[None]:
        """Let the first Ctrl-C or TERM ask for an orderly end, and the second end the process at once.

        Without `orderly` the first one raises KeyboardInterrupt, on which the driver cancels the query under way.
        """

        def stop(number: int, _: FrameType | None) -> None:
            if self.stop.is_set():
                os._exit(int(Exit.TERMINATED) if number == signal.SIGTERM else int(Exit.INTERRUPTED))
            self.terminated = number == signal.SIGTERM
            self.stop.set()
            if not orderly:
                raise KeyboardInterrupt
            os.write(2, b"\nstopping: what is in flight is finished and saved; once more ends at once\n")

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
