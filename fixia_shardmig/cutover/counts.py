"""Counts rows on the source and on the shards while nobody writes, for as many tables as the time allows.

A bounded last look, not a proof: one row missing and one too many count the same (pitfall 56). `verify` is the proof;
this finds a tail that has gone wrong since. Says which tables were counted and which were not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psycopg import errors, sql

from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.mapping.shard_map import Reference, ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection, scalar


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


def count_rows(sides: Sides, shard_map: ShardMap, catalog: Catalog, *, budget_s: float) -> Counts:
    """Count every moved table, the smallest first, all places at once, until the time is over."""
    moved = sorted(shard_map.moved(), key=lambda name: (_bytes(catalog, name), name))
    until = time.monotonic() + budget_s

    def on_source(connection: Connection) -> dict[TableName, int]:
        return _count(connection, catalog, moved, until)

    def on_shard(name: str, connection: Connection) -> dict[TableName, int]:
        return _count(connection, catalog, [t for t in moved if name in shard_map.shards_of(t)], until)

    source, shards = sides.source_and_each(on_source, on_shard)
    counted = tuple(t for t in moved if t in source and all(t in shards[name] for name in shard_map.shards_of(t)))
    differing = []
    for table in counted:
        rows = {name: shards[name][table] for name in shard_map.shards_of(table)}
        everywhere = isinstance(shard_map.tables[table], Reference)
        if any(n != source[table] for n in rows.values()) if everywhere else sum(rows.values()) != source[table]:
            differing.append(Differing(table, source[table], rows))
    return Counts(counted, tuple(t for t in moved if t not in set(counted)), tuple(differing))


def _bytes(catalog: Catalog, table: TableName) -> int:
    return sum(leaf.size_bytes for leaf in catalog.leaves(table))


def _count(connection: Connection, catalog: Catalog, tables: Iterable[TableName], until: float) -> dict[TableName, int]:
    counted: dict[TableName, int] = {}
    try:
        for table in tables:
            left_ms = int((until - time.monotonic()) * 1000)
            if left_ms <= 0:
                break
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [str(left_ms)])
            counted[table] = int(scalar(connection, _query(catalog, table)))
    except errors.QueryCanceled:
        return counted
    finally:
        if not connection.closed:
            connection.execute("SET statement_timeout = 0")
    return counted


def _query(catalog: Catalog, table: TableName) -> sql.Composed:
    """Count a partitioned table with its partitions; a plain one without those that inherit from it."""
    only = sql.SQL("" if catalog.tables[table].kind == "p" else "ONLY ")
    return sql.SQL("SELECT count(*) FROM {}{}").format(only, sql.Identifier(table.schema, table.name))
