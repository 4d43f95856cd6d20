"""The fence refuses every write by anybody, opens by itself, and comes and goes under live writers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import errors

from fixia_shardmig.cutover.fence import (
    SQLSTATE_MOVED,
    SQLSTATE_PAUSED,
    FenceExpiredError,
    FenceKind,
    FenceState,
    fence_state,
    lift_fence,
    open_at_once,
    open_fence,
    prepare_fence,
    raise_fence,
    seal_fence,
)
from fixia_shardmig.cutover.fence_locks import FenceBlockedError
from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.errors import HeldError, RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection, session
from tests.integration.cutover.conftest import ORDERS, ROWS, TABLES, USERS, VISITS, count, run

MOVED = (USERS, ORDERS, VISITS)


@pytest.fixture
def operator(fenced_url: str) -> Iterator[Connection]:
    """Give the session that raises the fence."""
    with session(fenced_url, "test") as connection:
        yield connection


def up(connection: Connection, *, expires_in_s: float = 60, owner: str = "me", within_s: float = 10) -> FenceState:
    """Raise the fence on all moved tables."""
    return raise_fence(
        connection,
        MOVED,
        migration="arena",
        owner=owner,
        expires_in_s=expires_in_s,
        deadline=time.monotonic() + within_s,
    )


def seal(connection: Connection, *, owner: str = "me", within_s: float = 5) -> FenceState:
    """Seal the fence."""
    return seal_fence(connection, migration="arena", owner=owner, deadline=time.monotonic() + within_s)


def sqlstate_of(connection: psycopg.Connection, statement: str) -> str | None:
    """Return the SQLSTATE with which a statement is refused, or None if it passes."""
    try:
        connection.execute(statement.encode())
    except psycopg.Error as error:
        return error.sqlstate
    return None


WRITES = (
    "INSERT INTO users (user_type) VALUES ('client')",
    "UPDATE users SET name = 'x' WHERE id = 1",
    "UPDATE users SET name = 'x' WHERE false",
    "DELETE FROM orders WHERE id = 1",
    "TRUNCATE orders",
    "INSERT INTO visits VALUES (1, '2024-05-05')",
    "INSERT INTO visits_2024 VALUES (1, '2024-05-05')",
    "UPDATE visits SET id = 2",
    "UPDATE visits_2025 SET id = 2",
    "DELETE FROM visits_2025",
    "TRUNCATE visits",
    "TRUNCATE visits_2024",
    "MERGE INTO users u USING (VALUES (1)) v (id) ON u.id = v.id WHEN MATCHED THEN UPDATE SET name = 'x'",
    "INSERT INTO users (id, user_type) VALUES (1, 'client') ON CONFLICT (id) DO UPDATE SET name = 'x'",
    "WITH gone AS (DELETE FROM users RETURNING id) SELECT * FROM gone",
    "COPY users (user_type) FROM PROGRAM 'echo client'",
)


def test_every_kind_of_write_is_refused_on_roots_and_leaves(fenced_url: str, operator: Connection) -> None:
    """Pitfall 59: inserts, updates, deletes, truncates, MERGE, upserts, COPY, through a partitioned root or past it."""
    up(operator)
    with psycopg.connect(fenced_url, autocommit=True) as client:
        found = {statement: sqlstate_of(client, statement) for statement in WRITES}
    assert dict.fromkeys(WRITES, SQLSTATE_PAUSED) == found


def test_reads_and_tables_that_stay_are_let_through(fenced_url: str, operator: Connection) -> None:
    """The fence is about the moved tables and about writes alone."""
    up(operator)
    run(fenced_url, "INSERT INTO old_notes VALUES (1, 'stays')")
    assert (30, 1) == (count(fenced_url, "users"), count(fenced_url, "old_notes"))


def test_the_refusal_says_what_happens_and_until_when(fenced_url: str, operator: Connection) -> None:
    """Whoever is refused learns the table, the migration, the owner and the expiry."""
    state = up(operator, owner="anna@desk")
    assert state.expires_at is not None
    with psycopg.connect(fenced_url) as client, pytest.raises(psycopg.Error) as refused:
        client.execute("DELETE FROM users")
    diag = refused.value.diag
    assert "writes to public.users are paused: migration arena moves it to its shards" == diag.message_primary
    assert "fence of anna@desk" == diag.message_detail
    assert f"opens by itself at {state.expires_at:%Y-%m-%d %H:%M:%S} UTC" in (diag.message_hint or "")


def test_a_sealed_fence_says_that_writes_have_moved(fenced_url: str, operator: Connection) -> None:
    """Pitfall 63: a client with the old URL gets another SQLSTATE, for trying again will not help."""
    up(operator)
    assert FenceKind.SEALED is seal(operator).kind
    with psycopg.connect(fenced_url, autocommit=True) as client:
        assert {SQLSTATE_MOVED} == {sqlstate_of(client, statement) for statement in WRITES}


def test_replica_role_owner_and_superuser_are_refused(fenced_url: str, operator: Connection) -> None:
    """Pitfall 59: ENABLE ALWAYS holds against session_replication_role, triggers hold against superuser and owner."""
    up(operator)
    with psycopg.connect(fenced_url, autocommit=True) as client:
        assert ("on",) == client.execute("SELECT current_setting('is_superuser')").fetchone()
        client.execute("SET session_replication_role = replica")
        assert {SQLSTATE_PAUSED} == {sqlstate_of(client, statement) for statement in WRITES}


def test_a_role_that_may_only_write_is_refused(fenced_url: str, operator: Connection) -> None:
    """A plain role needs no right on our schema to be refused with our error."""
    run(fenced_url, "DO $$ BEGIN CREATE ROLE plain_writer; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    run(
        fenced_url,
        "GRANT INSERT, SELECT ON users TO plain_writer; GRANT USAGE ON SEQUENCE users_id_seq TO plain_writer",
    )
    up(operator)
    with psycopg.connect(fenced_url, autocommit=True) as client:
        client.execute("SET ROLE plain_writer")
        assert SQLSTATE_PAUSED == sqlstate_of(client, WRITES[0])
        client.execute("RESET ROLE")
    run(fenced_url, "DROP OWNED BY plain_writer")


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_with_an_older_snapshot_is_refused(fenced_url: str, operator: Connection, level: str) -> None:
    """Pitfall 59: a snapshot from before the fence does not hide it, since triggers are looked up in the catalog."""
    with psycopg.connect(fenced_url) as client:
        client.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
        client.execute("SELECT count(*) FROM users")
        up(operator)
        assert SQLSTATE_PAUSED == sqlstate_of(client, WRITES[1])


def test_a_prepared_statement_with_a_cached_plan_is_refused(fenced_url: str, operator: Connection) -> None:
    """Pitfalls 59, 62: an old session's plans are made again when their table gets a trigger."""
    with psycopg.connect(fenced_url, autocommit=True) as client:
        client.execute("SET plan_cache_mode = force_generic_plan")
        client.execute("PREPARE write (int) AS UPDATE users SET name = 'before' WHERE id = $1")
        for _ in range(7):
            client.execute("EXECUTE write (1)")
        up(operator)
        assert SQLSTATE_PAUSED == sqlstate_of(client, "EXECUTE write (1)")


