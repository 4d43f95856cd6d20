"""Logs: one JSON object a line in `--log-file`, short lines on stderr with `-v`. Never a secret, since none is passed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TextIO


def configure(log_file: str | None, verbose: int) -> None:
    """Send structlog's events where the options say; nowhere without them."""
    import structlog

    if log_file is None and not verbose:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        return
    stream: TextIO | None = Path(log_file).open("a", encoding="utf-8") if log_file else None
    renderer = structlog.processors.JSONRenderer() if log_file else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(stream),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose > 1 else logging.INFO),
    )
