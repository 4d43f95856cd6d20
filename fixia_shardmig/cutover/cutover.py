"""Tells the story of a cutover: gates, fence, drain, check, sequences, seal, switch, then enable and hook.

Until the switch whatever fails is undone, by a deadline too, and there is no way to go on anyway (pitfall 72). What was
killed in between is found by `recover`. The source's fence stays up after the switch (63).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Self

import psycopg

from fixia_shardmig.cutover.clients import pause_clients
from fixia_shardmig.cutover.counts import Counting, Counts, count_rows
from fixia_shardmig.cutover.drain import Drained, Marker, wait_applied, write_marker
from fixia_shardmig.cutover.fence import prepare_fence, raise_fence, seal_fence
from fixia_shardmig.cutover.gates import CONFLICTING, Gate, all_gates, take_look
from fixia_shardmig.cutover.pooler_gates import pooler_gates
from fixia_shardmig.cutover.recover import Recovery, recover_unfinished
from fixia_shardmig.cutover.result import CutoverOptions, CutoverResult, GatesClosedError, Hands
from fixia_shardmig.cutover.run import (
    EVIDENCE,
    Run,
    count_budget_s,
    refuse_differing,
    refuse_late,
    undisturbed,
    undone_because,
)
from fixia_shardmig.cutover.sequences import (
    Looking,
    Observed,
    Seen,
    SequencePlan,
    observe_sequences,
    plan_sequences,
    record_increments,
    set_sequences,
)
from fixia_shardmig.cutover.sides import open_sides
from fixia_shardmig.cutover.switch import RESUME, finish, first_line, switch, take_back
from fixia_shardmig.cutover.watchdog import watched
from fixia_shardmig.cutover.way_back import BACK_SLOTS, begin_way_back, forget_slots, make_slots
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import DriftError, RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.catalog import read_catalog, read_fingerprint
from fixia_shardmig.postgres.sessions import Connection
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.tail.tail import MARKER_PREFIX

FENCE_SHARE: Final = 0.5
"""How much of `max_pause` the fence's locks may take; the drain has the rest but for the reserve."""

RESERVE_SHARE: Final = 0.2
RESERVE_S_MAX: Final = 1.0
"""What the drain leaves of `max_pause` for the steps behind it."""

REHEARSAL_SHARE: Final = 0.5
"""A rehearsed drain that takes more of `max_pause` than this closes the gate."""

STATE_POLL_S: Final = 0.002

WARM_S: Final = 0.2
"""How long rows are counted before the pause, where nobody waits: plans are made, and what is read is at hand."""

SLOTS_S_MAX: Final = 30.0
"""How long the slots of the way back may take: they wait for every transaction that is open on the shards' servers."""


@dataclass(frozen=True, slots=True)
class _Proven:
    """What the steps before the switch found."""

    drained: Drained
    counts: Counts


_Seen = tuple[Mapping[TableName, int], Seen]
"""A place's rows by table, and what it says of sequences."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What is looked at on every place: its rows, within a time, and its sequences."""

    counting: Counting
    looking: Looking
    budget_s: float

    @classmethod
    def of(cls, shard_map: ShardMap, catalog: Catalog, *, budget_s: float) -> Self:
        return cls(Counting(shard_map, catalog), Looking.of(shard_map, catalog), budget_s)

    def on_source(self, connection: Connection) -> _Seen:
        return self.counting.on_source(connection, budget_s=self.budget_s), self.looking.on_source(connection)

    def on_shard(self, name: str, connection: Connection) -> _Seen:
        rows = self.counting.on_shard(name, connection, budget_s=self.budget_s)
        return rows, self.looking.on_shard(name, connection)

    def compare(self, source: Future[_Seen], shards: Mapping[str, _Seen]) -> tuple[Counts, Observed]:
        """Hold the rows of both sides against each other."""
        rows, seen = source.result()
        counts = refuse_differing(self.counting.compare(rows, {name: found for name, (found, _) in shards.items()}))
        return counts, self.looking.together(seen, {name: found for name, (_, found) in shards.items()})


