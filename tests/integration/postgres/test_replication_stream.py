"""The stream of a slot on real servers, the oldest and the newest: what arrives, and what is acknowledged."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.errors import HeldError, RefusedError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres import framing, replication
from fixia_shardmig.postgres.pgoutput import UNCHANGED, Delete, Insert, Truncate, Update
from fixia_shardmig.postgres.publications import drop_publication
from fixia_shardmig.postgres.replication import Stream
from fixia_shardmig.postgres.slots import emit_marker, slot_state
from fixia_shardmig.postgres.transactions import Idle, Transaction, TransactionReader
from tests.fixtures.fix_replication import PREFIX, Published, read_until

Publish = Callable[..., Published]

USERS = "CREATE TABLE users (id int PRIMARY KEY, name text, bio text)"


def confirmed(published: Published, *, after_close: bool = False) -> LSN:
    """Return what the server believes we have; after a stream was closed, once its walsender has ended."""
    deadline = time.monotonic() + 30
    with psycopg.connect(published.url, autocommit=True) as connection:
        state = slot_state(connection, published.name)
        while after_close and state and state.active:
            assert time.monotonic() < deadline
            state = slot_state(connection, published.name)
    assert state is not None
    assert state.confirmed_flush_lsn is not None
    return state.confirmed_flush_lsn


def follow(stream: Stream, reader: TransactionReader, until: Callable[[], bool]) -> None:
    """Acknowledge everything that comes, as an owner with durable shards does, until something is true."""
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        for item in reader.feed(stream.read(1_000_000, 0.2)):
            if isinstance(item, Transaction):
                stream.acknowledge(item.end_lsn)
            elif isinstance(item, Idle):
                stream.acknowledge(item.server_lsn)


# --- what arrives ----------------------------------------------------------------------------------------------------


def test_unchanged_toast_is_not_in_the_stream(either_url: str, publish: Publish) -> None:
    """Pitfall 21: an UPDATE beside a large value leaves it out; one that sets it brings it."""
    _run(either_url, USERS, "ALTER TABLE users ALTER bio SET STORAGE EXTERNAL")
    published = publish(either_url, "users")
    published.run(
        "INSERT INTO users VALUES (1, 'a', repeat('x', 10000))",
        "UPDATE users SET name = 'b'",
        "UPDATE users SET bio = 'short'",
    )

    insert, beside, set_it = published.changes()

    assert isinstance(insert, Insert)
    assert ("1", "a", "x" * 10000) == insert.new
    assert isinstance(beside, Update)
    assert ("", (), ("1", "b", UNCHANGED)) == (beside.old_kind, beside.old, beside.new)
    assert isinstance(set_it, Update)
    assert ("1", "b", "short") == set_it.new


def test_old_rows_hold_the_key_only(either_url: str, publish: Publish) -> None:
    """Pitfall 22: under DEFAULT identity the other columns of an old row read NULL though they were not."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    published.run("INSERT INTO users VALUES (1, 'a', 'b')", "DELETE FROM users")

    _, delete = published.changes()

    assert isinstance(delete, Delete)
    assert ("K", ("1", None, None), ("1",)) == (delete.old_kind, delete.old, delete.relation.identity(delete.old))


def test_a_full_identity_brings_the_whole_old_row(either_url: str, publish: Publish) -> None:
    """Under REPLICA IDENTITY FULL old rows are of kind O, and every column is part of the identity."""
    _run(either_url, USERS, "ALTER TABLE users REPLICA IDENTITY FULL")
    published = publish(either_url, "users")
    published.run("INSERT INTO users VALUES (1, 'a', NULL)", "UPDATE users SET name = 'c'", "DELETE FROM users")

    _, update, delete = published.changes()

    assert isinstance(update, Update)
    assert ("O", ("1", "a", None), ("1", "c", None)) == (update.old_kind, update.old, update.new)
    assert isinstance(delete, Delete)
    assert ("O", ("1", "c", None)) == (delete.old_kind, delete.old)
    assert ("f", (True, True, True)) == (delete.relation.replica_identity, delete.relation.key_flags)


