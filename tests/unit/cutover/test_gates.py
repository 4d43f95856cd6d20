"""Gates that look at records alone: each is closed by its reason, and says how to open it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fixia_shardmig.cutover.fence import FenceKind, FenceState
from fixia_shardmig.cutover.gates import (
    DIFFERING,
    Gate,
    Limits,
    fence_is_free,
    lag_is_small,
    no_conflicts,
    phase_allows,
    schema_complete,
    sequences_plannable,
    slot_is_healthy,
    tail_runs,
    verified,
)
from fixia_shardmig.cutover.result import GatesClosedError
from fixia_shardmig.cutover.sequences import SequencePlan
from fixia_shardmig.journal.records import Migration, TailState
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.slots import SlotState

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
LIMITS = Limits()


def migration(**changes: Any) -> Migration:
    """Return a migration that passes every gate but for the changes."""
    good = Migration(
        name="m",
        created_at=NOW,
        phase=Phase.VERIFIED,
        routing_epoch=0,
        mapping_fingerprint="",
        catalog_fingerprint="",
        source_system="",
        source_database="",
        source_timeline=1,
        shard_names=("a",),
        slot="s",
        publication="s",
        slot_lsn=None,
        consistent_lsn=None,
        schema_stage="done",
        evidence={"verified_at": NOW.isoformat(), "verified_equal": True, "verified_lsn": "0/10"},
    )
    return replace(good, **changes)


def tail(**changes: Any) -> TailState:
    """Return the state of a tail that is well but for the changes."""
    good = TailState(0.4, LSN(1000), LSN(1000), NOW, 1, 1, 0, 0, 0.0, "")
    return replace(good, **changes)


def slot(**changes: Any) -> SlotState:
    """Return a healthy slot but for the changes."""
    good = SlotState(
        "s",
        "pgoutput",
        "d",
        active=True,
        active_pid=1,
        restart_lsn=LSN(1),
        confirmed_flush_lsn=LSN(1),
        wal_status="reserved",
        safe_wal_size=None,
        retained_wal_bytes=0,
        catalog_xmin_age=0,
    )
    return replace(good, **changes)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_cutover_begins_in_tailing_or_verified_only(phase: Phase) -> None:
    """A fence in between, or a side that has changed already, is another command's business."""
    assert (phase in {Phase.TAILING, Phase.VERIFIED}) == phase_allows(migration(phase=phase)).ok


def test_a_fenced_migration_is_to_be_resumed() -> None:
    """The hint leads to the command that decides."""
    assert "shardmig cutover --resume" == phase_allows(migration(phase=Phase.FENCED)).hint


def test_the_verified_gate_wants_a_recent_and_equal_comparison() -> None:
    """By default of the last 24 hours; the limit is the operator's."""
    day_old = {"verified_at": (NOW - timedelta(hours=25)).isoformat(), "verified_equal": True}
    unequal = {"verified_at": NOW.isoformat(), "verified_equal": False}
    found = [
        verified(migration(evidence=evidence), limits, now=NOW)
        for evidence, limits in (
            (migration().evidence, LIMITS),
            (day_old, LIMITS),
            (day_old, Limits(verified_age_s_max=26 * 3600)),
            (unequal, LIMITS),
            ({}, LIMITS),
        )
    ]
    assert [True, False, True, False, False] == [gate.ok for gate in found]
    assert ["", "shardmig verify", "", DIFFERING, "shardmig verify"] == [gate.hint for gate in found]


@pytest.mark.parametrize("stage", ["", "indexes", "foreign_keys"])
def test_shards_without_all_their_indexes_are_not_ready(stage: str) -> None:
    """Writers would meet a shard without its constraints."""
    assert (False, True) == (schema_complete(migration(schema_stage=stage)).ok, schema_complete(migration()).ok)


@pytest.mark.parametrize("state", [None, tail(age_s=30.0), tail(stopped_by="row without a home")])
def test_a_tail_that_is_gone_or_stopped_closes_the_gate(state: TailState | None) -> None:
    """Nothing would drain."""
    assert (False, True) == (tail_runs(state, LIMITS).ok, tail_runs(tail(), LIMITS).ok)


def test_a_large_lag_closes_the_gate() -> None:
    """What is left to apply would be part of the pause."""
    ends = (LSN(1000), LSN(1000 + LIMITS.lag_bytes_max), LSN(1001 + LIMITS.lag_bytes_max))
    assert [True, True, False] == [lag_is_small(tail(), lsn, LIMITS).ok for lsn in ends]
    assert not lag_is_small(None, LSN(1), LIMITS).ok


def test_a_conflict_closes_the_gate() -> None:
    """A change that hit no row is a reason to compare before going on."""
    assert [True, False, False] == [no_conflicts(state).ok for state in (tail(), tail(conflicts=1), None)]


@pytest.mark.parametrize("state", [None, slot(active=False), slot(wal_status="lost"), slot(wal_status="unreserved")])
def test_an_unhealthy_slot_closes_the_gate(state: SlotState | None) -> None:
    """Missing, unread, or about to lose its WAL."""
    assert (False, True) == (slot_is_healthy(state, migration()).ok, slot_is_healthy(slot(), migration()).ok)


@pytest.mark.parametrize("kind", list(FenceKind))
def test_a_fence_that_is_up_closes_the_gate(kind: FenceKind) -> None:
    """One that lets writes through is taken over."""
    free = fence_is_free(FenceState(kind, migration="m", owner="o"), migration()).ok
    assert (kind not in {FenceKind.RAISED, FenceKind.SEALED}) == free


def test_a_sequence_that_cannot_go_on_closes_the_gate() -> None:
    """Its reason is in the detail; warnings alone do not close it."""
    name = TableName("public", "q")
    warned = SequencePlan(name, 1, 1, {"a": 1}, warnings=("it is old",))
    refused = SequencePlan(name, 1, 1, {}, refusals=("it is a CYCLE",))
    assert (True, "1 go on interleaved; q: it is old") == (
        sequences_plannable([warned]).ok,
        sequences_plannable([warned]).detail,
    )
    assert (False, "q: it is a CYCLE") == (sequences_plannable([refused]).ok, sequences_plannable([refused]).detail)


def test_closed_gates_are_all_named_and_the_first_hint_is_given() -> None:
    """An operator sees every reason at once."""
    gates = (
        Gate("a", ok=True, detail="fine"),
        Gate("b", ok=False, detail="bad", hint="mend b"),
        Gate("c", ok=False, detail="worse", hint="mend c"),
    )
    error = GatesClosedError(gates)
    assert ("gate b is closed: bad; gate c is closed: worse", "mend b") == (error.message, error.hint)
    assert {"gate": "b", "ok": False, "detail": "bad", "hint": "mend b"} == error.gates[1].to_json()
