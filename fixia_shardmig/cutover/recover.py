"""Finds what a cutover that was killed has left behind, and finishes or undoes it.

Where it stood decides, and nothing else (pitfall 72):

    phase FENCED, fence not sealed      undone: the drain's proof ends with the fence that it was made behind
    phase FENCED, fence sealed          the switch was all that was missing. Drained, counted, sequences set, every
                                        shard still past the marker, no gap: switched. Anything else: undone
    phase SWITCHED                      finished: enable, hooks. Never undone
    earlier, a fence left over          lifted

Whether its process still lives is asked of the operator's lock in the journal, not of a clock; and should it live on
without its session there, it can neither seal a fence that is no longer its own nor switch.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import Enum

from fixia_shardmig.cutover.clients import resume_clients
from fixia_shardmig.cutover.drain import all_applied
from fixia_shardmig.cutover.fence import FenceKind, FenceState, fence_state, lift_fence
from fixia_shardmig.cutover.result import CutoverOptions, CutoverResult, Hands
from fixia_shardmig.cutover.run import EVIDENCE, Run
from fixia_shardmig.cutover.sides import Sides, open_sides
from fixia_shardmig.cutover.switch import LIFT_S, finish, switch, take_back
from fixia_shardmig.cutover.way_back import forget_slots
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.errors import HeldError, RefusedError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import Connection


class Recovery(Enum):
    """What was found, and what was done about it."""

    NOTHING = "nothing"
    HELD = "held"
    """Another run is at work; its fence is its own business."""
    LIFTED = "lifted"
    SEALED = "sealed"
    """Killed between seal and switch: `resume_cutover` decides."""


def recover_unfinished(shard_map: ShardMap, journal: Journal, source: Connection) -> Recovery:
    """Lift the fence of a cutover that was killed before it sealed it, and go back to TAILING.

    Safe to call at the beginning of any command: it does nothing while another run has the operator's lock.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(journal.holding("operator"))
        except HeldError:
            return Recovery.HELD
        return _recover(shard_map, journal, source)


def _recover(shard_map: ShardMap, journal: Journal, source: Connection) -> Recovery:
    migration, state = journal.find(), fence_state(source)
    if migration is None or migration.phase in {Phase.SWITCHED, Phase.FINALIZED, Phase.ROLLING_BACK}:
        return Recovery.NOTHING
    if migration.phase is Phase.FENCED:
        if state.kind is FenceKind.SEALED:
            return Recovery.SEALED
        owner = str((migration.evidence.get(EVIDENCE) or {}).get("owner", ""))
        take_back(shard_map, journal, source, owner=owner, reason="its run was killed")
        return Recovery.LIFTED
    resume_clients(shard_map, journal, story=EVIDENCE)
    forget_slots(shard_map, journal)
    if state.kind is FenceKind.NONE or state.migration != shard_map.name:
        return Recovery.NOTHING
    lift_fence(source, migration=shard_map.name, deadline=time.monotonic() + LIFT_S)
    journal.event("fence_lifted", owner=state.owner, found=state.kind.value)
    return Recovery.LIFTED


def resume_cutover(shard_map: ShardMap, journal: Journal, *, options: CutoverOptions, hands: Hands) -> CutoverResult:
    """Finish or undo what another run began; `switched` says which.

    Raises:
        RefusedError: There is nothing to resume.
        HeldError: That other run is still at work.
    """
    with journal.holding("operator"), open_sides(shard_map) as sides:
        migration = journal.get()
        run = _run_of(shard_map, journal, sides, options=options, hands=hands)
        journal.event("cutover_resumed", phase=migration.phase.value, owner=run.owner)
        if migration.phase is Phase.SWITCHED:
            return _finished(run, migration.routing_epoch)
        if migration.phase is not Phase.FENCED:
            lifted = recover_unfinished(shard_map, journal, sides.source) is Recovery.LIFTED
            raise RefusedError(
                f"no cutover is under way in phase {migration.phase.value}"
                + ("; a fence that was left over is lifted" if lifted else ""),
                hint="shardmig cutover",
            )
        return _decide(run)


def _decide(run: Run) -> CutoverResult:
    """Switch if all but the switch was done, and still holds; else undo."""
    reason = _why_not(run, fence_state(run.sides.source))
    run.began = time.monotonic() - _seconds_since(run.evidence.get("fenced_at"))
    if reason:
        take_back(run.shard_map, run.journal, run.sides.source, owner=run.owner, reason=reason)
        run.hands.say(f"undone, the source takes writes again: {reason}")
        steps = tuple(run.steps)
        return CutoverResult(switched=False, pause_ms=run.pause_ms, steps=steps, unfinished=reason)
    with run.step("switch"):
        epoch = switch(run)
    return _finished(run, epoch)


def _why_not(run: Run, state: FenceState) -> str:
    """Return why a cutover that was killed before its switch cannot be finished, or nothing."""
    drained = run.evidence.get("drained_lsn")
    if state.kind is not FenceKind.SEALED or state.owner != run.owner:
        return f"the fence is {state.kind.value}, it was not sealed"
    if state.gaps:
        return f"the fence has gaps: {', '.join(map(str, state.gaps))}"
    if not drained or not run.evidence.get("sequences_set"):
        return "the journal does not say that the drain and the sequences were done"
    if not all_applied(run.sides, LSN.parse(drained)):
        return f"a shard stands before {drained}, where it has been"
    return ""


def _finished(run: Run, epoch: int) -> CutoverResult:
    unfinished = finish(run, epoch)
    marker = run.evidence.get("marker_lsn")
    return CutoverResult(
        switched=True,
        pause_ms=run.pause_ms,
        steps=tuple(run.steps),
        marker_lsn=LSN.parse(marker) if marker else None,
        routing_epoch=epoch,
        unfinished=unfinished,
    )


def _run_of(shard_map: ShardMap, journal: Journal, sides: Sides, *, options: CutoverOptions, hands: Hands) -> Run:
    """Step into the shoes of the run whose evidence the journal has."""
    evidence = dict(journal.get().evidence.get(EVIDENCE) or {})
    owner = str(evidence.get("owner") or journal.actor)
    return Run(shard_map, journal, sides, options, hands, owner=owner, evidence=evidence)


def _seconds_since(text: object) -> float:
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(str(text))).total_seconds()) if text else 0.0