def test_a_key_change_arrives_with_old_and_new_key_and_its_cascade(either_url: str, publish: Publish) -> None:
    """Pitfall 23: ON UPDATE CASCADE rewrites the children, whose own key stays: no old row for them."""
    _run(
        either_url,
        USERS,
        "CREATE TABLE services (id int PRIMARY KEY, owner int REFERENCES users ON UPDATE CASCADE)",
        "INSERT INTO users VALUES (1)",
        "INSERT INTO services VALUES (5, 1)",
    )
    published = publish(either_url, "users", "services")
    published.run("UPDATE users SET id = 2")

    parent, child = published.changes()

    assert isinstance(parent, Update)
    assert ("K", ("1", None, None), ("2", None, None)) == (parent.old_kind, parent.old, parent.new)
    assert isinstance(child, Update)
    assert ("", ("5", "2")) == (child.old_kind, child.new)


def test_a_truncate_is_one_message_with_its_flags(either_url: str, publish: Publish) -> None:
    """Pitfall 25: CASCADE names the dependent table as well."""
    _run(either_url, USERS, "CREATE TABLE services (id int PRIMARY KEY, owner int REFERENCES users)")
    published = publish(either_url, "users", "services")
    published.run("TRUNCATE users RESTART IDENTITY CASCADE", "TRUNCATE services")

    first, second = published.changes()

    assert isinstance(first, Truncate)
    assert {"users", "services"} == {relation.name for relation in first.relations}
    assert (True, True) == (first.cascade, first.restart_identity)
    assert isinstance(second, Truncate)
    assert (["services"], False) == ([relation.name for relation in second.relations], second.cascade)


def test_partitions_speak_for_themselves(either_url: str, publish: Publish) -> None:
    """Pitfall 31: changes come by leaf, also of a leaf made later; a row that changes its leaf is DELETE and INSERT."""
    _run(
        either_url,
        "CREATE TABLE log (id int, year int, PRIMARY KEY (id, year)) PARTITION BY LIST (year)",
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1)",
    )
    published = publish(either_url, "log")
    published.run(
        "INSERT INTO log VALUES (7, 1)",
        "CREATE TABLE log_2 PARTITION OF log FOR VALUES IN (2)",
        "UPDATE log SET year = 2",
    )

    insert, delete, again = published.changes()

    assert isinstance(insert, Insert)
    assert "log_1" == insert.relation.name
    assert isinstance(delete, Delete)
    assert ("log_1", ("7", "1")) == (delete.relation.name, delete.old)
    assert isinstance(again, Insert)
    assert ("log_2", ("7", "2")) == (again.relation.name, again.new)


def test_a_relation_comes_again_after_ddl_and_on_a_new_stream(either_url: str, publish: Publish) -> None:
    """Pitfall 35: rows before the DDL have the old shape, rows after it the new one, each time they are read."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    published.run(
        "INSERT INTO users VALUES (1, 'a')",
        "ALTER TABLE users DROP COLUMN name, ADD COLUMN email text DEFAULT 'none'",
        "INSERT INTO users VALUES (2, 'b', 'c')",
    )

    for _ in range(2):
        first, second = published.changes()
        assert isinstance(first, Insert)
        assert isinstance(second, Insert)
        assert ("id", "name", "bio") == first.relation.columns
        assert ("id", "bio", "email") == second.relation.columns
        assert ("2", "b", "c") == second.new


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("memory", [2_000, 100_000_000])
def test_rolled_back_savepoints_leave_no_trace(
    either_url: str, publish: Publish, memory: int, *, streaming: bool
) -> None:
    """Pitfall 28: 200 subtransactions, every third rolled back, streamed or not, spilled or not."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    _small_work_mem(published)
    with psycopg.connect(either_url) as writer:
        for number in range(200):
            writer.execute("SAVEPOINT s")
            writer.execute("INSERT INTO users VALUES (%s, %s)", [number, "x" * 2000])
            writer.execute("ROLLBACK TO s" if number % 3 == 0 else "RELEASE s")
        assert [] == published.transactions(streaming=streaming, memory=memory)
        writer.commit()

    (transaction,) = published.transactions(streaming=streaming, memory=memory)

    with contextlib.closing(transaction):
        keys = [int(str(change.new[0])) for change in transaction.changes if isinstance(change, Insert)]
        assert [number for number in range(200) if number % 3] == keys
        assert len(keys) == len(transaction.changes)
        assert (memory == 2_000) == transaction.changes.spilled


