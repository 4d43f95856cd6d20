"""Copies one chunk: reads it once under the snapshot and sends each row, unparsed, to its home shard.

Runs in a process of its own. A task holds everything it needs, so any `concurrent.futures.Executor` can carry it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import pq
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from fixia_shardmig.copy.line import put_copy, read_copy
from fixia_shardmig.copy.pacing import Pacer, pacer_of
from fixia_shardmig.copy.relay import BINARY_HEADER, BINARY_TRAILER, NO_HOME, Sorter, new_sorter
from fixia_shardmig.journal.journal import COPY_WRITER
from fixia_shardmig.model.errors import RefusedError, TemporaryError, UnroutableError
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import Connection, connect, is_open
from fixia_shardmig.postgres.silence import excuse

SEND_BYTES = 64 * 1024
PR_SET_PDEATHSIG = 1
RESUME = "shardmig copy --resume"
TRIES = 4
RETRY_WAIT_S_MAX = 8.0
CLAIM_WAIT_S_MAX = 30
"""How long a worker waits for another that has the same chunk in hand, one that was taken for dead."""
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

    `search_path` is the one under which `copy_out` says what placement means, extension types too; the shards read what
    it wrote under the same one, since a regclass leaves out a schema that is in it.
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
    pace_url: str = field(default="", repr=False)
    """The journal that says how fast to go; empty for a task that nobody throttles."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a chunk held: rows and bytes as they went over the wire, a reference table's counted once."""

    chunk_id: int
    rows: int
    size_bytes: int
    rows_by_shard: dict[str, int]
    seconds: float


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
    """Copy a chunk to all its shards. Every shard's rows and checkpoint commit together; done shards are skipped.

    After a failure no session that took part is used again: each could be within a transaction that failed.
    """
    try:
        pacer = pacer_of(task.pace_url, next_command=RESUME) if task.pace_url else None
        if pacer:
            pacer.begin()
        source = _source(task)
        return _pump(source, [_Sink(write, task) for write in task.writes], task, pacer)
    except BaseException as error:
        _close_sessions(task)
        if isinstance(error, psycopg.Error):
            doing = f"copying {task.table}"
            raise as_shardmig_error(error, task.source_url, doing=doing, next_command=RESUME) from error
        raise


def _close_sessions(task: ChunkTask) -> None:
    """Close this process's sessions of a task; the servers roll back."""
    _close_sources(task.source_url)
    for write in task.writes:
        if write.url in _targets:
            _targets.pop(write.url).close()


def _source(task: ChunkTask) -> Connection:
    """Return this process's session that reads under the task's snapshot.

    One under an earlier snapshot is closed: its transaction would hold vacuum back on the source.
    """
    key = (task.source_url, task.snapshot)
    found = _sources.get(key)
    if found and is_open(found):
        return found
    _close_sources(task.source_url)
    connection = connect(task.source_url, "copy reader", autocommit=True)
    try:
        connection.execute(
            "SELECT set_config('search_path', %s, false), set_config('jit', 'off', false)", (task.search_path,)
        )  # a chunk's query is short, and what compiling it costs is not made good
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.pgconn.exec_(b"SET TRANSACTION SNAPSHOT '" + task.snapshot.encode() + b"'")
        result = connection.pgconn.exec_(b"SELECT pg_catalog.set_config('work_mem', '64MB', false)")
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise TemporaryError(
                f"the copy's snapshot {task.snapshot} is gone",
                hint=f"{RESUME} goes on under a new snapshot",
            )
    except BaseException:
        connection.close()
        raise
    _sources[key] = connection
    return connection


def close_sessions() -> None:
    """Close all of this process's sessions; one that waits for its next chunk would hold vacuum back on the source."""
    for kept in (_sources, _targets):
        while kept:
            kept.popitem()[1].close()


def _close_sources(url: str) -> None:
    for key in [key for key in _sources if key[0] == url]:
        _sources.pop(key).close()


def _pump(source: Connection, sinks: list[_Sink], task: ChunkTask, pacer: Pacer | None) -> ChunkResult:
    began_s = time.monotonic()
    sorter = new_sorter(binary=task.binary, routed=task.routed, homes=len(sinks) if task.routed else 1)
    seen = 0
    for _ in read_copy(source, task.copy_out, sorter):
        if sorter.rows[NO_HOME]:
            raise UnroutableError(
                f"a row of {task.table} has no home under the mapping", hint="shardmig plan names such rows"
            )
        _hand_on(sorter, sinks, size_min=SEND_BYTES)
        if pacer:
            _keep_pace(pacer, sorter.size - seen, sorter, sinks)
        seen = sorter.size
    homes = range(len(sinks)) if task.routed else [0] * len(sinks)
    rests = [sorter.take(home) for home in set(homes)]
    for sink, home in zip(sinks, homes, strict=True):
        sink.commit(rests[home], sorter.rows[home])
    rows_by_shard = {sink.write.shard: sorter.rows[home] for sink, home in zip(sinks, homes, strict=True)}
    return ChunkResult(task.chunk_id, sum(sorter.rows), sorter.size, rows_by_shard, time.monotonic() - began_s)