def test_cascades_into_a_moved_table_are_refused(fenced_url: str, operator: Connection) -> None:
    """A delete on a table that stays cannot reach into one that moves."""
    run(fenced_url, "CREATE TABLE bin (user_id int REFERENCES users, id int PRIMARY KEY)")
    run(fenced_url, "ALTER TABLE orders ADD bin int REFERENCES bin ON DELETE CASCADE; INSERT INTO bin VALUES (1, 1)")
    run(fenced_url, "UPDATE orders SET bin = 1 WHERE id = 1")
    up(operator)
    with psycopg.connect(fenced_url, autocommit=True) as client:
        assert SQLSTATE_PAUSED == sqlstate_of(client, "DELETE FROM bin")


def test_a_parent_by_inheritance_is_fenced_too(fenced_url: str, operator: Connection) -> None:
    """An UPDATE of a parent changes its children's rows and fires only the parent's trigger."""
    run(fenced_url, "CREATE TABLE base (id int); CREATE TABLE child () INHERITS (base); INSERT INTO child VALUES (1)")
    child = TableName("public", "child")
    deadline = time.monotonic() + 5
    raise_fence(operator, [child], migration="arena", owner="me", expires_in_s=60, deadline=deadline)
    with psycopg.connect(fenced_url, autocommit=True) as client:
        assert SQLSTATE_PAUSED == sqlstate_of(client, "UPDATE base SET id = 2")


