"""What waits to be done to a row on a shard."""

from __future__ import annotations

from typing import NamedTuple

UPDATE = "update"
REGENERATE = "regenerate"
DELETE = "delete"
DELETE_ONE = "delete_one"


class Operation(NamedTuple):
    """One row operation. Operations of the same kind and columns on a table share a statement."""

    kind: str
    columns: tuple[str, ...]
    values: tuple[str | None, ...]
