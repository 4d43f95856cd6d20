"""The batch record: what was decided for each change of a batch, so that a replay decides nothing again.

Per change the shards it went to, as bits; beside it the explicit operations that are no plain change: rows that moved,
rows without a key. See docs/adr/0004. A record that would be large is kept in parts, of which only one is in memory.
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

PART_CHANGES = 200_000
PART_BYTES = 2 * 1024 * 1024
"""Of explicit operations in one part; they take a few times as much while they are written."""

EXPLICIT_BYTES = 300
"""What an explicit operation takes beside its values."""


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
    """The decisions of one batch in order, or of one part of it.

    Attributes:
        first: How many changes of the batch come before this part.
        part: Its number, which is how many parts come before it.
        held_bytes: What the explicit operations take in memory, about.
    """

    masks: array[int] = field(default_factory=lambda: array("Q"))
    explicit: list[Explicit] = field(default_factory=list)
    first: int = 0
    part: int = 0
    held_bytes: int = field(default=0, compare=False)

    @property
    def changes(self) -> int:
        """Return how many changes of the batch were decided so far."""
        return self.first + len(self.masks)

    @property
    def is_full(self) -> bool:
        """Whether it is time for another part."""
        return len(self.masks) >= PART_CHANGES or self.held_bytes >= PART_BYTES

    def add_explicit(self, explicit: Explicit) -> None:
        """Append an operation that stands before the next change."""
        self.explicit.append(explicit)
        self.held_bytes += EXPLICIT_BYTES + sum(len(value) for value in explicit.values if value)

    def next_part(self) -> Decisions:
        """Return the part that goes on where this one ends."""
        return Decisions(first=self.changes, part=self.part + 1)

    def to_bytes(self) -> bytes:
        """Return a compressed form."""
        explicit = [
            (e.before_change, e.shard, e.kind, e.leaf.schema, e.leaf.name, e.columns, e.values) for e in self.explicit
        ]
        content = {"masks": self.masks.tolist(), "explicit": explicit, "first": self.first, "part": self.part}
        return zlib.compress(json.dumps(content).encode(), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> Decisions:
        """Read what `to_bytes` wrote."""
        content = json.loads(zlib.decompress(data))
        explicit = [
            Explicit(row[0], row[1], row[2], TableName(row[3], row[4]), tuple(row[5]), tuple(row[6]))
            for row in content["explicit"]
        ]
        return cls(array("Q", content["masks"]), explicit, content["first"], content["part"])