def test_the_fence_opens_at_its_expiry(fenced_url: str, operator: Connection) -> None:
    """Pitfall 72: with nobody left to lift it, writes go on by the server's own clock."""
    up(operator, expires_in_s=0.4)
    with psycopg.connect(fenced_url, autocommit=True) as client:
        assert SQLSTATE_PAUSED == sqlstate_of(client, WRITES[0])
        time.sleep(0.5)
        assert [None] * 4 == [sqlstate_of(client, WRITES[n]) for n in (0, 1, 6, 9)]
    assert FenceKind.EXPIRED is fence_state(operator).kind


def test_a_fence_with_too_little_time_left_is_not_sealed(operator: Connection) -> None:
    """A seal that could come after the expiry would hide writes that went through in between."""
    up(operator, expires_in_s=1)
    with pytest.raises(FenceExpiredError):
        seal(operator)
    assert FenceKind.RAISED is fence_state(operator).kind


def test_only_its_owner_seals_a_fence(operator: Connection) -> None:
    """A run that was undone by another cannot seal what that one has raised since."""
    up(operator, owner="another")
    with pytest.raises(FenceExpiredError):
        seal(operator, owner="me")


def test_a_fence_with_a_gap_is_not_sealed(fenced_url: str, operator: Connection) -> None:
    """A partition made, or a trigger disabled, behind the fence's back is found."""
    up(operator)
    run(fenced_url, "CREATE TABLE visits_2026 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")
    assert (TableName("public", "visits_2026"),) == fence_state(operator).gaps
    with pytest.raises(FenceExpiredError, match="visits_2026"):
        seal(operator)


def test_a_stale_function_cannot_outlive_the_seal(fenced_url: str, operator: Connection) -> None:
    """A statement that runs from before the seal until after the old expiry, with a lock by LOCK TABLE, never writes.

    Without the locks that sealing takes, its loop would call the function with the expiry on, and pass.
    """
    expires_in_s = 3.0
    up(operator, expires_in_s=expires_in_s)
    stubborn = """
    DO $$ DECLARE until timestamptz := clock_timestamp() + interval '4 s';
    BEGIN
        LOCK TABLE users IN ROW EXCLUSIVE MODE;
        WHILE clock_timestamp() < until LOOP
            BEGIN
                INSERT INTO users (user_type) VALUES ('stubborn');
                RETURN;
            EXCEPTION WHEN SQLSTATE 'SM001' THEN NULL;
            END;
        END LOOP;
    END $$
    """
    thread = threading.Thread(target=lambda: run(fenced_url, stubborn))
    thread.start()
    time.sleep(0.3)
    try:
        with pytest.raises((FenceBlockedError, FenceExpiredError)):
            seal(operator, within_s=1)
        assert FenceKind.SEALED is not fence_state(operator).kind
    finally:
        thread.join()


