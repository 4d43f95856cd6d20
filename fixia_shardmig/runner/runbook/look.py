"""Everything that a runbook speaks of, read at one time. Changes nothing; waits for nobody longer than seconds.

A server that does not answer, or a journal that cannot be read, is a line of the page and no error: this is what is
opened when something is wrong. Not asked are the gates that would change something for a moment: the rehearsed drain
writes a marker, and PgBouncer's way to the shards is tried with lines in its databases file.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, LiteralString

import psycopg

from fixia_shardmig.cutover.back_gates import rollback_gates
from fixia_shardmig.cutover.fence import FenceState, fence_state
from fixia_shardmig.cutover.fence_locks import lock_holders, prepared_transactions
from fixia_shardmig.cutover.gates import Gate, Limits, all_gates, take_look
from fixia_shardmig.cutover.pooler import Poolers
from fixia_shardmig.cutover.pooler_gates import aliases_are_ours, around_the_poolers, consoles_answer, settings_fit
from fixia_shardmig.cutover.result import MAX_PAUSE_S
from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Event, Migration
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.plan.plan import Plan
from fixia_shardmig.postgres.named_sql import named_sql
from fixia_shardmig.postgres.sessions import Connection, connect
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.planning import make
from fixia_shardmig.runner.status import Status, status

EVENTS_MAX: Final = 20_000
"""The newest events that are searched for measured times."""

STATEMENT_S_MAX: Final = 5
"""How long one query of a look may take: a table that somebody holds must not keep the page from being written."""

LONG_S: Final = 1.0
SOURCE: Final = "source"

BEFORE_THE_SWITCH: Final = frozenset({Phase.PLANNED, Phase.COPYING, Phase.TAILING, Phase.VERIFIED, Phase.FENCED})
AFTER_THE_SWITCH: Final = frozenset({Phase.SWITCHED, Phase.ROLLING_BACK})


@dataclass(frozen=True, slots=True)
class Waits:
    """Who is in the way on one server, in words."""

    waiting: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    prepared: tuple[str, ...] = ()
    long: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anybody."""
        return any((self.waiting, self.holders, self.prepared, self.long))


@dataclass(slots=True)
class Look:
    """What was found. `missing` says, place by place, what could not be read and why."""

    context: Context
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    migration: Migration | None = None
    events: tuple[Event, ...] = ()
    holders: dict[str, str] = field(default_factory=dict)
    status: Status | None = None
    gates: tuple[Gate, ...] = ()
    plan: Plan | None = None
    fences: dict[str, FenceState] = field(default_factory=dict)
    waits: dict[str, Waits] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def phase(self) -> Phase | None:
        """Return the phase; None before a migration was begun, and where the journal cannot be read."""
        return self.migration.phase if self.migration else None

    @property
    def is_back(self) -> bool:
        """Whether what comes next is the way back: the shards have the writes, or had them."""
        return self.phase in AFTER_THE_SWITCH or self.phase is Phase.ROLLED_BACK


def look_around(context: Context) -> Look:
    """Ask the journal, the source, every shard and every pooler."""
    look = Look(context)
    with ExitStack() as stack:
        reached = _reach_all(context, look, stack)
        for name, connection in reached.items():
            _look_at_one(look, name, connection)
        _read_journal(look, reached)
    _read_plan(look)
    return look


def _reach_all(context: Context, look: Look, stack: ExitStack) -> dict[str, Connection]:
    """Open a session everywhere, at once, so that servers that do not answer cost their time only once."""
    urls = {SOURCE: context.shard_map.source.url}
    urls |= {name: endpoint.url for name, endpoint in context.shard_map.shards.items()}

    def reach(url: str) -> Connection | ShardmigError:
        try:
            connection = connect(url, "runbook")
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [f"{STATEMENT_S_MAX}s"])
        except ShardmigError as error:
            return error
        return connection

    with ThreadPoolExecutor(len(urls), thread_name_prefix="runbook") as pool:
        found = dict(zip(urls, pool.map(reach, urls.values()), strict=True))
    reached: dict[str, Connection] = {}
    for name, one in found.items():
        if isinstance(one, ShardmigError):
            look.missing[name] = one.message
        else:
            stack.callback(one.close)
            reached[name] = one
    return reached


