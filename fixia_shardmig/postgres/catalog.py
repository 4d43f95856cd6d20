"""Reads a database's catalog into `model.catalog`, in one snapshot and a handful of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, LiteralString

from psycopg.rows import namedtuple_row

from fixia_shardmig.model.catalog import (
    Catalog,
    Column,
    ForeignKey,
    Index,
    OtherObject,
    Sequence,
    Table,
    fingerprint_of,
)
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.named_sql import named_sql
from fixia_shardmig.postgres.sessions import Connection, scalar


def _query(name: str) -> LiteralString:
    return named_sql("fixia_shardmig.postgres", "catalog.sql", name)


def read_catalog(connection: Connection) -> Catalog:
    """Return the picture of a database. Schemas of PostgreSQL and shardmig's own are left out."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        database = _rows(connection, "database")[0]
        return Catalog(
            database=database.name,
            server_version=int(scalar(connection, "SHOW server_version_num")),
            system_identifier=database.system_identifier,
            encoding=database.encoding,
            collation=database.collation,
            tables=_tables(connection),
            foreign_keys=tuple(_foreign_key(row) for row in _rows(connection, "foreign_keys")),
            sequences=_sequences(connection),
            others=tuple(
                OtherObject(row.kind, TableName(row.schema, row.name), row.definition, _names(row.depends_on))
                for row in _rows(connection, "others")
            ),
            extensions=tuple((row.name, row.version, row.schema) for row in _rows(connection, "extensions")),
            large_objects=database.large_objects,
        )


def read_fingerprint(connection: Connection, roots: frozenset[TableName], *, timeout_s: float) -> str:
    """Return the fingerprint of the present definitions, and read no more than it is made of.

    The queries stay prepared, so that a second look is quick. Each ends within that time: the sizes of a table that
    somebody alters are not told before he commits.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [str(max(1, int(timeout_s * 1000)))])
        return fingerprint_of(_tables(connection, prepare=True), roots)


def _rows(connection: Connection, name: str, *, prepare: bool = False) -> list[Any]:
    query = _query(name)
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(query, prepare=prepare).fetchall()


def _names(pairs: Iterable[str] | None) -> tuple[TableName, ...]:
    """Turn a flat array [schema, name, schema, name, …] into names."""
    flat = list(pairs or ())
    return tuple(TableName(flat[i], flat[i + 1]) for i in range(0, len(flat), 2))


def _tables(connection: Connection, *, prepare: bool = False) -> dict[TableName, Table]:
    columns: dict[int, list[Column]] = defaultdict(list)
    for row in _rows(connection, "columns", prepare=prepare):
        columns[row.table_oid].append(_column(row))
    indexes: dict[int, list[Index]] = defaultdict(list)
    for row in _rows(connection, "indexes", prepare=prepare):
        indexes[row.table_oid].append(_index(row))
    rows = _rows(connection, "tables", prepare=prepare)
    return {
        TableName(row.schema, row.name): _table(row, tuple(columns[row.oid]), tuple(indexes[row.oid])) for row in rows
    }


def _table(row: Any, columns: tuple[Column, ...], indexes: tuple[Index, ...]) -> Table:  # noqa: ANN401  a named tuple
    name = TableName(row.schema, row.name)
    parents = _names(row.parents)
    triggers = tuple(zip(row.trigger_names or (), row.trigger_states or (), strict=True))
    return Table(
        name=name,
        oid=row.oid,
        kind=row.kind,
        persistence=row.persistence,
        partition_of=parents[0] if row.is_partition else None,
        root=TableName(row.root_schema, row.root_name),
        inherits=() if row.is_partition else parents,
        replica_identity=row.replica_identity,
        columns=columns,
        indexes=indexes,
        rows=row.rows,
        size_bytes=row.size_bytes,
        pages=row.pages,
        row_security=row.row_security,
        force_row_security=row.force_row_security,
        owner=row.owner,
        extension=row.extension or "",
        triggers=triggers,
        rules=tuple(row.rules or ()),
    )


def _column(row: Any) -> Column:  # noqa: ANN401  a named tuple
    return Column(
        name=row.name,
        number=row.number,
        type_text=row.type_text,
        base_type=row.base_type,
        type_kind=row.type_kind,
        type_builtin=row.type_builtin,
        element_type=row.element_type or "",
        not_null=row.not_null,
        has_default=row.has_default,
        generated=row.generated,
        identity=row.identity,
        collation_deterministic=row.collation_deterministic,
        enum_labels=tuple(row.enum_labels or ()),
        binary_io=row.binary_io,
    )


def _index(row: Any) -> Index:  # noqa: ANN401  a named tuple
    return Index(
        name=row.name,
        columns=tuple(row.columns or ()),
        unique=row.is_unique,
        primary=row.is_primary,
        partial=row.partial,
        immediate=row.immediate,
        valid=row.valid,
        nulls_not_distinct=row.nulls_not_distinct,
        replica_identity=row.replica_identity,
        definition=row.definition,
        constraint=row.constraint_name or "",
    )


def _foreign_key(row: Any) -> ForeignKey:  # noqa: ANN401  a named tuple
    return ForeignKey(
        name=row.name,
        table=TableName(row.schema, row.table_name),
        columns=tuple(row.columns),
        references=TableName(row.referenced_schema, row.referenced_name),
        referenced_columns=tuple(row.referenced_columns),
        on_delete=row.on_delete,
        on_update=row.on_update,
        deferrable=row.is_deferrable,
        validated=row.validated,
        period=row.period,
    )


def _sequences(connection: Connection) -> tuple[Sequence, ...]:
    sequences = []
    for row in _rows(connection, "sequences"):
        used = list(row.used_by or ())
        users = tuple((TableName(used[i], used[i + 1]), used[i + 2]) for i in range(0, len(used), 3))
        owner = (TableName(row.owner_schema, row.owner_table), row.owner_column) if row.owner_table else None
        sequences.append(
            Sequence(
                name=TableName(row.schema, row.name),
                data_type=row.data_type,
                start=row.start_value,
                increment=row.increment_by,
                minimum=row.min_value,
                maximum=row.max_value,
                cycle=row.cycle,
                last_value=row.last_value,
                owned_by=owner,
                identity=row.is_identity,
                used_by=users,
            )
        )
    return tuple(sequences)
