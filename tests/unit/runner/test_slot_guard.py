"""How near a slot is to its loss, decided from what was seen, without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.slots import SlotState
from fixia_shardmig.postgres.wal_room import WalRoom
from fixia_shardmig.runner.slot_guard import Level, Limits, Observation, decide, level_of

MIB = 1024 * 1024
STATE = SlotState(
    name="s",
    plugin="pgoutput",
    database="d",
    active=True,
    active_pid=1,
    restart_lsn=LSN(1),
    confirmed_flush_lsn=LSN(1),
    wal_status="reserved",
    safe_wal_size=None,
    retained_wal_bytes=0,
    catalog_xmin_age=10,
)
ROOM = WalRoom(keep_bytes=None, wal_bytes=None, free_bytes=None, freeze_max_age=1000, idle_timeout_s=None)
SEEN = Observation("s", STATE, ROOM)


def _kept(held: int, safe: int | None, wal_status: str = "reserved") -> Observation:
    safe_bytes = safe * MIB if safe is not None else None
    state = replace(STATE, retained_wal_bytes=held * MIB, safe_wal_size=safe_bytes, wal_status=wal_status)
    return replace(SEEN, state=state)


def test_a_slot_without_any_bound_near_is_not_spoken_of() -> None:
    """No limit, nobody's disk known: however much it holds, nothing is guessed."""
    assert () == decide(SEEN)
    assert () == decide(_kept(10**6, None))
    assert Level.OK is level_of(())


@pytest.mark.parametrize(
    ("held", "level"),
    [(49, Level.OK), (50, Level.NOTICE), (75, Level.WARNING), (90, Level.CRITICAL), (100, Level.CRITICAL)],
)
def test_the_level_rises_with_the_share_of_what_may_be_kept(held: int, level: Level) -> None:
    """Pitfall 17: the first word comes while half of max_slot_wal_keep_size is free."""
    assert level is level_of(decide(_kept(held, 100 - held)))


def test_the_time_left_is_what_is_free_at_the_present_rate() -> None:
    """50 MiB at 1 MiB/s; none is told while it does not grow, or nobody knows."""
    growing = replace(_kept(50, 50), growth_bytes_per_s=MIB)
    assert [50.0] == [danger.eta_s for danger in decide(growing)]
    assert str(decide(growing)[0]).endswith("at the present rate it is lost in 50 s")
    for growth in (None, 0.0, -5.0):
        assert [None] == [danger.eta_s for danger in decide(replace(growing, growth_bytes_per_s=growth))]


def test_a_slot_past_its_limit_is_critical_before_it_is_lost() -> None:
    """The next checkpoint removes what it needs."""
    assert [Level.CRITICAL] == [d.level for d in decide(_kept(100, -10, wal_status="unreserved"))]


def test_a_lost_slot_and_one_that_is_gone_are_both_the_end() -> None:
    """Nothing else is said of them: no figure matters any more."""
    assert [Level.LOST] == [d.level for d in decide(_kept(100, None, wal_status="lost"))]
    assert [Level.LOST] == [d.level for d in decide(replace(SEEN, state=None))]


def test_a_full_disk_is_as_near_as_a_limit() -> None:
    """Without max_slot_wal_keep_size the disk is the bound; the worst is said first."""
    seen = replace(_kept(60, 40), room=replace(ROOM, free_bytes=5 * MIB), growth_bytes_per_s=MIB)
    assert [Level.CRITICAL, Level.NOTICE] == [danger.level for danger in decide(seen)]
    assert [5.0, 40.0] == [danger.eta_s for danger in decide(seen)]


@pytest.mark.parametrize("old", [replace(STATE, xmin_age=800), replace(STATE, catalog_xmin_age=800)])
def test_what_vacuum_may_not_remove_counts_too(old: SlotState) -> None:
    """Pitfall 17: the age of xmin and catalog_xmin, against the age at which the source freezes whatever it costs."""
    assert [Level.WARNING] == [danger.level for danger in decide(replace(SEEN, state=old))]


def test_a_slot_that_may_not_idle_is_warned_of_while_nobody_reads() -> None:
    """idle_replication_slot_timeout of 18, under which a long copy's slot would be invalidated."""
    idle = replace(SEEN, state=replace(STATE, inactive_s=3000.0), room=replace(ROOM, idle_timeout_s=3600))
    assert [(Level.WARNING, 600.0)] == [(danger.level, danger.eta_s) for danger in decide(idle)]


def test_limits_can_be_others() -> None:
    """The fractions are named, so that who knows better can say so."""
    assert Level.CRITICAL is level_of(decide(_kept(30, 70), Limits(notice=0.1, warning=0.2, critical=0.3)))
