"""Whether a snapshot sees a transaction of the stream: PostgreSQL's `pg_visible_in_snapshot`, for 32-bit ids.

Never decided by comparing LSNs: transactions become visible in another order than their commit records (pitfall 44).
"""

from __future__ import annotations

_HALF = 1 << 31
_WHOLE = 1 << 32


def is_visible(xid: int, snapshot: str) -> bool:
    """Tell whether a committed transaction's effects are in a snapshot.

    Args:
        xid: The stream's 32-bit id; its epoch is the one nearest to the snapshot.
        snapshot: The text of `pg_current_snapshot()`: `xmin:xmax:running,running,…` with 64-bit ids.
    """
    xmin_text, xmax_text, running_text = snapshot.split(":")
    xmin, xmax = int(xmin_text), int(xmax_text)
    full = _with_epoch(xid, xmax)
    if full < xmin:
        return True
    if full >= xmax:
        return False
    return str(full) not in running_text.split(",")


def _with_epoch(xid: int, near: int) -> int:
    """Return the 64-bit id with these low bits that is nearest to another one."""
    candidate = near - near % _WHOLE + xid
    if candidate - near >= _HALF:
        return candidate - _WHOLE
    if near - candidate > _HALF:
        return candidate + _WHOLE
    return candidate
