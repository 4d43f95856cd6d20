"""The program as a whole: however a run ends, it ends as a line, a hint and an exit code.

A command line that cannot be understood is told like every other error, also as JSON where that was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from fixia_shardmig.cli.app import cli
from fixia_shardmig.cli.session import show_failure
from fixia_shardmig.model.errors import SAME_COMMAND, Exit, MappingError, ShardmigError, StoppedError

OUTPUT_VARIABLE = "SHARDMIG_OUTPUT"


def run(words: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        code = cli.main(list(words), "shardmig", standalone_mode=False)
    except click.ClickException as error:
        return _failed(_usage(error), words)
    except (click.Abort, KeyboardInterrupt):
        return _failed(StoppedError("stopped before anything was begun", hint=SAME_COMMAND), words)
    return code if isinstance(code, int) else int(Exit.OK)


def _failed(error: ShardmigError, words: Sequence[str]) -> int:
    return show_failure(error, code=int(error.exit_code), output=_output(words), migration=None)


def _usage(error: click.ClickException) -> ShardmigError:
    """Return a mistake in the command line as an error of ours; the hint is the help of the command it was made in."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message().rstrip(".")
    where = context.command_path if context else "shardmig"
    return MappingError(message[:1].lower() + message[1:], hint=f"{where} --help")


def _output(words: Sequence[str]) -> str:
    """Return the output that a command line asks for, though it may not be one that click understands."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in {"-o", "--output"}:
            return following
        if word.startswith("--output="):
            return word.removeprefix("--output=")
    return os.environ.get(OUTPUT_VARIABLE, "text")
