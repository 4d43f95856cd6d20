"""Gates that ask servers: each is closed by its own reason, and by no other."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from fixia_shardmig.cutover.cutover import cutover
from fixia_shardmig.cutover.gates import Gate
from fixia_shardmig.cutover.result import CutoverResult, GatesClosedError
from fixia_shardmig.model.phase import Phase
from tests.integration.cutover.conftest import Arena, options, run


def rehearse(arena: Arena, **more: object) -> CutoverResult:
    """Run `cutover --dry-run`."""
    with arena.journal() as journal:
        return cutover(arena.shard_map, journal, options=options(dry_run=True, **more), hands=arena.hands())


def closed(arena: Arena, **more: object) -> dict[str, Gate]:
    """Return the gates that are closed, by name."""
    return {gate.name: gate for gate in rehearse(arena, **more).gates if not gate.ok}


def test_a_rehearsal_passes_every_gate_predicts_the_pause_and_changes_nothing(arena: Arena) -> None:
    """No fence, no phase, no sequence; the drain is measured with a real marker."""
    result = rehearse(arena)
    assert [] == [gate for gate in result.gates if not gate.ok]
    assert (False, ["gates", "drain", "check", "sequences"]) == (result.switched, [step.name for step in result.steps])
    assert result.pause_ms > 0
    assert result.marker_lsn is not None
    assert Phase.VERIFIED is arena.phase()
    assert [(None,)] == arena.source("SELECT to_regnamespace('shardmig')::text")
    assert [(1,)] == run(arena.shard_urls["clients"], "SELECT seqincrement FROM pg_sequence LIMIT 1")


def test_every_gate_has_a_name_of_its_own_and_a_detail(arena: Arena) -> None:
    """What the contract's JSON and the runbook show."""
    gates = rehearse(arena).gates
    assert len(gates) == len({gate.name for gate in gates})
    assert [] == [gate.name for gate in gates if not gate.detail]


def test_closed_gates_refuse_before_anything_is_touched(arena: Arena) -> None:
    """The real cutover raises with all gates; the source was never fenced."""
    arena.follower.conflicts = 2
    time.sleep(0.1)
    with arena.journal() as journal, pytest.raises(GatesClosedError, match="conflicts") as refused:
        cutover(arena.shard_map, journal, options=options(), hands=arena.hands())
    assert {"conflicts"} == {gate.name for gate in refused.value.gates if not gate.ok}
    assert Phase.VERIFIED is arena.phase()
    assert [(None,)] == arena.source("SELECT to_regnamespace('shardmig')::text")


def test_a_tail_that_does_not_apply_closes_the_drain(arena: Arena) -> None:
    """A marker that does not arrive in half of the pause would be worse under the fence."""
    arena.follower.pause()
    gates = closed(arena, max_pause_s=1.0)
    assert {"drain"} == set(gates)
    assert "was not applied in time" in gates["drain"].detail


def test_ddl_on_a_moved_table_closes_drift(arena: Arena) -> None:
    """The fingerprint is taken now, not when the tail last looked."""
    arena.source("ALTER TABLE users ADD later int")
    assert {"drift"} == set(closed(arena))


def test_a_target_that_is_read_only_closes_the_gate(arena: Arena) -> None:
    """A new session on it could not write."""
    name = arena.shard_urls["clients"].rsplit("/", 1)[1].partition("?")[0]
    run(arena.shard_urls["clients"], f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    gates = closed(arena)
    assert {"targets_writable"} == set(gates)
    assert "clients: default_transaction_read_only is on" == gates["targets_writable"].detail


def test_a_long_writer_closes_the_gate_and_a_long_reader_does_not(arena: Arena) -> None:
    """Pitfall 60: readers are not what the fence waits for."""
    with (
        psycopg.connect(arena.source_url) as reader,
        psycopg.connect(arena.source_url, application_name="nightly job") as writer,
    ):
        reader.execute("SELECT count(*) FROM users")
        writer.execute("INSERT INTO old_notes VALUES (1, 'x')")
        time.sleep(5.2)
        gates = closed(arena)
    assert {"long_transactions"} == set(gates)
    assert "nightly job" in gates["long_transactions"].detail
    assert "pg_terminate_backend" in gates["long_transactions"].hint


def test_a_sequence_that_cycles_closes_the_gate(arena: Arena) -> None:
    """Pitfall 68."""
    arena.source("ALTER SEQUENCE users_id_seq CYCLE")
    assert {"sequences"} == set(closed(arena))


def test_hooks_that_cannot_run_close_the_gate(make_arena: Callable[..., Arena]) -> None:
    """It would be found out after the switch."""
    arena = make_arena(on_switch=("./no-such-hook.sh",))
    arena.follower.start()
    gates = closed(arena)
    assert {"hooks"} == set(gates)


def test_other_writers_are_listed(arena: Arena) -> None:
    """Pitfall 71: who has to be re-pointed, by application and user; our own sessions are left out."""
    with psycopg.connect(arena.source_url, application_name="cron") as other:
        other.execute("SELECT 1")
        (gate,) = (gate for gate in rehearse(arena).gates if gate.name == "other_writers")
    assert "cron as postgres (1)" in gate.detail
    assert "shardmig" not in gate.detail


def test_a_subscription_into_a_moved_table_closes_the_gate(arena: Arena) -> None:
    """Pitfall 71: its worker fires no statement's trigger, so the fence would not hold it."""
    arena.source("CREATE SUBSCRIPTION feed CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)")
    arena.source("ALTER SUBSCRIPTION feed SET (slot_name = 'feed')")
    try:
        arena.source(
            "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
            " SELECT oid, 'users'::regclass, 'r' FROM pg_subscription WHERE subname = 'feed'"
        )
        assert "subscriptions" not in closed(arena)
        arena.source("UPDATE pg_subscription SET subenabled = true WHERE subname = 'feed'")
        gates = closed(arena)
        assert "feed into users" == gates["subscriptions"].detail
    finally:
        arena.source("UPDATE pg_subscription SET subenabled = false WHERE subname = 'feed'")
        arena.source("ALTER SUBSCRIPTION feed SET (slot_name = NONE)")
        arena.source("DROP SUBSCRIPTION feed")
