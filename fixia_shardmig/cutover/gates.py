"""What has to hold before anybody is made to wait. Each gate is one look; none of them changes anything.

A gate that is closed refuses the cutover. One only informs (`other_writers`): it is always ok. Each
says in `hint` what opens it. `all_gates` asks them all, so that an operator sees every reason at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

from fixia_shardmig.cutover.fence import FenceState, fence_state
from fixia_shardmig.cutover.fence_locks import lock_holders, prepared_transactions
from fixia_shardmig.cutover.hooks import hook_program
from fixia_shardmig.cutover.sequences import SequencePlan, observe_sequences, plan_sequences
from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.cutover.way_back import rehearse_subscription
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Migration, TailState
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import Connection, insert_lsn, scalar
from fixia_shardmig.postgres.slots import BlockingTransaction, SlotState, slot_state

VERIFIED_AGE_S_MAX: Final = 24 * 3600.0
TAIL_AGE_S_MAX: Final = 5.0
"""The tail tells its state once a second; five times that is a tail that hangs or is gone."""

LAG_BYTES_MAX: Final = 16 * 1024 * 1024
TRANSACTION_AGE_S_MAX: Final = 5.0
SHOWN_MAX: Final = 5
MINUTES_FROM_S: Final = 120
SCHEMA_DONE: Final = "done"

DIFFERING: Final = "mend on the shards what shardmig verify names, or: shardmig abort --drop-targets, and begin again"
CONFLICTING: Final = "shardmig verify; when it finds both sides equal, end shardmig tail and start it again"
"""A tail counts from its own start, so a new one begins at none."""

CUTOVER_PHASES: Final = frozenset({Phase.TAILING, Phase.VERIFIED})

_WRITING: LiteralString = """
SELECT pid, '', coalesce(application_name, ''), coalesce(usename, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::float8, query_start
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
ORDER BY 5 DESC
"""

_SESSIONS: LiteralString = """
SELECT coalesce(nullif(application_name, ''), 'no application name'), coalesce(usename, '?'), count(*)
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND application_name NOT LIKE 'shardmig %'
  AND pid <> pg_catalog.pg_backend_pid()
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""

_SUBSCRIBED: LiteralString = """
SELECT DISTINCT s.subname, n.nspname, c.relname FROM pg_catalog.pg_subscription s
JOIN pg_catalog.pg_subscription_rel r ON r.srsubid = s.oid
JOIN pg_catalog.pg_class c ON c.oid = r.srrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE s.subenabled AND s.subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
ORDER BY 1, 2, 3
"""

_NOT_OURS: LiteralString = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE') ORDER BY 1, 2
"""

_MAY_CREATE: LiteralString = "SELECT pg_catalog.has_database_privilege(current_database(), 'CREATE')"

_READ_ONLY: LiteralString = """
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'it is a standby'
            WHEN current_setting('transaction_read_only')::bool THEN 'default_transaction_read_only is on' END
"""

_SLOT_ROOM: LiteralString = """
SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()),
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int,
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int,
       (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE starts_with(slot_name, %(ours)s))::int,
       CASE WHEN current_setting('wal_level') <> 'logical'
            THEN 'wal_level is ' || current_setting('wal_level') || ', a slot needs logical' END,
       CASE WHEN NOT (rolsuper OR rolreplication) THEN 'role ' || rolname || ' may not make slots' END,
       CASE WHEN NOT pg_catalog.has_database_privilege(current_database(), 'CREATE')
            THEN 'role ' || rolname || ' may not make a publication' END
