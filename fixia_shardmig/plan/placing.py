"""Counts, over one snapshot of the source, where rows go, which have no home, and which references cross shards.

Reads with the placement's own SQL and decides nothing. With samples instead of whole tables it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql

from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Path,
    Reference,
    Rule,
    ShardMap,
    Skip,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
)
from fixia_shardmig.model.catalog import Catalog, Table
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.snapshot import extension_path, from_item, home_sql
from fixia_shardmig.postgres.sessions import Connection, connect, scalar

SAMPLE_PAGES = 2_000
"""How much of a table a sample reads: 16 MB, a fraction of a second even where each page is a seek."""
GLANCE_PAGES = 200
"""How much is read before a copy: what many rows share is seen in as little, and the copy looks at every row."""

KEYS_SHOWN = 3
VALUES_SHOWN = 5
_WHOLE = 100.0

T = TypeVar("T")
R = TypeVar("R")

_READ_ONLY: LiteralString = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"


@dataclass(frozen=True, slots=True)
class Counted:
    """Where a table's rows go. `by_otherwise` of them have no home of their own and go where `otherwise` says."""

    homes: dict[str, int]
    undecided: int = 0
    by_otherwise: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Homeless:
    """Why rows of a table have no home of their own.

    Attributes:
        values: (value, rows) that no home is given for, the most frequent first.
        nulls: Rows of a follower without any reference.
        dangling: Rows of a follower whose parent does not exist.
        others: Rows whose expression or small table gives no value with a home.
        keys: The keys of a few such rows.
    """

    values: tuple[tuple[str | None, int], ...] = ()
    nulls: int = 0
    dangling: int = 0
    others: int = 0
    keys: tuple[str, ...] = ()

    @property
    def own(self) -> int:
        """Return the rows that lack a home by their own fault, and not because their parent has none."""
        return sum(rows for _, rows in self.values) + self.nulls + self.dangling + self.others


@dataclass(frozen=True)
class Counter:
    """Counts for one plan. Several sessions share one snapshot, so that all numbers belong together."""

    shard_map: ShardMap
    catalog: Catalog
    sample_pages: int | None
    """How much of a table is read; None for all of it."""

    sessions: SimpleQueue[Connection] = field(default_factory=SimpleQueue)

    def count(self, name: TableName) -> Counted:
        """Return where the rows of a table go."""
        rule = self.shard_map.tables[name]
        if isinstance(rule, Skip | Reference):
            return self._count_whole(name, rule)
        expression, source = self._placed(name, "t")
        query = sql.SQL("SELECT home, count(*) FROM (SELECT {} AS home FROM {}) AS placed GROUP BY 1")
        found: dict[str | None, int] = dict(self._rows(query.format(expression, source), name))
        without = found.pop(None, 0)
        homes = {shard: found.get(shard, 0) for shard in self.shard_map.shard_names}
        otherwise = getattr(rule, "otherwise", None)
        if otherwise is None:
            return Counted(homes, undecided=without, total=sum(homes.values()) + without)
        homes[otherwise] += without
        return Counted(homes, by_otherwise=without, total=sum(homes.values()))

    def _count_whole(self, name: TableName, rule: Rule) -> Counted:
        total = self._total(sql.SQL("SELECT 'all', count(*) FROM {}").format(self._item(name, "t")), name)
        shards = self.shard_map.shard_names if isinstance(rule, Reference) else ()
        return Counted(dict.fromkeys(shards, total), total=total)

    def homeless(self, name: TableName) -> Homeless:
        """Return why rows of a table have no home of their own, the first few of them by key."""
        rule = self.shard_map.tables[name]
        expression, source = self._placed(name, "t")
        keys = self._keys(name, expression, source)
        if isinstance(rule, SplitByColumn):
            query = sql.SQL("SELECT {}::text, count(*) FROM {} WHERE {} IS NULL GROUP BY 1 ORDER BY 2 DESC LIMIT {}")
            column = sql.Identifier("t", rule.column)
            values = self._rows(query.format(column, source, expression, sql.Literal(VALUES_SHOWN)), name)
            return Homeless(values=tuple(values), keys=keys)
        if isinstance(rule, Follows):
            return replace(self._follower_without(name, rule), keys=keys)
        without = sql.SQL("SELECT 'all', count(*) FROM {} WHERE {} IS NULL").format(source, expression)
        return Homeless(others=self._total(without, name), keys=keys)

    def _follower_without(self, name: TableName, rule: Follows) -> Homeless:
        """Count rows without a reference, and those whose deciding reference leads nowhere."""
        none = sql.SQL(" AND ").join(sql.SQL("NOT ({})").format(_present(path)) for path in rule.paths)
        arms = [
            sql.SQL("WHEN {} THEN NOT EXISTS (SELECT FROM {} AS p WHERE {})").format(
                _present(path), from_item(self.catalog, path.references), _joined(path.columns, path.to, "t", "p")
            )
            for path in rule.paths
        ]
        query = sql.SQL("SELECT count(*) FILTER (WHERE {}), count(*) FILTER (WHERE CASE {} ELSE false END) FROM {}")
        (nulls, dangling), *_ = self._rows(
            query.format(none, sql.SQL(" ").join(arms), self._item(name, "t")), name, 0, 1
        )
        return Homeless(nulls=nulls, dangling=dangling)

    def _keys(self, name: TableName, expression: sql.Composable, source: sql.Composable) -> tuple[str, ...]:
        columns = self.catalog.tables[name].identity_columns or ("ctid",)
        shown = sql.SQL("concat_ws(', ', {})").format(sql.SQL(", ").join(sql.Identifier("t", c) for c in columns))
        query = sql.SQL("SELECT {} FROM {} WHERE {} IS NULL LIMIT {}")
        found = self._fetch(query.format(shown, source, expression, sql.Literal(KEYS_SHOWN)))
        return tuple(row[0] for row in found)

    def crossing(self, table: TableName, columns: tuple[str, ...], references: TableName, to: tuple[str, ...]) -> int:
        """Return how many rows reference a row that is not on their shard, as it is under the mapping."""
        child, parent = self.catalog.tables[table].root, self.catalog.tables[references].root
        rules = (self.shard_map.tables[child], self.shard_map.tables[parent])
        if isinstance(rules[0], Reference) or isinstance(rules[1], Skip):
            query = sql.SQL("SELECT 'all', count(*) FROM {} WHERE {}").format(
                self._item(table, "c"), _not_null(columns, "c")
            )
            return self._total(query, table)
        homes = [home_sql(self.shard_map, self.catalog, root, alias) for root, alias in ((child, "c"), (parent, "p"))]
        query = sql.SQL("SELECT 'all', count(*) FROM {}{} JOIN {} AS p ON {}{} WHERE {} IS DISTINCT FROM {}").format(
            self._item(table, "c"),
            homes[0].joins,
            from_item(self.catalog, references),
            _joined(columns, to, "c", "p"),
            homes[1].joins,
            homes[0].expression,
            homes[1].expression,
        )
        return self._total(query, table)

    def _placed(self, name: TableName, alias: str) -> tuple[sql.Composable, sql.Composable]:
        """Return the home's expression without the table's own `otherwise`, and what to select it from."""
        rule = self.shard_map.tables[name]
        shard_map = self.shard_map
        if isinstance(rule, SplitByColumn | SplitByReference | SplitBySql | Follows) and rule.otherwise:
            shard_map = replace(shard_map, tables={**shard_map.tables, name: replace(rule, otherwise=None)})
        home = home_sql(shard_map, self.catalog, name, alias)
        return home.expression, self._item(name, alias) + home.joins

    def _item(self, name: TableName, alias: str) -> sql.Composed:
        percent = self._percent(name)
        sample = sql.SQL(" TABLESAMPLE SYSTEM ({})").format(sql.Literal(percent)) if percent < _WHOLE else sql.SQL("")
        return from_item(self.catalog, name) + sql.SQL(" AS {}").format(sql.Identifier(alias)) + sample

    def _percent(self, name: TableName) -> float:
        pages = sum(leaf.pages for leaf in leaves(self.catalog, name))
        return min(_WHOLE, _WHOLE * self.sample_pages / pages) if self.sample_pages and pages else _WHOLE

    def _total(self, query: sql.Composed, name: TableName) -> int:
        return sum(int(rows) for _, rows in self._rows(query, name))

    def _rows(self, query: sql.Composed, name: TableName, *counts: int) -> list[Any]:
        """Fetch rows and scale their counts (the second column without `counts`) from the sample to the table."""
        factor = _WHOLE / self._percent(name)
        scaled = counts or (1,)
        return [
            tuple(round(value * factor) if place in scaled else value for place, value in enumerate(row))
            for row in self._fetch(query)
        ]

    def _fetch(self, query: sql.Composed) -> list[Any]:
        connection = self.sessions.get()
        try:
            with connection.transaction():  # a savepoint: a table we may not read costs only its own count
                return list(connection.execute(query))
        finally:
            self.sessions.put(connection)


