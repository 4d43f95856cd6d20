"""Tells the story of a rollback: the cutover with the sides exchanged.

Gates, a fence on every shard, drain of every shard's stream into the source, contested rows settled, rows counted,
sequences, seal, switch; then the source's own fence is lifted. Until the switch whatever fails is undone: the shards'
fences are opened and the phase goes back to SWITCHED. The shards stay sealed afterwards (pitfall 63).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Final

import psycopg

from fixia_shardmig.cutover.back_gates import rollback_gates
from fixia_shardmig.cutover.clients import move_clients, pause_clients, resume_clients
from fixia_shardmig.cutover.counts import Counting, Counts, count_rows
from fixia_shardmig.cutover.cutover import FENCE_SHARE, RESERVE_S_MAX, RESERVE_SHARE, WARM_S, new_owner
from fixia_shardmig.cutover.drain import write_marker
from fixia_shardmig.cutover.fence import (
    FenceKind,
    fence_state,
    lift_fence,
    open_at_once,
    open_fence,
    prepare_fence,
    raise_fence,
    seal_fence,
)
from fixia_shardmig.cutover.gates import Gate
from fixia_shardmig.cutover.pooler_gates import pooler_gates
from fixia_shardmig.cutover.result import CutoverOptions, CutoverResult, GatesClosedError, Hands
from fixia_shardmig.cutover.run import Run, count_budget_s, refuse_differing, refuse_late, undisturbed, undone_because
from fixia_shardmig.cutover.sequences import Given, apply_back, given_on_shard, plan_back
from fixia_shardmig.cutover.sides import Sides, open_sides
from fixia_shardmig.cutover.switch import first_line, switch
from fixia_shardmig.cutover.watchdog import watched
from fixia_shardmig.cutover.way_back import drop_way_back
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.way_back import SourceBooks, back_state
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import Connection, is_open, session

EVIDENCE: Final = "rollback"
"""The migration's evidence of the rollback under way: owner, fenced_at, marker_lsns, sequences_set."""

FINISHED: Final = "rollback_finished"
"""The routing epoch up to which everything behind the switch back is done."""

RESUME: Final = "shardmig rollback --resume"
POLL_S: Final = 0.001
LOOK_S: Final = 0.1
LIFT_S: Final = 2.0
REHEARSAL_SHARE: Final = 0.5


def rollback(shard_map: ShardMap, journal: Journal, *, options: CutoverOptions, hands: Hands) -> CutoverResult:
    """Move the writers back to the source with everything that was written since, or leave everything as it was.

    The tail of the way back must run meanwhile, in another thread or process. What a rollback that was killed left
    behind is undone first.

    Raises:
        GatesClosedError: Nothing was touched.
        RefusedError, StoppedError, TemporaryError: Undone, or said what is left: the message tells.
        HeldError: Another operator is at work.
    """
    with journal.holding("operator"), open_sides(shard_map) as sides:
        recover_rollback(shard_map, journal, sides)
        run = Run(shard_map, journal, sides, options, hands, owner=new_owner(journal), story=EVIDENCE)
        with watched(run) as watch:
            catalog = read_catalog(sides.source)
            gates = _pass_gates(run, catalog)
            if options.dry_run:
                return _rehearse(run, catalog, gates)
            if any(not gate.ok for gate in gates):
                raise GatesClosedError(gates)
            watch()
            with journal.hurrying(), undisturbed():
                counts, markers, epoch = _switch_or_take_back(run, catalog)
                unfinished = finish_rollback(run, epoch)
        return CutoverResult(
            switched=True,
            pause_ms=run.pause_ms,
            steps=tuple(run.steps),
            marker_lsn=markers[shard_map.journal_shard],
            gates=gates,
            routing_epoch=epoch,
            counted=counts.counted,
            uncounted=counts.uncounted,
            unfinished=unfinished,
        )


