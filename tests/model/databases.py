"""A database on a file in memory that runs the tail's own SQL: SQLite behind the few calls that a session makes.

The statements are the product's; they are translated from PostgreSQL's dialect into SQLite's by a short list of
rewrites, and what no rewrite knows is a syntax error there, never a wrong answer. Transactions, keys and row counts are
SQLite's. A session that dies loses its open transaction, and the database keeps what was committed.
"""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import psycopg
from psycopg import errors, sql
from psycopg.pq import TransactionStatus

from fixia_shardmig.model.catalog import Catalog
from tests.fixtures.fix_clusters import MEMORY

Query = str | bytes | sql.Composable
Row = tuple[Any, ...]

_REWRITES: tuple[tuple[str, str], ...] = (
    (r"%%", "%"),
    (r'"(?:public|pg_temp)"\.', ""),
    (r"\bshardmig\.position\b", "shardmig_position"),
    (r' COLLATE pg_catalog\."C"', ""),
    (r"\b(TRUNCATE|FROM|INTO|UPDATE|JOIN) ONLY\b", r"\1"),
    (r" OVERRIDING SYSTEM VALUE", ""),
    (r"unnest\((?:%s::text\[\](?:, )?)+\) WITH ORDINALITY AS u\(((?:\"c\d+\", )+)n\)", "UNNEST<\\1>"),
    (r"= ANY\(%s(?:::\w+\[\])?\)", "IN (SELECT value FROM json_each(?))"),
    (r"::(?:\"[^\"]+\"|\w+)(?:\[\])?", ""),
    (r"\bctid\b", "rowid"),
    (r"\(SELECT FROM\b", "(SELECT 1 FROM"),
    (r"%s", "?"),
    (r"^TRUNCATE (\"\w+\")$", r"DELETE FROM \1"),
    (r"^CREATE TEMP TABLE (.*) ON COMMIT DROP (AS .*) WITH NO DATA$", r"CREATE TEMP TABLE \1 \2 WHERE 0"),
    (r"^CREATE TEMP TABLE (.*) ON COMMIT DELETE ROWS (AS .*) WITH NO DATA$", r"CREATE TEMP TABLE \1 \2 WHERE 0"),
    (r"^CREATE TEMP TABLE (.*) WITH NO DATA$", r"CREATE TEMP TABLE \1 WHERE 0"),
    (r"^DELETE FROM (.*) USING (.*) WHERE (.*)$", r"DELETE FROM \1 WHERE EXISTS (SELECT 1 FROM \2 WHERE \3)"),
)


@cache
def translated(text: str) -> str:
    """Return a statement in SQLite's dialect; the arrays of an `unnest` become one JSON parameter."""
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    if "t.tableoid" in text:
        table = re.search(r'FROM "(\w+)" AS t', text)
        assert table is not None, text
        text = text.replace("t.tableoid", f"(SELECT oid FROM pg_class WHERE relname = '{table[1]}')")
    return re.sub(r"UNNEST<((?:\"c\d+\", )+)>", _unnested, text)


def _unnested(match: re.Match[str]) -> str:
    names = [name for name in match[1].split(", ") if name]
    columns = ", ".join(f"json_extract(value, '$[{at}]') AS {name}" for at, name in enumerate(names))
    return f"(SELECT {columns}, key + 1 AS n FROM json_each(?)) AS u"


def _parameters(text: str, parameters: Sequence[Any]) -> Sequence[Any]:
    if "unnest(" in text:
        return (json.dumps(list(zip(*map(_array, parameters), strict=True))),)
    return [json.dumps(value) if isinstance(value, list) else value for value in parameters]


def _array(parameter: Any) -> list[Any]:
    """Return an array, also one that came as a literal: that of texts is JSON's but for the braces."""
    return list(json.loads(f"[{parameter[1:-1]}]", strict=False) if isinstance(parameter, str) else parameter)