def may_lack_home(rule: Rule) -> bool:
    """Whether a row may have no home under a rule and would then stop a migration."""
    return getattr(rule, "otherwise", None) is None and not isinstance(rule, Skip | Reference | OnShard)


def leaves(catalog: Catalog, name: TableName) -> tuple[Table, ...]:
    """Return the tables that hold the rows of a table or partition."""
    table = catalog.tables[name]
    if table.kind != "p" or table.partition_of is None:
        return catalog.leaves(name)
    found: list[Table] = []
    for child in catalog.tables.values():
        if child.partition_of == name:
            found += leaves(catalog, child.name)
    return tuple(found)


@contextmanager
def open_counter(
    url: str, shard_map: ShardMap, catalog: Catalog, *, sample_pages: int | None, jobs: int
) -> Iterator[Counter]:
    """Open so many read-only sessions on one snapshot of the source."""
    counter = Counter(shard_map, catalog, sample_pages)
    opened: list[Connection] = []
    try:
        snapshot = ""
        for _ in range(jobs):
            connection = connect(url, "plan")
            opened.append(connection)
            connection.execute("SELECT set_config('search_path', %s, false)", (extension_path(catalog),))
            connection.execute(_READ_ONLY)
            if snapshot:
                connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
            else:
                snapshot = scalar(connection, "SELECT pg_export_snapshot()")
            counter.sessions.put(connection)
        yield counter
    finally:
        for connection in opened:
            connection.close()


def in_parallel(work: Callable[[T], R], items: list[T], jobs: int) -> list[R | psycopg.Error]:
    """Do the work for each item, `jobs` at a time; where the server refuses one, its error stands in the result."""

    def guarded(item: T) -> R | psycopg.Error:
        try:
            return work(item)
        except psycopg.Error as error:
            return error

    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="plan") as pool:
        return list(pool.map(guarded, items))


def _present(path: Path) -> sql.Composed:
    return _not_null(path.columns, "t")


def _not_null(columns: tuple[str, ...], alias: str) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(sql.Identifier(alias, column)) for column in columns)


def _joined(columns: tuple[str, ...], to: tuple[str, ...], child: str, parent: str) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(parent, there), sql.Identifier(child, here))
        for here, there in zip(columns, to, strict=True)
    )
