"""The journal on a real server: two sessions cannot both win, and what is written comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from threading import Barrier as Rendezvous

import psycopg
import pytest
from psycopg import conninfo

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.journal.journal import Journal, drop_from, position, prepare_shard, set_position
from fixia_shardmig.journal.records import Barrier, Chunk, SnapshotEpoch, TailState
from fixia_shardmig.model.errors import HeldError, RefusedError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import scalar, session
from tests.integration.journal.conftest import begun

# --- the migration ----------------------------------------------------------------------------------------------------


def test_what_a_migration_began_with_comes_back(journal: Journal) -> None:
    """Every field, and the server's own time."""
    found = journal.get()
    assert replace(begun(), created_at=found.created_at) == found
    assert ["migration_created"] == [event.event for event in journal.events()]


def test_a_database_without_a_journal_holds_no_migration(journal_url: str) -> None:
    """Looking creates nothing; asking for the migration says how to begin one."""
    with Journal(journal_url, "shop") as journal:
        assert journal.find() is None
        with pytest.raises(RefusedError, match="'shop' has not begun") as caught:
            journal.get()
        assert caught.value.hint == "shardmig plan, then shardmig copy"
        assert scalar(journal.connection, "SELECT to_regnamespace('shardmig')") is None


def test_another_migrations_journal_is_refused(journal: Journal) -> None:
    """Two migrations in one database would take each other's positions for their own."""
    with (
        Journal(journal.url, "other") as stranger,
        pytest.raises(RefusedError, match="holds the journal of migration 'shop', not of 'other'") as caught,
    ):
        stranger.get()
    password = conninfo.conninfo_to_dict(journal.url)["password"]
    assert str(password) not in str(caught.value)


def test_a_journal_of_another_format_is_refused(journal: Journal) -> None:
    """A newer program may have written what this one would misread."""
    journal.connection.execute("UPDATE shardmig.migration SET format = 2")
    with pytest.raises(RefusedError, match="the journal has format 2, this program reads 1"):
        journal.get()


