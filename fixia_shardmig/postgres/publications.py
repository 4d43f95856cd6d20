"""Makes, reads and drops publications.

A publication names its tables one by one, without row filters (pitfall 14), with ONLY, and partitions publish as
themselves (31). It is never altered under writes and never FOR ALL TABLES (16). It must exist before the slot (15).
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import errors, sql

from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection

_TABLES = """
SELECT n.nspname, c.relname
FROM pg_catalog.pg_publication AS p
LEFT JOIN pg_catalog.pg_publication_rel AS r ON r.prpubid = p.oid
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = r.prrelid
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.pubname = %s
"""


def create_publication(connection: Connection, name: str, tables: Iterable[TableName]) -> None:
    """Publish inserts, updates, deletes and truncates of these tables; a partitioned one with all its leaves.

    Raises:
        RefusedError: A publication of this name exists, or the role may not publish one of the tables.
    """
    listed = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(t.schema, t.name)) for t in sorted(tables))
    statement = sql.SQL(
        "CREATE PUBLICATION {} FOR TABLE {} "
        "WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = false)"
    ).format(sql.Identifier(name), listed)
    try:
        connection.execute(statement)
    except errors.DuplicateObject:
        raise RefusedError(
            f"publication {name} already exists",
            hint=f"if no migration uses it, run shardmig abort, or on the source: DROP PUBLICATION {name}",
        ) from None
    except errors.InsufficientPrivilege as error:
        raise RefusedError(
            f"cannot publish: {_first_line(error)}",
            hint="use a role that owns the tables and has CREATE on the database",
        ) from None


def publication_tables(connection: Connection, name: str) -> frozenset[TableName] | None:
    """Return the tables a publication names, roots and not their leaves, or None where there is no such publication."""
    rows = connection.execute(_TABLES, [name]).fetchall()
    if not rows:
        return None
    return frozenset(TableName(schema, table) for schema, table in rows if table is not None)


def drop_publication(connection: Connection, name: str) -> bool:
    """Drop a publication; returns whether there was one."""
    existed = publication_tables(connection, name) is not None
    connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
    return existed


def _first_line(error: psycopg.Error) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