def cutover(shard_map: ShardMap, journal: Journal, *, options: CutoverOptions, hands: Hands) -> CutoverResult:
    """Move the writers to the shards, or leave everything as it was.

    The tail must run meanwhile, in another thread or process. A fence that a killed run left behind is lifted first,
    by a dry run too.

    Raises:
        GatesClosedError: Nothing was touched.
        RefusedError, StoppedError, TemporaryError: Undone, or said what is left: the message tells.
        HeldError: Another operator is at work.
    """
    with journal.holding("operator"), open_sides(shard_map) as sides:
        if recover_unfinished(shard_map, journal, sides.source) is Recovery.SEALED:
            raise RefusedError("a cutover was killed at its switch and has to be decided first", hint=RESUME)
        run = Run(shard_map, journal, sides, options, hands, owner=new_owner(journal))
        with watched(run) as watch:
            catalog = read_catalog(sides.source)
            gates = _pass_gates(run, catalog)
            if options.dry_run:
                return _rehearse(run, catalog, gates)
            if any(not gate.ok for gate in gates):
                raise GatesClosedError(gates)
            watch()
            with journal.hurrying(), undisturbed():
                _make_slots(run)
                proven, epoch = _switch_or_take_back(run, catalog)
                unfinished = finish(run, epoch)
        return CutoverResult(
            switched=True,
            pause_ms=run.pause_ms,
            steps=tuple(run.steps),
            marker_lsn=proven.drained.marker.ends_at,
            gates=gates,
            routing_epoch=epoch,
            counted=proven.counts.counted,
            uncounted=proven.counts.uncounted,
            unfinished=unfinished,
        )


def new_owner(journal: Journal) -> str:
    """Return a name for one run that no other run has."""
    return f"{journal.actor} pid {os.getpid()} {secrets.token_hex(4)}"


def _pass_gates(run: Run, catalog: Catalog) -> tuple[Gate, ...]:
    """Ask every gate, the rehearsed drain last, and only if the tail runs at all."""
    with run.step("gates"):
        look = take_look(run.shard_map, run.journal, run.sides, catalog)
        gates = all_gates(look, run.sides, run.options.limits, way_back=run.options.way_back)
        gates += pooler_gates(run.sides, "forward", max_pause_s=run.options.max_pause_s)
        if all(gate.ok for gate in gates if gate.name in {"phase", "tail", "lag", "slot"}):
            gates = (*gates, _rehearsed_drain(run))
    run.event("gates", closed=[gate.name for gate in gates if not gate.ok])
    return gates


def _rehearsed_drain(run: Run) -> Gate:
    """Drain without a fence: how long a marker takes from the source through the tail to every shard.

    One marker more goes ahead, as the fence's own commit does: on an idle source a tail that has died would else stand
    at the marker already.
    """
    emit_marker(run.sides.source, MARKER_PREFIX, b"rehearsal")
    began = time.monotonic()
    limit_s = run.options.max_pause_s * REHEARSAL_SHARE
    try:
        _drain(run, began + limit_s)
    except RefusedError as error:
        return Gate("drain", ok=False, detail=error.message, hint="wait for the tail, or allow a longer --max-pause")
    ms = (time.monotonic() - began) * 1000
    return Gate("drain", ok=True, detail=f"rehearsed in {ms:.0f} ms")


def _rehearse(run: Run, catalog: Catalog, gates: tuple[Gate, ...]) -> CutoverResult:
    """Do what the pause would consist of and harms nobody, and add up how long it took."""
    if any(not gate.ok for gate in gates):
        return CutoverResult(switched=False, pause_ms=0.0, steps=tuple(run.steps), gates=gates)
    run.began = time.monotonic()
    with run.step("drain"):
        drained = _drain(run, run.began + run.options.max_pause_s)
    with run.step("check"):
        counts = count_rows(run.sides, run.shard_map, catalog, budget_s=run.options.count_budget_s)
    with run.step("sequences"):
        observe_sequences(run.sides, run.shard_map, catalog)
    run.tell_rest()
    return CutoverResult(
        switched=False,
        pause_ms=run.pause_ms,
        steps=tuple(run.steps),
        marker_lsn=drained.marker.ends_at,
        gates=gates,
        counted=counts.counted,
        uncounted=counts.uncounted,
    )


