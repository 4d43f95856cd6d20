"""The net change of one table on one shard: what many operations in a row come to, key by key. Pure.

What cannot be merged (a key that changes under a row which is not known whole, rows without a key) is refused; the
caller then sends what it has and goes on one operation after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fixia_shardmig.model.catalog import Table

Values = tuple[str | None, ...]


@dataclass(slots=True)
class NetChange:
    """Deletes come first, then updates, then rows to put; a key that was deleted and put again is in both.

    Attributes:
        columns: The columns of every row in `puts`.
        deletes: Keys to delete.
        updates: Key -> columns beside the key, and their new values.
        puts: Key -> complete row.
        certain: Whether a row to put is known not to be there; else its key is deleted first.
    """

    table: Table
    certain: bool
    columns: tuple[str, ...] = ()
    deletes: dict[Values, None] = field(default_factory=dict[Values, None])
    updates: dict[Values, tuple[tuple[str, ...], Values]] = field(
        default_factory=dict[Values, tuple[tuple[str, ...], Values]]
    )
    puts: dict[Values, Values] = field(default_factory=dict[Values, Values])
    _places: tuple[int, ...] = ()
    _own: tuple[str, ...] = ()
    _shapes: dict[tuple[str, ...], _Shape] = field(default_factory=dict[tuple[str, ...], "_Shape"])

    def __post_init__(self) -> None:
        """Look the identity up once."""
        self._own = self.table.identity_columns

    def put(self, columns: tuple[str, ...], values: Values) -> bool:
        """Add a complete row; False if it has other columns than the rows before."""
        if columns is not self.columns and columns != self.columns:
            if self.puts:
                return False
            self.columns = columns
            self._places = tuple(columns.index(name) for name in self._own)
        key = tuple([values[place] for place in self._places])
        self.updates.pop(key, None)
        if not self.certain:
            self.deletes[key] = None
        self.puts[key] = values
        return True

    def update(self, columns: tuple[str, ...], values: Values) -> bool:
        """Add an update by key (`values` are the new ones, then the old key); False if it cannot be merged."""
        shape = self._shapes.get(columns)
        if shape is None:
            shape = self._shapes[columns] = _Shape.of(columns, self._own)
        size = len(columns)
        key = values[size:]
        for part, place in shape.own:
            if values[place] != key[part]:
                return False
        row = self.puts.get(key)
        if row is not None:
            return self._overwrite(key, row, columns, values[:size])
        if key in self.deletes:
            return False
        if shape.others:
            new = tuple([values[place] for place in shape.places])
            earlier = self.updates.get(key)
            if earlier is None or earlier[0] == shape.others:
                self.updates[key] = (shape.others, new)
            else:
                both = dict(zip(*earlier, strict=True)) | dict(zip(shape.others, new, strict=True))
                self.updates[key] = (tuple(both), tuple(both.values()))
        return True

    def _overwrite(self, key: Values, row: Values, columns: tuple[str, ...], new: Values) -> bool:
        """Change a row that is put; False for a column added between the two that the shards had (pitfall 30)."""
        if columns == self.columns:
            self.puts[key] = new
            return True
        if not set(columns) <= set(self.columns):
            return False
        both = dict(zip(self.columns, row, strict=True)) | dict(zip(columns, new, strict=True))
        self.puts[key] = tuple(both.values())
        return True

    def delete(self, key: Values) -> None:
        """Add a delete by key."""
        if self.puts.pop(key, None) is not None and self.certain and key not in self.deletes:
            return
        self.updates.pop(key, None)
        self.deletes[key] = None

    def by_columns(self) -> dict[tuple[str, ...], list[Values]]:
        """Return the updates in groups that share a statement: columns -> new values, then the key."""
        groups: dict[tuple[str, ...], list[Values]] = {}
        for key, (columns, new) in self.updates.items():
            groups.setdefault(columns, []).append(new + key)
        return groups


@dataclass(frozen=True, slots=True)
class _Shape:
    """How an update's columns lie: (part of the key, place) of those in the identity, the others and their places."""

    own: tuple[tuple[int, int], ...]
    others: tuple[str, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, columns: tuple[str, ...], identity: tuple[str, ...]) -> _Shape:
        places = tuple(place for place, name in enumerate(columns) if name not in identity)
        return cls(
            own=tuple((identity.index(name), place) for place, name in enumerate(columns) if name in identity),
            others=tuple(columns[place] for place in places),
            places=places,
        )
