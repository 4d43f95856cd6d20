"""The batch record: what was decided for each change of a batch, so that a replay decides nothing again.

Per change the shards it went to, as bits; beside it the explicit operations that are no plain change: rows that moved,
rows without a key. See docs/adr/0004.
"""

from __future__ import annotations

import json
import zlib
from array import array
from dataclasses import dataclass, field

from fixia_shardmig.model.names import TableName

PUT = "put"
REMOVE = "remove"
REMOVE_ONE = "remove_one"


@dataclass(frozen=True, slots=True)
class Explicit:
    """An operation on one shard that stands before the change of that number.

    `put` inserts a complete row, `remove` deletes by the given columns, `remove_one` deletes one of the rows that are
    equal in all given columns. Values are text as `::text` shows them.
    """

    before_change: int
    shard: int
    kind: str
    leaf: TableName
    columns: tuple[str, ...]
    values: tuple[str | None, ...]


@dataclass(slots=True)
class Decisions:
    """The decisions of one batch in order."""

    masks: array[int] = field(default_factory=lambda: array("Q"))
    explicit: list[Explicit] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """Return a compressed form."""
        explicit = [
            (e.before_change, e.shard, e.kind, e.leaf.schema, e.leaf.name, e.columns, e.values) for e in self.explicit
        ]
        return zlib.compress(json.dumps({"masks": self.masks.tolist(), "explicit": explicit}).encode(), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> Decisions:
        """Read what `to_bytes` wrote."""
        content = json.loads(zlib.decompress(data))
        explicit = [
            Explicit(row[0], row[1], row[2], TableName(row[3], row[4]), tuple(row[5]), tuple(row[6]))
            for row in content["explicit"]
        ]
        return cls(array("Q", content["masks"]), explicit)
