"""What has to hold before a rollback makes anybody wait. Like the cutover's gates: one look each, all of them asked.

`rollback_possible` is the short form of them that `status` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, LiteralString

from fixia_shardmig.cutover.fence import FenceKind, fence_state
from fixia_shardmig.cutover.gates import (
    Gate,
    Limits,
    hooks_runnable,
    may_fence,
    no_long_transactions,
    no_prepared_transactions,
)
from fixia_shardmig.cutover.run import EVIDENCE
from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.cutover.switch import FINISHED
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Migration
from fixia_shardmig.journal.way_back import BackState, back_state
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import Connection
from fixia_shardmig.postgres.slots import SlotState, slot_state

CONTESTED_MAX: Final = 50_000
"""So many contested rows are read from the shards again within a pause of a few seconds."""

_TABLES: LiteralString = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p' AND n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', 'shardmig')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
"""


def rollback_gates(
    shard_map: ShardMap, journal: Journal, sides: Sides, *, catalog: Catalog, limits: Limits
) -> tuple[Gate, ...]:
    """Ask every gate."""
    migration, state = journal.get(), back_state(journal)
    slots = sides.each_shard(lambda name, connection: slot_state(connection, shard_map.back_name(name)))
    return (
        phase_allows(migration),
        way_back_there(migration),
        tail_runs(state, limits),
        lag_is_small(state, limits),
        nothing_missed(state),
        few_contested(state),
        slots_are_healthy(slots),
        source_is_sealed(sides.source, shard_map),
        no_new_tables(sides, catalog),
        _each(sides, lambda n, c: may_fence(c, catalog, shard_map.written_on(n))),
        _each(sides, lambda _, c: no_prepared_transactions(c)),
        _each(sides, lambda n, c: no_long_transactions(c, shard_map.written_on(n), limits)),
        hooks_runnable(shard_map),
    )


def rollback_possible(
    migration: Migration, state: BackState | None, slots: dict[str, SlotState | None]
) -> tuple[bool, str]:
    """Return whether a rollback could bring every write back, and why not."""
    if migration.phase is not Phase.SWITCHED:
        return False, f"phase {migration.phase.value}"
    gates = (way_back_there(migration), nothing_missed(state), slots_are_healthy(slots, active=False))
    closed = [gate.detail for gate in gates if not gate.ok]
    if state is not None and state.blocked_by:
        closed.append(state.blocked_by)
    return not closed, "; ".join(closed)


def phase_allows(migration: Migration) -> Gate:
    """The shards have the writes, and the cutover is finished."""
    if migration.phase is not Phase.SWITCHED:
        hint = "shardmig rollback --resume" if migration.phase is Phase.ROLLING_BACK else "shardmig status"
        return Gate("phase", ok=False, detail=f"phase {migration.phase.value}", hint=hint)
    finished = migration.evidence.get(FINISHED) == migration.routing_epoch
    detail = "switched" if finished else "the cutover is not finished"
    return Gate("phase", finished, detail, "" if finished else "shardmig cutover --resume")


def is_prepared(migration: Migration) -> bool:
    """Whether the cutover prepared a way back."""
    return bool((migration.evidence.get(EVIDENCE) or {}).get("way_back"))


def way_back_there(migration: Migration) -> Gate:
    """The cutover prepared a way back."""
    ok = is_prepared(migration)
    detail = "prepared at the cutover" if ok else "the cutover was made without a way back"
    return Gate("way_back", ok, detail, "" if ok else "restore the source from a backup; nothing brings writes back")


def tail_runs(state: BackState | None, limits: Limits) -> Gate:
    """The tail of the way back is alive and waits behind no conflict."""
    if state is None:
        return Gate("tail", ok=False, detail="it has never run", hint="shardmig tail")
    if state.stopped_by or state.blocked_by:
        return Gate("tail", ok=False, detail=state.stopped_by or state.blocked_by, hint="shardmig tail")
    ok = state.age_s <= limits.tail_age_s_max
    return Gate("tail", ok, f"last heard of {state.age_s:.1f} s ago", "" if ok else "shardmig tail")


def lag_is_small(state: BackState | None, limits: Limits) -> Gate:
    """Little is left to bring back; the rehearsed drain says how long that takes."""
    if state is None:
        return Gate("lag", ok=False, detail="unknown", hint="shardmig tail")
    shard, lag_bytes = max(state.lag_bytes.items(), key=lambda pair: pair[1], default=("", 0))
    ok = lag_bytes <= limits.lag_bytes_max
    detail = f"{lag_bytes} bytes{f' of {shard}' if shard else ''}, limit {limits.lag_bytes_max}"
    return Gate("lag", ok, detail, "" if ok else "wait for the tail: shardmig tail --until caught-up")


def nothing_missed(state: BackState | None) -> Gate:
    """No change of a shard hit a row that was not there: somebody else would have written to the source."""
    missed = state.missed if state else 0
    hint = "shardmig verify names what differs; end shardmig tail and start it again once it is mended"
    return Gate("missed", missed == 0, f"{missed} changes hit no row", hint if missed else "")


def few_contested(state: BackState | None) -> Gate:
    """Few rows have to be read again from the shards within the pause (67)."""
    contested = state.contested if state else 0
    ok = contested <= CONTESTED_MAX
    return Gate("contested", ok, f"{contested} rows, limit {CONTESTED_MAX}", "" if ok else "wait for the tail")


def slots_are_healthy(slots: dict[str, SlotState | None], *, active: bool = True) -> Gate:
    """Every shard's slot is read from and has all that is still to come."""
    reasons = []
    for name, slot in slots.items():
        if slot is None:
            reasons.append(f"the slot of {name} is not there")
        elif slot.wal_status not in {"reserved", "extended"}:
            reasons.append(f"the slot of {name} is {slot.wal_status}")
        elif active and not slot.active:
            reasons.append(f"the slot of {name} is not read from")
    return Gate("slots", not reasons, "; ".join(reasons) or "all reserved", "shardmig tail" if reasons else "")


def source_is_sealed(source: Connection, shard_map: ShardMap) -> Gate:
    """The source takes nobody's writes but the way back's."""
    state = fence_state(source)
    ok = state.kind is FenceKind.SEALED and state.migration == shard_map.name and not state.gaps
    detail = f"the source's fence is {state.kind.value}" + (f", with gaps: {state.gaps[0]}" if state.gaps else "")
    return Gate("source_fence", ok, detail, "" if ok else "shardmig verify; what was written there since is not known")


def no_new_tables(sides: Sides, catalog: Catalog) -> Gate:
    """No table was made on a shard since: its rows would stay behind."""
    found = sides.each_shard(lambda _, c: {TableName(*row) for row in c.execute(_TABLES).fetchall()})
    new = [f"{name}: {table}" for name, tables in found.items() for table in sorted(tables - catalog.tables.keys())]
    hint = "create it on the source and bring its rows over by hand, or drop it on the shard" if new else ""
    return Gate("new_tables", not new, ", ".join(new) or "none", hint)


def _each(sides: Sides, ask: Callable[[str, Connection], Gate]) -> Gate:
    """Ask a gate of every shard; it is open if it is on all of them."""
    gates = sides.each_shard(ask)
    closed = {name: gate for name, gate in gates.items() if not gate.ok}
    shown = closed or gates
    details = dict.fromkeys(gate.detail for gate in shown.values())
    detail = "; ".join(f"{name}: {gate.detail}" for name, gate in closed.items()) or "; ".join(details)
    first = next(iter(shown.values()))
    hint = first.hint.replace("on the source", "on that shard").replace("source.url", "the shard's url")
    return Gate(first.name, not closed, detail, hint)
