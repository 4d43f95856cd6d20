"""Says how long work goes: rows, bytes, rate and ETA, at most once in a while."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 2.0


class Progress:
    """One long piece of work measured in bytes."""

    def __init__(self, say: Callable[[str], None], what: str, *, total_bytes: int, base: int = 0) -> None:
        """Start the clock; `base` bytes were done by earlier runs."""
        self._say = say
        self._what = what
        self._total = total_bytes
        self._base = base
        self._began = time.monotonic()
        self._told = self._began

    def tell(self, rows: int, done_bytes: int, detail: str) -> None:
        """Say where the work stands, unless that was said a moment ago."""
        now = time.monotonic()
        if now - self._told < EVERY_S:
            return
        self._told = now
        rate = done_bytes / max(now - self._began, 0.001)
        left = max(0, self._total - self._base - done_bytes)
        eta = f", about {left / rate:.0f} s to go" if rate else ""
        self._say(f"{self._what}: {detail}, {rows:,} rows, {mib(done_bytes)}, {mib(rate)}/s{eta}")


def mib(size: float) -> str:
    """Return bytes as people read them."""
    return f"{size / 1048576:,.1f} MiB"
