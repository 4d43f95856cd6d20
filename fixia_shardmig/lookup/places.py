"""The databases a router reads and writes: pools with a limit, and rows found by primary key.

A place has two pools, so that an application whose sessions are all in use can still ask where a row lives. Values are
compared as the key's own type, whose name and columns are read from the place's catalog once. Connections are
opened by libpq from the mapping's URL, so no engine holds a password that its repr could show. Statements
are never prepared on the server, since a transaction pooler may stand before it (pitfall 62).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NoAnswerError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg import conninfo, errors
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.types import UserDefinedType

from fixia_shardmig.lookup.keys import KeyTexts, check_parts
from fixia_shardmig.mapping.load import MappingFile
from fixia_shardmig.model.errors import MappingError, RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.retry import is_passing
from fixia_shardmig.postgres.sessions import connection_error, describe, without_secret

SESSIONS_KEPT = 5
SESSIONS_MAX = 10
"""Sessions that one process has open on one database at most; times the processes, `max_connections` has to bear it."""

QUESTIONS_MAX = 4
"""Connections for questions by key: each takes a millisecond, so a few serve many threads."""

POOL_WAIT_S_MAX = 10.0
CONNECTION_AGE_S_MAX = 600.0
"""Older connections are replaced when they are taken next, so that a re-pointed alias is followed by all."""

CONNECT_S_MAX = 5
ANSWER_S_MAX = 10.0
"""For all shards' answers to one question; a key is found in a millisecond or something is wrong."""

THREADS_MAX = 8
ORDINAL = "asked_number"
KEYS_MAX = 10_000
"""Of one question; more belongs into several, each within ANSWER_S_MAX."""

_NO_KEY = (
    errors.InvalidTextRepresentation,
    errors.InvalidDatetimeFormat,
    errors.DatetimeFieldOverflow,
    errors.NumericValueOutOfRange,
    errors.CheckViolation,
)
"""What a server answers when a text is no value of the key's type, or of its domain."""

Row = dict[str, Any]
Values = Literal["none", "python", "text"]
"""What to read of a row besides its being there: values as the driver gives them, or as the server writes them."""

T = TypeVar("T")

_SHAPE = sa.text("""
SELECT c.relkind = 'p' AS partitioned,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE k.n <= i.indnkeyatts ORDER BY k.n) AS key_columns,
       ARRAY(SELECT format_type(a.atttypid, -1) FROM unnest(i.indkey) WITH ORDINALITY k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE k.n <= i.indnkeyatts ORDER BY k.n) AS key_types
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE n.nspname = :schema AND c.relname = :name AND c.relkind IN ('r', 'p')
""")


@dataclass(frozen=True, slots=True)
class Shape:
    """What finding a row needs to know of its table. Types are without length: a cast to `char(2)` would cut a key."""

    partitioned: bool
    columns: tuple[str, ...]
    key_columns: tuple[str, ...]
    key_types: tuple[str, ...]


class _KeyType(UserDefinedType[str]):
    """A type by the name that the server gave it."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: object) -> str:
        """Return the name as SQL has it."""
        return self.name


class Place:
    """One database. Connects when it is first asked."""

    def __init__(self, name: str, url: str) -> None:
        """Make the pools, empty."""
        self.name = name
        self._url = url
        self._shapes: dict[TableName, Shape] = {}
        self._sessions = _engine(url, kept=SESSIONS_KEPT, most=SESSIONS_MAX)
        self._questions = _engine(url, kept=QUESTIONS_MAX, most=QUESTIONS_MAX)
        self._questions = self._questions.execution_options(isolation_level="AUTOCOMMIT")

    def __repr__(self) -> str:
        """Return the name alone; the URL is a secret."""
        return f"Place({self.name})"

    def session(self) -> Session:
        """Return a new SQLAlchemy session, which takes a connection with its first statement."""
        return Session(self._sessions)

    def close(self) -> None:
        """Close the connections that nobody uses now."""
        self._sessions.dispose()
        self._questions.dispose()

    @contextmanager
    def question(self) -> Iterator[sa.Connection]:
        """Lend a connection in autocommit mode; its errors come out as ours, naming the place."""
        try:
            with self._questions.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise self._told(error.orig, connecting=error.statement is None) from None
        except psycopg.Error as error:
            raise self._told(error, connecting=False) from None
        except PoolTimeoutError:
            raise TemporaryError(
                f"{self.name}: no connection was free for {POOL_WAIT_S_MAX:.0f} s", hint="ask again, with fewer threads"
            ) from None

    def find(self, table: TableName, keys: Sequence[KeyTexts], *, values: Values = "none") -> dict[int, Row]:
        """Return the rows of those keys that have one here, by the keys' places in the list, in one query."""
        if len(keys) > KEYS_MAX:
            raise MappingError(f"{len(keys)} keys at once", hint=f"ask for at most {KEYS_MAX} at a time")
        with self.question() as connection:
            shape = self._shape(connection, table)
            for key in keys:
                check_parts(table, shape.key_columns, key)
            result = connection.execute(_query(table, shape, values), _parameters(shape, keys))
            # By the driver's names: SQLAlchemy takes `found.*` for the name of a table's only column.
            cursor: Any = result.cursor  # a type that the two checkers read differently
            columns = [column[0] for column in cursor.description][1:]
            return {row[0] - 1: dict(zip(columns, row[1:], strict=True)) for row in result}

    def _shape(self, connection: sa.Connection, table: TableName) -> Shape:
        known = self._shapes.get(table)
        if known is not None:
            return known
        row = connection.execute(_SHAPE, {"schema": table.schema, "name": table.name}).fetchone()
        if row is None:
            raise ShardmigError(f"{self.name} has no table {table}", hint="shardmig schema diff")
        shape = Shape(row.partitioned, tuple(row.columns), tuple(row.key_columns), tuple(row.key_types))
        self._shapes[table] = shape
        return shape

    def _told(self, error: BaseException | None, *, connecting: bool) -> ShardmigError:
        """Turn a driver's error into ours. A definition that may have changed is read again next time."""
        if not isinstance(error, psycopg.Error):
            return ShardmigError(f"{self.name}: {type(error).__name__}", hint="see the server's log")
        if connecting:
            return connection_error(error, self._url)
        self._shapes.clear()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        cause = without_secret(lines[0] if lines else type(error).__name__, self._url)
        if isinstance(error, _NO_KEY):
            return MappingError(f"this can be no key: {cause}", hint="give the primary key as the server writes it")
        message = f"{self.name} ({describe(self._url)}): {cause}"
        if isinstance(error, errors.InsufficientPrivilege):
            return RefusedError(message, hint="GRANT USAGE on the schema and SELECT on the table to the URL's role")
        if is_passing(error):
            return TemporaryError(message, hint="ask again when that server is back")
        return ShardmigError(message, hint="remove the cause on that server, then ask again")