class Database:
    """What is on a database's disk: tables of a catalog, all values text, and the tail's position."""

    def __init__(self, catalog: Catalog) -> None:
        """Create the tables."""
        path = Path(_folder().name) / f"{next(_numbers)}.db"
        self.connection = _open(path)
        self.connection.executescript(_ddl(catalog))
        self.committed = SimpleNamespace(connection=_open(path))
        """What a second session sees while the first one has a transaction open."""
        self._tables = [table.name.name for table in catalog.tables.values()]

    def rows(self, table: str) -> list[Row]:
        """Return a table's committed rows. There must be no session with an open transaction."""
        assert not self.connection.in_transaction
        return self.connection.execute(f'SELECT * FROM "{table}"').fetchall()

    def position(self) -> int:
        """Return up to where this shard has applied the stream."""
        row = self.connection.execute("SELECT applied_lsn FROM shardmig_position WHERE stream = 'forward'").fetchone()
        high, low = row[0].split("/")
        return int(high, 16) << 32 | int(low, 16)

    def give_back(self) -> None:
        """Throw the rows away, for somebody else to start with."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        for table in (*self._tables, "shardmig_position"):
            self.connection.execute(f'DELETE FROM "{table}"')
        _free.append(self)


_numbers = count()


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return a directory of this process, in memory: only a file has a second session beside an open transaction."""
    return tempfile.TemporaryDirectory(prefix="shardmig-model-", dir=MEMORY if MEMORY.is_dir() else None)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.create_function("to_regclass", 1, str)
    connection.create_function("clock_timestamp", 0, lambda: "now")
    return connection


_free: list[Database] = []


def take_database(catalog: Catalog) -> Database:
    """Return an empty database; there is one catalog."""
    return _free.pop() if _free else Database(catalog)


def _ddl(catalog: Catalog) -> str:
    lines = [
        "CREATE TABLE shardmig_position (stream TEXT PRIMARY KEY, applied_lsn TEXT, applied_at TEXT);",
        "CREATE TABLE pg_namespace (oid INTEGER, nspname TEXT); INSERT INTO pg_namespace VALUES (1, 'public');",
        "CREATE TABLE pg_class (oid INTEGER, relname TEXT, relnamespace INTEGER);",
    ]
    for table in catalog.tables.values():
        columns = [f'"{column.name}" TEXT' for column in table.columns]
        columns += [f"UNIQUE ({', '.join(index.columns)})" for index in table.indexes if index.unique]
        lines.append(f'CREATE TABLE "{table.name.name}" ({", ".join(columns)});')
        lines.append(f"INSERT INTO pg_class VALUES ({table.oid}, '{table.name.name}', 1);")
    return "\n".join(lines)


class Session:
    """One session on a database, as far as the tail uses psycopg's connection."""

    prepared_max: int | None = None
    connection = None
    """Asked for by `Composable.as_bytes`: without one, identifiers are quoted without a server's help."""

    def __init__(
        self,
        database: Database,
        *,
        around_commit: Callable[[], AbstractContextManager[None]] = nullcontext,
        autocommit: bool = True,
    ) -> None:
        """Open it. What surrounds a commit may raise before or after it, as when the server goes away."""
        self.database = database
        self.autocommit = autocommit
        self.closed = False
        self.broken = False
        self._failed = False
        self._around_commit = around_commit

    @property
    def info(self) -> SimpleNamespace:
        """Return what the tail asks of a session's state."""
        status = TransactionStatus.INERROR if self._failed else TransactionStatus.IDLE
        return SimpleNamespace(transaction_status=status)

    def execute(self, query: Query, parameters: Sequence[Any] = (), *, prepare: bool | None = None) -> Cursor:  # noqa: ARG002
        """Run one statement; that it may be prepared or not is nothing to SQLite."""
        cursor = self.cursor()
        cursor.execute(query, parameters)
        return cursor

    def cursor(self, _: str = "") -> Cursor:
        """Return a cursor; one with a name sees what there was when it was opened, like any other here."""
        return Cursor(self)

    def pipeline(self) -> AbstractContextManager[None]:
        """Do nothing: every statement is sent at once."""
        return nullcontext()

    def run(self, statement: str, parameters: Sequence[Any], *, many: bool = False) -> sqlite3.Cursor:
        """Run a translated statement within a transaction, unless each one is its own."""
        if self.closed or self.broken:
            raise psycopg.OperationalError("the connection is lost")
        if self._failed:
            raise errors.InFailedSqlTransaction("current transaction is aborted")
        disk = self.database.connection
        if not self.autocommit and not disk.in_transaction:
            disk.execute("BEGIN")
        try:
            return disk.executemany(statement, parameters) if many else disk.execute(statement, parameters)
        except sqlite3.IntegrityError as error:
            self._failed = True
            raise errors.UniqueViolation(str(error)) from error

    def commit(self) -> None:
        """Commit, or die before or after it."""
        if self._failed:
            raise errors.InFailedSqlTransaction("current transaction is aborted")
        try:
            with self._around_commit():
                self._empty_temporary()
                self._end("COMMIT")
        except BaseException:
            self.broken = True
            self._end("ROLLBACK")
            raise

    def rollback(self) -> None:
        """Forget the open transaction."""
        self._failed = False
        self._end("ROLLBACK")

    def close(self) -> None:
        """End the session; an open transaction is lost, and so are temporary tables."""
        if self.closed:
            return
        self._end("ROLLBACK")
        self.closed = True
        for name in self._temporary():
            self.database.connection.execute(f'DROP TABLE temp."{name}"')

    def _temporary(self) -> list[str]:
        found = self.database.connection.execute("SELECT name FROM sqlite_temp_master WHERE type = 'table'")
        return [name for (name,) in found.fetchall()]

    def _empty_temporary(self) -> None:
        """Do what ON COMMIT DELETE ROWS says, of the staging tables."""
        for name in self._temporary():
            if name.startswith("shardmig_stage"):
                self.database.connection.execute(f'DELETE FROM temp."{name}"')

    def _end(self, how: str) -> None:
        if self.database.connection.in_transaction:
            self.database.connection.execute(how)


