"""Logs: JSON lines in `--log-file`, else short lines on stderr with `-v`. Never a secret, since none is passed.

Tracebacks are plain: those with local variables would show URLs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog


def configure(log_file: str | None, verbose: int) -> None:
    """Send structlog's events where the options say; nowhere without them.

    The driver's own warnings (a rollback on a connection that is lost) are kept off stderr: the error itself is told.
    """
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    if log_file is None and not verbose:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        return
    stream = Path(log_file).open("a", encoding="utf-8") if log_file else sys.stderr  # noqa: SIM115  open to the end
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_for_a_file() if log_file else _for_people()),
        ],
        logger_factory=structlog.WriteLoggerFactory(stream),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose > 1 else logging.INFO),
    )


def _for_a_file() -> list[structlog.typing.Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _for_people() -> list[structlog.typing.Processor]:
    console = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    return [_leave_out_what_is_shown_anyway, console]


def _leave_out_what_is_shown_anyway(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if event["event"] in {"progress", "failed"}:
        raise structlog.DropEvent
    return event
