"""The compiled way of plain changes, where it was built: see `_plain.pyx` and docs/adr/0013.

Without it, or with SHARDMIG_COMPILED=0, every change goes the general way, which says what the result has to be.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from fixia_shardmig.model.compiled import is_built

IS_COMPILED = is_built("fixia_shardmig.tail._plain")
"""Whether `compiled` is there."""

if TYPE_CHECKING or IS_COMPILED:
    from fixia_shardmig.tail import _plain as compiled

__all__ = ["IS_COMPILED", "arrays", "compiled"]


def arrays(keys: Collection[tuple[str | None, ...]], columns: int) -> list[object]:
    """Return a parameter for each array of `statements.wanted_keys`."""
    if IS_COMPILED:
        return [compiled.array_of(keys, place) for place in range(columns)]
    return [list(part) for part in zip(*keys, strict=True)]
