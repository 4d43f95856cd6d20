"""Hands the writes over, and back: has a tail run, lends the cutover what other rooms have, and shows how it went."""

from __future__ import annotations

import time
from collections.abc import Callable

from fixia_shardmig.cutover.cutover import cutover
from fixia_shardmig.cutover.recover import recover_unfinished, resume_cutover
from fixia_shardmig.cutover.result import CutoverOptions, CutoverResult, GatesClosedError, Hands
from fixia_shardmig.cutover.rollback import resume_rollback, rollback
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.way_back import back_state
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import insert_lsn, session
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.returning import has_way_back
from fixia_shardmig.runner.status import FRESH_S
from fixia_shardmig.runner.tailing import build_on_all, tail_running
from fixia_shardmig.schema.apply import pending
from fixia_shardmig.tail.tail import MARKER_PREFIX

TAIL_WAIT_S = 30.0
POLL_S = 0.05
JOBS = 2

Story = Callable[..., CutoverResult]
"""`cutover` or `rollback`."""
AFTER_SWITCH = "after_switch"
"""The stage of the shards' DDL that must not be there while changes are applied."""


def cut_over(
    context: Context,
    *,
    dry_run: bool = False,
    max_pause_s: float,
    resume: bool = False,
    way_back: bool = True,
    on_drained: Callable[[], object] | None = None,
    on_switched: Callable[[], object] | None = None,
) -> CutoverResult:
    """Cut over, rehearse it, or finish what an interrupted one began.

    Args:
        context: The migration.
        dry_run: Ask every gate and rehearse the drain.
        max_pause_s: What takes longer is undone.
        resume: Finish or undo another run's cutover.
        way_back: Prepare for a rollback.
        on_drained: Called behind the fence, when all sides are equal.
        on_switched: Called as soon as the shards have the writes.

    Raises:
        RefusedError, TemporaryError, StoppedError: Undone, or what is left to do; the message tells.
    """
    nothing_waits = False

    def enable() -> None:
        if not nothing_waits:
            build_on_all(context, AFTER_SWITCH, JOBS)
        if on_switched is not None:
            on_switched()

    options = CutoverOptions(max_pause_s=max_pause_s, dry_run=dry_run, way_back=way_back)
    hands = Hands(enable_on_shards=enable, on_drained=on_drained, say=context.say, stop=context.stop)
    with context.journal() as journal:
        if resume:
            return resume_cutover(context.shard_map, journal, options=options, hands=hands)
        _lift_left_over(context, journal)
        if journal.get().phase not in {Phase.TAILING, Phase.VERIFIED}:
            return _try(cutover, context, journal, options, hands)
        with tail_running(context, explains=False) as check:
            _await_tail(context, journal, check)
            nothing_waits = not _has_pending(context)  # asked while nobody has to wait for the answer
            return _try(cutover, context, journal, options, hands)


def _has_pending(context: Context) -> bool:
    """Whether a shard has something to turn on behind the switch."""
    for endpoint in context.shard_map.shards.values():
        with session(endpoint.url, "schema") as connection:
            if pending(connection, AFTER_SWITCH):
                return True
    return False


def _lift_left_over(context: Context, journal: Journal) -> None:
    """Lift the fence of a cutover that was killed before anything is waited for: writers wait behind it."""
    if journal.get().phase is Phase.FENCED:
        with session(context.shard_map.source.url, "cutover") as source:
            recover_unfinished(context.shard_map, journal, source)


def _try(story: Story, context: Context, journal: Journal, options: CutoverOptions, hands: Hands) -> CutoverResult:
    """Cut over or roll back; closed gates are an answer, not an error."""
    try:
        return story(context.shard_map, journal, options=options, hands=hands)
    except GatesClosedError as error:
        return CutoverResult(switched=False, pause_ms=0.0, steps=(), gates=error.gates)


def roll_back(
    context: Context,
    *,
    dry_run: bool = False,
    max_pause_s: float,
    resume: bool = False,
    on_drained: Callable[[], object] | None = None,
    on_open: Callable[[], object] | None = None,
) -> CutoverResult:
    """Hand the writes back to the source with everything written since, rehearse it, or finish an interrupted one.

    Args:
        context: The migration.
        dry_run: Ask every gate and rehearse the drain.
        max_pause_s: What takes longer is undone.
        resume: Finish or undo another run's rollback.
        on_drained: Called behind the fences, when all sides are equal.
        on_open: Called as soon as the source takes writes again.

    Raises:
        RefusedError, TemporaryError, StoppedError: Undone, or what is left to do; the message tells.
    """
    options = CutoverOptions(max_pause_s=max_pause_s, dry_run=dry_run)
    hands = Hands(enable_on_shards=_nothing, on_drained=on_drained, on_open=on_open, say=context.say, stop=context.stop)
    with context.journal() as journal:
        if resume:
            return resume_rollback(context.shard_map, journal, options=options, hands=hands)
        if not has_way_back(journal.get()):
            return _try(rollback, context, journal, options, hands)
        with tail_running(context, explains=False) as check:
            _await_way_back(journal, check)
            return _try(rollback, context, journal, options, hands)


def _nothing() -> None:
    """Enable nothing: the source's triggers were never off."""


def _await_way_back(journal: Journal, check: Callable[[], None]) -> None:
    """Give a tail of the way back that has just begun the time to say where it stands.

    What was said before we came may be the word of one that has died.
    """
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < TAIL_WAIT_S and not _has_failed(check):
        state = back_state(journal)
        if state is not None and state.age_s < min(waited_s, FRESH_S) and (not state.stopped_by or waited_s > FRESH_S):
            return
        time.sleep(POLL_S)


def _await_tail(context: Context, journal: Journal, check: Callable[[], None]) -> None:
    """Give a tail that has just begun the time to pass what is there now; the gates judge it, also one that failed."""
    with session(context.shard_map.source.url, "cutover") as source:
        now = insert_lsn(source)
        emit_marker(source, MARKER_PREFIX, b"cutover")
    deadline = time.monotonic() + TAIL_WAIT_S
    while time.monotonic() < deadline and not _has_failed(check):
        state = journal.tail_state()
        if state is not None and state.age_s < FRESH_S and not state.stopped_by and state.applied_lsn >= now:
            return
        time.sleep(POLL_S)


def _has_failed(check: Callable[[], None]) -> bool:
    try:
        check()
    except ShardmigError:
        return True
    return False


def render(result: CutoverResult, *, dry_run: bool, back: bool = False) -> str:
    """Return gates and steps as people read them; `back` when it was a rollback."""
    to, stays = ("the source has", "the shards have") if back else ("the shards have", "the source has")
    lines = []
    for gate in result.gates:
        lines.append(f"{'ok    ' if gate.ok else 'CLOSED'}  {gate.name}: {gate.detail}")
        if not gate.ok and gate.hint:
            lines.append(f"        hint: {gate.hint}")
    lines += [f"{step.ms:7.0f} ms  {step.name}" for step in result.steps]
    if result.switched:
        lines.append(f"switched: {to} the writes; the fence stood for {result.pause_ms:.0f} ms")
    elif dry_run and all(gate.ok for gate in result.gates):
        lines.append(f"every gate is open; a pause of about {result.pause_ms:.0f} ms is to be expected")
    else:
        lines.append(f"not switched: {stays} the writes")
    if result.unfinished:
        lines.append(f"unfinished: {result.unfinished}")
    return "\n".join(lines)
