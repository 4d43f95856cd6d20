"""Publications, slots, their snapshots and markers on real servers, the oldest and the newest."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.errors import HeldError, RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres import slots
from fixia_shardmig.postgres.publications import create_publication, drop_publication, publication_tables
from fixia_shardmig.postgres.replication import replication_connection
from fixia_shardmig.postgres.slots import (
    blocking_transactions,
    create_slot,
    drop_slot,
    emit_marker,
    slot_state,
)
from tests.fixtures.fix_replication import PREFIX, Published, read_until

Publish = Callable[..., Published]


@pytest.fixture
def admin(either_url: str) -> Iterator[psycopg.Connection]:
    """Give an ordinary connection to a new database with one table."""
    with psycopg.connect(either_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE users (id int PRIMARY KEY)")
        yield connection


@pytest.fixture
def walsender(either_url: str, admin: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """Give a replication connection to the same database."""
    assert not admin.closed
    with contextlib.closing(replication_connection(either_url, "test")) as connection:
        yield connection


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until something is true, or fail."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_publication_names_its_tables_alone(admin: psycopg.Connection) -> None:
    """Pitfall 31: inheritance children are not published along, partitions are, as themselves."""
    admin.execute("CREATE TABLE child () INHERITS (users)")
    admin.execute('CREATE TABLE "Log" (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)')
    admin.execute("""CREATE TABLE log_2026 PARTITION OF "Log" FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')""")
    tables = [TableName("public", "users"), TableName("public", "Log")]

    create_publication(admin, "p", tables)

    assert frozenset(tables) == publication_tables(admin, "p")
    published = admin.execute("SELECT tablename FROM pg_publication_tables WHERE pubname = 'p' ORDER BY 1").fetchall()
    assert [("log_2026",), ("users",)] == published


def test_a_publication_that_exists_is_refused(admin: psycopg.Connection) -> None:
    """It may be another migration's, so it is neither taken over nor altered."""
    create_publication(admin, "p", [TableName("public", "users")])

    with pytest.raises(RefusedError, match="publication p already exists"):
        create_publication(admin, "p", [TableName("public", "users")])


def test_dropping_a_publication_twice_is_no_error(admin: psycopg.Connection) -> None:
    """An abort that was interrupted runs again."""
    create_publication(admin, "p", [TableName("public", "users")])

    assert [True, False] == [drop_publication(admin, "p"), drop_publication(admin, "p")]
    assert publication_tables(admin, "p") is None


def test_a_new_slot_begins_exactly_at_its_snapshot(either_url: str, admin: psycopg.Connection) -> None:
    """What committed before is in the snapshot, what commits after is in the stream, and nothing is in both."""
    admin.execute("INSERT INTO users VALUES (1)")
    create_publication(admin, "exact", [TableName("public", "users")])
    with contextlib.closing(replication_connection(either_url, "test")) as walsender:
        made = create_slot(walsender, "exact_" + either_url.rpartition("/")[2])
        admin.execute("INSERT INTO users VALUES (2)")
        with psycopg.connect(either_url) as reader:
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            reader.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(made.snapshot_name))
            assert [(1,)] == reader.execute("SELECT id FROM users").fetchall()
    name = "exact_" + either_url.rpartition("/")[2]
    state = slot_state(admin, name)
    assert state is not None
    assert made.lsn == state.confirmed_flush_lsn
    assert drop_slot(admin, name)


def test_the_snapshot_dies_with_the_next_command(either_url: str, walsender: psycopg.Connection) -> None:
    """Pitfall 41: an importer keeps its own, a later one finds nothing."""
    made = create_slot(walsender, "temporary", temporary=True)
    use = sql.SQL("SET TRANSACTION SNAPSHOT {}").format(made.snapshot_name)
    with psycopg.connect(either_url) as early, psycopg.connect(either_url) as late:
        early.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        early.execute(use)
        walsender.execute("SELECT 1")
        assert (0,) == early.execute("SELECT count(*) FROM users").fetchone()
        late.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(psycopg.Error, match="snapshot"):
            late.execute(use)


