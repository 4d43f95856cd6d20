"""References whose target is nowhere: counted on the source, and on the shards as if they were one database.

After the split most references cross shards, and no server can check them any more. Where both tables of a reference
were found equal, the shards' number is the source's and is not counted again. Else every key that a shard cannot
resolve at home is looked for on the other shards, some thousand at a time. A key with a NULL refers to nothing (MATCH
SIMPLE).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

from psycopg import sql

from fixia_shardmig.mapping.shard_map import Follows, ShardMap, SplitByReference
from fixia_shardmig.model.catalog import Catalog, Column, Table
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection, scalar
from fixia_shardmig.verify.homes import equal, relation
from fixia_shardmig.verify.snapshots import SnapshotSessions

KEYS_MAX = 5_000
"""Keys asked for in one query: an array of about 200 KB."""

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReferencePath:
    """`columns` of `table` point to the columns `to` of `references`. `constraint` is empty without a foreign key."""

    table: TableName
    columns: tuple[str, ...]
    references: TableName
    to: tuple[str, ...]
    constraint: str

    def decides_alone(self, shard_map: ShardMap) -> bool:
        """Whether this is the one path by which the table's rows follow others."""
        match shard_map.tables[self.table]:
            case Follows((path,)):
                return (path.columns, path.references, path.to) == (self.columns, self.references, self.to)
            case _:
                return False


def reference_paths(shard_map: ShardMap, catalog: Catalog, tables: frozenset[TableName]) -> tuple[ReferencePath, ...]:
    """Return the references of some tables between moved tables: the declared ones, then those only followed."""
    moved = shard_map.moved()
    found: dict[tuple[TableName, tuple[str, ...], TableName, tuple[str, ...]], str] = {}
    for key in catalog.foreign_keys:
        if key.table in tables and key.references in moved:
            found[key.table, key.columns, key.references, key.referenced_columns] = key.name
    for table in sorted(tables):
        match shard_map.tables[table]:
            case Follows(paths):
                for path in paths:
                    found.setdefault((table, path.columns, path.references, path.to), "")
            case SplitByReference() as rule:
                found.setdefault((table, (rule.column,), rule.references, (rule.referenced_column,)), "")
            case _:
                pass
    return tuple(ReferencePath(*which, constraint) for which, constraint in found.items())


def count_dangling(connection: Connection, catalog: Catalog, path: ReferencePath) -> int:
    """Return how many rows of one database refer to a row that is not in it."""
    query = sql.SQL("SELECT count(*) FROM {}").format(_unresolved(catalog, path))
    return int(scalar(connection, query))


def count_dangling_across(
    sessions: Mapping[str, SnapshotSessions], catalogs: Mapping[str, Catalog], path: ReferencePath
) -> int:
    """Return how many rows on all shards refer to a row that is on none of them."""
    count = 0
    having = [shard for shard, catalog in catalogs.items() if path.references in catalog.tables]
    with ExitStack() as stack:
        opened = {
            shard: stack.enter_context(sessions[shard].session(f"counting the references of {path.table}"))
            for shard in catalogs
        }
        for shard, catalog in catalogs.items():
            if path.table not in catalog.tables:
                continue
            others = [(opened[other], catalogs[other]) for other in having if other != shard]
            types = [_column(catalog.tables[path.table], column) for column in path.columns]
            for batch in _batches(opened[shard], catalog, path):
                found = {key for other, its in others for key in _present(other, its, path, list(batch), types)}
                count += sum(rows for key, rows in batch.items() if key not in found)
    return count


def _unresolved(catalog: Catalog, path: ReferencePath) -> sql.Composable:
    """Return FROM and WHERE for the rows `t` whose reference does not resolve in the same database."""
    table, parent = catalog.tables[path.table], catalog.tables.get(path.references)
    present = sql.SQL(" AND ").join(
        sql.SQL("{} IS NOT NULL").format(sql.Identifier("t", column)) for column in path.columns
    )
    rows = sql.SQL("{} AS t WHERE {}").format(relation(table), present)
    if parent is None:
        return rows
    matches = sql.SQL(" AND ").join(
        equal(catalog, _column(parent, to), sql.Identifier("p", to), sql.Identifier("t", column))
        for column, to in zip(path.columns, path.to, strict=True)
    )
    return sql.SQL("{} AND NOT EXISTS (SELECT FROM {} AS p WHERE {})").format(rows, relation(parent), matches)


def _batches(connection: Connection, catalog: Catalog, path: ReferencePath) -> Iterator[dict[Key, int]]:
    """Yield the keys that a shard cannot resolve at home, with the number of rows that use each."""
    texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier("t", column)) for column in path.columns)
    query = sql.SQL("SELECT ARRAY[{}] AS key, count(*) FROM {} GROUP BY 1").format(texts, _unresolved(catalog, path))
    with connection.cursor(name="dangling") as cursor:
        cursor.itersize = KEYS_MAX
        cursor.execute(query)
        rows = iter(cursor)
        while batch := {tuple(key): int(count) for key, count in islice(rows, KEYS_MAX)}:
            yield batch


def _present(
    connection: Connection, catalog: Catalog, path: ReferencePath, keys: Sequence[Key], referring: Sequence[Column]
) -> Iterator[Key]:
    """Yield those keys that a shard has. Each text is read as the type of the column that it comes from.

    Literals and not parameters: a column may be called `100%`.
    """
    parent = catalog.tables[path.references]
    names = [f"k{number}" for number in range(1, len(path.to) + 1)]
    columns = [_column(parent, to) for to in path.to]
    matches = sql.SQL(" AND ").join(
        equal(
            catalog,
            column,
            sql.Identifier("p", column.name),
            as_type(sql.Identifier("wanted", name), own if own.type_builtin else column),
        )
        for column, own, name in zip(columns, referring, names, strict=True)
    )
    query = sql.SQL("SELECT {} FROM unnest({}) AS wanted({}) WHERE EXISTS (SELECT FROM {} AS p WHERE {})").format(
        sql.SQL(", ").join(sql.Identifier("wanted", name) for name in names),
        sql.SQL(", ").join(sql.SQL("{}::text[]").format(sql.Literal(list(texts))) for texts in zip(*keys, strict=True)),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        relation(parent),
        matches,
    )
    yield from connection.execute(query)


def as_type(value: sql.Composable, column: Column) -> sql.Composable:
    """Cast a text to a column's type, not its length: a cast to char(2) would cut a key, and find what is not there."""
    if column.type_builtin:
        return sql.SQL("{}::{}").format(value, sql.Identifier("pg_catalog", column.base_type))
    type_text = sql.SQL(column.type_text)  # pyright: ignore[reportArgumentType]  # as the server's format_type wrote it
    return sql.SQL("{}::{}").format(value, type_text)


def _column(table: Table, name: str) -> Column:
    return next(column for column in table.columns if column.name == name)