def test_a_large_transaction_is_streamed_before_its_commit(either_url: str, publish: Publish) -> None:
    """Pitfalls 28 and 38: its rows are received early, come out at its COMMIT, and a smaller one overtakes it."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    _small_work_mem(published)
    with (
        psycopg.connect(either_url) as large,
        psycopg.connect(either_url, autocommit=True) as small,
        contextlib.closing(published.stream(streaming=True)) as stream,
    ):
        reader = published.reader()
        large.execute("INSERT INTO users SELECT n, repeat('x', 100) FROM generate_series(1, 5000) AS n")
        small.execute("INSERT INTO users VALUES (0, 'overtakes')")
        emit_marker(small, PREFIX, b"before")
        before = read_until(stream, reader, b"before")
        streamed = reader.open_transactions
        large.commit()
        emit_marker(small, PREFIX, b"after")
        after = read_until(stream, reader, b"after")

    assert [1] == [len(item.changes) for item in before if isinstance(item, Transaction) and len(item.changes)]
    assert 1 == streamed
    assert [5000] == [len(item.changes) for item in after if isinstance(item, Transaction) and len(item.changes)]
    assert [5000] == [len(list(item.changes)) for item in after if isinstance(item, Transaction) and len(item.changes)]


def test_a_streamed_rollback_leaves_no_trace(either_url: str, publish: Publish) -> None:
    """Pitfall 28: also one that altered the table: later rows have the shape that was never changed."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    _small_work_mem(published)
    with (
        psycopg.connect(either_url) as large,
        psycopg.connect(either_url, autocommit=True) as small,
        contextlib.closing(published.stream(streaming=True)) as stream,
    ):
        reader = published.reader()
        large.execute("ALTER TABLE users ADD COLUMN extra int")
        large.execute("INSERT INTO users SELECT n, repeat('x', 100) FROM generate_series(1, 5000) AS n")
        emit_marker(small, PREFIX, b"before")
        before = read_until(stream, reader, b"before")
        streamed = reader.open_transactions
        large.rollback()
        small.execute("INSERT INTO users VALUES (1, 'a', 'b')")
        emit_marker(small, PREFIX, b"after")
        after = read_until(stream, reader, b"after")

    assert 1 == streamed
    assert 0 == reader.open_transactions
    items = [item for item in (*before, *after) if isinstance(item, Transaction)]
    (change,) = [change for item in items for change in item.changes]
    assert isinstance(change, Insert)
    assert ("id", "name", "bio") == change.relation.columns


@pytest.mark.parametrize("compiled", [True, False])
def test_messages_come_the_same_from_libpq_and_from_psycopg(
    either_url: str, publish: Publish, monkeypatch: pytest.MonkeyPatch, *, compiled: bool
) -> None:
    """Many rows, NULLs and large values: taken off libpq a run at a time, or one message after another."""
    monkeypatch.setattr(framing, "IS_COMPILED", compiled)
    _run(either_url, USERS)
    published = publish(either_url, "users")
    published.run(
        "INSERT INTO users SELECT n, nullif('user ' || n, 'user 7'), repeat('b', n * 10)"
        " FROM generate_series(1, 900) n",
        "UPDATE users SET name = 'other' WHERE id = 5",
        "DELETE FROM users WHERE id = 6",
    )

    *inserts, update, delete = published.changes()

    wanted = [(str(n), None if n == 7 else f"user {n}", "b" * (n * 10)) for n in range(1, 901)]
    assert wanted == [change.new for change in inserts if isinstance(change, Insert)]
    assert isinstance(update, Update)
    assert ("5", "other", "b" * 50) == update.new
    assert isinstance(delete, Delete)
    assert ("6", None, None) == delete.old


