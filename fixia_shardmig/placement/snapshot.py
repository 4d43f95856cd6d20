"""Placement over a snapshot: SQL that names the home shard of each row by joins down to the split value.

It decides nothing about rows without a home: their expression is NULL, and the caller refuses or counts them.
A session that runs it needs `extension_path` as its search_path; under pg_catalog alone the keys of an extension's
type would silently be compared as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import LiteralString, cast

from psycopg import sql

from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Path,
    Reference,
    ShardMap,
    Skip,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
)
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.names import TableName


@dataclass(frozen=True, slots=True)
class HomeSql:
    """How to read homes in a query `SELECT … FROM table alias <joins>`.

    Attributes:
        expression: The home shard's name as text, or its place as int2; NULL where it cannot be decided.
        joins: Joins to append after the table; empty for most split tables.

    Run such a query without parameters: a mapping's own SQL may contain `%`.
    """

    expression: sql.Composable
    joins: sql.Composable


def home_sql(
    shard_map: ShardMap, catalog: Catalog, table: TableName, alias: str, *, as_places: bool = False
) -> HomeSql:
    """Return the expression and joins that give each row's home; raises ShardmigError for reference and skip.

    With `as_places` a home is told by its place among `shard_map.shard_names`.
    """
    builder = _Builder(shard_map, catalog, prefix=alias, as_places=as_places)
    expression = builder.home(table, alias)
    return HomeSql(expression, sql.SQL("").join(builder.joins))


def extension_path(catalog: Catalog) -> str:
    """Return the search_path that finds operators of extension types, such as citext's `=` (pitfall 50)."""
    schemas = dict.fromkeys(["pg_catalog", *(schema for _, _, schema in catalog.extensions)])
    return ", ".join('"' + schema.replace('"', '""') + '"' for schema in schemas)


def from_item(catalog: Catalog, table: TableName) -> sql.Composed:
    """Return the table as a FROM item: with ONLY unless it is partitioned, since inheritance children are their own."""
    only = sql.SQL("") if catalog.tables[table].kind == "p" else sql.SQL("ONLY ")
    return only + sql.Identifier(table.schema, table.name)


