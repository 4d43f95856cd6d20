"""Applies the net change of a table with a handful of statements: DELETE by keys, UPDATE from a staging table, COPY.

Only for many changes at once: a staging table and three round trips cost more than a short pipeline. Rows to put are
copied straight into the table; should one be there already, the unique violation sends the whole batch in order.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from fixia_shardmig.model.catalog import Table
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection, quoted
from fixia_shardmig.tail import statements
from fixia_shardmig.tail.net import NetChange, Values

STAGED_MIN = 200
"""Updates of one shape from which on a staging table is cheaper than a pipeline of single ones."""


class Bulk:
    """Net changes on one session; it remembers which staging tables it has made."""

    def __init__(self, connection: Connection) -> None:
        """Start without staging tables."""
        self._connection = connection
        self._stages: dict[tuple[TableName, tuple[str, ...]], str] = {}
        self._made: list[tuple[TableName, tuple[str, ...]]] = []

    def forget_uncommitted(self) -> None:
        """Staging tables made in a transaction that is rolled back are gone."""
        for key in self._made:
            del self._stages[key]
        self._made.clear()

    def committed(self) -> None:
        """Staging tables made so far stay."""
        self._made.clear()

    def apply(self, net: NetChange) -> int:
        """Apply a table's net change; returns how many deletes and updates hit no row."""
        missed = self._delete(net)
        for columns, rows in net.by_columns().items():
            hit = self._update_staged(net.table, columns, rows)
            missed += len(rows) - hit
        self._put(net)
        return missed

    def _delete(self, net: NetChange) -> int:
        if not net.deletes:
            return 0
        table = net.table
        columns = tuple(column for name in table.identity_columns if (column := table.column(name)))
        query = sql.SQL("DELETE FROM {} AS t USING {} WHERE {}").format(
            statements.target(table), statements.wanted_keys(columns), statements.matches_wanted("t", columns)
        )
        cursor = self._connection.execute(query, [list(part) for part in zip(*net.deletes, strict=True)])
        return len(net.deletes) - cursor.rowcount if net.certain else 0

    def _update_staged(self, table: Table, columns: tuple[str, ...], rows: Sequence[Values]) -> int:
        if len(rows) < STAGED_MIN:
            with self._connection.cursor() as cursor:
                cursor.executemany(statements.update(table, columns), rows)
                return cursor.rowcount
        stage = quoted("pg_temp", self._stage(table, columns))
        self._copy(stage, (*_numbered("c", columns), *_numbered("k", table.identity_columns)), rows)
        cursor = self._connection.execute(
            sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {}").format(
                statements.target(table),
                _pairs(columns, "c", sql.SQL(", "), alias=False),
                stage,
                _pairs(table.identity_columns, "k", sql.SQL(" AND "), alias=True),
            )
        )
        self._connection.execute(sql.SQL("TRUNCATE {}").format(stage))
        return cursor.rowcount

    def _stage(self, table: Table, columns: tuple[str, ...]) -> str:
        key = (table.name, columns)
        if key not in self._stages:
            name = f"shardmig_stage_{len(self._stages)}"
            listed = [
                sql.SQL("{} AS {}").format(quoted(column), quoted(alias))
                for names, letter in ((columns, "c"), (table.identity_columns, "k"))
                for column, alias in zip(names, _numbered(letter, names), strict=True)
            ]
            self._connection.execute(
                sql.SQL("CREATE TEMP TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(
                    quoted(name), sql.SQL(", ").join(listed), statements.target(table)
                )
            )
            self._stages[key] = name
            self._made.append(key)
        return self._stages[key]

    def _put(self, net: NetChange) -> None:
        if net.puts:
            rows = [net.puts[key] for key in sorted(net.puts)]
            self._copy(quoted(net.table.name.schema, net.table.name.name), net.columns, rows)

    def _copy(self, into: sql.Identifier, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
        query = sql.SQL("COPY {} ({}) FROM STDIN").format(into, sql.SQL(", ").join(map(sql.Identifier, columns)))
        with self._connection.cursor() as cursor, cursor.copy(query) as copy:
            for row in rows:
                copy.write_row(row)


def _numbered(letter: str, names: Sequence[str]) -> list[str]:
    return [f"{letter}{number}" for number in range(len(names))]


def _pairs(columns: Sequence[str], letter: str, separator: sql.SQL, *, alias: bool) -> sql.Composed:
    """Return `column = s.c0, …`, on the left side with the table's alias in a condition, without in SET."""
    return separator.join(
        sql.SQL("{} = s.{}").format(quoted("t", column) if alias else quoted(column), quoted(number))
        for column, number in zip(columns, _numbered(letter, columns), strict=True)
    )
