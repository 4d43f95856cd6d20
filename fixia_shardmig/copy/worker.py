"""Copies one chunk: reads it once under the snapshot and sends each row, unparsed, to its home shard.

Runs in a process of its own. A task holds everything it needs, so any `concurrent.futures.Executor` can carry it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
from psycopg import pq
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from fixia_shardmig.model.errors import TemporaryError, UnroutableError
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import Connection, connect, is_open

BINARY_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
BINARY_HEADER = BINARY_SIGNATURE + b"\x00" * 8
BINARY_TRAILER = b"\xff\xff"
SEND_BYTES = 64 * 1024
NO_HOME = -1
_HOME_FIELD_BYTES = 6
PR_SET_PDEATHSIG = 1
TRIES = 4
RETRY_WAIT_S_MAX = 8.0
"""A server that restarts is back within these tries; the snapshot lasts as long as its holder's session does."""


@dataclass(frozen=True, slots=True)
class ShardWrite:
    """Where a chunk's rows of one shard go.

    Attributes:
        before: Statements before the rows, in the same transaction (a staging table, or TRUNCATE).
        copy_in: The COPY … FROM STDIN statement.
        after: Statements after the rows (from staging into the table).
    """

    shard: str
    url: str = field(repr=False)
    before: tuple[str, ...]
    copy_in: str
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """One chunk to copy. With `routed`, the first field of each row is the home's place in `writes`.

    `search_path` is the one under which `copy_out` says what placement means, extension types too.
    """

    chunk_id: int
    table: str
    epoch: int
    source_url: str = field(repr=False)
    snapshot: str
    search_path: str
    copy_out: str
    binary: bool
    routed: bool
    writes: tuple[ShardWrite, ...]


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a chunk held: rows and bytes as they went over the wire, a reference table's counted once."""

    chunk_id: int
    rows: int
    size_bytes: int
    rows_by_shard: dict[str, int]


_sources: dict[tuple[str, str], Connection] = {}
_targets: dict[str, Connection] = {}


def prepare_worker() -> None:
    """Leave Ctrl-C to the parent and die with it, so that a kill -9 of the parent leaves nothing running."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)


@retry(
    retry=retry_if_exception_type(TemporaryError),
    stop=stop_after_attempt(TRIES),
    wait=wait_random_exponential(max=RETRY_WAIT_S_MAX),
    reraise=True,
)
def copy_chunk(task: ChunkTask) -> ChunkResult:
    """Copy a chunk to all its shards. Every shard's rows and checkpoint commit together; done shards are skipped."""
    source = _source(task)
    sinks = [_Sink(write, task) for write in task.writes]
    try:
        return _pump(source, sinks, task)
    except BaseException as error:
        for sink in sinks:
            sink.abandon()
        _sources.pop((task.source_url, task.snapshot)).close()
        if isinstance(error, psycopg.Error):
            raise as_shardmig_error(
                error, task.source_url, doing=f"copying {task.table}", next_command="shardmig copy --resume"
            ) from error
        raise


def _source(task: ChunkTask) -> Connection:
    """Return this process's session that reads under the task's snapshot."""
    key = (task.source_url, task.snapshot)
    found = _sources.get(key)
    if found and is_open(found):
        return found
    connection = connect(task.source_url, "copy reader", autocommit=True)
    try:
        connection.execute("SELECT set_config('search_path', %s, false)", (task.search_path,))
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.pgconn.exec_(b"SET TRANSACTION SNAPSHOT '" + task.snapshot.encode() + b"'")
        result = connection.pgconn.exec_(b"SELECT pg_catalog.set_config('work_mem', '64MB', false)")
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise TemporaryError(
                f"the copy's snapshot {task.snapshot} is gone",
                hint="shardmig copy --resume goes on under a new snapshot",
            )
    except BaseException:
        connection.close()
        raise
    _sources[key] = connection
    return connection


def _pump(source: Connection, sinks: list[_Sink], task: ChunkTask) -> ChunkResult:
    rows = size = 0
    for message in _copy_out(source, task.copy_out):
        if task.binary:
            data = message[len(BINARY_HEADER) :] if message[:11] == BINARY_SIGNATURE else message
            if data == BINARY_TRAILER:
                continue
        else:
            data = message
        rows += 1
        size += len(data)
        if task.routed:
            home, row = _split_binary(data) if task.binary else _split_text(data)
            if home == NO_HOME:
                raise UnroutableError(
                    f"a row of {task.table} has no home under the mapping", hint="shardmig plan names such rows"
                )
            sinks[home].send(row)
        else:
            for sink in sinks:
                sink.send(data)
    for sink in sinks:
        sink.commit()
    return ChunkResult(task.chunk_id, rows, size, {sink.write.shard: sink.rows for sink in sinks})