def test_transactions_come_in_commit_order(either_url: str, publish: Publish) -> None:
    """Pitfall 38: the one that began first commits last and comes last, and end positions only grow."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    with psycopg.connect(either_url) as first, psycopg.connect(either_url) as second:
        first.execute("INSERT INTO users VALUES (1)")
        second.execute("INSERT INTO users VALUES (2)")
        second.commit()
        first.commit()

    transactions = published.transactions()

    assert ["2", "1"] == [
        change.new[0] for item in transactions for change in item.changes if isinstance(change, Insert)
    ]
    ends = [item.end_lsn for item in transactions]
    assert sorted(ends) == ends
    assert all(item.commit_lsn < item.end_lsn for item in transactions)


def test_values_do_not_follow_the_settings_of_the_database(either_url: str, publish: Publish) -> None:
    """Pitfall 48: the walsender's session decides how values read, so it is pinned."""
    name = sql.Identifier(either_url.rpartition("/")[2])
    with psycopg.connect(either_url, autocommit=True) as admin:
        for setting in ("datestyle = 'German'", "timezone = 'Asia/Tokyo'", "extra_float_digits = 0"):
            admin.execute(sql.SQL("ALTER DATABASE {} SET ").format(name) + sql.SQL(setting))
        admin.execute("CREATE TABLE t (id int PRIMARY KEY, at timestamptz, f float8, b bytea)")
    published = publish(either_url, "t")
    published.run(r"INSERT INTO t VALUES (1, '2026-01-02 03:04:05+00', 0.1::float8 + 0.2::float8, '\x00ff')")

    (change,) = published.changes()

    assert isinstance(change, Insert)
    assert ("1", "2026-01-02 03:04:05+00", "0.30000000000000004", r"\x00ff") == change.new


def test_what_came_through_replication_tells_its_origin(either_url: str, publish: Publish) -> None:
    """Pitfall 66: 16 and later leave it out when asked to; on 15 the origin's name says it."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    with psycopg.connect(either_url, autocommit=True) as other:
        origin = "origin_" + published.name
        other.execute("SELECT pg_replication_origin_create(%s)", [origin])
        other.execute("SELECT pg_replication_origin_session_setup(%s)", [origin])
        other.execute("INSERT INTO users VALUES (1)")
        other.execute("SELECT pg_replication_origin_session_reset()")
        other.execute("INSERT INTO users VALUES (2)")
        other.execute("SELECT pg_replication_origin_drop(%s)", [origin])
        left_out = other.info.server_version >= 160000

    everything = [item.origin for item in published.transactions()]
    asked = [
        item.origin for item in published.items(origin_none=True) if isinstance(item, Transaction) and len(item.changes)
    ]

    assert [origin, None] == everything
    assert ([None] if left_out else [origin, None]) == asked


# --- what is acknowledged --------------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_that_the_owner_did_not_declare(either_url: str, publish: Publish) -> None:
    """Pitfall 37: statuses go out while the position stands, and a new stream brings everything again."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    published.run("INSERT INTO users VALUES (1)")
    with contextlib.closing(published.stream()) as stream:
        for _ in range(5):
            stream.read(1_000_000, 0.2)
            stream.send_status()
        assert stream.server_lsn > published.lsn
        assert published.lsn == stream.acknowledged_lsn

    assert published.lsn == confirmed(published, after_close=True)
    assert 1 == len(published.changes())