def test_open_transactions_are_named_while_a_slot_waits(
    either_url: str, admin: psycopg.Connection, walsender: psycopg.Connection
) -> None:
    """Pitfall 40: the slot comes only when the writer ends; an idle reader is not to blame."""
    with (
        psycopg.connect(either_url, application_name="nightly export") as writer,
        psycopg.connect(either_url) as reader,
        ThreadPoolExecutor(1) as pool,
    ):
        writer.execute("INSERT INTO users VALUES (1)")
        reader.execute("SELECT 1")
        creating = pool.submit(create_slot, walsender, "patient", temporary=True)
        wait_for(lambda: blocking_transactions(admin), "no blocker is named")
        blockers = [blocker for blocker in blocking_transactions(admin) if blocker.pid == writer.info.backend_pid]
        named_reader = [b for b in blocking_transactions(admin) if b.pid == reader.info.backend_pid]
        still_waiting = not creating.done()
        writer.commit()
        creating.result(timeout=60)

    assert still_waiting
    assert ["nightly export"] == [blocker.application for blocker in blockers]
    assert blockers[0].query_start is not None
    assert (blockers[0].age_s or -1) >= 0
    assert f"pid {blockers[0].pid} (nightly export, postgres, open for 0 s)" == str(blockers[0])
    assert [] == named_reader


def test_a_prepared_transaction_is_named_as_a_blocker(new_cluster: Callable[..., Cluster]) -> None:
    """Pitfall 40: it has no process, so only its identifier helps."""
    cluster = new_cluster(major=15, settings={"max_prepared_transactions": "5"})
    with psycopg.connect(cluster.url(), autocommit=True) as admin:
        admin.execute("CREATE TABLE users (id int PRIMARY KEY)")
        admin.execute("BEGIN")
        admin.execute("INSERT INTO users VALUES (1)")
        admin.execute("PREPARE TRANSACTION 'forgotten'")

        (blocker,) = blocking_transactions(admin)

    assert (None, "forgotten") == (blocker.pid, blocker.prepared)
    assert str(blocker).startswith("prepared transaction 'forgotten' (postgres, open for")


def test_giving_up_waiting_leaves_no_slot(
    either_url: str, admin: psycopg.Connection, walsender: psycopg.Connection
) -> None:
    """Pitfall 40: a cancelled creation has no trace, so that a later one can use the name."""
    with psycopg.connect(either_url) as writer, ThreadPoolExecutor(1) as pool:
        writer.execute("INSERT INTO users VALUES (1)")
        creating = pool.submit(create_slot, walsender, "abandoned")
        wait_for(lambda: slot_state(admin, "abandoned"), "the slot is not being made")
        walsender.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            creating.result(timeout=60)

    assert slot_state(admin, "abandoned") is None


def test_timeouts_of_the_role_do_not_reach_slot_and_snapshot(either_url: str, admin: psycopg.Connection) -> None:
    """Pitfall 18: the walsender waits longer than statement_timeout, then idles in its transaction for longer still."""
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    if admin.info.server_version >= 170000:
        names.append("transaction_timeout")
    database = sql.Identifier(admin.info.dbname)
    for name in names:
        setting = sql.SQL("ALTER DATABASE {} SET {} = '300ms'")
        admin.execute(setting.format(database, sql.Identifier(name)))
    with contextlib.closing(replication_connection(either_url, "test")) as walsender, ThreadPoolExecutor(1) as pool:
        admin.execute("BEGIN")
        admin.execute("INSERT INTO users VALUES (1)")
        creating = pool.submit(create_slot, walsender, "slow", temporary=True)
        time.sleep(0.8)
        admin.execute("COMMIT")
        made = creating.result(timeout=60)
        time.sleep(0.8)
        admin.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        admin.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(made.snapshot_name))
        assert (1,) == admin.execute("SELECT count(*) FROM users").fetchone()
        admin.execute("ROLLBACK")


def test_a_slot_of_that_name_is_refused(walsender: psycopg.Connection) -> None:
    """It may be another migration's, so it is never taken over."""
    create_slot(walsender, "taken", temporary=True)

    with pytest.raises(RefusedError, match="replication slot taken already exists"):
        create_slot(walsender, "taken", temporary=True)


def test_an_impossible_name_is_refused(walsender: psycopg.Connection) -> None:
    """Slot names are narrower than identifiers."""
    with pytest.raises(RefusedError, match="cannot be the name of a slot"):
        create_slot(walsender, "With Blank", temporary=True)