def test_a_migration_begins_once(journal: Journal, other: Journal) -> None:
    """A second `create` fails whole and leaves the first one's journal as it was."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        other.create(replace(begun(), mapping_fingerprint="m2"))
    assert journal.get().mapping_fingerprint == "m1"
    assert len(journal.events()) == 1


def test_noted_columns_come_back(journal: Journal) -> None:
    """LSNs, numbers and texts; nothing else of the row changes."""
    before = journal.get()
    journal.note(slot_lsn=LSN(0x1_0000_0002), schema_stage="indexes", routing_epoch=3)
    expected = replace(before, slot_lsn=LSN(0x1_0000_0002), schema_stage="indexes", routing_epoch=3)
    assert expected == journal.get()


# --- phases -----------------------------------------------------------------------------------------------------------


def test_of_two_sessions_one_advances(journal: Journal, other: Journal) -> None:
    """The one that comes second waits for the first to commit, and is then told where the migration stands."""
    with ThreadPoolExecutor(1) as pool:
        with journal.connection.transaction():
            journal.advance(Phase.PLANNED, Phase.COPYING, {"by": "ann"})
            second = pool.submit(other.advance, Phase.PLANNED, Phase.ABORTED, {"by": "bob"})
            pid = other.connection.info.backend_pid
            waiting = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
            with session(journal.url, "test") as watcher:
                while not scalar(watcher, waiting, (pid,)):
                    assert not second.done()
        with pytest.raises(RefusedError, match="the migration is in phase copying, not planned"):
            second.result(10)
    found = journal.get()
    assert (Phase.COPYING, {"by": "ann"}) == (found.phase, found.evidence)
    changes = [(event.actor, event.detail) for event in journal.events() if event.event == "phase_changed"]
    assert [("ann", {"start": "planned", "end": "copying", "by": "ann"})] == changes


def test_of_many_sessions_at_once_one_advances(journal: Journal) -> None:
    """A compare-and-set: whatever the timing there is exactly one winner."""
    start = Rendezvous(4)

    def race(number: int) -> bool:
        with Journal(journal.url, "shop", actor=str(number)) as runner:
            start.wait()
            try:
                runner.advance(Phase.PLANNED, Phase.COPYING)
            except RefusedError:
                return False
            return True

    with ThreadPoolExecutor(4) as pool:
        assert [False, False, False, True] == sorted(pool.map(race, range(4)))


def test_a_phase_is_never_skipped(journal: Journal) -> None:
    """Not even from the phase in which the migration is."""
    with pytest.raises(RefusedError, match="no way leads from phase planned to switched"):
        journal.advance(Phase.PLANNED, Phase.SWITCHED)
    assert journal.get().phase is Phase.PLANNED


def test_evidence_is_merged_and_kept(journal: Journal) -> None:
    """What a phase proved stays known in the next one; a later fact of the same name replaces the earlier."""
    journal.advance(Phase.PLANNED, Phase.COPYING, {"rows": 1, "slot": "s"})
    journal.add_evidence({"rows": 2})
    journal.advance(Phase.COPYING, Phase.TAILING, {"lsn": "0/1"})
    assert {"rows": 2, "slot": "s", "lsn": "0/1"} == journal.get().evidence


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_second_run_is_told_who_holds_the_migration(journal: Journal, other: Journal) -> None:
    """Exit 5, with the backend and the program that has it."""
    with journal.holding("driver"), pytest.raises(HeldError) as caught, other.holding("driver"):
        pass
    pid = journal.connection.info.backend_pid
    assert f"backend {pid} (shardmig journal, " in caught.value.message
    assert "is working on migration 'shop'" in caught.value.message


def test_driver_and_operator_do_not_exclude_each_other(journal: Journal, other: Journal) -> None:
    """`verify` and `throttle` run beside the tail."""
    with journal.holding("driver"):
        assert other.try_hold("operator")


def test_a_lock_ends_with_its_block_and_with_its_session(journal: Journal, other: Journal) -> None:
    """Neither an error in the block nor a killed run leaves a migration held."""
    with pytest.raises(ZeroDivisionError), journal.holding("driver"):
        raise ZeroDivisionError
    assert other.try_hold("driver")
    assert journal.holder("driver") is not None
    other.close()
    with session(journal.url, "test") as watcher:
        gone = "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND database ="
        while not scalar(watcher, f"{gone} (SELECT oid FROM pg_database WHERE datname = current_database())"):
            pass
    assert journal.holder("driver") is None


def test_a_lock_in_another_database_is_another_lock(
    journal: Journal, target_cluster: Cluster, fresh_database: Callable[..., str]
) -> None:
    """Two migrations with journals on one server do not hold each other up."""
    with Journal(fresh_database(target_cluster, "other"), "other") as stranger, stranger.holding("driver"):
        assert journal.holder("driver") is None
        assert journal.try_hold("driver")


# --- copy -------------------------------------------------------------------------------------------------------------


def test_chunks_come_back_in_the_order_of_the_plan(journal: Journal) -> None:
    """Open ends, exact names, and what was done."""
    planned = [
        Chunk(1, TableName("public", "User"), 0, 100, 819200, keyed=True),
        Chunk(2, TableName("public", "User"), 100, None, 0, keyed=True),
        Chunk(3, TableName("sales", 'with."quote'), 0, None, 8192, keyed=False),
    ]
    journal.plan_chunks(planned)
    assert planned == journal.chunks()
    journal.chunk_done(2, 4, rows=7, size_bytes=70)
    assert replace(planned[1], done_epoch=4, rows=7, bytes=70) == journal.chunks()[1]


def test_each_snapshot_epoch_raises_the_consistent_lsn(journal: Journal) -> None:
    """The union is consistent only past the highest epoch; one with a lower LSN lowers nothing."""
    seen = []
    for lsn in (LSN(0x100), LSN(0x1_0000_0000), LSN(0x200)):
        journal.open_epoch(f"{lsn + 0}:9:", lsn)
        seen.append(journal.get().consistent_lsn)
    assert [LSN(0x100), LSN(0x1_0000_0000), LSN(0x1_0000_0000)] == seen
    assert [(1, LSN(0x100)), (2, LSN(0x1_0000_0000)), (3, LSN(0x200))] == [
        (epoch.epoch, epoch.lsn) for epoch in journal.epochs()
    ]
    assert SnapshotEpoch(1, "256:9:", LSN(0x100)) == journal.epochs()[0]


# --- tail -------------------------------------------------------------------------------------------------------------


def test_the_batch_record_comes_back_byte_for_byte(journal: Journal) -> None:
    """Only the last batch is kept: it is the one that may have to be replayed."""
    assert journal.batch_record() is None
    journal.write_batch_record(LSN(1), LSN(2), b"first")
    decisions = bytes(range(256)) * 5000
    journal.write_batch_record(LSN(0xFFFF_FFFF_FFFF_FFFE), LSN(0xFFFF_FFFF_FFFF_FFFF), decisions)
    assert (LSN(0xFFFF_FFFF_FFFF_FFFE), LSN(0xFFFF_FFFF_FFFF_FFFF), decisions) == journal.batch_record()


def test_the_tails_state_comes_back_with_its_age(journal: Journal) -> None:
    """Told twice, the later one stands; the age is by the server's clock."""
    at = datetime(2024, 2, 29, 12, tzinfo=UTC)
    state = TailState(0.0, LSN(1), LSN(2), at, 3, 4, 5, 6, 7.5, "")
    assert journal.tail_state() is None
    journal.tell_tail_state(replace(state, applied_lsn=LSN(9), stopped_by="a row"))
    journal.tell_tail_state(state)
    found = journal.tail_state()
    assert found is not None
    assert 0 <= found.age_s < 60
    assert replace(state, age_s=found.age_s) == found


