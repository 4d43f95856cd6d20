"""Counts rows on the source and on the shards while nobody writes, for as many tables as the time allows.

A bounded last look, not a proof: one row missing and one too many count the same (pitfall 56). `verify` is the proof;
this finds a tail that has gone wrong since. Says which tables were counted and which were not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import errors, sql

from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.mapping.shard_map import Reference, ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection

TOGETHER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of tables that one statement counts, some ten milliseconds' work; when the time is over none of them is counted."""


@dataclass(frozen=True, slots=True)
class Differing:
    """A table whose rows do not add up. A reference table has all rows on every shard."""

    table: TableName
    source: int
    shards: Mapping[str, int]

    def __str__(self) -> str:
        """Return the numbers as a person compares them."""
        listed = ", ".join(f"{name} {rows}" for name, rows in self.shards.items())
        return f"{self.table}: source {self.source}, {listed}"


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted on all places, what was not on some, and what differed."""

    counted: tuple[TableName, ...]
    uncounted: tuple[TableName, ...]
    differing: tuple[Differing, ...]


@dataclass(frozen=True, slots=True)
class Counting:
    """Counts every moved table, the smallest first, until the time is over; each place by itself."""

    shard_map: ShardMap
    catalog: Catalog

    def on_source(self, connection: Connection, *, budget_s: float) -> dict[TableName, int]:
        """Return the source's rows by table."""
        return _count(connection, self.catalog, self._moved(), budget_s=budget_s)

    def on_shard(self, name: str, connection: Connection, *, budget_s: float) -> dict[TableName, int]:
        """Return a shard's rows by table."""
        there = [table for table in self._moved() if name in self.shard_map.shards_of(table)]
        return _count(connection, self.catalog, there, budget_s=budget_s)

    def compare(self, source: Mapping[TableName, int], shards: Mapping[str, Mapping[TableName, int]]) -> Counts:
        """Hold what was counted on all places against each other."""
        moved = self._moved()
        shards_of = {table: self.shard_map.shards_of(table) for table in moved}
        counted = tuple(t for t in moved if t in source and all(t in shards[name] for name in shards_of[t]))
        differing = []
        for table in counted:
            rows = {name: shards[name][table] for name in shards_of[table]}
            everywhere = isinstance(self.shard_map.tables[table], Reference)
            if any(n != source[table] for n in rows.values()) if everywhere else sum(rows.values()) != source[table]:
                differing.append(Differing(table, source[table], rows))
        return Counts(counted, tuple(t for t in moved if t not in set(counted)), tuple(differing))

    def _moved(self) -> list[TableName]:
        return sorted(self.shard_map.moved(), key=lambda name: (_bytes(self.catalog, name), name))


def count_rows(sides: Sides, shard_map: ShardMap, catalog: Catalog, *, budget_s: float) -> Counts:
    """Count on all places at once."""
    counting = Counting(shard_map, catalog)
    source, shards = sides.source_and_each(
        lambda connection: counting.on_source(connection, budget_s=budget_s),
        lambda name, connection: counting.on_shard(name, connection, budget_s=budget_s),
    )
    return counting.compare(source, shards)


def _bytes(catalog: Catalog, table: TableName) -> int:
    return sum(leaf.size_bytes for leaf in catalog.leaves(table))


def _count(
    connection: Connection, catalog: Catalog, tables: Sequence[TableName], *, budget_s: float
) -> dict[TableName, int]:
    counted: dict[TableName, int] = {}
    until = time.monotonic() + budget_s
    try:
        for together in _groups(catalog, tables):
            left_ms = int((until - time.monotonic()) * 1000)
            if left_ms <= 0:
                break
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [str(left_ms)])
            row = connection.execute(_query(catalog, together), prepare=True).fetchone()
            counted.update(zip(together, row or (), strict=True))
    except errors.QueryCanceled:
        return counted
    finally:
        if not connection.closed:
            connection.execute("SET statement_timeout = 0")
    return counted


def _groups(catalog: Catalog, tables: Sequence[TableName]) -> Iterator[list[TableName]]:
    """Give tables that are counted by one statement: small ones, whose journeys there and back would cost the most."""
    group: list[TableName] = []
    size_bytes = 0
    for table in tables:
        size_bytes += _bytes(catalog, table)
        if group and size_bytes > TOGETHER_BYTES_MAX:
            yield group
            group, size_bytes = [], _bytes(catalog, table)
        group.append(table)
    if group:
        yield group


def _query(catalog: Catalog, tables: Sequence[TableName]) -> sql.Composed:
    """Count a partitioned table with its partitions; a plain one without those that inherit from it."""
    each = [
        sql.SQL("(SELECT count(*) FROM {}{})").format(
            sql.SQL("" if catalog.tables[table].kind == "p" else "ONLY "), sql.Identifier(table.schema, table.name)
        )
        for table in tables
    ]
    return sql.SQL("SELECT {}").format(sql.SQL(", ").join(each))
