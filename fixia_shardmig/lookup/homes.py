"""Remembers where rows were found: bounded, for a time, from any thread. Asks nobody.

An answer that was under way while its row moved may be remembered after `forget`; it ends with its time, and the
router holds a remembered home against the shard before it opens a session there.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

ENTRIES_MAX = 100_000
"""Some 30 MB; the users who are online at a time, with what they look at."""

HOME_TTL_S = 60.0
"""A row changes its home when its owner changes kind, which is rare, and whoever does it can `forget`."""

MISSING_TTL_S = 1.0
"""Spares the shards a storm of questions for a deleted row, and delays the news of an inserted one hardly."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A home, or None where the row was nowhere."""

    home: str | None
    until: float


class HomeCache:
    """The least recently used entry goes first when there are too many."""

    def __init__(
        self,
        *,
        entries_max: int = ENTRIES_MAX,
        home_ttl_s: float = HOME_TTL_S,
        missing_ttl_s: float = MISSING_TTL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin empty."""
        self._entries: OrderedDict[Hashable, Remembered] = OrderedDict()
        self._entries_max = entries_max
        self._home_ttl_s = home_ttl_s
        self._missing_ttl_s = missing_ttl_s
        self._clock = clock
        self._lock = threading.Lock()

    def get(self, row: Hashable) -> Remembered | None:
        """Return what is known of a row, or None where nothing is, or not any more."""
        with self._lock:
            entry = self._entries.get(row)
            if entry is None:
                return None
            if entry.until <= self._clock():
                del self._entries[row]
                return None
            self._entries.move_to_end(row)
            return entry

    def put(self, row: Hashable, home: str | None) -> None:
        """Remember where a row was found just now; None: nowhere, for a shorter time."""
        with self._lock:
            ttl_s = self._missing_ttl_s if home is None else self._home_ttl_s
            self._entries[row] = Remembered(home, self._clock() + ttl_s)
            self._entries.move_to_end(row)
            while len(self._entries) > self._entries_max:
                self._entries.popitem(last=False)

    def forget(self, row: Hashable) -> None:
        """Ask again next time."""
        with self._lock:
            self._entries.pop(row, None)