def _split_binary(data: bytes) -> tuple[int, bytes]:
    """Take the leading int2 field off a binary row: (its value, the row with one field less)."""
    fields = int.from_bytes(data[:2], "big") - 1
    home = int.from_bytes(data[6:8], "big", signed=True)
    return home, fields.to_bytes(2, "big") + data[2 + _HOME_FIELD_BYTES :]


def _split_text(data: bytes) -> tuple[int, bytes]:
    home, _, row = data.partition(b"\t")
    return int(home), row


def _copy_out(source: Connection, query: str) -> Iterator[bytes]:
    """Yield one message a row. Uses libpq's calls directly: a cursor's `copy()` costs more than the rows do."""
    pgconn = source.pgconn
    result = pgconn.exec_(query.encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise psycopg.errors.error_from_result(result, encoding="utf-8")
    while True:
        size, data = pgconn.get_copy_data(0)
        if size <= 0:
            break
        yield bytes(data)
    result = pgconn.get_result()
    if result is not None and result.status != pq.ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(result, encoding="utf-8")
    while pgconn.get_result() is not None:
        pass


class _Sink:
    """One shard's side of a chunk: a transaction that opens with the first row and ends with the checkpoint."""

    def __init__(self, write: ShardWrite, task: ChunkTask) -> None:
        self.write = write
        self.task = task
        self.rows = 0
        self._buffer: list[bytes] = []
        self._size = 0
        self._open = False
        self._done = False
        if write.before and not write.after:
            self._begin()

    def send(self, row: bytes) -> None:
        self.rows += 1
        self._buffer.append(row)
        self._size += len(row)
        if self._size >= SEND_BYTES:
            self._flush()

    def commit(self) -> None:
        if not self.rows and not self._open:
            return
        self._flush()
        if self._done:
            return
        connection = self._connection()
        pgconn = connection.pgconn
        if self.task.binary:
            pgconn.put_copy_data(BINARY_TRAILER)
        pgconn.put_copy_end()
        self._check(pgconn.get_result())
        while pgconn.get_result() is not None:
            pass
        for statement in self.write.after:
            self._execute(statement)
        connection.execute(
            "INSERT INTO shardmig.copied_chunk (chunk_id, snapshot_epoch, rows) VALUES (%s, %s, %s)"
            " ON CONFLICT (chunk_id) DO UPDATE SET snapshot_epoch = excluded.snapshot_epoch, rows = excluded.rows",
            (self.task.chunk_id, self.task.epoch, self.rows),
        )
        self._execute("COMMIT")
        self._open = False

    def abandon(self) -> None:
        """Drop the session; the server rolls back."""
        connection = _targets.pop(self.write.url, None)
        if connection is not None:
            connection.close()

    def _flush(self) -> None:
        self._begin()
        if self._buffer and not self._done:
            self._connection().pgconn.put_copy_data(b"".join(self._buffer))
        self._buffer.clear()
        self._size = 0

    def _begin(self) -> None:
        if self._open:
            return
        self._open = True
        connection = self._connection()
        done = connection.execute(
            "SELECT 1 FROM shardmig.copied_chunk WHERE chunk_id = %s AND snapshot_epoch = %s",
            (self.task.chunk_id, self.task.epoch),
        ).fetchone()
        self._done = done is not None
        if self._done:
            return
        self._execute("BEGIN")
        for statement in self.write.before:
            self._execute(statement)
        self._check(connection.pgconn.exec_(self.write.copy_in.encode()), pq.ExecStatus.COPY_IN)
        if self.task.binary:
            connection.pgconn.put_copy_data(BINARY_HEADER)

    def _execute(self, statement: str) -> None:
        self._check(self._connection().pgconn.exec_(statement.encode()))

    def _check(self, result: pq.abc.PGresult | None, wanted: pq.ExecStatus = pq.ExecStatus.COMMAND_OK) -> None:
        if result is None or result.status != wanted:
            error = psycopg.errors.error_from_result(result, encoding="utf-8") if result else psycopg.OperationalError()
            raise as_shardmig_error(
                error,
                self.write.url,
                doing=f"copying {self.task.table} to shard {self.write.shard}",
                next_command="shardmig copy --resume",
            )

    def _connection(self) -> Connection:
        found = _targets.get(self.write.url)
        if found is None or not is_open(found):
            found = connect(self.write.url, f"copy writer {self.write.shard}")
            found.execute("SELECT set_config('session_replication_role', 'replica', false)")
            _targets[self.write.url] = found
        return found
