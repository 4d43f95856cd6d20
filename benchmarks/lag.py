"""How far a tail is behind its source, measured from outside: by nothing that the tail says of itself.

Whoever looks notes the source's WAL position, and the lag is for how long the oldest noted position has not been on
every shard. So it is looked at often, and is never told larger than it is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

SMALL_S = 1.0
"""Less than this is near."""

SAMPLE_S = 0.1
"""How often to look."""


@dataclass(slots=True)
class Lag:
    """What was seen of the lag: (seconds since the writers began, seconds of lag)."""

    seen: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    _noted: deque[tuple[int, float]] = field(default_factory=deque[tuple[int, float]])

    def look(self, began_s: float, *, written: int, applied: int) -> float:
        """Note where the source and the slowest shard are, and return the lag."""
        now_s = time.monotonic()
        while self._noted and self._noted[0][0] <= applied:
            self._noted.popleft()
        if written > applied:
            self._noted.append((written, now_s))
        lag_s = now_s - self._noted[0][1] if self._noted else 0.0
        self.seen.append((now_s - began_s, lag_s))
        return lag_s

    @property
    def near_after_s(self) -> float | None:
        """Return from when on the lag was small for the rest of the time, or None if it was not at the end."""
        large = [at for at, lag_s in self.seen if lag_s >= SMALL_S]
        later = [at for at, _ in self.seen if not large or at > large[-1]]
        return later[0] if later else None


def applied_everywhere(shards: Sequence[psycopg.Connection]) -> int:
    """Return below which LSN every shard has everything."""
    rows = [shard.execute("SELECT applied_lsn - '0/0' FROM shardmig.position").fetchone() for shard in shards]
    return min(int(row[0]) for row in rows if row)
