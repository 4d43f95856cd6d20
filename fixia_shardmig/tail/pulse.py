"""When a tail last did what it does from time to time, how fast it goes, and whether it may. There and back."""

from __future__ import annotations

import time
from collections.abc import Callable

from fixia_shardmig.model.throttle import Bucket, Pace


class Pulse:
    """A clock for each of some duties, and the rate of a counter."""

    def __init__(self, *duties: str) -> None:
        """Begin with every duty due."""
        self._last = dict.fromkeys(duties, 0.0)
        self._counted = (time.monotonic(), 0)

    def due(self, what: str, every_s: float) -> bool:
        """Whether it is time again; if so, the time counts from now."""
        now = time.monotonic()
        if now - self._last[what] < every_s:
            return False
        self._last[what] = now
        return True

    def hasten(self, what: str) -> None:
        """Make a duty due at once."""
        self._last[what] = 0.0

    def rate(self, count: int) -> float:
        """Return by how much a counter has grown a second since it was last asked for."""
        at, before = self._counted
        now = time.monotonic()
        self._counted = (now, count)
        return (count - before) / max(now - at, 0.001)


class Valve:
    """Whether more may be taken now, as an operator, a signal or the rate says."""

    def __init__(self, pace: Callable[[], Pace] | None) -> None:
        """Begin with nothing taken; without a pace it is always open."""
        self._pace = pace
        self._bucket = Bucket(time.monotonic())

    def is_shut(self) -> bool:
        """Whether nothing may be taken now."""
        if self._pace is None:
            return False
        verdict, now_s = self._pace().verdict, time.monotonic()
        self._bucket.set_rate(now_s, verdict.rate_bytes_per_s)
        return verdict.held or self._bucket.wait_s(now_s) > 0

    def spend(self, size_bytes: int) -> None:
        """Count what was taken against the rate."""
        self._bucket.spend(time.monotonic(), size_bytes)
