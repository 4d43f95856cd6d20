"""Runs a shard's DDL on the target. The target itself keeps the statements and which of them are done.

`apply_pre_data` makes the tables in one transaction and leaves the other stages' statements beside them, so that
those need no source. Each statement of a later stage commits together with its done mark: run again, a stage goes on
where it stopped. Refuses a target that already has tables of somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import LiteralString, Self

import psycopg
from psycopg import errors, sql
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from fixia_shardmig.model.errors import DriftError, RefusedError, ShardmigError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import Connection, connect, describe, scalar, session
from fixia_shardmig.schema.dump_text import for_older_server
from fixia_shardmig.schema.impatience import press_autovacuum
from fixia_shardmig.schema.memory import is_sorted, memory_mb, workers_beside
from fixia_shardmig.schema.shard_schema import STAGES, ShardSchema, Statement

LOCK_TIMEOUT_MS = 5_000
LOCK_TRIES_MAX = 8
"""A statement that waits for a lock lets nobody past it, the applier least of all: give up early, try again."""
TABLES_SHOWN_MAX = 5
NOT_NULL_IN_TABLES = 180000
"""The first version in which a table's definition may hold NOT NULL for a column that it inherits."""

_MADE: LiteralString = """
CREATE SCHEMA IF NOT EXISTS shardmig;
CREATE TABLE shardmig.ddl (
    ordinal int PRIMARY KEY,
    stage text NOT NULL,
    rank int NOT NULL,
    lane text NOT NULL,
    kind text NOT NULL,
    table_schema text,
    table_name text,
    root_schema text,
    root_name text,
    name text NOT NULL,
    statement text NOT NULL,
    optional boolean NOT NULL,
    done_at timestamptz,
    note text
);
COMMENT ON TABLE shardmig.ddl IS 'What makes this shard, and when each was done; note: why one was left out';
"""
_SETTINGS: LiteralString = """
SET search_path = '';
SET check_function_bodies = off;
SET client_min_messages = warning;
"""
_SIZES: LiteralString = """
SELECT set_config('maintenance_work_mem', %s, false), set_config('max_parallel_maintenance_workers', %s, false)
"""
_TABLE_BYTES: LiteralString = """
SELECT pg_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
_COLUMNS = sql.SQL(
    "ordinal, stage, rank, lane, kind, table_schema, table_name, root_schema, root_name, name, statement, optional"
)
_OTHER_TABLES: LiteralString = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a stage tells its caller after each statement."""

    statement: Statement
    done: int
    total: int


def apply_pre_data(target: str | Connection, schema: ShardSchema) -> bool:
    """Make a shard's tables, types and functions, and record all later statements, in one transaction.

    Args:
        target: The shard's URL, or an open session on it with autocommit; its settings are changed.
        schema: What to make.

    Returns:
        True if it was made now, False if the very same was made before.

    Raises:
        RefusedError: The target has tables of somebody else's.
        DriftError: It was made before, from other DDL.
    """
    if isinstance(target, str):
        with session(target, "schema") as connection:
            return apply_pre_data(connection, schema)
    with target.transaction():
        target.execute("SELECT pg_advisory_xact_lock(hashtextextended('shardmig.ddl', 0))")
        if _is_made(target, schema):
            return False
        _refuse_tables(target)
        target.execute(_MADE)
        target.execute(_SETTINGS)
        notes = {step.ordinal: _try(target, step) for step in schema.stage("pre_data")}
        _record(target, schema, notes)
    return True


def _is_made(connection: Connection, schema: ShardSchema) -> bool:
    if scalar(connection, "SELECT to_regclass('shardmig.ddl')") is None:
        return False
    recorded = sorted(row[0] for row in connection.execute("SELECT statement FROM shardmig.ddl"))
    if recorded == sorted(statement.sql for statement in schema.statements):  # their order follows the tables' sizes
        return True
    raise DriftError(
        f"{_place(connection)} was made from other DDL than the source's present one",
        hint="see `shardmig schema diff`; to begin again: shardmig abort --drop-targets",
    )


def _refuse_tables(connection: Connection) -> None:
    tables = [str(TableName(*row)) for row in connection.execute(_OTHER_TABLES)]
    if tables:
        shown = ", ".join(tables[:TABLES_SHOWN_MAX]) + (", …" if len(tables) > TABLES_SHOWN_MAX else "")
        raise RefusedError(
            f"{_place(connection)} is not empty: it has {len(tables)} tables ({shown})",
            hint="name an empty database as this shard, or drop these tables if nobody needs them",
        )


