"""The point of no return, the way back before it, and the way on behind it.

Nobody else changes the phase or the fence once it is up, and both always in this order: the fence is sealed, then the
journal says SWITCHED; to undo, the journal's row is locked and says TAILING, the fence is opened, the journal commits.
So a crash anywhere leaves phase FENCED, or both sides agreed; and a fence is never opened after a switch (pitfall 63).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Final

import psycopg

from fixia_shardmig.cutover.clients import move_clients, resume_clients
from fixia_shardmig.cutover.fence import lift_fence, open_fence
from fixia_shardmig.cutover.run import EVIDENCE, Run
from fixia_shardmig.cutover.way_back import forget_slots, guard_references, subscribe_references
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.errors import RefusedError, ShardmigError
from fixia_shardmig.model.phase import Phase, Writer, writer_in
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.sessions import Connection, is_open, session
from fixia_shardmig.postgres.slots import drop_slot

LIFT_S: Final = 2.0
"""How long a lift tries to drop the triggers of a fence that is open already."""

RESUME: Final = "shardmig cutover --resume"
FINISHED: Final = "cutover_finished"
"""The routing epoch up to which everything behind the switch is done."""


def switch(run: Run, start: Phase = Phase.FENCED, end: Phase = Phase.SWITCHED) -> int:
    """Make the other side the writer: phase and routing epoch in one transaction (pitfall 64); returns the epoch.

    Raises:
        RefusedError: The migration is not in phase `start` any more, or by another owner.
    """
    journal = run.journal
    with journal.connection.transaction():
        journal.connection.execute(
            "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
        )
        at = datetime.now(UTC).isoformat()
        journal.advance(start, end, {f"{end.value}_at": at, f"{end.value}_by": run.owner})
        migration = journal.get()
        told = migration.evidence.get(run.story) or {}
        if told.get("owner") != run.owner:
            raise RefusedError(f"the {run.story} is in the hands of {told.get('owner')}", hint="shardmig status")
        epoch = migration.routing_epoch + 1
        journal.note(routing_epoch=epoch)
        place("switch.before_commit", end.value)
    place("switch.committed", end.value)
    return epoch


def take_back(shard_map: ShardMap, journal: Journal, source: Connection, *, owner: str, reason: str) -> bool:
    """Lift an owner's fence and return to TAILING; False if the migration is SWITCHED, and nothing is done.

    Uses new sessions where the old ones are lost. The phase decides: whether a switch whose answer was lost has
    committed is read from the journal before the fence is touched.
    """
    try:
        return _take_back_where_lost(shard_map, journal, source, owner=owner, reason=reason)
    except psycopg.OperationalError:  # now psycopg knows which session is gone
        return _take_back_where_lost(shard_map, journal, source, owner=owner, reason=reason)


def _take_back_where_lost(
    shard_map: ShardMap, journal: Journal, source: Connection, *, owner: str, reason: str
) -> bool:
    with ExitStack() as stack:
        if not is_open(journal.connection):
            journal = stack.enter_context(Journal(journal.url, journal.name, actor=journal.actor))
        if not is_open(source):
            source = stack.enter_context(session(shard_map.source.url, "cutover undo"))
        return _take_back(shard_map, journal, source, owner=owner, reason=reason)


def _take_back(shard_map: ShardMap, journal: Journal, source: Connection, *, owner: str, reason: str) -> bool:
    name = journal.name
    with journal.connection.transaction():
        migration = journal.get()
        if writer_in(migration.phase) is Writer.SHARDS:
            return False
        cutover = migration.evidence.get(EVIDENCE) or {}
        if migration.phase is Phase.FENCED and cutover.get("owner") == owner:
            journal.advance(Phase.FENCED, Phase.TAILING, {EVIDENCE: None})
        open_fence(source, migration=name, owner=owner, sealed=True)
        place("cutover.before_undo_commit")
    place("cutover.undo_committed")
    resume_clients(shard_map, journal, story=EVIDENCE)
    left = lift_fence(source, migration=name, owner=owner, sealed=True, deadline=time.monotonic() + LIFT_S)
    place("cutover.fence_lifted")
    journal.event("cutover_undone", owner=owner, reason=reason, triggers_left_open=[str(table) for table in left])
    forget_slots(shard_map, journal)
    return True


def finish(run: Run, epoch: int) -> str:
    """Do what follows the switch, as often as asked; returns what is still to do, or nothing.

    Triggers of the shards are enabled only now: before the switch everything can be undone, and a tail that goes on
    would fire them. The hooks come after it, so no writer is led to a shard that is not ready. Reference tables follow
    their home when nobody waits any more: their slots have kept what came. The slot of the way there goes last: nobody
    reads it any more, and it would hold the source's WAL. Nothing that fails is undone, and the source stays fenced
    (63).
    """
    try:
        return _finish(run, epoch)
    except (ShardmigError, psycopg.Error) as error:  # the journal itself: the switch stands, so say that it does
        reason = first_line(error)
        run.hands.say(f"switched, but not finished: {reason}; run {RESUME}")
        return reason


def _finish(run: Run, epoch: int) -> str:
    try:
        with _doing(run, "enable", "enabling triggers on the shards"):
            run.hands.enable_on_shards()
        place("cutover.enabled")
        with _doing(run, "references", "guarding the reference tables"):
            guard_references(run.sides, run.shard_map)
        place("cutover.references_guarded")
        if failure := move_clients(run, "forward", epoch):
            return _unfinished(run, epoch, failure)
        place("cutover.clients_moved")
        with _doing(run, "subscriptions", "subscribing to the reference tables"):
            subscribe_references(run.sides, run.shard_map)
        place("cutover.references_subscribed")
        with _doing(run, "slot", "dropping the slot of the way there"):
            drop_slot(run.sides.source, run.journal.get().slot)
        place("cutover.slot_dropped")
    except _StepError as error:
        return _unfinished(run, epoch, str(error))
    run.journal.add_evidence({FINISHED: epoch})
    place("cutover.finished")
    run.event("finished", epoch=epoch)
    return ""


class _StepError(Exception):
    """A step behind the switch failed; the text says which, and why."""


@contextmanager
def _doing(run: Run, step: str, what: str) -> Iterator[None]:
    try:
        with run.step(step):
            yield
    except (ShardmigError, psycopg.Error) as error:
        raise _StepError(f"{what}: {first_line(error)}") from error


def _unfinished(run: Run, epoch: int, reason: str) -> str:
    run.event("unfinished", epoch=epoch, reason=reason)
    run.hands.say(f"switched, but not finished: {reason}; run {RESUME}")
    return reason


def first_line(error: BaseException) -> str:
    """Return what an error says first."""
    return (str(error) or type(error).__name__).splitlines()[0]