def _switch_or_take_back(run: Run, catalog: Catalog) -> tuple[_Proven, int]:
    try:
        _prepare(run, catalog)
        proven = _prove(run, catalog)
        with run.step("switch"):
            epoch = switch(run)
    except BaseException as error:
        explained = _undone(run, error)
        if explained is error:
            raise
        raise explained from error
    return proven, epoch


def _prepare(run: Run, catalog: Catalog) -> None:
    """Do before the pause what the pause would else consist of: triggers that refuse nothing yet, plans, caches."""
    moved, look = run.shard_map.moved(), _Look.of(run.shard_map, catalog, budget_s=WARM_S)
    with run.step("prepare"):
        prepare_fence(run.sides.source, moved, migration=run.shard_map.name, owner=run.owner)
        place("cutover.fence_prepared")
        run.sides.source_and_each(look.on_source, look.on_shard)
        read_fingerprint(run.sides.source, moved, timeout_s=run.options.max_pause_s)


def _prove(run: Run, catalog: Catalog) -> _Proven:
    """Poolers' PAUSE, fence, drain, check, sequences, the way back (pitfall 65), seal.

    What the source alone can say is asked for while the shards are waited for: nobody writes to it since the fence.
    """
    run.began = time.monotonic()
    deadline = run.began + run.options.max_pause_s
    pause_clients(run)
    with run.step("fence"):
        _fence(run, run.began + run.options.max_pause_s * FENCE_SHARE)
    look = _Look.of(run.shard_map, catalog, budget_s=count_budget_s(run, deadline))
    with ExitStack() as beside:
        with run.step("drain"):
            marker = _write_marker(run)
            source = beside.enter_context(run.sides.beside(look.on_source))
            reserve_s = min(RESERVE_S_MAX, run.options.max_pause_s * RESERVE_SHARE)
            drained = _wait_applied(run, marker, deadline - reserve_s)
            run.keep(drained_lsn=str(marker.begins_at), marker_lsn=str(marker.ends_at))
        place("cutover.drained")
        if run.hands.on_drained is not None:
            with run.step("on_drained"):
                run.hands.on_drained()
        refuse_late(run, deadline)
        with run.step("check"):
            fingerprint = beside.enter_context(run.sides.beside(lambda c: _fingerprint(run, c, source, deadline)))
            look = replace(look, budget_s=count_budget_s(run, deadline))
            counts, observed = look.compare(source, run.sides.each_shard(look.on_shard))
            _refuse_conflicts(run, marker.begins_at, deadline)
        refuse_late(run, deadline)
        with run.step("sequences"):
            begins = _set_sequences(run, plan_sequences(run.shard_map, catalog, observed))
        _refuse_drift(run, catalog, fingerprint.result())
    refuse_late(run, deadline)
    _keep_way_back_and_seal(run, begins, deadline)
    return _Proven(drained, counts)


def _keep_way_back_and_seal(run: Run, begins: Mapping[str, LSN], deadline: float) -> None:
    if run.options.way_back:
        with run.step("way_back"):
            begin_way_back(run.sides, run.shard_map, begins, deadline=deadline)
            run.keep(way_back=True)
        place("cutover.way_back_kept")
        refuse_late(run, deadline)
    with run.step("seal"):
        seal_fence(
            run.sides.source,
            migration=run.shard_map.name,
            owner=run.owner,
            lock_timeout_s=run.options.lock_timeout_s,
            deadline=deadline,
        )
    place("cutover.sealed")
    refuse_late(run, deadline)


def _fingerprint(run: Run, connection: Connection, source: Future[_Seen], deadline: float) -> str:
    """Return the source's definitions' fingerprint, read when its session is free again."""
    wait([source])
    timeout_s = max(0.001, deadline - time.monotonic())
    return read_fingerprint(connection, run.shard_map.moved(), timeout_s=timeout_s)


def _refuse_drift(run: Run, catalog: Catalog, fingerprint: str) -> None:
    if fingerprint != catalog.fingerprint(run.shard_map.moved()):
        raise DriftError("a moved table's definition changed since the gates", hint="shardmig schema diff")


