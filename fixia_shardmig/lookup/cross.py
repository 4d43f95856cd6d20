"""Reads rows by key wherever they live: one query a database, all of them at once.

Each shard is read at a moment of its own, so a row that moves meanwhile may be missed or met twice; the second is an
error. Reads only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fixia_shardmig.lookup.keys import KeyTexts, key_texts, shown
from fixia_shardmig.lookup.places import Place, Row, Values
from fixia_shardmig.lookup.router import ShardRouter, refuse_two
from fixia_shardmig.model.errors import RowNotFoundError


@dataclass(frozen=True, slots=True)
class Located:
    """A row, the database it was read from, and its home; `row` has each value as the server writes it."""

    table: str
    key: KeyTexts
    shard: str
    read_from: str
    row: dict[str, str | None]

    def to_json(self) -> dict[str, Any]:
        """Return the contract's `lookup` part."""
        return {
            "table": self.table,
            "key": list(self.key),
            "shard": self.shard,
            "read_from": self.read_from,
            "row": self.row,
        }

    def text(self) -> str:
        """Return the same for people."""
        width = max((len(column) for column in self.row), default=0)
        lines = [f"{self.table} {shown(self.key)}: home shard {self.shard}, read from {self.read_from}"]
        lines += [f"  {column:{width}}  {'NULL' if value is None else value}" for column, value in self.row.items()]
        return "\n".join(lines)


class CrossShard:
    """Reads across the databases of a router."""

    def __init__(self, router: ShardRouter) -> None:
        """Share the router's connections."""
        self._router = router

    def get(self, table: str, key: object) -> Row | None:
        """Return a row as column -> value, or None where no row has the key; errors are those of `shard_for`."""
        return self.get_many(table, [key])[0]

    def get_many(self, table: str, keys: Sequence[object]) -> list[Row | None]:
        """Return the rows of many keys in the keys' order, None for each that has no row.

        One query a database, whatever the number of keys, of which there may be KEYS_MAX.
        """
        return [found[1] if found else None for found in self._read(table, [key_texts(key) for key in keys], "python")]

    def locate(self, table: str, key: object) -> Located:
        """Return a row with its home and where it was read; raises RowNotFoundError where no row has the key."""
        texts = key_texts(key)
        found = self._read(table, [texts], "text")[0]
        home = self._router.shard_for(table, key)
        if found is None:
            raise RowNotFoundError(f"{home} has no row of {table} with this key", hint="correct the key")
        return Located(table, texts, home, found[0].name, found[1])

    def _read(self, table: str, keys: Sequence[KeyTexts], values: Values) -> list[tuple[Place, Row] | None]:
        name, rule = self._router.rule(table)
        places = self._router.candidates(rule)
        answers = self._router.places.ask(places, lambda place: place.find(name, keys, values=values)) if keys else []
        read: list[tuple[Place, Row] | None] = []
        for number, key in enumerate(keys):
            holders = [(place, rows[number]) for place, rows in answers if number in rows]
            refuse_two([place.name for place, _ in holders], name, key)
            read.append(holders[0] if holders else None)
        return read
