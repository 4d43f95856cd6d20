"""What every command is wrapped in: its session, and errors made into text, hint and exit code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import click
from click import get_current_context

from fixia_shardmig.cli.session import Session
from fixia_shardmig.model.errors import SAME_COMMAND, Exit, ShardmigError, StoppedError

P = ParamSpec("P")


def command(function: Callable[Concatenate[Session, P], int | None]) -> Callable[P, None]:
    """Give a command its session, and turn errors into text, hint and exit code; a signal asks it to end in order."""
    return _wrapped(function, orderly=True)


def reading(function: Callable[Concatenate[Session, P], int | None]) -> Callable[P, None]:
    """Make a command that changes nothing: like `command`, but a signal ends it at once, its query too."""
    return _wrapped(function, orderly=False)


def _wrapped(function: Callable[Concatenate[Session, P], int | None], *, orderly: bool) -> Callable[P, None]:
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        context = get_current_context()
        session = context.find_object(Session)
        if session is None:
            raise click.UsageError("no session")
        again = f"{context.command_path}{GOES_ON_WITH.get(context.info_name or '', '')}"
        try:
            with session.watching_signals(orderly=orderly):
                code = function(session, *args, **kwargs) or int(Exit.OK)
        except ShardmigError as error:
            code = session.failed(error, again=again)
        except KeyboardInterrupt:
            code = session.failed(StoppedError("stopped; nothing was changed", hint=SAME_COMMAND), again=again)
        except Exception as error:  # noqa: BLE001  the outermost place: what comes here must still end well
            known = _known(error)
            code = session.failed(known, again=again) if known else session.broken(error)
        context.exit(code)

    return run


GOES_ON_WITH = {"copy": " --resume", "cutover": " --resume", "verify": " --resume"}
"""What a command that was interrupted wants to be called with."""


def _known(error: Exception) -> ShardmigError | None:
    """Return a server's or a file system's error as ours; None for a mistake in the program."""
    import psycopg

    from fixia_shardmig.postgres.retry import unforeseen

    if isinstance(error, psycopg.Error):
        return unforeseen(error)
    if isinstance(error, OSError) and error.filename:
        reason = (error.strerror or type(error).__name__).lower()
        return ShardmigError(f"{error.filename}: {reason}", hint=f"mend that, then {SAME_COMMAND}")
    return None
