"""Reads a source's DDL once, under one snapshot: pg_dump's entries and what the catalog knows about each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import LiteralString, NamedTuple

from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.named_sql import named_sql
from fixia_shardmig.postgres.sessions import Connection, scalar, session
from fixia_shardmig.schema.dump_text import Entry, parse
from fixia_shardmig.schema.pg_dump import dump_ddl, find_pg_dump
from fixia_shardmig.schema.shard_schema import Definition

ObjectId = tuple[int, int]
"""(OID of the system catalog, OID in it), as in pg_depend."""


def query(name: str) -> LiteralString:
    """Return a query of `source.sql` by its name."""
    return named_sql("fixia_shardmig.schema", "source.sql", name)


class Owned(NamedTuple):
    """The relation that an object is or belongs to. `detail` is described in `source.sql`."""

    relation: TableName
    relation_kind: str
    name: str
    detail: str

    @property
    def of_table(self) -> bool:
        """Whether the relation holds rows that a mapping speaks of."""
        return self.relation_kind in {"r", "p"}


@dataclass(frozen=True, slots=True)
class SourceDdl:
    """One reading of a source.

    Attributes:
        entries: pg_dump's entries in its order.
        objects: The relation of each index, constraint, trigger, …, and of each relation itself.
        owners: (name, statement) that gives an object its owner.
        definitions: Each object's definition with its id; a column has its table's.
        needs: For each table (by OID) asked for: the objects that cannot exist without it.
    """

    major: int
    entries: tuple[Entry, ...]
    objects: dict[ObjectId, Owned]
    owners: dict[ObjectId, tuple[str, str]]
    definitions: tuple[tuple[ObjectId, Definition], ...]
    needs: dict[frozenset[TableName], dict[ObjectId, TableName]]


def read_source(url: str, absences: Collection[frozenset[TableName]]) -> SourceDdl:
    """Read a source's DDL; `absences` are the sets of tables that some shard does not have."""
    with session(url, "schema") as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        major = connection.info.server_version // 10000
        snapshot = scalar(connection, "SELECT pg_export_snapshot()")
        text = dump_ddl(url, find_pg_dump(major), snapshot)
        objects = _objects(connection)
        return SourceDdl(
            major=major,
            entries=parse(text),
            objects=objects,
            owners={(row[0], row[1]): (row[2], row[3]) for row in connection.execute(query("owners"))},
            definitions=tuple(definitions(connection)),
            needs={tables: _needs(connection, objects, tables) for tables in absences},
        )


def definitions(connection: Connection) -> list[tuple[ObjectId, Definition]]:
    """Return what a database's user schemas define."""
    return [((row[0], row[1]), Definition(*row[2:])) for row in connection.execute(query("definitions"))]


def _objects(connection: Connection) -> dict[ObjectId, Owned]:
    rows = connection.execute(query("objects"))
    return {(row[0], row[1]): Owned(TableName(row[2], row[3]), row[4], row[5], row[6]) for row in rows}


def _needs(
    connection: Connection, objects: dict[ObjectId, Owned], tables: frozenset[TableName]
) -> dict[ObjectId, TableName]:
    """Return what cannot exist without the given tables. No foreign table moves, so they count as absent too."""
    oids = [
        oid
        for (_, oid), owned in objects.items()
        if owned.name == owned.relation.name
        and ((owned.of_table and owned.relation in tables) or owned.relation_kind == "f")
    ]
    rows = connection.execute(query("uses"), {"oids": oids})
    return {(row[0], row[1]): TableName(row[2], row[3]) for row in rows}