def _place(connection: Connection) -> str:
    return describe(connection.info.dsn)


def _try(connection: Connection, statement: Statement) -> str | None:
    """Run one statement of the first stage; the reason, when it is optional and failed."""
    try:
        with connection.transaction():
            connection.execute(_text_for(connection, statement).encode())
    except psycopg.Error as error:
        if not statement.optional or connection.broken:
            raise _failure(error, connection, statement) from error
        return _first_line(error)
    return None


def _text_for(connection: Connection, statement: Statement) -> str:
    """Return a statement as the target's version takes it."""
    if statement.kind != "TABLE" or statement.table is None or connection.info.server_version >= NOT_NULL_IN_TABLES:
        return statement.sql
    return for_older_server(statement.sql, sql.Identifier(statement.table.schema, statement.table.name).as_string())


def _failure(error: psycopg.Error, connection: Connection, statement: Statement) -> ShardmigError:
    return as_shardmig_error(error, connection.info.dsn, doing=str(statement), next_command="shardmig schema apply")


def _first_line(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).splitlines()[0]


def _record(connection: Connection, schema: ShardSchema, notes: dict[int, str | None]) -> None:
    copy = sql.SQL("COPY shardmig.ddl ({}, done_at, note) FROM STDIN").format(_COLUMNS)
    now = scalar(connection, "SELECT now()")
    with connection.cursor() as cursor, cursor.copy(copy) as rows:
        for step in schema.statements:
            table = (step.table.schema, step.table.name) if step.table else (None, None)
            root = (step.root.schema, step.root.name) if step.root else (None, None)
            done = now if step.stage == "pre_data" else None
            place = (step.ordinal, step.stage, step.rank, step.lane, step.kind, *table, *root)
            rows.write_row((*place, step.name, step.sql, step.optional, done, notes.get(step.ordinal)))


def pending(
    connection: Connection, stage: str, *, only_tables: Collection[TableName] | None = None
) -> tuple[Statement, ...]:
    """Return a stage's statements that are not done yet, in order; `only_tables` names roots."""
    if stage not in STAGES:
        raise ValueError(f"{stage} is not a stage")
    query = sql.SQL("SELECT {} FROM shardmig.ddl WHERE stage = {} AND done_at IS NULL ORDER BY ordinal")
    rows = connection.execute(query.format(_COLUMNS, sql.Literal(stage)))
    found = tuple(
        Statement(o, s, rank, lane, kind, _name(ts, t), _name(rs, r), name, text, optional)
        for o, s, rank, lane, kind, ts, t, rs, r, name, text, optional in rows
    )
    return found if only_tables is None else tuple(s for s in found if s.root in only_tables)


def _name(schema: str | None, name: str | None) -> TableName | None:
    return TableName(schema, name) if schema is not None and name is not None else None


def notes(connection: Connection) -> tuple[tuple[str, str], ...]:
    """Return (statement, reason) for each optional statement that the target could not run."""
    query: LiteralString = "SELECT kind || ' ' || name, note FROM shardmig.ddl WHERE note IS NOT NULL ORDER BY ordinal"
    return tuple((row[0], row[1]) for row in connection.execute(query))


