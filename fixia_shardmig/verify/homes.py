"""The home of a source row as SQL, built from the mapping alone and for verify alone.

Shares no line with `placement`: both say the same thing twice on purpose, so that one of them can be wrong and
be found out (pitfall 57). Refuses a path in a circle, a path to a table without a home, and a path to columns
that are not unique, since each of them would make a row's home a matter of luck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
from fixia_shardmig.model.catalog import Catalog, Column, Table
from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName

EVERY_SHARD = -1
"""The number in place of a home for the rows of a reference table."""

TOGETHER = -2
"""The number in place of a home for all rows of the source, which are held against all shards together."""

SPLIT_VALUE = "shardmig split value"
"""The name under which a SQL expression's value is read, made longer where a real column has it."""


@dataclass(frozen=True, slots=True)
class HomeSql:
    """What to read a table from, its own row under the alias `t`, and the number of the row's home shard.

    The number is the shard's place in `ShardMap.shard_names`, `EVERY_SHARD`, or NULL for a row without a home.
    `constant` says that it is the same for every row. `at_home`, of a shard's own table, says whether the row belongs
    there by its own value; without it that is not asked.
    """

    source: sql.Composable
    number: sql.Composable
    constant: bool = False
    at_home: sql.Composable | None = None


def together_sql(catalog: Catalog, table: TableName) -> HomeSql:
    """Return how to read a source's table without asking for homes."""
    number = sql.SQL("{}::int4").format(sql.Literal(TOGETHER))
    return HomeSql(sql.SQL("{} AS t").format(relation(catalog.tables[table])), number, constant=True)


def home_sql(shard_map: ShardMap, catalog: Catalog, table: TableName) -> HomeSql:
    """Return how the source says where each row of a table lives.

    Raises:
        MappingError: The rules go in a circle, or a path does not lead to exactly one row with a home.
    """
    return _Homes(shard_map, catalog).of(table, ())


def relation(table: Table) -> sql.Composable:
    """Return a table for FROM: a partitioned root with its partitions, anything else without heirs (pitfall 31)."""
    name = sql.Identifier(table.name.schema, table.name.name)
    return name if table.kind == "p" else sql.SQL("ONLY ") + name


def equal(catalog: Catalog, column: Column, left: sql.Composable, right: sql.Composable) -> sql.Composable:
    """Return `left = right` by the operator of the type of a column, which is on the left.

    Under pg_catalog alone `=` on citext would silently be that of text: 'A' and 'a' apart (pitfall 50). A text beside a
    char(n) would be compared as a text, blanks and all; a foreign key compares both without.
    """
    if column.base_type == "bpchar":
        return sql.SQL("{} = {}::bpchar").format(left, right)
    if column.type_builtin or column.type_kind != "b" or column.element_type:
        return sql.SQL("{} = {}").format(left, right)
    schemas = {name: schema for name, _, schema in catalog.extensions}
    schema = schemas.get(column.base_type) or TableName.parse(column.type_text.partition("(")[0]).schema
    return sql.SQL("{} OPERATOR({}.=) {}").format(left, sql.Identifier(schema), right)