def resume_rollback(shard_map: ShardMap, journal: Journal, *, options: CutoverOptions, hands: Hands) -> CutoverResult:
    """Finish what follows a switch back, or undo what came before it; `switched` says which.

    Raises:
        RefusedError: There is nothing to resume.
        HeldError: Another run is still at work.
    """
    with journal.holding("operator"), open_sides(shard_map) as sides:
        migration = journal.get()
        evidence = dict(migration.evidence.get(EVIDENCE) or {})
        owner = str(evidence.get("owner") or journal.actor)
        run = Run(shard_map, journal, sides, options, hands, owner=owner, evidence=evidence, story=EVIDENCE)
        journal.event("rollback_resumed", phase=migration.phase.value, owner=owner)
        if migration.phase is Phase.ROLLED_BACK:
            unfinished = finish_rollback(run, migration.routing_epoch)
            return _resumed(run, switched=True, unfinished=unfinished, epoch=migration.routing_epoch)
        if not recover_rollback(shard_map, journal, sides):
            raise RefusedError(f"no rollback is under way in phase {migration.phase.value}", hint="shardmig rollback")
        hands.say("undone, the shards take writes again")
        return _resumed(run, switched=False, unfinished="its run was killed before the switch", epoch=None)


def _resumed(run: Run, *, switched: bool, unfinished: str, epoch: int | None) -> CutoverResult:
    return CutoverResult(
        switched=switched,
        pause_ms=run.pause_ms,
        steps=tuple(run.steps),
        routing_epoch=epoch,
        unfinished=unfinished,
    )


def recover_rollback(shard_map: ShardMap, journal: Journal, sides: Sides) -> bool:
    """Undo a rollback that was killed before its switch; returns whether there was one. Needs the operator's lock.

    Its proof ended with its process, so it is never finished from here: the shards were the writer, and are again.
    """
    migration = journal.get()
    if migration.phase is Phase.ROLLING_BACK:
        owner = str((migration.evidence.get(EVIDENCE) or {}).get("owner", ""))
        return take_shards_back(shard_map, journal, dict(sides.shards), owner=owner, reason="its run was killed")
    if migration.phase is not Phase.SWITCHED:
        return False
    resume_clients(shard_map, journal, story=EVIDENCE)
    found = sides.each_shard(lambda _, connection: fence_state(connection))
    left = {name: state for name, state in found.items() if state.kind is not FenceKind.NONE}
    for name, state in left.items():
        lift_fence(sides.shards[name], migration=shard_map.name, sealed=True, deadline=time.monotonic() + LIFT_S)
        journal.event("fence_lifted", shard=name, owner=state.owner, found=state.kind.value)
    return bool(left)


def take_shards_back(
    shard_map: ShardMap, journal: Journal, shards: dict[str, Connection], *, owner: str, reason: str
) -> bool:
    """Open an owner's fences on all shards and return to SWITCHED; False if the source is the writer already.

    The phase decides: the journal's row is locked before the first fence is touched, and commits after the last one is
    open. Uses new sessions where the old ones are lost. A shard that does not answer keeps no other one fenced.

    Raises:
        TemporaryError: A shard does not answer; its fence opens by itself unless it was sealed, the phase stays.
    """
    with ExitStack() as stack:
        if not is_open(journal.connection):
            journal = stack.enter_context(Journal(journal.url, journal.name, actor=journal.actor))
        with journal.connection.transaction():
            phase = journal.get().phase
            if phase is Phase.ROLLED_BACK:
                return False
            lost = _open_all(shard_map, shards, stack, owner=owner)
            if phase is Phase.ROLLING_BACK and not lost:
                journal.advance(Phase.ROLLING_BACK, Phase.SWITCHED, {EVIDENCE: None})
            place("rollback.before_undo_commit")
        place("rollback.undo_committed")
        resume_clients(shard_map, journal, story=EVIDENCE)
        left = [
            f"{name}: {table}"
            for name, connection in shards.items()
            if name not in lost
            for table in lift_fence(
                connection, migration=journal.name, owner=owner, sealed=True, deadline=time.monotonic() + LIFT_S
            )
        ]
        place("rollback.fences_lifted")
        journal.event(
            "rollback_undone", owner=owner, reason=reason, triggers_left_open=left, not_answering=sorted(lost)
        )
        if lost:
            raise TemporaryError("; ".join(f"{name} is not opened: {why}" for name, why in lost.items()), hint=RESUME)
    return True