class _Builder:
    def __init__(self, shard_map: ShardMap, catalog: Catalog, *, prefix: str, as_places: bool) -> None:
        self.shard_map = shard_map
        self.catalog = catalog
        self.prefix = prefix
        self.as_places = as_places
        self.aliases = 0
        self.joins: list[sql.Composable] = []

    def home(self, table: TableName, alias: str) -> sql.Composable:
        rule = self.shard_map.tables[table]
        match rule:
            case SplitByColumn():
                value = sql.SQL("{}::text").format(sql.Identifier(alias, rule.column))
                return self._case(value, rule.homes, rule.otherwise)
            case SplitByReference():
                return self._by_reference(rule, alias)
            case SplitBySql():
                return self._by_sql(rule, table, alias)
            case Follows():
                return self._follows(rule, alias)
            case OnShard(shard):
                return self._said(shard)
            case Reference() | Skip():
                raise ShardmigError(f"{table} has no single home shard")

    def _said(self, shard: str | None) -> sql.Composable:
        """Return how a home is told; None is the home that nobody knows."""
        if self.as_places:
            return sql.SQL("{}::int2").format(sql.Literal(None if shard is None else self._place(shard)))
        return sql.SQL("{}::text").format(sql.Literal(shard))

    def _place(self, shard: str) -> int:
        return self.shard_map.shard_names.index(shard)

    def _case(self, value: sql.Composable, homes: Mapping[str, str], otherwise: str | None) -> sql.Composable:
        """Choose by a text, byte by byte as the stream does: no collation may take two values for one."""
        last = self._said(otherwise)
        if not homes:
            return last
        arms = [sql.SQL("WHEN {} THEN {}").format(sql.Literal(v), self._said(shard)) for v, shard in homes.items()]
        return sql.SQL('CASE {} COLLATE pg_catalog."C" {} ELSE {} END').format(value, sql.SQL(" ").join(arms), last)

    def _or(self, home: sql.Composable, otherwise: str | None) -> sql.Composable:
        return home if otherwise is None else sql.SQL("coalesce({}, {})").format(home, self._said(otherwise))

    def _alias(self) -> str:
        """Return an alias that no earlier join has, and that stays short however many hops there are."""
        self.aliases += 1
        return f"{self.prefix}_{self.aliases - 1}"

    def _join(
        self,
        table: TableName,
        columns: Iterable[str],
        *,
        alias: str,
        to: Iterable[str],
        home_of: Callable[[str], sql.Composable],
    ) -> sql.Composable:
        """Join a table and return the home of its row, NULL where there is none.

        The home is decided beneath the join, once for each row there and not for each one that references it.
        """
        joined, inner = self._alias(), self._alias()
        parent = self.catalog.tables[table]
        pairs: list[sql.Composable] = []
        keys: list[sql.Composable] = []
        for number, (here, there) in enumerate(zip(columns, to, strict=True)):
            column = parent.column(there)
            key = sql.Identifier(f"key_{number}")
            # A text is compared with a char(n) as a text, a foreign key compares both without the padding.
            unpadded = sql.SQL("::bpchar") if column and column.base_type == "bpchar" else sql.SQL("")
            keys.append(sql.SQL("{} AS {}").format(sql.Identifier(inner, there), key))
            pairs.append(
                sql.SQL("{}.{} = {}{}").format(sql.Identifier(joined), key, sql.Identifier(alias, here), unpadded)
            )
        outside, self.joins = self.joins, []
        home = home_of(inner)
        inside, self.joins = sql.SQL("").join(self.joins), outside
        self.joins.append(
            sql.SQL(" LEFT JOIN (SELECT {}, {} AS home FROM {} AS {}{}) AS {} ON {}").format(
                sql.SQL(", ").join(keys),
                home,
                from_item(self.catalog, table),
                sql.Identifier(inner),
                inside,
                sql.Identifier(joined),
                sql.SQL(" AND ").join(pairs),
            )
        )
        return sql.Identifier(joined, "home")

    def _by_reference(self, rule: SplitByReference, alias: str) -> sql.Composable:
        def home_of(joined: str) -> sql.Composable:
            return self._case(sql.SQL("{}::text").format(sql.Identifier(joined, rule.value)), rule.homes, None)

        home = self._join(rule.references, (rule.column,), alias=alias, to=(rule.referenced_column,), home_of=home_of)
        return self._or(home, rule.otherwise)

    def _by_sql(self, rule: SplitBySql, table: TableName, alias: str) -> sql.Composable:
        """Give the expression a scope of its own, so that its bare column names mean this table's.

        The line break after it ends a comment that it may end with.
        """
        scope = self._alias()
        columns = [
            sql.SQL("{} AS {}").format(sql.Identifier(alias, name), sql.Identifier(name)) for name in rule.columns
        ]
        self.joins.append(
            sql.SQL(" CROSS JOIN LATERAL (SELECT ({}\n)::text AS v FROM (SELECT {}) AS {}) AS {}").format(
                sql.SQL(cast("LiteralString", rule.expression)),
                sql.SQL(", ").join(columns),
                sql.Identifier(table.name),
                sql.Identifier(scope),
            )
        )
        homes = rule.homes or {shard: shard for shard in self.shard_map.shard_names}
        return self._case(sql.Identifier(scope, "v"), homes, rule.otherwise)

    def _follows(self, rule: Follows, alias: str) -> sql.Composable:
        homes = [self._parent_home(path, alias) for path in rule.paths]
        if len(homes) == 1:
            return self._or(homes[0], rule.otherwise)
        arms: list[sql.Composable] = []
        for path, home in zip(rule.paths, homes, strict=True):
            present = sql.SQL(" AND ").join(
                sql.SQL("{} IS NOT NULL").format(sql.Identifier(alias, column)) for column in path.columns
            )
            arms.append(sql.SQL("WHEN {} THEN {}").format(present, home))
        return self._or(sql.SQL("CASE {} END").format(sql.SQL(" ").join(arms)), rule.otherwise)

    def _parent_home(self, path: Path, alias: str) -> sql.Composable:
        """Return the parent's home, NULL where the parent is missing, also when its table has an `otherwise`."""
        return self._join(
            path.references, path.columns, alias=alias, to=path.to, home_of=partial(self.home, path.references)
        )
