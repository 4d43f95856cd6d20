"""Placement over a snapshot: SQL that names the home shard of each row by joins down to the split value.

It decides nothing about rows without a home: their expression is NULL, and the caller refuses or counts them.
A session that runs it needs `extension_path` as its search_path; under pg_catalog alone the keys of an extension's
type would silently be compared as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
        expression: Text; the home shard's name, or NULL where it cannot be decided.
        joins: Joins to append after the table; empty for most split tables.

    Run such a query without parameters: a mapping's own SQL may contain `%`.
    """

    expression: sql.Composable
    joins: sql.Composable


def home_sql(shard_map: ShardMap, catalog: Catalog, table: TableName, alias: str) -> HomeSql:
    """Return the expression and joins that give each row's home; raises ShardmigError for reference and skip."""
    builder = _Builder(shard_map, catalog, prefix=alias)
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
    def __init__(self, shard_map: ShardMap, catalog: Catalog, *, prefix: str) -> None:
        self.shard_map = shard_map
        self.catalog = catalog
        self.prefix = prefix
        self.joins: list[sql.Composable] = []

    def home(self, table: TableName, alias: str) -> sql.Composable:
        rule = self.shard_map.tables[table]
        match rule:
            case SplitByColumn():
                value = sql.SQL("{}::text").format(sql.Identifier(alias, rule.column))
                return _case(value, rule.homes, rule.otherwise)
            case SplitByReference():
                return self._by_reference(rule, alias)
            case SplitBySql():
                return self._by_sql(rule, table, alias)
            case Follows():
                return self._follows(rule, alias)
            case OnShard(shard):
                return sql.SQL("{}::text").format(sql.Literal(shard))
            case Reference() | Skip():
                raise ShardmigError(f"{table} has no single home shard")

    def _alias(self) -> str:
        """Return an alias that no earlier join has, and that stays short however many hops there are."""
        return f"{self.prefix}_{len(self.joins)}"

    def _join(self, table: TableName, columns: Iterable[str], *, alias: str, to: Iterable[str]) -> str:
        joined = self._alias()
        parent = self.catalog.tables[table]
        pairs: list[sql.Composable] = []
        for here, there in zip(columns, to, strict=True):
            column = parent.column(there)
            # A text is compared with a char(n) as a text, a foreign key compares both without the padding.
            unpadded = sql.SQL("::bpchar") if column and column.base_type == "bpchar" else sql.SQL("")
            pairs.append(
                sql.SQL("{} = {}{}").format(sql.Identifier(joined, there), sql.Identifier(alias, here), unpadded)
            )
        self.joins.append(
            sql.SQL(" LEFT JOIN {} AS {} ON {}").format(
                from_item(self.catalog, table), sql.Identifier(joined), sql.SQL(" AND ").join(pairs)
            )
        )
        return joined

    def _by_reference(self, rule: SplitByReference, alias: str) -> sql.Composable:
        joined = self._join(rule.references, (rule.column,), alias=alias, to=(rule.referenced_column,))
        value = sql.SQL("{}::text").format(sql.Identifier(joined, rule.value))
        return _case(value, rule.homes, rule.otherwise)

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
        return _case(sql.Identifier(scope, "v"), homes, rule.otherwise)

    def _follows(self, rule: Follows, alias: str) -> sql.Composable:
        arms: list[sql.Composable] = []
        for path in rule.paths:
            present = sql.SQL(" AND ").join(
                sql.SQL("{} IS NOT NULL").format(sql.Identifier(alias, column)) for column in path.columns
            )
            arms.append(sql.SQL("WHEN {} THEN {}").format(present, self._parent_home(path, alias)))
        decided = sql.SQL("CASE {} END").format(sql.SQL(" ").join(arms))
        if rule.otherwise is None:
            return decided
        return sql.SQL("coalesce({}, {})").format(decided, sql.Literal(rule.otherwise))

    def _parent_home(self, path: Path, alias: str) -> sql.Composable:
        """Return the parent's home, NULL where the parent is missing, also when its table has an `otherwise`."""
        joined = self._join(path.references, path.columns, alias=alias, to=path.to)
        home = self.home(path.references, joined)
        return sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END").format(sql.Identifier(joined, path.to[0]), home)


def _case(value: sql.Composable, homes: Mapping[str, str], otherwise: str | None) -> sql.Composable:
    """Choose by a text, byte by byte as the stream does: no collation may take two values for one."""
    last = sql.SQL("{}::text").format(sql.Literal(otherwise)) if otherwise else sql.SQL("NULL::text")
    if not homes:
        return last
    arms = [sql.SQL("WHEN {} THEN {}").format(sql.Literal(v), sql.Literal(shard)) for v, shard in homes.items()]
    return sql.SQL('CASE {} COLLATE pg_catalog."C" {} ELSE {} END').format(value, sql.SQL(" ").join(arms), last)