class _Homes:
    """Walks from a table to the values that decide, one subquery a hop."""

    def __init__(self, shard_map: ShardMap, catalog: Catalog) -> None:
        self._rules = shard_map.tables
        self._catalog = catalog
        self._numbers = {shard: number for number, shard in enumerate(shard_map.shard_names)}

    def of(self, name: TableName, walked: tuple[TableName, ...]) -> HomeSql:
        if name in walked:
            circle = " -> ".join(str(table) for table in (*walked, name))
            raise MappingError(f"the rules go in a circle: {circle}", hint="let another column of one of them decide")
        source = sql.SQL("{} AS t").format(relation(self._catalog.tables[name]))
        match self._rules[name]:
            case OnShard(shard):
                return HomeSql(source, self._shard(shard), constant=True)
            case Reference():
                return HomeSql(source, sql.SQL("{}::int4").format(sql.Literal(EVERY_SHARD)), constant=True)
            case SplitByColumn() as rule:
                value = sql.SQL("t.{}").format(sql.Identifier(rule.column))
                return HomeSql(source, self._chosen(value, rule.homes, rule.otherwise))
            case SplitByReference() as rule:
                return self._by_reference(name, rule, source)
            case SplitBySql() as rule:
                return self._by_sql(name, rule)
            case Follows() as rule:
                return self._following(name, rule, source, walked)
            case Skip():
                raise MappingError(
                    f"{name} is skipped, so its rows have no home", hint=f"give {name} a rule, or do not follow it"
                )

    def _shard(self, shard: str) -> sql.Composable:
        return sql.SQL("{}::int4").format(sql.Literal(self._numbers[shard]))

    def _otherwise(self, number: sql.Composable, otherwise: str | None) -> sql.Composable:
        if otherwise is None:
            return number
        return sql.SQL("coalesce({}, {})").format(number, self._shard(otherwise))

    def _chosen(self, value: sql.Composable, homes: Mapping[str, str], otherwise: str | None) -> sql.Composable:
        """Compare a value's text with the homes, byte by byte: no collation may make two values one."""
        if not homes:
            return self._otherwise(sql.SQL("NULL::int4"), otherwise)
        whens = [
            sql.SQL("WHEN {} THEN {}").format(sql.Literal(text), self._shard(shard)) for text, shard in homes.items()
        ]
        case = sql.SQL('CASE ({})::text COLLATE "C" {} END').format(value, sql.SQL(" ").join(whens))
        return self._otherwise(case, otherwise)

    def _by_reference(self, name: TableName, rule: SplitByReference, source: sql.Composable) -> HomeSql:
        path = Path((rule.column,), rule.references, (rule.referenced_column,), declared=False)
        self._check_unique(name, path)
        joined = sql.SQL("{} LEFT JOIN {} AS r ON {}").format(
            source, relation(self._catalog.tables[rule.references]), self._join(path, "r", path.to)
        )
        value = sql.SQL("r.{}").format(sql.Identifier(rule.value))
        return HomeSql(joined, self._chosen(value, rule.homes, rule.otherwise))

    def _by_sql(self, name: TableName, rule: SplitBySql) -> HomeSql:
        """Evaluate the expression where nothing but the table is in scope, so that its bare names mean its columns.

        The row's place comes along, for whoever reads the table in ranges.

        The line break after it ends a comment that it may end with.
        """
        table, value = self._catalog.tables[name], SPLIT_VALUE
        while table.column(value):
            value += "'"
        inner = sql.SQL("(SELECT *, ctid, ({}\n) AS {} FROM {}) AS t").format(
            sql.SQL(rule.expression),  # pyright: ignore[reportArgumentType]  # the operator's own, from the mapping file
            sql.Identifier(value),
            relation(table),
        )
        homes = rule.homes or {shard: shard for shard in self._numbers}
        return HomeSql(inner, self._chosen(sql.Identifier("t", value), homes, rule.otherwise))

    def _following(
        self, name: TableName, rule: Follows, source: sql.Composable, walked: tuple[TableName, ...]
    ) -> HomeSql:
        """Join each path's parent with its home. The first path without a NULL decides, even if its parent is gone.

        The parent's home is computed inside the join: a missing parent gives NULL and not the parent's `otherwise`.
        """
        whens: list[sql.Composable] = []
        for number, path in enumerate(rule.paths, 1):
            self._check_unique(name, path)
            alias = f"p{number}"
            keys = tuple(f"k{place}" for place in range(1, len(path.to) + 1))
            parent = self.of(path.references, (*walked, name))
            columns = [
                sql.SQL("t.{} AS {}").format(sql.Identifier(column), sql.Identifier(key))
                for column, key in zip(path.to, keys, strict=True)
            ]
            source = sql.SQL("{} LEFT JOIN (SELECT {}, {} AS home FROM {}) AS {} ON {}").format(
                source,
                sql.SQL(", ").join(columns),
                parent.number,
                parent.source,
                sql.Identifier(alias),
                self._join(path, alias, keys),
            )
            whens.append(sql.SQL("WHEN {} THEN {}").format(_present("t", path.columns), sql.Identifier(alias, "home")))
        case = sql.SQL("CASE {} END").format(sql.SQL(" ").join(whens))
        return HomeSql(source, self._otherwise(case, rule.otherwise))

    def _join(self, path: Path, alias: str, keys: tuple[str, ...]) -> sql.Composable:
        table = self._catalog.tables[path.references]
        terms: list[sql.Composable] = []
        for column, to, key in zip(path.columns, path.to, keys, strict=True):
            referenced = table.column(to)
            if referenced is None:
                raise MappingError(f"{path.references} has no column {to}", hint="correct `to:` in the mapping")
            terms.append(equal(self._catalog, referenced, sql.Identifier(alias, key), sql.Identifier("t", column)))
        return sql.SQL(" AND ").join(terms)

    def _check_unique(self, name: TableName, path: Path) -> None:
        """Two parents for one row would double it in the join, and its home would be undecided."""
        parent = self._catalog.tables.get(path.references)
        if parent is None or isinstance(self._rules.get(path.references, Skip("")), Skip):
            raise MappingError(
                f"{name} follows {path.references}, which is not moved", hint=f"give {path.references} a rule"
            )
        if not parent.unique_on(path.to):
            raise MappingError(
                f"{name} follows {path.references} ({', '.join(path.to)}), which is not unique",
                hint=f"CREATE UNIQUE INDEX CONCURRENTLY on {path.references} ({', '.join(path.to)}) of the source",
            )


def _present(alias: str, columns: tuple[str, ...]) -> sql.Composable:
    return sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(sql.Identifier(alias, column)) for column in columns)