def _open_all(shard_map: ShardMap, shards: dict[str, Connection], stack: ExitStack, *, owner: str) -> dict[str, str]:
    """Open the fences; returns the shards where that failed, and why."""
    lost: dict[str, str] = {}
    for name, connection in list(shards.items()):
        try:
            if not is_open(connection):
                shards[name] = stack.enter_context(session(shard_map.shards[name].url, "rollback undo"))
            open_fence(shards[name], migration=shard_map.name, owner=owner, sealed=True)
        except (ShardmigError, psycopg.Error) as error:
            lost[name] = first_line(error)
        place("rollback.shard_opened")
    return lost


def _pass_gates(run: Run, catalog: Catalog) -> tuple[Gate, ...]:
    with run.step("gates"):
        gates = rollback_gates(run.shard_map, run.journal, run.sides, catalog=catalog, limits=run.options.limits)
        gates += pooler_gates(run.sides, "back", max_pause_s=run.options.max_pause_s)
        if all(gate.ok for gate in gates if gate.name in {"phase", "way_back", "tail", "lag", "slots"}):
            gates = (*gates, _rehearsed_drain(run))
    run.event("gates", closed=[gate.name for gate in gates if not gate.ok])
    return gates


def _rehearsed_drain(run: Run) -> Gate:
    began = time.monotonic()
    try:
        _drain(run, began + run.options.max_pause_s * REHEARSAL_SHARE, settled=False)
    except RefusedError as error:
        return Gate("drain", ok=False, detail=error.message, hint="wait for the tail, or allow a longer --max-pause")
    return Gate("drain", ok=True, detail=f"rehearsed in {(time.monotonic() - began) * 1000:.0f} ms")


def _rehearse(run: Run, catalog: Catalog, gates: tuple[Gate, ...]) -> CutoverResult:
    """Do what the pause would consist of and harms nobody, and add up how long it took."""
    if any(not gate.ok for gate in gates):
        return CutoverResult(switched=False, pause_ms=0.0, steps=tuple(run.steps), gates=gates)
    run.began = time.monotonic()
    with run.step("drain"):
        markers = _drain(run, run.began + run.options.max_pause_s, settled=False)
    with run.step("check"):
        counts = count_rows(run.sides, run.shard_map, catalog, budget_s=run.options.count_budget_s)
    with run.step("sequences"):
        given = run.sides.each_shard(lambda _, connection: given_on_shard(connection, run.shard_map, catalog))
        plan_back(run.sides, run.shard_map, catalog, given.values())
    run.tell_rest()
    return CutoverResult(
        switched=False,
        pause_ms=run.pause_ms,
        steps=tuple(run.steps),
        marker_lsn=markers[run.shard_map.journal_shard],
        gates=gates,
        counted=counts.counted,
        uncounted=counts.uncounted,
    )