def _look_at_one(look: Look, name: str, connection: Connection) -> None:
    shard_map = look.context.shard_map
    tables = shard_map.moved() if name == SOURCE else shard_map.written_on(name)
    try:
        look.fences[name] = fence_state(connection)
        look.waits[name] = Waits(
            waiting=tuple(
                f"pid {pid} ({application}, {user}) has waited {seconds or 0:.0f} s for {_pids(pids)}"
                for pid, application, user, seconds, pids in connection.execute(_query("waiting")).fetchall()
            ),
            holders=tuple(map(str, lock_holders(connection, tables))),
            prepared=tuple(map(str, prepared_transactions(connection))),
            long=tuple(
                f"pid {pid} ({application}, {user}), {state}, open for {seconds:.0f} s,"
                f" {'has written' if wrote else 'only reads'}"
                for pid, application, user, state, seconds, wrote in connection.execute(
                    _query("long_transactions"), [LONG_S]
                ).fetchall()
            ),
        )
    except psycopg.Error as error:
        look.missing[name] = _first_line(error)


def _pids(pids: Iterable[int]) -> str:
    return ", ".join("a prepared transaction" if pid == 0 else f"pid {pid}" for pid in pids)


def _query(name: str) -> LiteralString:
    return named_sql("fixia_shardmig.runner.runbook", "waits.sql", name)


def _read_journal(look: Look, reached: dict[str, Connection]) -> None:
    """Read the journal, and where every server answers also the status and the gates."""
    context = look.context
    if context.shard_map.journal_shard in look.missing:
        look.missing["journal"] = f"shard {context.shard_map.journal_shard} keeps it"
        return
    try:
        with context.journal() as journal:
            look.migration = journal.find()
            if look.migration is None:
                return
            look.events = tuple(journal.events(EVENTS_MAX))
            found = {what: journal.holder(what) for what in ("driver", "operator")}
            look.holders = {what: who for what, who in found.items() if who}
            if look.missing:
                look.missing["gates"] = "not every server answers"
                return
            _ask_gates(look, journal, reached)
        look.status = status(context)
    except (ShardmigError, psycopg.Error) as error:
        look.missing["journal"] = _first_line(error)


def _ask_gates(look: Look, journal: Journal, reached: dict[str, Connection]) -> None:
    """Ask the gates of what comes next; an error in one of them is told in their place."""
    context, phase = look.context, look.phase
    shards = {name: connection for name, connection in reached.items() if name != SOURCE}
    sides = Sides(reached[SOURCE], shards, Poolers(context.shard_map))
    try:
        if phase in BEFORE_THE_SWITCH:
            found = take_look(context.shard_map, journal, sides, context.catalog)
            look.gates = all_gates(found, sides, Limits()) + _pooler_gates(sides, forward=True)
        elif phase in AFTER_THE_SWITCH:
            look.gates = rollback_gates(
                context.shard_map, journal, sides, catalog=context.catalog, limits=Limits()
            ) + _pooler_gates(sides, forward=False)
    except (ShardmigError, psycopg.Error) as error:
        look.missing["gates"] = _first_line(error)
    finally:
        sides.poolers.close()


def _pooler_gates(sides: Sides, *, forward: bool) -> tuple[Gate, ...]:
    """Ask what can be asked of PgBouncer without a change; `pooler_reach` is left to the dry run."""
    if not sides.poolers:
        return ()
    console = consoles_answer(sides.poolers)
    if not console.ok:
        return (console,)
    gates = (console, settings_fit(sides.poolers, max_pause_s=MAX_PAUSE_S), aliases_are_ours(sides.poolers))
    return (*gates, around_the_poolers(sides)) if forward else gates


def _read_plan(look: Look) -> None:
    """Make the plan from samples while the source is the writer: later it would speak of what is over."""
    if SOURCE in look.missing or (look.migration is not None and look.phase not in BEFORE_THE_SWITCH):
        return
    if look.missing.keys() - {"journal", "gates"}:
        look.missing["plan"] = "not every server answers"
        return
    try:
        look.plan = make(look.context, estimates=True, only_blockers=True)
    except (ShardmigError, psycopg.Error) as error:
        look.missing["plan"] = _first_line(error)


def _first_line(error: BaseException) -> str:
    if isinstance(error, ShardmigError):
        return error.message
    return (str(error).strip() or type(error).__name__).splitlines()[0]