FROM pg_catalog.pg_roles WHERE rolname = current_user
"""


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition: whether it holds, what was found, and what opens it."""

    name: str
    ok: bool
    detail: str
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the contract's gate."""
        return {"gate": self.name, "ok": self.ok, "detail": self.detail, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gates hold their findings against."""

    verified_age_s_max: float = VERIFIED_AGE_S_MAX
    tail_age_s_max: float = TAIL_AGE_S_MAX
    lag_bytes_max: int = LAG_BYTES_MAX
    transaction_age_s_max: float = TRANSACTION_AGE_S_MAX


@dataclass(frozen=True, slots=True)
class Look:
    """What was read before the gates decide; `catalog` is the source's as it is now."""

    shard_map: ShardMap
    catalog: Catalog
    migration: Migration
    tail: TailState | None
    slot: SlotState | None
    fence: FenceState
    source_lsn: LSN
    sequences: tuple[SequencePlan, ...]


def take_look(shard_map: ShardMap, journal: Journal, sides: Sides, catalog: Catalog) -> Look:
    """Read what the gates decide on."""
    migration = journal.get()
    return Look(
        shard_map=shard_map,
        catalog=catalog,
        migration=migration,
        tail=journal.tail_state(),
        slot=slot_state(sides.source, migration.slot),
        fence=fence_state(sides.source),
        source_lsn=insert_lsn(sides.source),
        sequences=plan_sequences(shard_map, catalog, observe_sequences(sides, shard_map, catalog)),
    )


def all_gates(look: Look, sides: Sides, limits: Limits, *, way_back: bool = True) -> tuple[Gate, ...]:
    """Ask every gate."""
    moved = look.shard_map.moved()
    return (
        phase_allows(look.migration),
        verified(look.migration, limits, now=datetime.now(UTC)),
        schema_complete(look.migration),
        no_drift(look.migration, look.catalog, moved),
        tail_runs(look.tail, limits),
        lag_is_small(look.tail, look.source_lsn, limits),
        no_conflicts(look.tail),
        slot_is_healthy(look.slot, look.migration),
        fence_is_free(look.fence, look.migration),
        may_fence(sides.source, look.catalog, moved),
        no_prepared_transactions(sides.source),
        no_long_transactions(sides.source, moved, limits),
        no_subscriptions(sides.source, look.catalog, moved),
        sequences_plannable(look.sequences),
        targets_writable(sides),
        hooks_runnable(look.shard_map),
        way_back_possible(sides, look.shard_map, wanted=way_back),
        other_writers(sides.source),
    )


def phase_allows(migration: Migration) -> Gate:
    """The migration is where a cutover may begin."""
    ok = migration.phase in CUTOVER_PHASES
    hint = "shardmig status" if migration.phase is not Phase.FENCED else "shardmig cutover --resume"
    return Gate("phase", ok, f"phase {migration.phase.value}", "" if ok else hint)


def verified(migration: Migration, limits: Limits, *, now: datetime) -> Gate:
    """Both sides were compared lately, and were equal."""
    at_text, equal = migration.evidence.get("verified_at"), migration.evidence.get("verified_equal")
    hint = "shardmig verify"
    if not at_text:
        return Gate("verified", ok=False, detail="the sides were never compared", hint=hint)
    at = datetime.fromisoformat(str(at_text))
    age_s = (now - (at if at.tzinfo else at.replace(tzinfo=UTC))).total_seconds()
    detail = f"{'equal' if equal else 'not equal'} {_age(age_s)} ago at {migration.evidence.get('verified_lsn', '?')}"
    ok = equal is True and age_s <= limits.verified_age_s_max
    if equal is not True:
        hint = DIFFERING
    return Gate("verified", ok, detail, "" if ok else hint)


def schema_complete(migration: Migration) -> Gate:
    """The shards have their indexes and constraints."""
    ok = migration.schema_stage == SCHEMA_DONE
    return Gate(
        "schema", ok, f"stage {migration.schema_stage or 'none'}", "" if ok else "shardmig tail builds the rest"
    )


def no_drift(migration: Migration, catalog: Catalog, moved: frozenset[TableName]) -> Gate:
    """The moved tables are defined on the source as they were planned."""
    ok = catalog.fingerprint(moved) == migration.catalog_fingerprint
    detail = "definitions as planned" if ok else "a moved table's definition has changed on the source"
    return Gate("drift", ok, detail, "" if ok else "shardmig schema diff")


def tail_runs(tail: TailState | None, limits: Limits) -> Gate:
    """The tail is alive."""
    if tail is None:
        return Gate("tail", ok=False, detail="it has never run", hint="shardmig tail")
    if tail.stopped_by:
        return Gate("tail", ok=False, detail=f"stopped: {tail.stopped_by}", hint="shardmig tail")
    ok = tail.age_s <= limits.tail_age_s_max
    return Gate("tail", ok, f"last heard of {tail.age_s:.1f} s ago", "" if ok else "shardmig tail")


def lag_is_small(tail: TailState | None, source_lsn: LSN, limits: Limits) -> Gate:
    """Little is left to apply; the rehearsed drain says how long that takes."""
    if tail is None:
        return Gate("lag", ok=False, detail="unknown", hint="shardmig tail")
    lag_bytes = max(0, source_lsn - tail.applied_lsn)
    ok = lag_bytes <= limits.lag_bytes_max
    detail = f"{lag_bytes} bytes, limit {limits.lag_bytes_max}"
    return Gate("lag", ok, detail, "" if ok else "wait for the tail: shardmig tail --until caught-up")


def no_conflicts(tail: TailState | None) -> Gate:
    """No change hit a row that was not there, or another's."""
    if tail is None:
        return Gate("conflicts", ok=False, detail="unknown", hint="shardmig tail")
    ok = tail.conflicts == 0
    return Gate("conflicts", ok, f"{tail.conflicts} since the tail began", "" if ok else CONFLICTING)


def slot_is_healthy(slot: SlotState | None, migration: Migration) -> Gate:
    """The slot is read from and has all that is still to come."""
    if slot is None:
        return Gate("slot", ok=False, detail=f"{migration.slot} is not there", hint="shardmig abort, then begin again")
    detail = f"{slot.wal_status or 'no wal_status'}, {'active' if slot.active else 'not active'}"
    if slot.wal_status not in {"reserved", "extended"}:
        hint = "raise max_slot_wal_keep_size; if it is lost: shardmig abort, then begin again"
        return Gate("slot", ok=False, detail=detail, hint=hint)
    return Gate("slot", slot.active, detail, "" if slot.active else "shardmig tail")


def fence_is_free(fence: FenceState, migration: Migration) -> Gate:
    """No fence is up. One that has expired, or was left open, is ours to take over."""
    ok = not fence.refuses
    whose = f" by {fence.owner} of migration {fence.migration}" if fence.owner else ""
    hint = "shardmig cutover --resume" if fence.migration == migration.name else "use the mapping of that migration"
    return Gate("fence", ok, f"{fence.kind.value}{whose}", "" if ok else hint)


def may_fence(source: Connection, catalog: Catalog, moved: frozenset[TableName]) -> Gate:
    """Our role may put triggers on the moved tables and make a function."""
    others = {TableName(*row) for row in source.execute(_NOT_OURS).fetchall()}
    missing = [table.name for table in catalog.tables.values() if table.root in moved and table.name in others]
    may_create = bool(scalar(source, _MAY_CREATE))
    if missing:
        hint = "use the owner of the moved tables as the user of source.url"
        return Gate("fence_rights", ok=False, detail=f"not the owner of {_listed(missing)}", hint=hint)
    detail = "owner of all moved tables" if may_create else "no CREATE on the source database"
    return Gate("fence_rights", may_create, detail, "" if may_create else "GRANT CREATE ON DATABASE … TO our role")


def no_prepared_transactions(source: Connection) -> Gate:
    """No prepared transaction is left over: its locks stay until somebody ends it (pitfalls 29, 59)."""
    found = prepared_transactions(source)
    hint = "COMMIT PREPARED or ROLLBACK PREPARED each of them on the source" if found else ""
    return Gate("prepared_transactions", not found, _listed(found) or "none", hint)


def no_long_transactions(source: Connection, moved: Collection[TableName], limits: Limits) -> Gate:
    """Nobody has been writing, or holding a lock that writers need, for long: the fence would wait for it (60).

    A long transaction that only reads is not in the way.
    """
    rows = [BlockingTransaction(*row) for row in source.execute(_WRITING).fetchall()]
    found = {str(one.pid): one for one in (*rows, *lock_holders(source, moved)) if not one.prepared}
    old = [one for one in found.values() if one.age_s is not None and one.age_s > limits.transaction_age_s_max]
    pid = old[0].pid if old else None
    hint = f"wait for it, or on the source: SELECT pg_terminate_backend({pid})" if old else ""
    return Gate("long_transactions", not old, _listed(old) or "none", hint)


def no_subscriptions(source: Connection, catalog: Catalog, moved: frozenset[TableName]) -> Gate:
    """No subscription writes into a moved table: its worker fires no statement's trigger (71)."""
    rows = source.execute(_SUBSCRIBED).fetchall()
    tables = catalog.tables
    found = [row for row in rows if (t := TableName(row[1], row[2])) in tables and tables[t].root in moved]
    listed = _listed(f"{row[0]} into {TableName(row[1], row[2])}" for row in found)
    hint = f"on the source: ALTER SUBSCRIPTION {found[0][0]} DISABLE" if found else ""
    return Gate("subscriptions", not found, listed or "none", hint)


def sequences_plannable(plans: Iterable[SequencePlan]) -> Gate:
    """Every sequence can go on without a collision (68); warnings are shown and not in the way."""
    plans = tuple(plans)
    refused = [f"{plan.name}: {reason}" for plan in plans for reason in plan.refusals]
    if refused:
        hint = "alter it on the source (NO CYCLE, a larger type), or give its table to one shard"
        return Gate("sequences", ok=False, detail=_listed(refused), hint=hint)
    warnings = [f"{plan.name}: {warning}" for plan in plans for warning in plan.warnings]
    detail = f"{len(plans)} go on interleaved" + (f"; {_listed(warnings)}" if warnings else "")
    return Gate("sequences", ok=True, detail=detail)


def targets_writable(sides: Sides) -> Gate:
    """Every shard takes writes: no standby, no read-only default."""
    reasons = sides.each_shard(lambda _, connection: scalar(connection, _READ_ONLY))
    closed = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    hint = "correct the shard's URL, or: ALTER DATABASE … RESET default_transaction_read_only" if closed else ""
    return Gate("targets_writable", not closed, _listed(closed) or "all", hint)


def hooks_runnable(shard_map: ShardMap) -> Gate:
    """Each `on_switch` command can be executed."""
    missing = [command for command in shard_map.on_switch if hook_program(shard_map, command) is None]
    if missing:
        hint = "correct hooks.on_switch in the mapping, or chmod +x the program"
        return Gate("hooks", ok=False, detail=f"cannot be executed: {_listed(missing)}", hint=hint)
    return Gate("hooks", ok=True, detail=_listed(shard_map.on_switch) or "none: you re-point the application yourself")


def way_back_possible(sides: Sides, shard_map: ShardMap, *, wanted: bool) -> Gate:
    """Each shard can have the slots of the way back and of the reference tables, and our role may make them (65)."""
    if not wanted:
        return Gate("way_back", ok=True, detail="not wanted: there will be no rollback")
    ours = {"ours": f"shardmig_{shard_map.name}_"}
    rows = sides.each_shard(lambda _, connection: connection.execute(_SLOT_ROOM, ours).fetchone())
    reasons: list[str] = []
    room: dict[str, int] = {}
    for name, row in rows.items():
        if row is None:
            continue
        reasons += [f"{name}: {reason}" for reason in row[4:] if reason]
        server = str(row[0])
        room.setdefault(server, min(row[1], row[2]) + row[3])
        room[server] -= 1 + (len(rows) - 1 if name == shard_map.reference_home and shard_map.references() else 0)
    reasons += [f"the server {server} lacks {-left} slots or senders" for server, left in room.items() if left < 0]
    if not reasons:
        reasons = _not_subscribing(sides, shard_map)
    hint = "ALTER SYSTEM SET wal_level = logical, restart; ALTER ROLE … REPLICATION; raise max_replication_slots;"
    hint += " or shardmig cutover --no-way-back"
    detail = "; ".join(reasons) or f"a slot on each of {len(rows)} shards"
    return Gate("way_back", not reasons, detail, hint if reasons else "")


def _not_subscribing(sides: Sides, shard_map: ShardMap) -> list[str]:
    if not shard_map.references():
        return []
    home = shard_map.reference_home

    def rehearse(name: str, connection: Connection) -> str:
        return "" if name == home else rehearse_subscription(connection, shard_map, name)

    return [
        f"{name} cannot subscribe to the reference tables of {home}: {reason}"
        for name, reason in sides.each_shard(rehearse).items()
        if reason
    ]


def other_writers(source: Connection) -> Gate:
    """For information: who is connected to the source and has to be re-pointed, by application and user (71)."""
    return Gate("other_writers", ok=True, detail="; ".join(other_clients(source)) or "nobody else is connected")


def other_clients(connection: Connection) -> list[str]:
    """Return who else is connected to a database, by application and user."""
    rows = connection.execute(_SESSIONS).fetchall()
    return [f"{application} as {user} ({count})" for application, user, count in rows]


def _listed(things: Iterable[object]) -> str:
    texts = [str(thing) for thing in things]
    return "; ".join(texts[:SHOWN_MAX]) + (f"; and {len(texts) - SHOWN_MAX} more" if len(texts) > SHOWN_MAX else "")


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < MINUTES_FROM_S else f"{seconds / 60:.0f} min"