class Cursor:
    """A cursor on such a session."""

    def __init__(self, session: Session) -> None:
        """Start without a result."""
        self._session = session
        self.rowcount = -1
        self._rows: list[Row] = []

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def execute(self, query: Query, parameters: Sequence[Any] = ()) -> None:
        """Run one statement and keep its rows."""
        text = _text(query)
        if "set_config(" in text:
            return
        if text.startswith("TRUNCATE ") and "," in text:
            for table in text.removeprefix("TRUNCATE ").split(", "):
                self.execute(f"TRUNCATE {table}")
            return
        result = self._session.run(translated(text), _parameters(text, parameters or ()))
        self._rows = result.fetchall()
        self.rowcount = result.rowcount

    def executemany(self, query: Query, parameters: Sequence[Sequence[Any]]) -> None:
        """Run one statement many times and count the rows together."""
        self.rowcount = self._session.run(translated(_text(query)), parameters, many=True).rowcount

    def copy(self, query: Query) -> AbstractContextManager[Copy]:
        """Take rows for a `COPY table (columns) FROM STDIN`."""
        match = re.fullmatch(r"COPY (\S+) \((.*)\) FROM STDIN.*", _text(query))
        assert match is not None, query
        return _copying(self, match[1], match[2])

    def fetchall(self) -> list[Row]:
        """Return all rows."""
        return self._rows

    def fetchone(self) -> Row | None:
        """Return the first row."""
        return self._rows[0] if self._rows else None

    def fetchmany(self, size: int) -> list[Row]:
        """Return the next rows."""
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    def stream(self, query: Query, parameters: Sequence[Any] = ()) -> Iterator[Row]:
        """Run one statement and yield its rows."""
        self.execute(query, parameters)
        yield from self._rows

    def close(self) -> None:
        """Do nothing."""


class Copy:
    """The rows of a COPY, written when it ends."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: list[Sequence[Any]] = []

    def write_row(self, row: Sequence[Any]) -> None:
        """Take a row."""
        self.rows.append(tuple(row))

    def write(self, block: bytes) -> None:
        """Take lines of the text format."""
        for line in block.decode().removesuffix("\n").split("\n"):
            self.rows.append(tuple(None if value == r"\N" else _unescaped(value) for value in line.split("\t")))


class _copying(AbstractContextManager[Copy]):  # noqa: N801  reads as a function
    def __init__(self, cursor: Cursor, table: str, columns: str) -> None:
        self._cursor = cursor
        self._insert = f"INSERT INTO {table} ({columns}) VALUES ({', '.join(['%s'] * len(columns.split(', ')))})"
        self._copy = Copy()

    def __enter__(self) -> Copy:
        return self._copy

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._cursor.executemany(self._insert, self._copy.rows)


def _unescaped(value: str) -> str:
    """Return a value of COPY's text format; only what the tail escapes."""
    return re.sub(r"\\(.)", lambda match: {"t": "\t", "n": "\n", "r": "\r"}.get(match[1], match[1]), value)


def _text(query: Query) -> str:
    if isinstance(query, sql.Composable):
        return query.as_string(None)
    return query.decode() if isinstance(query, bytes) else query