class Places:
    """The source and the shards, each made when it is first needed, and asked side by side."""

    def __init__(self, mapping: MappingFile) -> None:
        """Keep where they are; connects to nothing."""
        self._mapping = mapping
        self._made: dict[str, Place] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="lookup")

    @property
    def source(self) -> Place:
        """Return the database that is split."""
        return self._place("", "the source", self._mapping.source.url)

    def shard(self, name: str) -> Place:
        """Return a shard by its name in the mapping."""
        endpoint = self._mapping.shards.get(name)
        if endpoint is None:
            raise MappingError(f"unknown shard {name!r}", hint=f"it is one of {', '.join(self._mapping.shards)}")
        return self._place(name, name, endpoint.url)

    def shards(self) -> list[Place]:
        """Return all shards in the mapping's order."""
        return [self.shard(name) for name in self._mapping.shards]

    def _place(self, key: str, name: str, url: str) -> Place:
        with self._lock:
            if key not in self._made:
                self._made[key] = Place(name, url)
            return self._made[key]

    def ask(self, places: Iterable[Place], question: Callable[[Place], T]) -> list[tuple[Place, T]]:
        """Put one question to several places at once; an answer that fails to come fails them all."""
        asked = [(place, self._threads.submit(question, place)) for place in places]
        deadline = time.monotonic() + ANSWER_S_MAX
        answers: list[tuple[Place, T]] = []
        for place, future in asked:
            try:
                answers.append((place, future.result(max(0.0, deadline - time.monotonic()))))
            except NoAnswerError:
                raise TemporaryError(
                    f"{place.name} has not answered for {ANSWER_S_MAX:.0f} s", hint="ask again when that server is back"
                ) from None
        return answers

    def close(self) -> None:
        """Let questions under way end, then close all connections that nobody uses; no more questions after it."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            for place in self._made.values():
                place.close()


def _engine(url: str, *, kept: int, most: int) -> sa.Engine:
    """Make an engine whose pool connects by libpq, with what the URL leaves open filled in."""
    parameters: dict[str, Any] = {
        "connect_timeout": CONNECT_S_MAX,
        "fallback_application_name": "shardmig lookup",
        **conninfo.conninfo_to_dict(url),
        "client_encoding": "UTF8",
    }
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(prepare_threshold=None, **parameters),
        pool_size=kept,
        max_overflow=most - kept,
        pool_timeout=POOL_WAIT_S_MAX,
        pool_recycle=CONNECTION_AGE_S_MAX,
        pool_pre_ping=True,
    )


def _query(table: TableName, shape: Shape, values: Values) -> sa.Select[Any]:
    """Join the keys, numbered as they came, with the table: `unnest(…) WITH ORDINALITY`, one array a key column.

    ONLY leaves out the children of classic inheritance, which are tables of their own (pitfall 31).
    """
    names = [f"k{number}" for number in range(len(shape.key_columns))]
    arrays = [sa.bindparam(name, type_=postgresql.ARRAY(sa.Text)) for name in names]
    asked = (
        sa.func.unnest(*arrays)
        .table_valued(*(sa.column(name, sa.Text) for name in names), with_ordinality=ORDINAL)
        .render_derived(name="asked")
    )
    found = sa.table(table.name, *(sa.column(name) for name in shape.columns), schema=table.schema).alias("found")
    pairs = zip(names, shape.key_columns, shape.key_types, strict=True)
    same = sa.and_(*(found.c[column] == sa.cast(asked.c[name], _KeyType(kind)) for name, column, kind in pairs))
    read: dict[Values, list[sa.ColumnElement[Any]]] = {
        "none": [],
        "python": [sa.literal_column("found.*")],
        "text": [sa.cast(found.c[name], sa.Text).label(name) for name in shape.columns],
    }
    query = sa.select(asked.c[ORDINAL], *read[values]).select_from(asked.join(found, same))
    return query if shape.partitioned else query.with_hint(found, "ONLY", "postgresql")


def _parameters(shape: Shape, keys: Sequence[KeyTexts]) -> dict[str, list[str]]:
    return {f"k{number}": [key[number] for key in keys] for number in range(len(shape.key_columns))}