def test_a_server_without_a_free_slot_is_refused(new_cluster: Callable[..., Cluster]) -> None:
    """The hint says which setting counts them."""
    cluster = new_cluster(major=15, settings={"max_replication_slots": "1"})
    with contextlib.closing(replication_connection(cluster.url(), "test")) as walsender:
        create_slot(walsender, "one", temporary=True)
        with pytest.raises(RefusedError, match="all slots are in use"):
            create_slot(walsender, "two", temporary=True)


def test_a_slots_state_is_read(admin: psycopg.Connection, walsender: psycopg.Connection) -> None:
    """Everything that the slot guard watches has a value on a healthy slot; a missing slot is None."""
    made = create_slot(walsender, "healthy", temporary=True)
    emit_marker(admin, PREFIX, b"x" * 10_000)

    state = slot_state(admin, "healthy")

    assert state is not None
    assert ("pgoutput", admin.info.dbname, True, "reserved") == (
        state.plugin,
        state.database,
        state.active,
        state.wal_status,
    )
    assert walsender.info.backend_pid == state.active_pid
    assert made.lsn == state.confirmed_flush_lsn
    assert state.restart_lsn is not None
    assert state.restart_lsn <= made.lsn
    assert (state.retained_wal_bytes or 0) >= 10_000
    assert state.catalog_xmin_age is not None
    assert state.safe_wal_size is None  # max_slot_wal_keep_size is -1 here: no limit
    assert slot_state(admin, "missing") is None


def test_dropping_a_slot_waits_for_its_reader_and_then_names_it(
    admin: psycopg.Connection, walsender: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 19: a slot that is in use is not torn away; one that is let go meanwhile is dropped, once."""
    create_slot(walsender, "busy", temporary=False)
    state = slot_state(admin, "busy")
    assert state is not None
    assert not state.active

    assert drop_slot(admin, "busy")
    assert not drop_slot(admin, "busy")

    create_slot(walsender, "owned", temporary=True)
    monkeypatch.setattr(slots, "RELEASE_WAIT_S", 0.3)
    with pytest.raises(HeldError, match=rf"in use by pid {walsender.info.backend_pid} \(shardmig test, 127.0.0.1\)"):
        drop_slot(admin, "owned")
    monkeypatch.setattr(slots, "RELEASE_WAIT_S", 30.0)
    threading.Timer(0.5, walsender.close).start()
    drop_slot(admin, "owned")
    assert slot_state(admin, "owned") is None


@pytest.mark.parametrize("major", [15, 18])
@pytest.mark.parametrize("transactional", [False, True])
def test_a_marker_arrives_on_an_idle_server(
    new_cluster: Callable[..., Cluster], publish: Publish, major: int, *, transactional: bool
) -> None:
    """Pitfall 42: with a WAL writer that sleeps for 10 s and asynchronous commits only its own flush can bring it."""
    cluster = new_cluster(major=major, settings={"wal_writer_delay": "10s", "synchronous_commit": "off"})
    with psycopg.connect(cluster.url(), autocommit=True) as admin:
        admin.execute("CREATE TABLE users (id int PRIMARY KEY)")
        published = publish(cluster.url(), "users")
        with contextlib.closing(published.stream()) as stream:
            started = time.monotonic()
            end = emit_marker(admin, PREFIX, b"now", transactional=transactional)
            if transactional:
                arrived = False
                reader = published.reader()
                while not arrived:
                    items = reader.feed(stream.read(1000, 1))
                    arrived = any(getattr(item, "messages", []) for item in items)
            else:
                read_until(stream, published.reader(), b"now")
            assert time.monotonic() - started < 5
            assert stream.server_lsn <= end + 1000


def test_a_marker_waits_for_an_open_transaction_only_on_its_own_connection(
    either_url: str, admin: psycopg.Connection, publish: Publish
) -> None:
    """A writer that is still open elsewhere does not hold the marker back, and its row comes after it."""
    published = publish(either_url, "users")
    with contextlib.closing(published.stream()) as stream, psycopg.connect(either_url) as writer:
        writer.execute("INSERT INTO users VALUES (1)")
        emit_marker(admin, PREFIX, b"between")

        items = read_until(stream, published.reader(), b"between")

        assert [] == [item for item in items if getattr(item, "changes", [])]
        writer.commit()
