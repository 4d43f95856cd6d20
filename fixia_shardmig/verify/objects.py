"""What is compared by name or number and not by rows: sequences, indexes, foreign keys. All of it informational.

`schema diff` says what exactly differs in a definition; here it is only seen that something is not there yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from psycopg import sql

from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog, Sequence
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import scalar
from fixia_shardmig.verify.homes import relation
from fixia_shardmig.verify.result import ObjectResult, SequenceResult
from fixia_shardmig.verify.snapshots import SnapshotSessions

COUNTABLE = frozenset({"int2", "int4", "int8"})


def compare_objects(
    shard_map: ShardMap, source: Catalog, shards: Mapping[str, Catalog], tables: frozenset[TableName]
) -> Iterator[ObjectResult]:
    """Yield each table and shard where an index or a foreign key of the source is not there."""
    for name in sorted(tables):
        indexes = {index.name for index in source.tables[name].indexes}
        keys = {key.name for key in source.foreign_keys_of(name)}
        for shard in shard_map.shards_of(name):
            there = shards[shard]
            missing_indexes = indexes - {index.name for index in there.tables[name].indexes}
            missing_keys = keys - {key.name for key in there.foreign_keys_of(name)}
            if missing_indexes or missing_keys:
                yield ObjectResult(name, shard, tuple(sorted(missing_indexes)), tuple(sorted(missing_keys)))


def compare_sequences(
    sessions: Mapping[str, SnapshotSessions],
    source: Catalog,
    shards: Mapping[str, Catalog],
    tables: frozenset[TableName],
) -> Iterator[SequenceResult]:
    """Yield, for each column that a sequence fills, where every shard's sequence goes on.

    The next value must be past the values on *all* shards: a row may come over from another one.
    """
    for sequence in source.sequences:
        for table, column in _filled(sequence):
            known = source.tables[table].column(column) if table in tables else None
            if known is None or known.base_type not in COUNTABLE:
                continue
            there = {shard: catalog for shard, catalog in shards.items() if table in catalog.tables}
            ends = [_end(sessions[shard], catalog, table, column, sequence) for shard, catalog in there.items()]
            present = [end for end in ends if end is not None]
            choose = max if sequence.increment > 0 else min
            highest = choose(present) if present else None
            for shard, catalog in there.items():
                following = _next_value(catalog, sequence.name)
                ready = following is not None and _is_past(following, highest, sequence.increment)
                yield SequenceResult(sequence.name, table, column, shard, following, highest, ready)


def _filled(sequence: Sequence) -> list[tuple[TableName, str]]:
    owned = [sequence.owned_by] if sequence.owned_by else []
    return sorted({*owned, *sequence.used_by})


def _end(sessions: SnapshotSessions, catalog: Catalog, table: TableName, column: str, sequence: Sequence) -> int | None:
    function = sql.SQL("max") if sequence.increment > 0 else sql.SQL("min")
    query = sql.SQL("SELECT {}({}) FROM {}").format(function, sql.Identifier(column), relation(catalog.tables[table]))
    with sessions.session(f"reading the end of {table}.{column}") as connection:
        value = scalar(connection, query)
    return None if value is None else int(value)


def _next_value(catalog: Catalog, name: TableName) -> int | None:
    sequence = next((sequence for sequence in catalog.sequences if sequence.name == name), None)
    if sequence is None:
        return None
    return sequence.start if sequence.last_value is None else sequence.last_value + sequence.increment


def _is_past(value: int, end: int | None, increment: int) -> bool:
    if end is None:
        return True
    return value > end if increment > 0 else value < end