def _hand_on(sorter: Sorter, sinks: list[_Sink], *, size_min: int) -> None:
    """Give each shard what there is for it, where it is so much; without routing that is the same for all."""
    if sinks[0].task.routed:
        for home, sink in enumerate(sinks):
            if sorter.fill(home) >= size_min:
                sink.send(sorter.take(home))
    elif sorter.fill(0) >= size_min:
        data = sorter.take(0)
        for sink in sinks:
            sink.send(data)


def _keep_pace(pacer: Pacer, size: int, sorter: Sorter, sinks: list[_Sink]) -> None:
    """Wait as long as the pace asks for; shards get what is buffered then, so that none takes us for silent.

    Nor do we take a shard for silent which no row was for all the while.
    """
    waited = pacer.passed(size)
    for sink in sinks:
        sink.excuse()
    if waited:
        _hand_on(sorter, sinks, size_min=1)


class _Sink:
    """One shard's side of a chunk: a transaction that opens with the first row and ends with the checkpoint."""

    def __init__(self, write: ShardWrite, task: ChunkTask) -> None:
        self.write = write
        self.task = task
        self._session: Connection | None = None
        self._open = False
        self._done = False
        if write.before and not write.after:
            self._begin()

    def send(self, data: bytes) -> None:
        self._begin()
        if not self._done:
            with self._naming_shard():
                put_copy(self._connection().pgconn, data)

    def excuse(self) -> None:
        if self._session is not None:
            excuse(self._session)

    def commit(self, rest: bytes, rows: int) -> None:
        """Send the rest, end the COPY and commit it with the checkpoint; a shard without a row here has none."""
        if rest:
            self.send(rest)
        if not self._open or self._done:
            return
        with self._naming_shard():
            self._end_copy()
            for statement in self.write.after:
                self._execute(statement)
            self._connection().execute(
                "UPDATE shardmig.copied_chunk SET rows = %s WHERE chunk_id = %s", (rows, self.task.chunk_id)
            )
            place("copy.before_chunk_commit")
            self._execute("COMMIT")
            place("copy.chunk_committed")
        self._open = False

    def _end_copy(self) -> None:
        pgconn = self._connection().pgconn
        if self.task.binary:
            pgconn.put_copy_data(BINARY_TRAILER)
        pgconn.put_copy_end()
        self._check(pgconn.get_result())
        while pgconn.get_result() is not None:
            pass

    def _begin(self) -> None:
        if self._open:
            return
        self._open = True
        with self._naming_shard():
            connection = self._connection()
            self._execute(f"BEGIN; SET LOCAL lock_timeout = '{CLAIM_WAIT_S_MAX}s'")
            self._done = not self._claim(connection)
            if self._done:
                self._execute("ROLLBACK")
                return
            self._execute("SET LOCAL lock_timeout = 0")
            for statement in self.write.before:
                self._execute(statement)
            self._check(connection.pgconn.exec_(self.write.copy_in.encode()), pq.ExecStatus.COPY_IN)
            if self.task.binary:
                put_copy(connection.pgconn, BINARY_HEADER)

    def _claim(self, connection: Connection) -> bool:
        """Take the chunk's checkpoint within the transaction; False if this epoch's rows, or a later one's, are there.

        A worker that was only taken for dead may have the same chunk in hand: it waits here, or we do, until one of us
        has committed or is gone. One that comes after its epoch has ended is refused.
        """
        fence = connection.execute("SELECT epoch_min FROM shardmig.copy_fence FOR SHARE").fetchone()
        if fence is None or fence[0] > self.task.epoch:
            raise RefusedError(f"snapshot epoch {self.task.epoch} of the copy has ended", hint=RESUME)
        claimed = connection.execute(
            "INSERT INTO shardmig.copied_chunk AS c (chunk_id, snapshot_epoch, rows) VALUES (%s, %s, 0)"
            " ON CONFLICT (chunk_id) DO UPDATE SET snapshot_epoch = excluded.snapshot_epoch, rows = 0"
            " WHERE c.snapshot_epoch < excluded.snapshot_epoch RETURNING 1",
            (self.task.chunk_id, self.task.epoch),
        )
        return claimed.fetchone() is not None

    def _execute(self, statement: str) -> None:
        self._check(self._connection().pgconn.exec_(statement.encode()))

    def _check(self, result: pq.abc.PGresult | None, wanted: pq.ExecStatus = pq.ExecStatus.COMMAND_OK) -> None:
        if result is None or result.status != wanted:
            raise psycopg.errors.error_from_result(result, encoding="utf-8") if result else psycopg.OperationalError()

    @contextmanager
    def _naming_shard(self) -> Iterator[None]:
        """Turn a server's error into one that names this shard, and not the source that is read meanwhile."""
        try:
            yield
        except psycopg.Error as error:
            doing = f"copying {self.task.table} to shard {self.write.shard}"
            raise as_shardmig_error(error, self.write.url, doing=doing, next_command=RESUME) from error

    def _connection(self) -> Connection:
        """Return the sink's one session: a new one in the middle would commit the checkpoint without the rows."""
        if self._session is None:
            self._session = self._kept_or_new()
        return self._session

    def _kept_or_new(self) -> Connection:
        found = _targets.get(self.write.url)
        if found is None or not is_open(found):
            found = connect(self.write.url, f"{COPY_WRITER} {self.write.shard}")
            found.execute(
                "SELECT set_config('session_replication_role', 'replica', false), set_config('search_path', %s, false)",
                (self.task.search_path,),
            )
            _targets[self.write.url] = found
        return found