def run_stage(
    url: str,
    stage: str,
    *,
    jobs: int = 1,
    only_tables: Collection[TableName] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> int:
    """Run what is pending of a stage, up to `jobs` statements at once, and return how many were run.

    Args:
        url: The shard.
        stage: One of `STAGES` after `pre_data`.
        jobs: How many sessions work at once.
        only_tables: Only the statements about these roots.
        on_progress: Called after each statement, from this thread.

    Raises:
        ShardmigError: A statement failed, and which; those that ran at the same time have ended, and are recorded.
        TemporaryError: The same, where a second run may succeed.
    """
    with session(url, "schema") as connection:
        steps = pending(connection, stage, only_tables=only_tables)
    if not steps:
        return 0
    done = 0
    with _Builders(url, jobs) as builders:
        for _, ranked in groupby(steps, key=lambda step: step.rank):
            for statement in builders.run(ranked):
                done += 1
                if on_progress:
                    on_progress(Progress(statement, done, len(steps)))
        builders.flush()
    return done


class _Builders:
    """Up to `jobs` sessions of a stage, kept from lane to lane: to open one costs as much as to build a small index."""

    def __init__(self, url: str, jobs: int) -> None:
        self._url = url
        self._jobs = max(1, jobs)
        self._free: SimpleQueue[Connection] = SimpleQueue()
        self._pool = ThreadPoolExecutor(max_workers=self._jobs, thread_name_prefix="schema")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        while not self._free.empty():
            self._free.get().close()

    def flush(self) -> None:
        """Wait once for the disk: a commit that is flushed takes all earlier ones with it, of every session."""
        connection = self._session()
        connection.execute("SET synchronous_commit = on")
        connection.execute("SELECT pg_current_xact_id()")
        connection.close()

    def run(self, steps: Iterable[Statement]) -> Iterator[Statement]:
        """Run steps that may run at the same time, lane by lane; yield each when its lane has ended."""
        lanes: dict[str, list[Statement]] = {}
        for step in steps:
            lanes.setdefault(step.lane, []).append(step)
        together = min(self._jobs, len(lanes))
        return _finished(
            [
                self._pool.submit(self._run_lane, lane, together, workers_beside(self._jobs, len(lanes) - number))
                for number, lane in enumerate(lanes.values())
            ]
        )

    def _run_lane(self, steps: list[Statement], together: int, workers: int) -> list[Statement]:
        connection = self._session()
        try:
            for step in steps:
                _run(connection, self._url, step, together=together, workers=workers)
        except BaseException:
            connection.close()
            raise
        self._free.put(connection)
        return steps

    def _session(self) -> Connection:
        try:
            return self._free.get_nowait()
        except Empty:
            return _open_builder(self._url)


def _table_bytes(connection: Connection, step: Statement) -> int:
    name = (step.table.schema, step.table.name) if step.table else (None, None)
    return int(scalar(connection, _TABLE_BYTES, name) or 0)


def _finished(futures: list[Future[list[Statement]]]) -> Iterator[Statement]:
    """Yield what ran, as it ends; at the first failure let the running ones end, start no other, and raise it."""
    waiting = set(futures)
    while waiting:
        ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        failed = [future for future in ended if future.exception() is not None]
        if failed:
            for future in waiting:
                future.cancel()
            wait(waiting)
            failed[0].result()
        for future in ended:
            yield from future.result()


def _open_builder(url: str) -> Connection:
    """Open a session whose commits do not wait for the disk: a statement and its mark go together, if they go."""
    connection = connect(url, "schema")
    try:
        connection.execute(_SETTINGS)
        connection.execute("SET synchronous_commit = off")
        press_autovacuum(connection)
        connection.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)))
    except BaseException:
        connection.close()
        raise
    return connection


def _run(connection: Connection, url: str, step: Statement, *, together: int, workers: int) -> None:
    """Run one statement and mark it done, in one transaction; try again while somebody else holds its lock."""
    try:
        table_bytes = _table_bytes(connection, step) if is_sorted(step) else 0
        size_mb = memory_mb(step, table_bytes, together=together, workers=workers)
        connection.execute(_SIZES, (f"{size_mb}MB", str(workers)))
        for attempt in Retrying(
            retry=retry_if_exception_type((errors.LockNotAvailable, errors.DeadlockDetected)),
            stop=stop_after_attempt(LOCK_TRIES_MAX),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            reraise=True,
        ):
            with attempt, connection.transaction():
                connection.execute(step.sql.encode())
                _mark_done(connection, step, None)
                place("schema.before_commit", step.stage)
            place("schema.committed", step.stage)
    except psycopg.Error as error:
        if step.optional and not connection.broken and not isinstance(error, errors.LockNotAvailable):
            _mark_done(connection, step, _first_line(error))
            return
        raise as_shardmig_error(
            error, url, doing=str(step), next_command=f"shardmig {_COMMAND_OF_STAGE[step.stage]}"
        ) from error


_COMMAND_OF_STAGE = {
    "primary_keys": "copy --resume",
    "indexes": "tail",
    "constraints": "tail",
    "foreign_keys": "tail",
    "finish": "tail",
    "after_switch": "cutover --resume",
}


def _mark_done(connection: Connection, step: Statement, note: str | None) -> None:
    connection.execute(
        "UPDATE shardmig.ddl SET done_at = clock_timestamp(), note = %s WHERE ordinal = %s", (note, step.ordinal)
    )
