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
        updates: Key -> new values by column.
        puts: Key -> complete row.
        certain: Whether a row to put is known not to be there; else its key is deleted first.
    """

    table: Table
    certain: bool
    columns: tuple[str, ...] = ()
    deletes: dict[Values, None] = field(default_factory=dict[Values, None])
    updates: dict[Values, dict[str, str | None]] = field(default_factory=dict[Values, dict[str, str | None]])
    puts: dict[Values, list[str | None]] = field(default_factory=dict[Values, list[str | None]])
    _places: tuple[int, ...] = ()
    _own: tuple[str, ...] = ()

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
        self.puts[key] = list(values)
        return True

    def update(self, columns: tuple[str, ...], values: Values) -> bool:
        """Add an update by key (`values` are the new ones, then the old key); False if it cannot be merged."""
        size = len(columns)
        key = values[size:]
        new = dict(zip(columns, values, strict=False))
        for name, old in zip(self._own, key, strict=True):
            if new.pop(name, old) != old:
                return False
        row = self.puts.get(key)
        if row is not None:
            if any(name not in self.columns for name in new):
                return False  # a column that was added between the two, and that the shards had earlier
            for name, value in new.items():
                row[self.columns.index(name)] = value
        elif key in self.deletes:
            return False
        elif new:
            self.updates.setdefault(key, {}).update(new)
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
        for key, new in self.updates.items():
            groups.setdefault(tuple(new), []).append((*new.values(), *key))
        return groups
