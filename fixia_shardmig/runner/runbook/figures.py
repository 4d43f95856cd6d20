"""How long things take, each figure with where it is from: measured, rehearsed, estimated, or not measured yet.

Measured is what the journal's events say: phases by their moves, the steps of a cutover and of a rollback by their own
times. Among runs a real one counts before a rehearsal, a later one before an earlier. Decides without I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from fixia_shardmig.journal.records import Event
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.plan.plan import Estimate

NOT_MEASURED: Final = "not measured yet"
CUTOVER: Final = "cutover"
ROLLBACK: Final = "rollback"

PAUSE_STEPS: Final = ("pause", "fence", "drain", "on_drained", "check", "sequences", "way_back", "seal", "switch")
"""What the writers wait for, up to the switch; a rollback's `way_back` comes behind it and nobody waits for it."""

REOPENING: Final = {
    CUTOVER: ("enable", "references", "repoint", "hook"),
    ROLLBACK: ("open", "repoint", "hook"),
}
"""What they wait for behind it, until they are led to the other side."""

MINUTES_FROM_S: Final = 120
HOURS_FROM_S: Final = 7200


@dataclass(slots=True)
class _Run:
    """One run of a cutover or rollback: its steps in milliseconds, and when it was."""

    at: datetime
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def is_real(self) -> bool:
        """Whether it raised a fence; a rehearsal does not."""
        return "fence" in self.steps

    @property
    def has_switched(self) -> bool:
        return "switch" in self.steps

    @property
    def name(self) -> str:
        if not self.is_real:
            return f"rehearsed {_moment(self.at)}"
        return f"measured {_moment(self.at)}" + ("" if self.has_switched else ", in a run that was undone")


class Figures:
    """The times of one migration."""

    def __init__(self, events: Sequence[Event], estimate: Estimate | None) -> None:
        """Sort the events; newest last."""
        self._events = events
        self._estimate = estimate
        self._runs: Mapping[str, list[_Run]] = {story: _runs(events, story) for story in (CUTOVER, ROLLBACK)}

    def step(self, story: str, step: str) -> str:
        """Return how long one step of a cutover or rollback takes."""
        for run in self._best_first(story):
            if step in run.steps:
                return f"{run.steps[step]:.0f} ms ({run.name})"
        for run in self._best_first(CUTOVER) if story == ROLLBACK else ():
            if step in run.steps and run.is_real:
                return f"{NOT_MEASURED}; the cutover's took {run.steps[step]:.0f} ms"
        return NOT_MEASURED

    def pause(self, story: str) -> str:
        """Return how long writers wait in all."""
        told = []
        for run in self._best_first(story):
            if run.has_switched:
                return f"{_pause_ms(run, story):.0f} ms ({run.name}, added up from its steps)"
            if not run.is_real and "drain" in run.steps:
                parts = sum(run.steps.get(step, 0.0) for step in ("drain", "check", "sequences"))
                told.append(f"{parts:.0f} ms for drain, check and sequences ({run.name})")
                break
        if story == CUTOVER and self._estimate is not None:
            told.append(f"{self._estimate.pause_s * 1000:.0f} ms in all by the plan's estimate")
        return "; ".join(told) or NOT_MEASURED

    def copy(self) -> str:
        """Return how long the copy takes, or how long it took."""
        began, ended = self._entered(Phase.COPYING), self._entered(Phase.TAILING)
        if began and ended:
            return f"{duration((ended - began).total_seconds())} (measured, with its interruptions)"
        return self._estimated(self._estimate.copy_s if self._estimate else None)

    def catch_up(self) -> str:
        """Return how long the tail took to build the indexes and constraints and catch up."""
        began, ended = self._entered(Phase.TAILING), self._at("schema_complete")
        if began and ended and ended >= began:
            return f"{duration((ended - began).total_seconds())} until caught up (measured, from the copy's end)"
        return NOT_MEASURED

    def verify(self) -> str:
        """Return how long the last verify took."""
        for event in reversed(self._events):
            if event.event == "verified" and event.detail.get("verified_at"):
                seconds = (event.at - datetime.fromisoformat(str(event.detail["verified_at"]))).total_seconds()
                return f"{duration(max(seconds, 0.0))} (measured {_moment(event.at)})"
        return self._estimated(self._estimate.verify_s if self._estimate else None)

    def gates(self, story: str) -> str:
        """Return how long all gates take, the rehearsed drain among them."""
        return self.step(story, "gates")

    def rehearsal(self, story: str) -> tuple[str, bool]:
        """Return when all gates of a story were asked last, and whether all were open."""
        for event in reversed(self._events):
            if event.event == f"{story}_gates":
                closed = [str(name) for name in event.detail.get("closed", [])]
                return f"{_moment(event.at)}: " + (f"closed: {', '.join(closed)}" if closed else "all open"), not closed
        return "not asked yet", False

    def _best_first(self, story: str) -> Iterator[_Run]:
        yield from sorted(self._runs[story], key=lambda run: (run.has_switched, run.is_real, run.at), reverse=True)

    def _entered(self, phase: Phase) -> datetime | None:
        return next((e.at for e in self._events if _is_move_to(e, phase)), None)

    def _at(self, name: str) -> datetime | None:
        return next((event.at for event in self._events if event.event == name), None)

    @staticmethod
    def _estimated(seconds: float | None) -> str:
        return f"{duration(seconds)} (the plan's estimate)" if seconds is not None else NOT_MEASURED


def history(events: Iterable[Event]) -> list[str]:
    """Return the moves from phase to phase, oldest first, each with when it was and by whom."""
    return [
        f"{_moment(event.at)} {event.detail.get('start')} to {event.detail.get('end')} ({event.actor})"
        for event in events
        if event.event == "phase_changed"
    ]


def duration(seconds: float) -> str:
    """Return a time for people: 0.4 s, 12 s, 3 min, 2.5 h."""
    if seconds < MINUTES_FROM_S:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004  a tenth matters below ten
    return f"{seconds / 60:.0f} min" if seconds < HOURS_FROM_S else f"{seconds / 3600:.1f} h"


def _is_move_to(event: Event, phase: Phase) -> bool:
    return event.event == "phase_changed" and event.detail.get("end") == phase.value


def _runs(events: Iterable[Event], story: str) -> list[_Run]:
    found: dict[str, _Run] = {}
    for event in events:
        if event.event == f"{story}_step_ended":
            run = found.setdefault(str(event.detail.get("owner")), _Run(event.at))
            run.steps[str(event.detail.get("step"))] = float(event.detail.get("ms") or 0)
    return list(found.values())


def _pause_ms(run: _Run, story: str) -> float:
    waited = [step for step in PAUSE_STEPS if story == CUTOVER or step != "way_back"]
    return sum(run.steps.get(step, 0.0) for step in (*waited, *REOPENING[story]))


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
