"""What a shard alone can say of where its rows belong, so that the source need not be asked for each row's home.

If all shards together hold exactly the source's rows, and on each of them every row is where its own value or the row
that it follows puts it, then every row is on its home: by induction along the rules, from the split values down. That
needs the tables that are followed to be compared just so at the same moment; whoever calls holds to it. One join to
the next table, on the shards, stands in for joins down to the split value on the source. It is a query of its own: in
the order of an index keys meet their parents in the processor's caches, which takes half of what it takes row by row.
What does not come out equal is compared by homes, as the source says them.

Refuses (returns nothing for) what a shard cannot say: a row that is somewhere *because* its parent is nowhere
(`otherwise` of a table that follows), expressions, values read over another table, and keys whose `=` is not the same
on every server.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from psycopg import sql

from fixia_shardmig.mapping.shard_map import Follows, OnShard, Path, ShardMap, SplitByColumn
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.homes import HomeSql, equal, home_sql, relation
from fixia_shardmig.verify.queries import on_shard


def local_tables(
    shard_map: ShardMap, catalogs: Collection[Catalog], tables: Collection[TableName]
) -> dict[TableName, frozenset[TableName]]:
    """Return those of some tables that can be compared so, each with all that it follows, which are among them."""
    found: dict[TableName, frozenset[TableName]] = {}
    for table in tables:
        followed = _followed(shard_map, catalogs, table, ())
        if followed is not None and followed <= frozenset(tables):
            found[table] = followed
    return found


def local_sql(shard_map: ShardMap, catalog: Catalog, table: TableName, number: int) -> HomeSql:
    """Return how to read a shard's table, and for each row whether its own value puts it there, if it has one."""
    plain = on_shard(catalog.tables[table], number)
    match shard_map.tables[table]:
        case SplitByColumn():
            home = home_sql(shard_map, catalog, table).number
            return replace(plain, at_home=sql.SQL("({}) = {}").format(home, sql.Literal(number)))
        case OnShard(shard) if shard_map.shard_names[number] != shard:
            return replace(plain, at_home=sql.SQL("false"))
        case _:
            return plain


def strays_query(shard_map: ShardMap, catalog: Catalog, table: TableName) -> sql.Composed | None:
    """Return the query for (rows, strays) of a shard's table: those that stand there without the row that they follow.

    The server may read an index in place of the table. Whoever asks holds `rows` against what the table itself has.
    """
    rule = shard_map.tables[table]
    if not isinstance(rule, Follows):
        return None
    source = sql.SQL("{} AS t").format(relation(catalog.tables[table]))
    whens: list[sql.Composable] = []
    for place, path in enumerate(rule.paths, 1):
        source = sql.SQL("{} LEFT JOIN {}").format(source, _parents(catalog, path, place))
        present = [sql.SQL("{} IS NOT NULL").format(sql.Identifier("t", own)) for own in path.columns]
        found = sql.Identifier(f"p{place}", "k1")
        whens.append(sql.SQL("WHEN {} THEN {} IS NULL").format(sql.SQL(" AND ").join(present), found))
    return sql.SQL("SELECT count(*), count(*) FILTER (WHERE CASE {} ELSE true END) FROM {}").format(
        sql.SQL(" ").join(whens), source
    )


def _parents(catalog: Catalog, path: Path, place: int) -> sql.Composable:
    """Return the keys of a path's table, as p1, p2, …, and how a row `t` meets them."""
    parent = catalog.tables[path.references]
    columns = [column for to in path.to for column in parent.columns if column.name == to]
    keys = [f"k{number}" for number in range(1, len(columns) + 1)]
    return sql.SQL("(SELECT {} FROM {} AS t) AS {} ON {}").format(
        sql.SQL(", ").join(
            sql.SQL("t.{} AS {}").format(sql.Identifier(column.name), sql.Identifier(key))
            for column, key in zip(columns, keys, strict=True)
        ),
        relation(parent),
        sql.Identifier(f"p{place}"),
        sql.SQL(" AND ").join(
            equal(catalog, column, sql.Identifier(f"p{place}", key), sql.Identifier("t", own))
            for column, key, own in zip(columns, keys, path.columns, strict=True)
        ),
    )


def _followed(
    shard_map: ShardMap, catalogs: Collection[Catalog], table: TableName, walked: tuple[TableName, ...]
) -> frozenset[TableName] | None:
    """Return all tables on the ways from a table to its split values; None where a shard cannot say."""
    if table in walked or any(table not in catalog.tables for catalog in catalogs):
        return None
    match shard_map.tables.get(table):
        case SplitByColumn() | OnShard():
            return frozenset()
        case Follows(paths, None):
            found: frozenset[TableName] = frozenset()
            for path in paths:
                beyond = _followed(shard_map, catalogs, path.references, (*walked, table))
                ends = ((table, path.columns), (path.references, path.to))
                if beyond is None or not all(_is_alike(catalogs, name, columns) for name, columns in ends):
                    return None
                found |= {path.references} | beyond
            return found
        case _:
            return None


def _is_alike(catalogs: Collection[Catalog], table: TableName, columns: tuple[str, ...]) -> bool:
    """Whether columns are of types whose `=` is the same on every server: built in, and of no collation's making."""
    there = [catalog.tables[table].column(column) for catalog in catalogs for column in columns]
    return all(
        column and column.type_builtin and column.type_kind == "b" and column.collation_deterministic
        for column in there
    )
