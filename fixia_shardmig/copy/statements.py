"""Writes the SQL of a chunk: what to read, and how each shard takes it."""

from __future__ import annotations

from psycopg import sql

from fixia_shardmig.copy.chunks import can_use_binary
from fixia_shardmig.copy.relay import NO_HOME
from fixia_shardmig.copy.worker import ChunkTask, ShardWrite
from fixia_shardmig.journal.records import Chunk, SnapshotEpoch
from fixia_shardmig.mapping.shard_map import OnShard, Reference, ShardMap
from fixia_shardmig.model.catalog import Catalog, Table
from fixia_shardmig.placement.snapshot import extension_path, home_sql
from fixia_shardmig.postgres.sessions import Connection

_STAGING = sql.Identifier("pg_temp", "shardmig_staging")


def chunk_task(
    chunk: Chunk, epoch: SnapshotEpoch, *, shard_map: ShardMap, catalog: Catalog, snapshot: str, quoting: Connection
) -> ChunkTask:
    """Return the task that copies a chunk under an epoch's snapshot.

    Args:
        chunk: What to copy.
        epoch: The epoch; from the second on, rows go through a staging table.
        shard_map: Where rows live.
        catalog: The source's.
        snapshot: The exported snapshot's name.
        quoting: Any open session, for quoting literals.
    """
    leaf = catalog.tables[chunk.table]
    rule = shard_map.tables[leaf.root]
    routed = not isinstance(rule, OnShard | Reference)
    binary = can_use_binary(leaf)
    return ChunkTask(
        chunk_id=chunk.id,
        table=str(chunk.table),
        epoch=epoch.epoch,
        source_url=shard_map.source.url,
        snapshot=snapshot,
        search_path=extension_path(catalog),
        copy_out=_copy_out(chunk, leaf, shard_map=shard_map, catalog=catalog, routed=routed).as_string(quoting),
        binary=binary,
        routed=routed,
        writes=tuple(
            _shard_write(leaf, shard, shard_map=shard_map, again=epoch.epoch > 1, quoting=quoting)
            for shard in shard_map.shards_of(leaf.root)
        ),
    )


def _copy_out(chunk: Chunk, leaf: Table, *, shard_map: ShardMap, catalog: Catalog, routed: bool) -> sql.Composed:
    columns: list[sql.Composable] = [sql.Identifier("t", column.name) for column in leaf.copied_columns]
    joins: sql.Composable = sql.SQL("")
    if routed:
        home = home_sql(shard_map, catalog, leaf.root, "t", as_places=True)
        joins = home.joins
        columns.insert(0, sql.SQL("coalesce({}, {})::int2").format(home.expression, sql.Literal(NO_HOME)))
    upper: sql.Composable = sql.SQL("")
    if chunk.end_page is not None:
        upper = sql.SQL(" AND t.ctid < {}::tid").format(sql.Literal(f"({chunk.end_page},0)"))
    return sql.SQL("COPY (SELECT {} FROM ONLY {} AS t{} WHERE t.ctid >= {}::tid{}) TO STDOUT ({})").format(
        sql.SQL(", ").join(columns),
        sql.Identifier(leaf.name.schema, leaf.name.name),
        joins,
        sql.Literal(f"({chunk.first_page},0)"),
        upper,
        _format(leaf),
    )


def _format(leaf: Table) -> sql.SQL:
    return sql.SQL("FORMAT binary") if can_use_binary(leaf) else sql.SQL("FORMAT text")


def _shard_write(leaf: Table, shard: str, *, shard_map: ShardMap, again: bool, quoting: Connection) -> ShardWrite:
    target = sql.Identifier(leaf.name.schema, leaf.name.name)
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in leaf.copied_columns)
    before: list[sql.Composable] = []
    after: list[sql.Composable] = []
    into: sql.Composable = target
    if again and leaf.identity_columns:
        into = _STAGING
        before.append(
            sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM ONLY {} WITH NO DATA").format(
                sql.Identifier("shardmig_staging"), names, target
            )
        )
        after = _from_staging(leaf, target, names)
    elif again:
        before.append(sql.SQL("TRUNCATE ONLY {}").format(target))
    listed = sql.SQL("({})").format(names) if leaf.copied_columns else sql.SQL("")  # no columns, no parentheses
    copy_in = sql.SQL("COPY {} {} FROM STDIN ({})").format(into, listed, _format(leaf))
    return ShardWrite(
        shard,
        shard_map.shards[shard].url,
        tuple(statement.as_string(quoting) for statement in before),
        copy_in.as_string(quoting),
        tuple(statement.as_string(quoting) for statement in after),
    )


def _from_staging(leaf: Table, target: sql.Identifier, names: sql.Composable) -> list[sql.Composable]:
    """Replace rows of the same key. DELETE and INSERT rather than ON CONFLICT, which a deferrable key refuses."""
    same = sql.SQL(" AND ").join(
        sql.SQL("t.{0} = s.{0}").format(sql.Identifier(column)) for column in leaf.identity_columns
    )
    return [
        sql.SQL("DELETE FROM ONLY {} AS t USING {} AS s WHERE {}").format(target, _STAGING, same),
        sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(target, names, names, _STAGING),
    ]
