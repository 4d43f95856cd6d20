"""A worker keeps its sessions from chunk to chunk, but none in which something has failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
import pytest

from fixia_shardmig.copy import line, worker
from fixia_shardmig.copy.copier import local_executor
from fixia_shardmig.copy.statements import chunk_task
from fixia_shardmig.copy.worker import ChunkTask, copy_chunk
from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.journal.journal import end_earlier_epochs, prepare_shard
from fixia_shardmig.journal.records import Chunk, SnapshotEpoch
from fixia_shardmig.mapping.shard_map import Endpoint, ShardMap, SplitByColumn
from fixia_shardmig.model.errors import RefusedError, ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import scalar, session

USERS, LOG = TableName("public", "users"), TableName("public", "log")
SCHEMA = "CREATE TABLE users (id int PRIMARY KEY, kind text); CREATE TABLE log (kind text)"
ROWS = "INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'b'); INSERT INTO log VALUES ('a'), ('b')"
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
DEADLINE_S = 60.0
POLL_S = 0.05
SHARDS = ("north", "south")
READERS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'shardmig copy reader' ORDER BY pid"


@dataclass(frozen=True)
class Copying:
    """A source, its two shards, and the tasks that copy one to the others."""

    urls: Mapping[str, str]

    @contextmanager
    def task(self, table: TableName, *, epoch: int = 1) -> Iterator[ChunkTask]:
        """Give the task of a whole table under a snapshot that lasts as long as the block."""
        homes = {"a": "north", "b": "south"}
        shard_map = ShardMap(
            name="shop",
            file="",
            source=Endpoint(self.urls["source"]),
            shards={shard: Endpoint(self.urls[shard]) for shard in SHARDS},
            journal_shard="north",
            tables={USERS: SplitByColumn("kind", homes), LOG: SplitByColumn("kind", homes)},
        )
        with session(self.urls["source"], "test") as holder, holder.transaction():
            holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            snapshot = scalar(holder, "SELECT pg_export_snapshot()")
            with session(self.urls["source"], "test") as reader:
                yield chunk_task(
                    Chunk(1 if table is USERS else 2, table, 0, None, 8192, keyed=table is USERS),
                    SnapshotEpoch(epoch, "", LSN(0)),
                    shard_map=shard_map,
                    catalog=read_catalog(reader),
                    snapshot=snapshot,
                    quoting=reader,
                )

    def rows(self, table: str) -> dict[str, int]:
        """Count a table's rows on each shard."""
        return {shard: len(self.ask(shard, f"SELECT FROM {table}")) for shard in SHARDS}

    def run(self, place: str, statement: str) -> None:
        """Run a statement in a session of its own."""
        with psycopg.connect(self.urls[place], autocommit=True) as connection:
            connection.execute(statement.encode())

    def ask(self, place: str, query: str) -> list[tuple[int, ...]]:
        """Run a query in a session of its own."""
        with psycopg.connect(self.urls[place], autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture
def copying(source_cluster: Cluster, fresh_database: Callable[..., str]) -> Iterator[Copying]:
    """Give a filled source and two empty shards; close what the worker keeps for its process's next chunk."""
    urls = {place: fresh_database(source_cluster, place) for place in ("source", *SHARDS)}
    for place, url in urls.items():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SCHEMA)
            if place == "source":
                connection.execute(ROWS)
            else:
                prepare_shard(connection)
    yield Copying(urls)
    for kept in (worker._sources, worker._targets):
        while kept:
            kept.popitem()[1].close()


def test_a_chunk_can_be_copied_after_its_reading_has_failed(copying: Copying) -> None:
    """The source's transaction has failed, so the next chunk reads in another one under the same snapshot."""
    with copying.task(USERS) as task:
        broken = replace(task, copy_out=task.copy_out.replace(" WHERE ", " WHERE 1 / (t.id - 2) < 9 AND "))
        with pytest.raises(ShardmigError, match=r"/source\S*: copying users: division by zero"):
            copy_chunk(broken)
        assert {"north": 0, "south": 0} == copying.rows("users")
        assert {"north": 1, "south": 2} == copy_chunk(task).rows_by_shard
    assert {"north": 1, "south": 2} == copying.rows("users")


