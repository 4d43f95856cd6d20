"""What `pause`, `resume` and `throttle` ask of a verify that runs: read from the journal now and then, said once.

Its own reader and not copy's and tail's throttle: these tell their workers a pace in the journal, where there is room
for one driver only, and a tail may run beside a verify. A journal that cannot be read holds the scans.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from fixia_shardmig.journal.control import read_control
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.throttle import Control, Limits, Signals, Unreadable, Verdict, decide
from fixia_shardmig.postgres.sessions import Connection, connect, is_open
from fixia_shardmig.runner.context import Context

LOOK_EVERY_S: Final = 0.5


class LivePace:
    """The pace of one verify, for all of its threads."""

    def __init__(self, context: Context, rate_bytes_per_s: int | None) -> None:
        """Look at nothing yet; without a word from an operator the rate is the command's own."""
        self._context = context
        self._limits = Limits(rate_bytes_per_s=rate_bytes_per_s)
        self._lock = threading.Lock()
        self._session: Connection | None = None
        self._looked_s = float("-inf")
        self._verdict = decide(Signals(Control()), self._limits)

    def verdict(self) -> Verdict:
        """Return how to go on, as it was seen half a second ago at most."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._looked_s >= LOOK_EVERY_S:
                self._looked_s = now_s
                self._look()
            return self._verdict

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()

    def _look(self) -> None:
        before, self._verdict = self._verdict, decide(Signals(self._control()), self._limits)
        if self._verdict.kind != before.kind:
            slowed = f"slowed down: {self._verdict.reason}"
            self._context.say(slowed if self._verdict.kind else "no longer slowed down")

    def _control(self) -> Control | Unreadable:
        try:
            if self._session is None or not is_open(self._session):
                self._session = connect(self._context.journal_url, "verify pace")
            return read_control(self._session)
        except (ShardmigError, psycopg.Error) as error:
            return Unreadable(next(iter(str(error).splitlines()), type(error).__name__))


@contextmanager
def live_pace(context: Context, rate_bytes_per_s: int | None) -> Iterator[LivePace]:
    """Follow what operators ask for while the block compares."""
    pace = LivePace(context, rate_bytes_per_s)
    try:
        yield pace
    finally:
        pace.close()
