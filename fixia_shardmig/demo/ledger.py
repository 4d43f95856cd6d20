"""What live writers did and met, written down by many threads: counters, the longest gap, and each row since the move.

Records only what a server confirmed, or, marked as uncertain, what it may have done when the connection broke.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

Kind = Literal["insert", "update", "delete"]


@dataclass(frozen=True, slots=True)
class Touch:
    """One row that a transaction wrote. Rows that a cascade wrote are not listed."""

    table: str
    key: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Entry:
    """One row in the ledger. `certain` is false when the connection broke during COMMIT: it may have happened."""

    place: str
    touch: Touch
    certain: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without a commit by any writer, and when it was."""

    seconds: float
    began_at: datetime
    ended_at: datetime


@dataclass(slots=True)
class Counters:
    """What the writers did and met. `errors` counts by SQLSTATE, or by exception where the server sent none."""

    transactions: int = 0
    changes: int = 0
    rolled_back: int = 0
    idle_turns: int = 0
    uncertain: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    by_work: Counter[str] = field(default_factory=Counter[str])


class Ledger:
    """The writers' common book. Every method may be called from any thread."""

    def __init__(self) -> None:
        """Begin an empty book that lists no rows until `open`."""
        self._lock = threading.Lock()
        self._counters = Counters()
        self._entries: list[Entry] = []
        self._places: frozenset[str] = frozenset()
        self._last_commit: float | None = None
        self._longest: Gap | None = None

    def open(self, places: Sequence[str]) -> None:
        """Begin a new list of rows: those written to these places, whoever is late at another one left out."""
        with self._lock:
            self._entries = []
            self._places = frozenset(places)

    def committed(self, place: str, touches: Sequence[Touch], *, work: str) -> None:
        """Record a transaction that the server confirmed just now."""
        with self._lock:
            self._counters.transactions += 1
            self._counters.changes += len(touches)
            self._counters.by_work[work] += 1
            self._list(place, touches, certain=True)
            self._measure(time.monotonic())

    def uncertain(self, place: str, touches: Sequence[Touch]) -> None:
        """Record a transaction whose COMMIT was sent and never answered."""
        with self._lock:
            self._counters.uncertain += 1
            self._list(place, touches, certain=False)

    def count(self, *, error: str = "", rolled_back: int = 0, idle_turns: int = 0) -> None:
        """Record a turn that committed nothing."""
        with self._lock:
            self._counters.rolled_back += rolled_back
            self._counters.idle_turns += idle_turns
            if error:
                self._counters.errors[error] += 1

    def counters(self) -> Counters:
        """Return a copy of the counters."""
        with self._lock:
            c = self._counters
            return Counters(
                *(c.transactions, c.changes, c.rolled_back, c.idle_turns, c.uncertain),
                errors=Counter(c.errors),
                by_work=Counter(c.by_work),
            )

    def entries(self) -> list[Entry]:
        """Return the rows written since `open`, in the order in which their commits were seen."""
        with self._lock:
            return list(self._entries)

    def longest_gap(self) -> Gap | None:
        """Return the longest gap between two commits since the beginning or the last `forget_gaps`."""
        with self._lock:
            return self._longest

    def forget_gaps(self) -> None:
        """Measure anew. The gap that is open now counts from the last commit on."""
        with self._lock:
            self._longest = None

    def rest(self) -> None:
        """Let the time until the next commit be no gap, since nobody wants to write."""
        with self._lock:
            self._last_commit = None

    def _list(self, place: str, touches: Sequence[Touch], *, certain: bool) -> None:
        if place in self._places:
            self._entries += [Entry(place, touch, certain) for touch in touches]

    def _measure(self, now: float) -> None:
        if self._last_commit is not None:
            seconds = now - self._last_commit
            if self._longest is None or seconds > self._longest.seconds:
                ended = datetime.now(UTC)
                self._longest = Gap(seconds, ended - timedelta(seconds=seconds), ended)
        self._last_commit = now
