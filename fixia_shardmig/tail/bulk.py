"""Applies the net change of a table with a handful of statements: DELETE by keys, UPDATE from a staging table, COPY.

Only for many changes at once: a staging table and three round trips cost more than a short pipeline. Rows to put are
copied straight into the table; should one be there already, the unique violation sends the whole batch in order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from psycopg import sql

from fixia_shardmig.model.catalog import Table
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection, quoted
from fixia_shardmig.tail import kernel, statements
from fixia_shardmig.tail.net import NetChange, Values

if TYPE_CHECKING:  # it may not have been built
    from fixia_shardmig.tail._plain import PlainChange, PlainNet

COPY_BYTES = 128 * 1024
"""Of rows written to a COPY at a time."""

STAGED_MIN = 20
"""Updates of one shape from which on a staging table is cheaper than a pipeline of single ones."""

STAGES_MAX = 16
"""Staging tables of one shape in one transaction. Each serves once, since COMMIT empties all of them without the round
trip and the new file that a TRUNCATE takes; a transaction that needs more empties one."""


_Stage = tuple[TableName, tuple[str, ...], int]
"""A table, the columns to update, and which of the staging tables for them."""


class Bulk:
    """Net changes on one session; it remembers which staging tables it has made, and which hold rows by now."""

    def __init__(self, connection: Connection) -> None:
        """Start without staging tables."""
        self._connection = connection
        self._stages: dict[_Stage, str] = {}
        self._made: list[_Stage] = []
        self._used: dict[tuple[TableName, tuple[str, ...]], int] = {}

    def forget_uncommitted(self) -> None:
        """Staging tables made in a transaction that is rolled back are gone."""
        for key in self._made:
            del self._stages[key]
        self.committed()

    def committed(self) -> None:
        """Staging tables made so far stay, and are empty."""
        self._made.clear()
        self._used.clear()

    def apply(self, net: NetChange) -> int:
        """Apply a table's net change; returns how many deletes and updates hit no row."""
        missed = self._delete(net)
        for columns, rows in net.by_columns().items():
            hit = self._update_staged(net.table, columns, rows)
            missed += len(rows) - hit
        self._put(net)
        return missed

    def apply_plain(self, net: PlainNet) -> int:
        """Apply the net change of plain changes; returns how many deletes and updates hit no row."""
        plan = net.plan
        table = plan.table.table
        missed = len(net.deletes) - self._delete_keys(table, net.deletes) if net.deletes else 0
        others = tuple(name for name in plan.columns if name not in table.identity_columns)
        if others and net.updates:
            updates = list(net.updates.values())
            if len(updates) < STAGED_MIN:
                rows = [update.operation().values for update in updates]
                missed += len(rows) - self._update(table, plan.columns, rows)
            else:
                places = tuple(map(plan.columns.index, (*others, *table.identity_columns)))
                stage = self._stage(table, others)
                self._copy_lines(_copy_into_stage(stage, table, others), updates, places)
                missed += len(updates) - self._from_stage(table, others, stage)
        if net.puts:
            puts = sorted(net.puts.values(), key=attrgetter("first_of_key"))
            self._copy_lines(_copy_into(_name(table), plan.columns), puts, tuple(range(len(plan.columns))))
        return missed

    def _delete(self, net: NetChange) -> int:
        if not net.deletes:
            return 0
        hit = self._delete_keys(net.table, net.deletes)
        return len(net.deletes) - hit if net.certain else 0

    def _delete_keys(self, table: Table, keys: Collection[Values]) -> int:
        columns = tuple(column for name in table.identity_columns if (column := table.column(name)))
        query = sql.SQL("DELETE FROM {} AS t USING {} WHERE {}").format(
            statements.target(table), statements.wanted_keys(columns), statements.matches_wanted("t", columns)
        )
        return self._connection.execute(query, kernel.arrays(keys, len(columns)), prepare=False).rowcount

    def _update_staged(self, table: Table, columns: tuple[str, ...], rows: Sequence[Values]) -> int:
        if len(rows) < STAGED_MIN:
            return self._update(table, columns, rows)
        stage = self._stage(table, columns)
        self._copy_rows(_copy_into_stage(stage, table, columns), rows)
        return self._from_stage(table, columns, stage)

    def _update(self, table: Table, columns: tuple[str, ...], rows: Sequence[Values]) -> int:
        with self._connection.cursor() as cursor:
            cursor.executemany(statements.update(table, columns), rows)
            return cursor.rowcount

    def _from_stage(self, table: Table, columns: tuple[str, ...], stage: sql.Identifier) -> int:
        """Update from what stands in a staging table; returns how many rows were hit."""
        return self._connection.execute(
            sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {}").format(
                statements.target(table),
                _pairs(columns, "c", sql.SQL(", "), alias=False),
                stage,
                _pairs(table.identity_columns, "k", sql.SQL(" AND "), alias=True),
            ),
            prepare=False,
        ).rowcount

    def _stage(self, table: Table, columns: tuple[str, ...]) -> sql.Identifier:
        """Return an empty staging table for rows of a shape."""
        used = self._used[table.name, columns] = self._used.get((table.name, columns), 0) + 1
        key = (table.name, columns, used % STAGES_MAX)
        if key not in self._stages:
            self._stages[key] = f"shardmig_stage_{len(self._stages)}"
            self._made.append(key)
            self._make_stage(self._stages[key], table, columns)
        name = quoted("pg_temp", self._stages[key])
        if used > STAGES_MAX:
            self._connection.execute(sql.SQL("TRUNCATE {}").format(name))
        return name

    def _make_stage(self, name: str, table: Table, columns: tuple[str, ...]) -> None:
        listed = [
            sql.SQL("{} AS {}").format(quoted(column), quoted(alias))
            for names, letter in ((columns, "c"), (table.identity_columns, "k"))
            for column, alias in zip(names, _numbered(letter, names), strict=True)
        ]
        self._connection.execute(
            sql.SQL("CREATE TEMP TABLE {} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA").format(
                quoted(name), sql.SQL(", ").join(listed), statements.target(table)
            )
        )

    def _put(self, net: NetChange) -> None:
        if net.puts:
            self._copy_rows(_copy_into(_name(net.table), net.columns), (net.puts[key] for key in sorted(net.puts)))

    def _copy_rows(self, query: sql.Composed, rows: Iterable[Values]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(query) as copy:
            for row in rows:
                copy.write_row(row)

    def _copy_lines(self, query: sql.Composed, changes: list[PlainChange], places: tuple[int, ...]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(query) as copy:
            for block in kernel.compiled.lines(changes, places, COPY_BYTES):
                copy.write(block)


def _name(table: Table) -> sql.Identifier:
    return quoted(table.name.schema, table.name.name)


def _copy_into(into: sql.Identifier, columns: Sequence[str]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(into, sql.SQL(", ").join(map(sql.Identifier, columns)))


def _copy_into_stage(stage: sql.Identifier, table: Table, columns: Sequence[str]) -> sql.Composed:
    return _copy_into(stage, (*_numbered("c", columns), *_numbered("k", table.identity_columns)))


def _numbered(letter: str, names: Sequence[str]) -> list[str]:
    return [f"{letter}{number}" for number in range(len(names))]


def _pairs(columns: Sequence[str], letter: str, separator: sql.SQL, *, alias: bool) -> sql.Composed:
    """Return `column = s.c0, …`, on the left side with the table's alias in a condition, without in SET."""
    return separator.join(
        sql.SQL("{} = s.{}").format(quoted("t", column) if alias else quoted(column), quoted(number))
        for column, number in zip(columns, _numbered(letter, columns), strict=True)
    )