def test_a_position_commits_or_rolls_back_with_the_rows(journal: Journal) -> None:
    """Pitfall 7: the position is written in the caller's transaction, one a stream."""
    connection = journal.connection
    assert position(connection) is None
    with connection.transaction():
        set_position(connection, LSN(5))
        set_position(connection, LSN(6), "pros")
    with connection.transaction(force_rollback=True):
        set_position(connection, LSN(7))
        assert LSN(7) == position(connection)
    assert (LSN(5), LSN(6)) == (position(connection), position(connection, "pros"))


def test_a_database_that_was_never_prepared_has_no_position(journal_url: str) -> None:
    """Preparing twice is preparing once, and dropping leaves nothing of ours."""
    with session(journal_url, "test") as connection:
        assert position(connection) is None
        prepare_shard(connection)
        set_position(connection, LSN(5))
        prepare_shard(connection)
        assert LSN(5) == position(connection)
        drop_from(connection)
        assert scalar(connection, "SELECT to_regnamespace('shardmig')") is None


def test_events_are_the_newest_in_order(journal: Journal) -> None:
    """Who did what, oldest first, cut at the front."""
    for number in range(3):
        journal.event("throttled", rate=number)
    assert [1, 2] == [event.detail["rate"] for event in journal.events(limit=2)]
    assert {"ann"} == {event.actor for event in journal.events()}


# --- barriers ---------------------------------------------------------------------------------------------------------


def test_a_barrier_is_held_then_placed_then_reached_then_released(journal: Journal, other: Journal) -> None:
    """Each step is seen by the other session, and repeating one changes nothing."""
    barrier_id = journal.request_barrier("verify", 60)
    expected = Barrier(barrier_id, "verify", held=False, lsn=None, reached=False, released=False, expired=False)
    assert expected == other.barrier()
    for _ in range(2):
        other.barrier_held(barrier_id)
    assert replace(expected, held=True) == journal.barrier(barrier_id)
    journal.set_barrier(barrier_id, LSN(0x1_0000_0010))
    assert replace(expected, held=True, lsn=LSN(0x1_0000_0010)) == other.barrier()
    for _ in range(2):
        other.barrier_reached(barrier_id)
    assert replace(expected, held=True, lsn=LSN(0x1_0000_0010), reached=True) == journal.barrier()
    for _ in range(2):
        journal.release_barrier(barrier_id)
    assert other.barrier() is None
    assert replace(expected, held=True, lsn=LSN(0x1_0000_0010), reached=True, released=True) == other.barrier(
        barrier_id
    )


def test_an_expired_barrier_holds_nobody(journal: Journal) -> None:
    """Pitfall 72: whoever asked may be gone, so it ends by itself, and its owner can see that it did."""
    barrier_id = journal.request_barrier("verify", 0)
    assert journal.barrier() is None
    found = journal.barrier(barrier_id)
    assert found is not None
    assert (True, False) == (found.expired, found.released)


def test_a_barrier_whose_owner_died_holds_nobody(journal: Journal) -> None:
    """Pitfall 72: a verify that was killed has the tail go on at once, and not when its barrier expires."""
    with Journal(journal.url, journal.name) as owner:
        left = owner.request_barrier("verify", 60)
        found = journal.barrier()
        assert found is not None
        assert left == found.id
    deadline = time.monotonic() + 10.0
    while journal.barrier() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_barriers_come_one_after_the_other(journal: Journal) -> None:
    """The oldest that still stands is the tail's next one."""
    gone, first, second = (
        journal.request_barrier(owner, seconds) for owner, seconds in zip("abc", (0, 60, 60), strict=True)
    )
    assert gone < first < second
    for expected in (first, second):
        found = journal.barrier()
        assert found is not None
        assert expected == found.id
        journal.release_barrier(found.id)
    assert journal.barrier() is None
    assert journal.barrier(second + 1) is None