def test_acknowledged_transactions_do_not_come_again(either_url: str, publish: Publish) -> None:
    """Pitfall 38: the end position of a commit is the one to confirm."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    published.run("INSERT INTO users VALUES (1)", "INSERT INTO users VALUES (2)")
    first, _second = published.transactions()
    with contextlib.closing(published.stream()) as stream:
        stream.acknowledge(first.end_lsn)
        stream.acknowledge(published.lsn)  # below: changes nothing
        assert first.end_lsn == stream.acknowledged_lsn

    assert first.end_lsn == confirmed(published, after_close=True)
    again = published.items(start=first.end_lsn)
    keys = [c.new[0] for item in again if isinstance(item, Transaction) for c in item.changes if isinstance(c, Insert)]
    assert ["2"] == keys


def test_wal_that_is_not_ours_moves_the_position(either_url: str, publish: Publish) -> None:
    """Pitfalls 17 and 36: other tables, an application's messages and empty transactions, through idle keepalives."""
    _run(either_url, USERS, "CREATE TABLE other (id int)")
    published = publish(either_url, "users")
    published.run(
        "INSERT INTO other SELECT generate_series(1, 1000)",
        "SELECT pg_logical_emit_message(true, 'application', 'x')",
        "SELECT pg_logical_emit_message(false, 'application', 'x')",
        "SELECT pg_current_xact_id()",
    )
    written = LSN.parse(published.one("SELECT pg_current_wal_insert_lsn()"))
    with contextlib.closing(published.stream()) as stream:
        follow(stream, published.reader(), lambda: stream.acknowledged_lsn >= written)
        follow(stream, published.reader(), lambda: confirmed(published) >= written)


def test_a_start_that_the_server_would_move_forward_is_refused(either_url: str, publish: Publish) -> None:
    """Pitfall 39: the changes between are gone, and the server would not say so."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    published.run("INSERT INTO users VALUES (1)")
    (transaction,) = published.transactions()
    with contextlib.closing(published.stream()) as stream:
        stream.acknowledge(transaction.end_lsn)

    with pytest.raises(RefusedError, match=f"acknowledged up to {transaction.end_lsn}, and a shard stands at"):
        published.stream(start=LSN(transaction.end_lsn - 1))


@pytest.mark.parametrize("major", [15, 18])
def test_after_a_crash_the_stream_goes_on_from_the_owners_position(
    new_cluster: Callable[..., Cluster], publish: Publish, major: int
) -> None:
    """Pitfall 39: the stream ends as temporary, the slot may stand further back, no row is lost or doubled."""
    cluster = new_cluster(major=major)
    _run(cluster.url(), USERS)
    published = publish(cluster.url(), "users")
    published.run("INSERT INTO users VALUES (1)", "INSERT INTO users VALUES (2)")
    first, _second = published.transactions()
    with contextlib.closing(published.stream()) as stream:
        stream.acknowledge(first.end_lsn)
        stream.send_status()
        cluster.kill()
        with pytest.raises(TemporaryError, match="the stream of slot") as caught:
            follow(stream, published.reader(), lambda: False)
        with pytest.raises(TemporaryError):
            stream.read(1000, 0)
    cluster.start()

    assert cluster.password not in str(caught.value)
    items = published.items(start=first.end_lsn)
    keys = [c.new[0] for item in items if isinstance(item, Transaction) for c in item.changes if isinstance(c, Insert)]
    assert ["2"] == keys


@pytest.mark.parametrize("major", [15, 18])
def test_a_server_can_shut_down_while_its_stream_is_followed(
    new_cluster: Callable[..., Cluster], publish: Publish, major: int
) -> None:
    """A walsender ends only once we acknowledge all it sent; an owner who acknowledges idle keepalives does."""
    cluster = new_cluster(major=major)
    _run(cluster.url(), USERS)
    published = publish(cluster.url(), "users")
    with contextlib.closing(published.stream()) as stream:
        published.run("INSERT INTO users VALUES (1)")
        stopping = threading.Thread(target=cluster.stop)
        stopping.start()
        with pytest.raises(TemporaryError, match="ended"):
            follow(stream, published.reader(), lambda: False)
        stopping.join(30)
        assert not cluster.running
    assert "received fast shutdown request" in cluster.log_file.read_text()


def test_keepalives_are_answered_while_nothing_happens(new_cluster: Callable[..., Cluster], publish: Publish) -> None:
    """A stream that only reads outlives wal_sender_timeout several times."""
    cluster = new_cluster(major=15, settings={"wal_sender_timeout": "1s"})
    _run(cluster.url(), USERS)
    published = publish(cluster.url(), "users")
    with contextlib.closing(published.stream()) as stream:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            stream.read(1000, 5)
        emit_marker_to(published, b"alive")
        read_until(stream, published.reader(), b"alive")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_missing_publication_is_refused_at_the_start(either_url: str, publish: Publish) -> None:
    """Pitfall 15: 18 would stay silent for ever, 17 and older fail at the first change."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    with psycopg.connect(either_url, autocommit=True) as admin:
        drop_publication(admin, published.name)

    with pytest.raises(RefusedError, match=r"publication .* does not exist"):
        published.stream()


