"""Sends an application to the database a row is on: to the source before the switch, to its home shard after it.

The mapping's URLs have to lead to the shards' own databases at any time, not to aliases that a cutover re-points: a
router follows the journal by itself, and an alias that still leads to the source shows every row on every shard.
Never guesses: a row on two shards, a shard that does not answer or a journal that cannot be read is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy.orm import Session

from fixia_shardmig.lookup.homes import HomeCache
from fixia_shardmig.lookup.keys import KeyTexts, key_texts, shown
from fixia_shardmig.lookup.places import Place, Places
from fixia_shardmig.lookup.routes import Route, Routes
from fixia_shardmig.lookup.source_homes import SourceHomes
from fixia_shardmig.mapping.file_model import TableRule
from fixia_shardmig.mapping.load import MappingFile, read_mapping
from fixia_shardmig.mapping.problems import closest
from fixia_shardmig.model.errors import MappingError, RefusedError, RowNotFoundError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Writer

T = TypeVar("T")


class ShardRouter:
    """Where rows are. Every method may be called from any thread; make one in each process, after it has forked."""

    def __init__(self, mapping: MappingFile, *, writer: Writer | None = None) -> None:
        """Connect to nothing yet. `writer` is as in `from_mapping`."""
        if writer is Writer.NOBODY:
            raise MappingError("a router needs a side to go to", hint="Writer.SOURCE, Writer.SHARDS, or no writer")
        self.migration = mapping.document.name
        self.places = Places(mapping)
        self._rules = mapping.tables
        self._journal_shard = mapping.journal_shard
        self._fixed_route = Route(writer) if writer else None
        self._routes = Routes(lambda: self.places.shard(mapping.journal_shard), mapping.document.name)
        self._source_homes = SourceHomes(mapping)
        self._homes = HomeCache()

    @classmethod
    def from_mapping(
        cls, path: Path | str, env: Mapping[str, str] = os.environ, *, writer: Writer | None = None
    ) -> Self:
        """Make a router from a mapping file.

        Args:
            path: The mapping file.
            env: Where its variables are looked up.
            writer: Who has the writes where no journal says it: the source before a migration begins, the shards
                when it was dropped after the switch. Without it the journal is asked, every two seconds at most.

        Raises:
            MappingError: The file has mistakes, all of which are named.
        """
        return cls(read_mapping(path, env), writer=writer)

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close every connection that nobody uses now. The router answers no more."""
        self.places.close()

    def route(self) -> Route:
        """Return which side holds the truth; raises where the journal cannot be read."""
        return self._fixed_route or self._routes.current()

    def shard_for(self, table: str, key: object) -> str:
        """Return the home shard of a row, known without a query for tables that are whole on one shard or on all.

        For a reference table it is the shard with the journal, whichever row is meant. Before the switch it is the
        home that the row will have, by the mapping's rules, read from the source.

        Args:
            table: As the mapping writes it.
            key: The primary key; a tuple where it has several columns.

        Raises:
            MappingError: The table is not in the mapping or not moved, or this can be no key of it.
            RowNotFoundError: No row has this key.
            RefusedError: Two shards have the row, or nobody says where rows are now.
            UnroutableError: The rules give the row no home.
            TemporaryError: A shard did not answer.
        """
        name, rule = self.rule(table)
        fixed = self.fixed_home(rule)
        if fixed:
            return fixed
        texts = key_texts(key)
        route = self.route()
        home = self._home_by(route, name, texts)
        if home is None and (now := self._moved_since(route)):
            home = self._home_by(now, name, texts)
        return _found(home, name, texts)

    def _home_by(self, route: Route, table: TableName, key: KeyTexts) -> str | None:
        if route.to_shards:
            return self._home(route, table, key)[0]
        return self._source_homes.home(self.places.source, table, key)

    def _moved_since(self, route: Route) -> Route | None:
        """Return the route of now where the writes have moved since, for a row that was not found.

        The side that the writes have left lacks what was inserted since, so its no is not to be believed.
        """
        if self._fixed_route:
            return None
        self._routes.forget()
        now = self._routes.current()
        return now if now.routing_epoch != route.routing_epoch else None

    def forget(self, table: str, key: object) -> None:
        """Ask anew where a row is: after moving it, or after inserting it when it was asked for before."""
        name, _ = self.rule(table)
        self._homes.forget(self._row(self.route(), name, key_texts(key)))

    def refresh(self) -> None:
        """Ask the journal anew who has the writes: after the fence's error, before trying again."""
        self._routes.forget()

    @contextmanager
    def session_for(self, table: str, key: object) -> Iterator[Session]:
        """Open a session on the database that has a row; errors are those of `shard_for`.

        As with SQLAlchemy's own `with Session(...)`, what is not committed at the end is rolled back. A home that was
        remembered is held against the shard first, and asked anew where the row has moved.
        """
        with self._place_of(table, key).session() as session:
            yield session

    @contextmanager
    def session_on(self, shard: str) -> Iterator[Session]:
        """Open a session on a shard, on the source before the switch; for rows that are to be inserted."""
        place = self.places.shard(shard)
        with (place if self.route().to_shards else self.places.source).session() as session:
            yield session

    # for CrossShard

    def rule(self, table: str) -> tuple[TableName, TableRule]:
        """Return a table's rule; raises MappingError where it has none, or is not moved."""
        name = TableName.parse(table)
        if name not in self._rules:
            known = [str(known) for known in self._rules]
            raise MappingError(f"unknown table {table!r}", hint=closest(table, known) or "shardmig plan lists them")
        _, rule = self._rules[name]
        if rule.skip is not None:
            raise MappingError(f"{table} is not moved: {rule.skip}", hint="read it where it is")
        return name, rule

    def fixed_home(self, rule: TableRule) -> str | None:
        """Return the one shard that is asked for all rows of a table, or None where each row has its own home."""
        return self._journal_shard if rule.reference else rule.shard

    def candidates(self, rule: TableRule) -> list[Place]:
        """Return the places that can have rows of a table now. All shards: a row that is misplaced is found too."""
        if not self.route().to_shards:
            return [self.places.source]
        fixed = self.fixed_home(rule)
        return [self.places.shard(fixed)] if fixed else self.places.shards()

    def _place_of(self, table: str, key: object) -> Place:
        name, rule = self.rule(table)
        fixed = self.fixed_home(rule)
        route = self.route()
        if fixed:
            return self.places.shard(fixed) if route.to_shards else self.places.source
        texts = key_texts(key)
        try:
            return self._place_by(route, name, texts)
        except RowNotFoundError:
            now = self._moved_since(route)
            if now is None:
                raise
            return self._place_by(now, name, texts)

    def _place_by(self, route: Route, name: TableName, texts: KeyTexts) -> Place:
        if not route.to_shards:
            _found(self.places.source.find(name, [texts]) or None, name, texts)
            return self.places.source
        home, remembered = self._home(route, name, texts)
        if remembered and home and not self.places.shard(home).find(name, [texts]):
            self._homes.forget(self._row(route, name, texts))
            home, _ = self._home(route, name, texts)
        return self.places.shard(_found(home, name, texts))

    def _home(self, route: Route, table: TableName, key: KeyTexts) -> tuple[str | None, bool]:
        """Return the shard that has a row, or None, and whether that was only remembered."""
        row = self._row(route, table, key)
        known = self._homes.get(row)
        if known is not None:
            return known.home, True
        answers = self.places.ask(self.places.shards(), lambda place: place.find(table, [key]))
        holders = [place.name for place, found in answers if found]
        refuse_two(holders, table, key)
        home = holders[0] if holders else None
        self._homes.put(row, home)
        return home, False

    def _row(self, route: Route, table: TableName, key: KeyTexts) -> tuple[int, TableName, KeyTexts]:
        """Return what a home is remembered under: what was true in another routing epoch is not now (pitfall 64)."""
        return route.routing_epoch, table, key


def refuse_two(holders: list[str], table: TableName, key: KeyTexts) -> None:
    """Raise where more than one shard has a row: which of them is right, nobody here can tell."""
    if len(holders) > 1:
        raise RefusedError(
            f"{table} {shown(key)} is on {len(holders)} shards: {', '.join(holders)}",
            hint="compare the rows and delete the one that is not at home; a row just being moved is on one again soon",
        )


def _found(found: T | None, table: TableName, key: KeyTexts) -> T:
    if found is None:
        raise RowNotFoundError(
            f"no row of {table} has the key {shown(key)}",
            hint="correct the key; a row inserted within the last second is found when asked again",
        )
    return found