def test_a_lifted_fence_leaves_nothing_behind(fenced_url: str, operator: Connection) -> None:
    """No trigger, no function, no schema of ours; writes pass."""
    up(operator)
    assert () == lift_fence(operator, migration="arena")
    assert [(None,)] == run(fenced_url, "SELECT to_regnamespace('shardmig')::text")
    assert [(0,)] == run(fenced_url, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'shardmig%'")
    run(fenced_url, WRITES[0])
    assert FenceState(FenceKind.NONE) == fence_state(operator)


def test_lifting_what_is_not_there_is_nothing(operator: Connection) -> None:
    """Abort may call it at any time."""
    assert () == lift_fence(operator, migration="arena")


@pytest.mark.parametrize(
    "half",
    [
        "DROP TRIGGER shardmig_fence ON users",
        "ALTER TABLE orders DISABLE TRIGGER shardmig_fence",
        "DROP TRIGGER shardmig_fence ON visits; DROP TRIGGER shardmig_fence ON visits_2024",
        "DROP FUNCTION shardmig.refuse_write() CASCADE",
        "DROP TABLE visits",
    ],
)
def test_half_a_fence_is_lifted_too(fenced_url: str, operator: Connection, half: str) -> None:
    """Whatever a killed run or somebody's hand has left of it goes."""
    up(operator)
    run(fenced_url, half)
    assert () == lift_fence(operator, migration="arena")
    run(fenced_url, WRITES[0])
    assert [(0,)] == run(fenced_url, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'shardmig%'")


def test_lifting_waits_for_no_reader(fenced_url: str, operator: Connection) -> None:
    """A long reader keeps a trigger from being dropped, not writes from going on; the next lift drops the rest."""
    up(operator)
    with psycopg.connect(fenced_url) as reader:
        reader.execute("SELECT count(*) FROM users")
        assert (USERS,) == lift_fence(operator, migration="arena")
        run(fenced_url, WRITES[0])
        assert FenceKind.OPEN is fence_state(operator).kind
    assert () == lift_fence(operator, migration="arena")


def test_a_fence_can_be_raised_again_over_what_was_left(fenced_url: str, operator: Connection) -> None:
    """An open or expired fence is taken over, triggers and all."""
    up(operator, owner="first", expires_in_s=0.05)
    time.sleep(0.1)
    assert FenceKind.RAISED is up(operator, owner="second").kind
    open_fence(operator, migration="arena")
    run(fenced_url, WRITES[0])
    assert "third" == up(operator, owner="third").owner


def test_another_owners_fence_is_left_alone(operator: Connection) -> None:
    """Two operators cannot take a fence from one another; lifting as somebody else is nothing."""
    up(operator, owner="first")
    with pytest.raises(HeldError, match="fence of first"):
        up(operator, owner="second")
    lift_fence(operator, migration="arena", owner="second")
    assert FenceKind.RAISED is fence_state(operator).kind
    with pytest.raises(HeldError, match="migration 'arena'"):
        lift_fence(operator, migration="other")


def test_a_sealed_fence_is_not_lifted_by_accident(operator: Connection) -> None:
    """Pitfall 63: only who has looked into the journal says `sealed`."""
    up(operator)
    seal(operator)
    with pytest.raises(RefusedError, match="sealed"):
        lift_fence(operator, migration="arena")
    assert () == lift_fence(operator, migration="arena", sealed=True)


@contextmanager
def writers(url: str, number: int) -> Iterator[Callable[[], tuple[list[int], list[float]]]]:
    """Let threads insert users one after the other; the function ends them and gives committed ids and their times."""
    stop = threading.Event()
    committed: list[int] = []
    times: list[float] = []

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as client:
            while not stop.is_set():
                try:
                    row = client.execute("INSERT INTO users (user_type) VALUES ('client') RETURNING id").fetchone()
                    times.append(time.monotonic())
                    assert row is not None
                    committed.append(row[0])
                except psycopg.Error as error:
                    if error.sqlstate != SQLSTATE_PAUSED:
                        raise
                    time.sleep(0.001)

    threads = [threading.Thread(target=write) for _ in range(number)]
    for thread in threads:
        thread.start()

    def end() -> tuple[list[int], list[float]]:
        stop.set()
        for thread in threads:
            thread.join()
        return committed, times

    yield end
    end()


def test_no_write_commits_behind_the_fence_and_none_is_lost(fenced_url: str, operator: Connection) -> None:
    """Pitfall 59: under live writers the source stands still once the fence is up, with every acknowledged row."""
    with writers(fenced_url, 6) as end:
        time.sleep(0.5)
        up(operator)
        behind = set(run(fenced_url, "SELECT id FROM users"))
        time.sleep(0.3)
        committed, _ = end()
    assert len(committed) > 20
    assert behind == set(run(fenced_url, "SELECT id FROM users"))
    assert {(number,) for number in (*range(1, 31), *committed)} == behind


def test_writers_go_on_when_the_fence_is_lifted(fenced_url: str, operator: Connection) -> None:
    """Clients that try again notice a pause and nothing else."""
    with writers(fenced_url, 4) as end:
        time.sleep(0.2)
        up(operator)
        lift_fence(operator, migration="arena", deadline=time.monotonic() + 5)
        lifted = time.monotonic()
        time.sleep(0.3)
        committed, times = end()
    assert max(times) > lifted
    assert 30 + len(committed) == count(fenced_url, "users")


def test_a_long_writer_is_named_and_new_ones_get_through_meanwhile(fenced_url: str, operator: Connection) -> None:
    """Pitfall 60: each try keeps the queue waiting for a moment only, and all of them end at the deadline."""
    with psycopg.connect(fenced_url, application_name="nightly job") as blocker, writers(fenced_url, 2) as end:
        blocker.execute("UPDATE orders SET what = 'busy' WHERE id = 1")
        pid = blocker.info.backend_pid
        began = time.monotonic()
        with pytest.raises(FenceBlockedError, match=r"nightly job.*open for") as refused:
            up(operator, within_s=2)
        took = time.monotonic() - began
        _, times = end()
    assert took < 3
    assert f"pg_terminate_backend({pid})" in refused.value.hint
    ordered = sorted(t for t in times if began <= t)
    assert max(b - a for a, b in zip([began, *ordered], ordered, strict=False)) < 1.5
    assert FenceKind.NONE is fence_state(operator).kind


def test_a_long_reader_is_not_in_the_way(fenced_url: str, operator: Connection) -> None:
    """A dump or a comparison may read on while the fence is raised."""
    with psycopg.connect(fenced_url) as reader:
        reader.execute("SELECT count(*) FROM users, orders, visits")
        assert FenceKind.RAISED is up(operator, within_s=2).kind


def test_a_deadlock_ends_at_the_fences_expense(fenced_url: str, operator: Connection) -> None:
    """Two tables locked the other way round: the application's transaction goes on, the fence tries again."""
    failed: list[str] = []

    def application() -> None:
        try:
            with psycopg.connect(fenced_url) as client:
                client.execute("UPDATE users SET name = 'x' WHERE id = 1")
                time.sleep(0.3)
                client.execute("UPDATE orders SET what = 'x' WHERE id = 1")
        except psycopg.Error as error:
            failed.append(str(error.sqlstate))

    thread = threading.Thread(target=application)
    thread.start()
    time.sleep(0.1)
    state = up(operator)
    thread.join()
    assert (FenceKind.RAISED, []) == (state.kind, failed)


def test_prepared_transactions_are_refused_before_anybody_waits(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Pitfalls 29, 59: what is left over from two-phase commit is named, and nothing is locked."""
    url = new_cluster(settings={"max_prepared_transactions": "2"}).create_database("left_over")
    run(url, "CREATE TABLE users (id int); CREATE TABLE orders (id int); CREATE TABLE visits (id int)")
    with psycopg.connect(url) as client:
        client.execute("INSERT INTO users VALUES (1)")
        client.execute("PREPARE TRANSACTION 'forgotten'")
    with session(url, "test") as operator:
        with pytest.raises(RefusedError, match="forgotten"):
            up(operator)
        run(url, "ROLLBACK PREPARED 'forgotten'")
        assert FenceKind.RAISED is up(operator).kind


def test_a_role_without_rights_is_refused_with_the_reason(fenced_url: str) -> None:
    """The owner's rights are needed for triggers; the message says whose."""
    run(fenced_url, "DO $$ BEGIN CREATE ROLE plain_operator; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    run(fenced_url, "GRANT UPDATE ON users, orders, visits TO plain_operator")
    with session(fenced_url, "test") as connection:
        connection.execute("SET ROLE plain_operator")
        with pytest.raises(RefusedError, match="may not raise the fence"):
            up(connection)
    run(fenced_url, "DROP OWNED BY plain_operator")


def test_a_vacuum_by_hand_is_named_like_a_writer(fenced_url: str, operator: Connection) -> None:
    """VACUUM's lock is in the way too; only an autovacuum is ended by the server when somebody waits for it."""
    holder = psycopg.connect(fenced_url, application_name="vacuum")
    try:
        holder.execute("LOCK TABLE users IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(FenceBlockedError, match="vacuum"):
            up(operator, within_s=0.8)
    finally:
        holder.close()


def test_a_function_that_was_replaced_by_hand_counts_as_open(fenced_url: str, operator: Connection) -> None:
    """A body that is not ours is not trusted to refuse."""
    up(operator)
    run(
        fenced_url,
        "CREATE OR REPLACE FUNCTION shardmig.refuse_write() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$",
    )
    assert FenceKind.OPEN is fence_state(operator).kind
    with pytest.raises(FenceExpiredError):
        seal(operator)


def test_unknown_tables_fail_without_a_fence(operator: Connection) -> None:
    """A moved table that is gone stops the fence before it is half there."""
    with pytest.raises(errors.UndefinedTable):
        raise_fence(
            operator,
            [USERS, TableName("public", "gone")],
            migration="arena",
            owner="me",
            expires_in_s=9,
            deadline=time.monotonic() + 2,
        )
    assert FenceKind.NONE is fence_state(operator).kind


@pytest.mark.parametrize("major", [15, 16, 17, 18])
def test_the_fence_holds_on_every_supported_version(
    clusters_by_major: Callable[[int], Cluster], fresh_database: Callable[..., str], major: int
) -> None:
    """Raised, sealed and lifted with the same result on each."""
    url = fresh_database(clusters_by_major(major), "versions")
    run(url, TABLES + ROWS)
    with session(url, "test") as connection, psycopg.connect(url, autocommit=True) as client:
        up(connection)
        assert {SQLSTATE_PAUSED} == {sqlstate_of(client, statement) for statement in WRITES}
        seal(connection)
        assert {SQLSTATE_MOVED} == {sqlstate_of(client, statement) for statement in WRITES}
        assert () == lift_fence(connection, migration="arena", sealed=True)
        assert None is sqlstate_of(client, WRITES[0])


def test_an_owner_who_is_no_superuser_can_raise_seal_and_lift(fenced_url: str) -> None:
    """Managed servers give no superuser; the owner of the tables with CREATE on the database is enough."""
    run(fenced_url, "DO $$ BEGIN CREATE ROLE plain_owner; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    database = run(fenced_url, "SELECT current_database()")[0][0]
    run(
        fenced_url,
        f'GRANT CREATE ON DATABASE "{database}" TO plain_owner; GRANT CREATE ON SCHEMA public TO plain_owner',
    )
    for name in ("users", "orders", "visits", "visits_2024", "visits_2025"):
        run(fenced_url, f"ALTER TABLE {name} OWNER TO plain_owner")
    with session(fenced_url, "test") as connection:
        connection.execute("SET ROLE plain_owner")
        assert FenceKind.RAISED is up(connection).kind
        assert FenceKind.SEALED is seal(connection).kind
        assert () == lift_fence(connection, migration="arena", sealed=True)
    run(fenced_url, "REASSIGN OWNED BY plain_owner TO CURRENT_USER; DROP OWNED BY plain_owner")


def test_a_prepared_fence_lets_everything_through_and_what_came_since_is_fenced_with_the_rest(
    operator: Connection, fenced_url: str
) -> None:
    """Triggers are made before anybody waits; one that a new partition lacks is made when the fence is raised."""
    prepare_fence(operator, MOVED, migration="arena", owner="me")
    assert FenceKind.OPEN is fence_state(operator).kind
    run(fenced_url, "INSERT INTO users (user_type) VALUES ('client')")
    run(fenced_url, "CREATE TABLE visits_2031 PARTITION OF visits FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')")
    raised = up(operator)
    assert () == fence_state(operator).gaps
    assert set(raised.tables) == set(fence_state(operator).tables)
    with psycopg.connect(fenced_url) as client:
        assert SQLSTATE_PAUSED == sqlstate_of(client, "DELETE FROM visits_2031")
    assert () == lift_fence(operator, migration="arena")
    assert FenceState(FenceKind.NONE) == fence_state(operator)


def test_a_source_is_opened_at_once_though_somebody_reads(operator: Connection, fenced_url: str) -> None:
    """Its first clients meet no trigger if nobody is in the way, and one that lets them through if somebody is."""
    up(operator)
    seal(operator)
    with psycopg.connect(fenced_url) as reader:
        reader.execute("SELECT count(*) FROM users")
        open_at_once(operator, migration="arena")
        assert FenceKind.OPEN is fence_state(operator).kind
        run(fenced_url, "INSERT INTO users (user_type) VALUES ('client')")
    assert () == lift_fence(operator, migration="arena")
    up(operator)
    seal(operator)
    open_at_once(operator, migration="arena")
    assert () == fence_state(operator).tables
    up(operator)
    with pytest.raises(HeldError, match="of migration 'arena'"):
        open_at_once(operator, migration="other")
