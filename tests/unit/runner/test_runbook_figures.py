"""A figure of the runbook says where it is from, and a measured one counts before a rehearsed one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fixia_shardmig.journal.records import Event
from fixia_shardmig.plan.plan import Estimate
from fixia_shardmig.runner.runbook.figures import CUTOVER, NOT_MEASURED, ROLLBACK, Figures

BEGAN = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
ESTIMATE = Estimate(copy_s=3600.0, verify_s=5.0, pause_s=0.4)


def steps(owner: str, minute: int, story: str = CUTOVER, **ms: int) -> list[Event]:
    """Return what the journal has of one run."""
    at = BEGAN + timedelta(minutes=minute)
    return [
        Event(at, "somebody", f"{story}_step_ended", {"step": step, "owner": owner, "ms": took})
        for step, took in ms.items()
    ]


def test_before_anything_was_measured_it_is_the_plans_estimate_or_not_measured() -> None:
    """No figure is made up."""
    figures = Figures([], ESTIMATE)
    assert "60 min (the plan's estimate)" == figures.copy()
    assert "400 ms in all by the plan's estimate" == figures.pause(CUTOVER)
    assert (NOT_MEASURED, NOT_MEASURED) == (figures.step(CUTOVER, "fence"), figures.pause(ROLLBACK))


def test_a_later_rehearsal_does_not_hide_what_a_real_run_took() -> None:
    """A run that raised a fence is real; one that did not reach its switch says so."""
    undone = steps("first", 1, drain=70, fence=40)
    rehearsed = steps("second", 2, drain=30, check=5, sequences=2)
    figures = Figures([*undone, *rehearsed], ESTIMATE)
    assert "70 ms (measured 2026-01-02 03:01:00 UTC, in a run that was undone)" == figures.step(CUTOVER, "drain")
    assert figures.pause(CUTOVER).startswith("37 ms for drain, check and sequences (rehearsed 2026-01-02 03:02:00 UTC)")
    switched = steps("third", 0, gates=500, fence=10, drain=20, switch=3, hook=100, slot=900)
    figures = Figures([*switched, *undone, *rehearsed], None)
    assert "133 ms (measured 2026-01-02 03:00:00 UTC, added up from its steps)" == figures.pause(CUTOVER)
    assert "not measured yet; the cutover's took 20 ms" == figures.step(ROLLBACK, "drain")