@pytest.mark.parametrize("bare", [True, False])
def test_rows_come_home_on_the_socket_and_through_libpq(
    copying: Copying, monkeypatch: pytest.MonkeyPatch, *, bare: bool
) -> None:
    """An encrypted session is libpq's alone; both ways carry rows of any size, and the server's errors."""
    monkeypatch.setattr(line, "is_bare", lambda _: bare)
    copying.run("source", "INSERT INTO log SELECT repeat('ab', 100000) FROM generate_series(1, 50)")
    copying.run("source", "UPDATE log SET kind = 'a' WHERE length(kind) = 1; INSERT INTO log VALUES (repeat('c', 300))")
    with copying.task(LOG) as task:
        rows = "SELECT (length(kind) % 2)::int2, kind FROM public.log"
        mixed = replace(task, copy_out=f"COPY ({rows}) TO STDOUT (FORMAT binary)")
        noisy = replace(task, copy_out=f"COPY ({rows} WHERE repeat(kind, 9)::int > 0) TO STDOUT (FORMAT binary)")
        with pytest.raises(ShardmigError, match=r"copying log: invalid input syntax for type integer"):
            copy_chunk(noisy)
        assert {"north": 51, "south": 2} == copy_chunk(mixed).rows_by_shard
    sizes = "SELECT sum(length(kind))::int FROM log"
    assert ([(10_000_300,)], [(2,)]) == (copying.ask("north", sizes), copying.ask("south", sizes))


def test_a_chunk_can_be_copied_after_its_writing_has_failed(copying: Copying) -> None:
    """A shard whose transaction has failed, and the other one that had begun, each get another session."""
    with copying.task(LOG, epoch=2) as task:
        north, south = task.writes
        assert north.before
        broken = replace(task, writes=(north, replace(south, before=("TRUNCATE ONLY nowhere",))))
        with pytest.raises(ShardmigError, match=r"copying log to shard south: .*nowhere.* does not exist"):
            copy_chunk(broken)
        assert {"north": 1, "south": 1} == copy_chunk(task).rows_by_shard
    assert {"north": 1, "south": 1} == copying.rows("log")


@pytest.mark.parametrize("place", ["source", "north"])
def test_a_lost_session_is_opened_again_under_the_same_snapshot(copying: Copying, place: str) -> None:
    """A session that a server has ended between two chunks costs a repeat and no error."""
    with copying.task(USERS) as users, copying.task(LOG) as log:
        copy_chunk(users)
        copying.run("source", "INSERT INTO log VALUES ('b')")
        copying.run(
            place,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'shardmig copy%'",
        )
        assert {"north": 1, "south": 1} == copy_chunk(replace(log, snapshot=users.snapshot)).rows_by_shard
    assert ({"north": 1, "south": 2}, {"north": 1, "south": 1}) == (copying.rows("users"), copying.rows("log"))


def test_a_session_under_an_earlier_snapshot_is_closed(copying: Copying) -> None:
    """Left open it would hold vacuum back on the source, for which alone a new snapshot is taken."""
    with copying.task(USERS) as first:
        copy_chunk(first)
        before = copying.ask("source", READERS)
    with copying.task(LOG, epoch=2) as second:
        copy_chunk(second)
        after = copying.ask("source", READERS)
    assert (1, 1) == (len(before), len(after))
    assert before != after


def test_a_server_that_fails_is_the_one_that_is_named(copying: Copying) -> None:
    """A shard's error names the shard, also where the driver raises it and not we."""
    copying.run("south", "DROP TABLE shardmig.copied_chunk")
    with copying.task(USERS) as task, pytest.raises(ShardmigError, match=r"/south\S*: copying users to shard south"):
        copy_chunk(task)


def test_two_workers_at_one_chunk_copy_it_once(copying: Copying) -> None:
    """Pitfall 6: a worker that was taken for dead goes on, and the one that got its chunk waits for its commit."""
    with copying.task(USERS) as task, local_executor(2) as workers:
        with psycopg.connect(copying.urls["south"]) as lock:
            lock.execute("LOCK TABLE users")
            both = [workers.submit(copy_chunk, task) for _ in range(2)]
            _wait_until(lambda: 2 == len(copying.ask("south", WAITING)))
        assert [3, 3] == [each.result().rows for each in both]
    assert {"north": 1, "south": 2} == copying.rows("users")


def test_a_chunk_of_an_ended_epoch_is_refused(copying: Copying) -> None:
    """A worker whose driver is gone may come hours later; nobody would correct what it writes beside the tail."""
    with copying.task(USERS, epoch=1) as task:
        for place in SHARDS:
            with session(copying.urls[place], "test") as shard:
                end_earlier_epochs(shard, 2)
        with pytest.raises(RefusedError, match="epoch 1 of the copy has ended"):
            copy_chunk(task)
    assert {"north": 0, "south": 0} == copying.rows("users")


def test_an_epoch_ends_only_after_the_chunks_in_hand(copying: Copying) -> None:
    """What is not committed by then is refused, so nothing comes after the fence."""
    with copying.task(USERS) as task, local_executor(1) as workers, session(copying.urls["south"], "test") as shard:
        with psycopg.connect(copying.urls["south"]) as lock:
            lock.execute("LOCK TABLE users")
            late = workers.submit(copy_chunk, task)
            _wait_until(lambda: copying.ask("south", WAITING))
            with pytest.raises(psycopg.errors.LockNotAvailable):
                shard.execute("SELECT FROM shardmig.copy_fence FOR UPDATE NOWAIT")
        assert 3 == late.result().rows
        end_earlier_epochs(shard, 2)


def _wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