def _make_slots(run: Run) -> None:
    """Make the slots of the way back while nobody waits; what fails here leaves none."""
    if not run.options.way_back:
        return
    run.journal.add_evidence({BACK_SLOTS: run.owner})
    try:
        with run.step("slots"):
            make_slots(run.sides, run.shard_map, deadline=time.monotonic() + SLOTS_S_MAX)
    except BaseException:
        forget_slots(run.shard_map, run.journal)
        raise


def _fence(run: Run, deadline: float) -> None:
    """Raise the fence, then say so: a fence the journal does not know of expires, the other way round would lie."""
    phase = run.journal.get().phase
    state = raise_fence(
        run.sides.source,
        run.shard_map.moved(),
        migration=run.shard_map.name,
        owner=run.owner,
        expires_in_s=run.options.max_pause_s + run.options.expiry_margin_s,
        lock_timeout_s=run.options.lock_timeout_s,
        deadline=deadline,
    )
    place("cutover.fenced")
    run.evidence = {
        "owner": run.owner,
        "expires_at": state.expires_at.isoformat() if state.expires_at else None,
        "fenced_at": datetime.now(UTC).isoformat(),
    }
    run.journal.advance(phase, Phase.FENCED, {EVIDENCE: run.evidence})


def _drain(run: Run, deadline: float) -> Drained:
    return _wait_applied(run, _write_marker(run), deadline)


def _write_marker(run: Run) -> Marker:
    return write_marker(run.sides.source, f"drain {run.owner}".encode())


def _wait_applied(run: Run, marker: Marker, deadline: float) -> Drained:
    return wait_applied(run.sides, marker, journal=run.journal, deadline=deadline, stop=run.hands.stop)


def _refuse_conflicts(run: Run, drained_lsn: LSN, deadline: float) -> None:
    conflicts = _conflicts(run, drained_lsn, deadline)
    if conflicts:
        raise RefusedError(f"the tail counted {conflicts} conflicts", hint=CONFLICTING)


def _conflicts(run: Run, drained_lsn: LSN, deadline: float) -> int:
    """Return the tail's count as of the drain: from its own mouth, or from the first state it publishes past it."""
    if run.hands.conflicts is not None:
        return run.hands.conflicts()
    while True:
        state = run.journal.tail_state()
        if state is not None and state.applied_lsn >= drained_lsn:
            return state.conflicts
        refuse_late(run, deadline, "waiting for the tail to say whether it saw conflicts")
        time.sleep(STATE_POLL_S)


def _set_sequences(run: Run, plans: tuple[SequencePlan, ...]) -> dict[str, LSN]:
    """Record, set, and make the last commits of the shards durable.

    The tail may commit on the shards without waiting for their disks; a marker's commit waits for all before it.

    Returns:
        By shard, where its marker ends.
    """
    _refuse_refused(plans)
    record_increments(run.journal, plans)

    def on_shard(name: str, connection: Connection) -> LSN:
        set_sequences(name, connection, plans)
        return emit_marker(connection, MARKER_PREFIX, b"durable")

    begins = run.sides.each_shard(on_shard)
    place("cutover.sequences_set")
    run.keep(sequences_set=True)
    place("cutover.sequences_kept")
    return begins


def _refuse_refused(plans: tuple[SequencePlan, ...]) -> None:
    refused = [f"{plan.name}: {reason}" for plan in plans for reason in plan.refusals]
    if refused:
        raise RefusedError(f"sequences cannot go on: {'; '.join(refused)}", hint="shardmig cutover --dry-run")


def _undone(run: Run, error: BaseException) -> BaseException:
    """Take everything back and return the error that says so; a signal's own error is returned as it is."""
    with suppress(psycopg.Error):
        run.tell_rest()
    try:
        undone = take_back(run.shard_map, run.journal, run.sides.source, owner=run.owner, reason=first_line(error))
    except (ShardmigError, psycopg.Error) as failure:
        reason = str(failure).splitlines()[0]
        until = run.evidence.get("expires_at") or "its expiry"
        return TemporaryError(
            f"{first_line(error)}; and lifting the fence failed: {reason}; unless it was sealed it opens at {until}",
            hint=RESUME,
        )
    if not undone:
        return TemporaryError("the switch was committed, its answer was lost: the shards are the writer", hint=RESUME)
    return undone_because(error, run, "the fence is lifted, the source takes writes")
