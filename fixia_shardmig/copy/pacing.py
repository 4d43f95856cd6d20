"""Has a worker keep to the pace that the journal says: a look once in a while, and a token bucket in between.

A worker that is held in the middle of a chunk for long gives it back, rolled back: its transactions on the shards would
be taken for silent, and an operator who pauses for the night does not want them open.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from fixia_shardmig.journal.control import read_pace
from fixia_shardmig.model.throttle import Bucket, Pace, Verdict
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import Connection, connect, is_open

LOOK_EVERY_S = 0.5
HELD_S_MAX = 10.0


class GivenBackError(Exception):
    """A chunk was rolled back since it would have had to wait; it is copied later."""


class Pacer:
    """The pace of one worker process."""

    def __init__(
        self,
        look: Callable[[], Pace | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin without a limit; the first look comes with the first chunk."""
        self._look = look
        self._clock = clock
        self._sleep = sleep
        self._bucket = Bucket(clock())
        self._pace = Pace(Verdict())
        self._looked_s = float("-inf")

    def begin(self) -> None:
        """Wait for leave to begin a chunk. Raises GivenBackError when it does not come soon."""
        self._looked_s = float("-inf")
        self.passed(0)

    def passed(self, size: int) -> bool:
        """Account for a block and wait until the next one may come; True if there was a wait.

        Raises:
            GivenBackError: The work is held for long, or it ends and this chunk would have to wait.
        """
        self._bucket.spend(self._clock(), size)
        held_since_s: float | None = None
        waited = False
        while True:
            now_s = self._clock()
            self._refresh(now_s)
            held = self._pace.verdict.held
            wait_s = LOOK_EVERY_S if held else self._bucket.wait_s(now_s)
            if wait_s <= 0:
                return waited
            held_since_s = (held_since_s if held_since_s is not None else now_s) if held else None
            if self._pace.ending or (held_since_s is not None and now_s - held_since_s >= HELD_S_MAX):
                raise GivenBackError(self._pace.verdict.reason)
            waited = True
            self._sleep(min(wait_s, LOOK_EVERY_S))

    def _refresh(self, now_s: float) -> None:
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        self._pace = self._look() or Pace(Verdict())
        self._bucket.set_rate(now_s, self._pace.verdict.block_rate)


_pacers: dict[str, Pacer] = {}
_journals: dict[str, Connection] = {}


def pacer_of(journal_url: str, *, next_command: str) -> Pacer:
    """Return this process's pacer for a journal."""
    if journal_url not in _pacers:
        _pacers[journal_url] = Pacer(lambda: _read(journal_url, next_command))
    return _pacers[journal_url]


def _read(url: str, next_command: str) -> Pace | None:
    """Read the pace; a journal that does not answer ends the chunk, since nobody could record it either."""
    found = _journals.get(url)
    if found is None or not is_open(found):
        found = _journals[url] = connect(url, "copy pace")
    try:
        return read_pace(found)
    except psycopg.Error as error:
        _journals.pop(url).close()
        raise as_shardmig_error(error, url, doing="reading the pace", next_command=next_command) from error