def _switch_or_take_back(run: Run, catalog: Catalog) -> tuple[Counts, dict[str, LSN], int]:
    try:
        _prepare(run, catalog)
        counts, markers = _prove(run, catalog)
        with run.step("switch"):
            epoch = switch(run, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    except BaseException as error:
        explained = _undone(run, error)
        if explained is error:
            raise
        raise explained from error
    return counts, markers, epoch


def _prepare(run: Run, catalog: Catalog) -> None:
    """Do before the pause what the pause would else consist of: triggers that refuse nothing yet, plans, caches."""
    counting = Counting(run.shard_map, catalog)

    def on_shard(name: str, connection: Connection) -> None:
        tables = run.shard_map.written_on(name)
        prepare_fence(connection, tables, migration=run.shard_map.name, owner=run.owner)
        place("rollback.fence_prepared")
        _look_at_shard(name, connection, counting, budget_s=WARM_S)

    with run.step("prepare"):
        run.sides.each_shard(on_shard)
        counting.on_source(run.sides.source, budget_s=WARM_S)
        fence_state(run.sides.source)


def _prove(run: Run, catalog: Catalog) -> tuple[Counts, dict[str, LSN]]:
    """Poolers' PAUSE, fences, drain, check, sequences, seals.

    What the shards alone can say is asked for while the source is waited for: nobody writes to them since the fences.
    """
    run.began = time.monotonic()
    deadline = run.began + run.options.max_pause_s
    pause_clients(run)
    with run.step("fence"):
        _fence(run, run.began + run.options.max_pause_s * FENCE_SHARE)
    counting = Counting(run.shard_map, catalog)
    with ExitStack() as beside:
        with run.step("drain"):
            markers = _write_markers(run)
            budget_s = count_budget_s(run, deadline)
            shards = beside.enter_context(
                run.sides.beside_shards(lambda n, c: _look_at_shard(n, c, counting, budget_s=budget_s))
            )
            reserve_s = min(RESERVE_S_MAX, run.options.max_pause_s * RESERVE_SHARE)
            _wait_applied(run, markers, deadline - reserve_s, settled=True)
            run.keep(marker_lsns={name: str(lsn) for name, lsn in markers.items()})
        place("rollback.drained")
        if run.hands.on_drained is not None:
            with run.step("on_drained"):
                run.hands.on_drained()
        refuse_late(run, deadline)
        with run.step("check"):
            rows = counting.on_source(run.sides.source, budget_s=count_budget_s(run, deadline))
            found = shards()
            counts = refuse_differing(counting.compare(rows, {name: counted for name, (counted, _) in found.items()}))
            _refuse_missed(run)
    refuse_late(run, deadline)
    with run.step("sequences"):
        given = [given for _, given in found.values()]
        apply_back(run.sides.source, plan_back(run.sides, run.shard_map, catalog, given))
        place("rollback.sequences_set")
        run.keep(sequences_set=True)
    refuse_late(run, deadline)
    with run.step("seal"):
        _seal(run, deadline)
    refuse_late(run, deadline)
    return counts, markers


def _look_at_shard(
    name: str, connection: Connection, counting: Counting, *, budget_s: float
) -> tuple[dict[TableName, int], Given]:
    """Return a shard's rows, and how far its sequences are."""
    rows = counting.on_shard(name, connection, budget_s=budget_s)
    return rows, given_on_shard(connection, counting.shard_map, counting.catalog)


def _fence(run: Run, deadline: float) -> None:
    """Raise every shard's fence at once, then say so in the journal."""
    options = run.options

    def on_shard(name: str, connection: Connection) -> None:
        raise_fence(
            connection,
            run.shard_map.written_on(name),
            migration=run.shard_map.name,
            owner=run.owner,
            expires_in_s=options.max_pause_s + options.expiry_margin_s,
            lock_timeout_s=options.lock_timeout_s,
            deadline=deadline,
            back=True,
        )
        place("rollback.shard_fenced")

    run.sides.each_shard(on_shard)
    place("rollback.fenced")
    run.evidence = {"owner": run.owner, "fenced_at": datetime.now(UTC).isoformat()}
    run.journal.advance(Phase.SWITCHED, Phase.ROLLING_BACK, {EVIDENCE: run.evidence})


def _seal(run: Run, deadline: float) -> None:
    def on_shard(_: str, connection: Connection) -> None:
        seal_fence(
            connection,
            migration=run.shard_map.name,
            owner=run.owner,
            lock_timeout_s=run.options.lock_timeout_s,
            deadline=deadline,
        )
        place("rollback.shard_sealed")

    run.sides.each_shard(on_shard)
    place("rollback.sealed")


def _drain(run: Run, deadline: float, *, settled: bool) -> dict[str, LSN]:
    markers = _write_markers(run)
    _wait_applied(run, markers, deadline, settled=settled)
    return markers


def _write_markers(run: Run) -> dict[str, LSN]:
    content = f"drain {run.owner}".encode()
    return run.sides.each_shard(lambda _, connection: write_marker(connection, content).begins_at)


def _wait_applied(run: Run, markers: Mapping[str, LSN], deadline: float, *, settled: bool) -> None:
    """Wait until the source has everything from before a marker on every shard, and no row is contested any more."""
    books = SourceBooks(run.sides.source)
    looked = time.monotonic()
    while True:
        positions, contested = books.standing()
        late = [name for name, lsn in markers.items() if (found := positions.get(name)) is None or found < lsn]
        if not late and not (settled and contested):
            return
        refuse_late(run, deadline, f"waiting for {', '.join(late) or 'contested rows'} on the source")
        if time.monotonic() - looked >= LOOK_S:
            looked = time.monotonic()
            _refuse_stopped_tail(run)
        time.sleep(POLL_S)


def _refuse_stopped_tail(run: Run) -> None:
    state = back_state(run.journal)
    if state is not None and (state.stopped_by or state.blocked_by):
        raise RefusedError(
            f"the tail of the way back {'has stopped' if state.stopped_by else 'waits'}:"
            f" {state.stopped_by or state.blocked_by}",
            hint="shardmig tail says why",
        )


def _refuse_missed(run: Run) -> None:
    state = back_state(run.journal)
    if state is not None and state.missed:
        raise RefusedError(
            f"{state.missed} changes of the shards hit no row on the source", hint="somebody else writes to the source"
        )


def _undone(run: Run, error: BaseException) -> BaseException:
    with suppress(psycopg.Error):
        run.tell_rest()
    try:
        undone = take_shards_back(
            run.shard_map, run.journal, dict(run.sides.shards), owner=run.owner, reason=first_line(error)
        )
    except (ShardmigError, psycopg.Error) as failure:
        return TemporaryError(
            f"{first_line(error)}; and lifting the shards' fences failed: {first_line(failure)}; unless they were"
            " sealed they open by themselves",
            hint=RESUME,
        )
    if not undone:
        return TemporaryError(
            "the switch back was committed, its answer was lost: the source is the writer", hint=RESUME
        )
    return undone_because(error, run, "the fences are lifted, the shards take writes")


def finish_rollback(run: Run, epoch: int) -> str:
    """Do what follows the switch back, as often as asked; returns what is still to do, or nothing.

    The source takes writes as soon as its fence is open; then the hooks; its triggers and the way back are taken down
    last, when nobody waits any more.
    """
    doing = "opening the source"
    try:
        with run.step("open"):
            name = run.shard_map.name
            open_at_once(run.sides.source, migration=name)
            place("rollback.source_open")
            if run.hands.on_open is not None:
                run.hands.on_open()
        doing = "leading the clients back"
        if failure := move_clients(run, "back", epoch):
            return _unfinished(run, epoch, failure)
        place("rollback.clients_moved")
        doing = "taking the way back down"
        with run.step("way_back"):
            lift_fence(run.sides.source, migration=name, sealed=True, deadline=time.monotonic() + LIFT_S)
            place("rollback.source_lifted")
            drop_way_back(run.sides, run.shard_map)
        place("rollback.way_back_dropped")
        run.journal.add_evidence({FINISHED: epoch})
        place("rollback.finished")
        run.event("finished", epoch=epoch)
    except (ShardmigError, psycopg.Error) as error:
        return _unfinished(run, epoch, f"{doing}: {first_line(error)}")
    return ""


def _unfinished(run: Run, epoch: int, reason: str) -> str:
    run.hands.say(f"switched back, but not finished: {reason}; run {RESUME}")
    try:
        run.event("unfinished", epoch=epoch, reason=reason)
    except psycopg.Error:
        return reason  # the journal itself is what is away; the switch stands, and is said
    return reason
