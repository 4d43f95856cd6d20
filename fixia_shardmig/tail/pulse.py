"""When a tail last did what it does from time to time, and how fast it goes. Either way, there and back."""

from __future__ import annotations

import time


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
