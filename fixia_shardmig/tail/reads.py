"""Questions that routing asks a shard inside the batch's open transaction, where the cache has no answer."""

from __future__ import annotations

from typing import LiteralString, cast

from psycopg import sql

from fixia_shardmig.mapping.shard_map import SplitByReference, SplitBySql
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.stream import Key
from fixia_shardmig.postgres.sessions import quoted
from fixia_shardmig.tail import statements
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.tables import RelationPlan, TailTable


def evaluate_sql(shard: ShardSession, rule: SplitBySql, table: TailTable, values: dict[str, str | None]) -> str | None:
    """Return what the mapping's expression says of a row that is not stored yet, as text."""
    casts = []
    for name in rule.columns:
        column = table.table.column(name)
        if column is not None:
            casts.append(sql.SQL("%s::{} AS {}").format(statements.key_type(column), quoted(name)))
    query = sql.SQL("SELECT ({})::text FROM (SELECT {}) AS {}").format(
        sql_of_mapping(rule), sql.SQL(", ").join(casts), quoted(table.root.name)
    )
    row = shard.connection.execute(query, [values[name] for name in rule.columns]).fetchone()
    return row[0] if row else None


def sql_of_mapping(rule: SplitBySql) -> sql.SQL:
    """Return the mapping's own SQL, ready to stand in a query with parameters; a comment at its end ends there."""
    return sql.SQL(cast("LiteralString", rule.expression.replace("%", "%%") + "\n"))


def read_types(shard: ShardSession, rule: SplitByReference) -> dict[str, str | None]:
    """Return the whole of a small table that names types: key -> value, both as text."""
    query = sql.SQL("SELECT {}::text, {}::text FROM {}").format(
        sql.Identifier(rule.referenced_column),
        sql.Identifier(rule.value),
        sql.Identifier(rule.references.schema, rule.references.name),
    )
    return dict(shard.connection.execute(query).fetchall())


def read_columns(shard: ShardSession, table: TailTable, key: Key, columns: tuple[str, ...]) -> Key | None:
    """Return columns of a row as it is now, or None when one is NULL or the row is not there."""
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        statements.as_text(columns),
        statements.target(table.table),
        statements.equal(table.table, table.own.columns),
    )
    row = shard.connection.execute(query, key).fetchone()
    return None if row is None or None in row else tuple(row)


def read_key(shard: ShardSession, table: TailTable, ctid: str) -> dict[str, str | None]:
    """Return the identity of the row at a place, for people; empty for a table without a key."""
    own = table.own.columns
    if not own:
        return {}
    query = sql.SQL("SELECT {} FROM {} WHERE ctid = %s::tid").format(
        statements.as_text(own), statements.target(table.table)
    )
    row = shard.connection.execute(query, (ctid,)).fetchone()
    return dict(zip(own, row, strict=True)) if row else {}


def has_equal_row(shard: ShardSession, plan: RelationPlan, values: tuple[str | None, ...]) -> bool:
    """Whether a shard has a row that is equal in every column."""
    query = sql.SQL("SELECT 1 FROM {} WHERE {} LIMIT 1").format(
        statements.target(plan.table.table), statements.equal_texts(plan.table.table, plan.columns)
    )
    return shard.connection.execute(query, values).fetchone() is not None


def leaf_of(shard: ShardSession, oid: int) -> TableName:
    """Return the table of a `tableoid`."""
    row = shard.connection.execute(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = %s",
        (oid,),
    ).fetchone()
    if row is None:
        raise LookupError(oid)
    return TableName(row[0], row[1])