def test_a_missing_slot_is_refused(either_url: str, publish: Publish) -> None:
    """Pitfall 45: after a failover the slot may be gone, and with it the changes since."""
    _run(either_url, USERS)
    published = publish(either_url, "users")

    with pytest.raises(RefusedError, match="replication slot missing does not exist"):
        Stream(either_url, "missing", start=LSN(0), publication=published.name)


def test_a_lost_slot_is_refused(new_cluster: Callable[..., Cluster], publish: Publish) -> None:
    """Pitfall 17: WAL beyond max_slot_wal_keep_size is gone, and no retry brings it back."""
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    cluster = new_cluster(major=15, settings=settings)
    _run(cluster.url(), USERS)
    published = publish(cluster.url(), "users")
    for _ in range(4):
        published.run("SELECT pg_logical_emit_message(false, 'x', repeat('x', 20000000))", "CHECKPOINT")

    with pytest.raises(RefusedError, match="is lost"):
        published.stream()


def test_a_slot_of_another_plugin_is_refused(either_url: str, publish: Publish) -> None:
    """It was made by somebody else, for something else."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    with psycopg.connect(either_url, autocommit=True) as admin:
        admin.execute("SELECT pg_create_physical_replication_slot(%s)", ["physical_" + published.name])

        with pytest.raises(RefusedError, match="is for physical on no database"):
            Stream(either_url, "physical_" + published.name, start=LSN(0), publication=published.name)
        admin.execute("SELECT pg_drop_replication_slot(%s)", ["physical_" + published.name])


def test_a_slot_in_use_names_its_holder(either_url: str, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second reader waits a little, then says who reads; it gets the slot as soon as that one lets go."""
    _run(either_url, USERS)
    published = publish(either_url, "users")
    with contextlib.closing(published.stream()) as stream:
        monkeypatch.setattr(replication, "RELEASE_WAIT_S", 0.3)
        with pytest.raises(HeldError, match=rf"in use by pid {stream.backend_pid} \(shardmig stream, 127.0.0.1\)"):
            published.stream()
        monkeypatch.setattr(replication, "RELEASE_WAIT_S", 30.0)
        threading.Timer(0.5, stream.close).start()
        published.stream().close()


def emit_marker_to(published: Published, content: bytes) -> None:
    """Write a marker into a published database."""
    with psycopg.connect(published.url, autocommit=True) as connection:
        emit_marker(connection, PREFIX, content)


def _run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _small_work_mem(published: Published) -> None:
    """Make the server spill and stream transactions above 64 kB."""
    name = sql.Identifier(published.url.rpartition("/")[2])
    with psycopg.connect(published.url, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'").format(name))
