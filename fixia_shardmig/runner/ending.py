"""Ends a migration: by `abort` while the source has the writes, by `finalize` after a cutover or a rollback.

Nothing of ours stays on the source or the shards: the data does, and after an abort only if it is wanted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from fixia_shardmig.cutover.fence import FenceKind, fence_state, lift_fence
from fixia_shardmig.cutover.gates import other_clients
from fixia_shardmig.cutover.rollback import FINISHED as ROLLBACK_FINISHED
from fixia_shardmig.cutover.sides import open_sides
from fixia_shardmig.cutover.switch import FINISHED as CUTOVER_FINISHED
from fixia_shardmig.cutover.way_back import drop_way_back
from fixia_shardmig.journal.journal import Journal, drop_from, end_copy_writers
from fixia_shardmig.journal.records import Migration
from fixia_shardmig.model.errors import SAME_COMMAND, HeldError, RefusedError, TemporaryError
from fixia_shardmig.model.phase import Phase, Writer, writer_in
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.publications import drop_publication
from fixia_shardmig.postgres.sessions import Connection, scalar, session
from fixia_shardmig.postgres.slots import drop_slot
from fixia_shardmig.runner.context import Context, publication_name
from fixia_shardmig.runner.spooling import end_spool

LIFT_S = 10.0
"""How long to try to drop the fence's triggers; they let everything through meanwhile."""


DRIVER_WAIT_S = 15.0
"""How long the tail of the way back may take to notice that it is over."""

FINALIZABLE = frozenset({Phase.SWITCHED, Phase.FINALIZED, Phase.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class EndResult:
    """What was removed, in words."""

    removed: tuple[str, ...]


def abort(context: Context, *, drop_targets: bool = False, drop_spool: bool = False) -> EndResult:
    """Drop slots, publications, fences, journal and checkpoints; with `drop_targets` the copied tables too.

    A spool is deleted with `drop_spool`; else it is said where it lies.

    Works from any state before the switch, also one that a crash left half made, and again after an abort that failed.

    Raises:
        RefusedError: The shards have the writes: the way back is the rollback.
        HeldError: A copy or tail is still running.
    """
    with context.journal() as journal, journal.holding("operator"), journal.holding("driver"):
        migration = journal.find()
        if migration is not None and writer_in(migration.phase) is Writer.SHARDS:
            raise RefusedError(
                "the shards have the writes since the switch; an abort would lose them", hint="shardmig status"
            )
        if migration is not None and migration.phase not in {Phase.FENCED, Phase.ABORTED}:
            journal.advance(migration.phase, Phase.ABORTED)
        removed = _clear_source(context, begun=migration is not None)
        removed += _clear_way_back(context, keep_references=False)
        for name, endpoint in context.shard_map.shards.items():
            if name != context.shard_map.journal_shard:
                removed += _clear_shard(context, endpoint.url, name, drop_targets=drop_targets)
        removed += end_spool(migration, drop=drop_spool) if migration is not None else []
        removed += _clear_journal(context, journal, drop_targets=drop_targets)
    for line in removed:
        context.say(line)
    return EndResult(tuple(removed))


def finalize(
    context: Context, *, keep_references: bool = False, keep_journal: bool = False, despite_clients: bool = False
) -> EndResult:
    """End the rollback window, or clean up after a rollback; may be called again after one that failed.

    Args:
        context: The migration.
        keep_references: Leave the subscriptions that keep reference tables alike on all shards.
        keep_journal: Leave the journal, by which the library learns where to read and write.
        despite_clients: Take the source's fence away although others are connected to it.

    Raises:
        RefusedError: The cutover or rollback is not finished, or clients are still connected to the old side.
        HeldError: Another run is at work.
    """
    with context.journal() as journal, journal.holding("operator"):
        migration = journal.get()
        _refuse_unfinished(migration)
        if migration.phase is not Phase.ROLLED_BACK and not despite_clients:
            _refuse_clients(context)
        if migration.phase is Phase.SWITCHED:
            journal.advance(Phase.SWITCHED, Phase.FINALIZED)
        with _driver_gone(journal):
            removed = _clear_way_back(context, keep_references=keep_references)
            removed += _clear_finished(context, journal, keep_references=keep_references, keep_journal=keep_journal)
    for line in removed:
        context.say(line)
    return EndResult(tuple(removed))


def _refuse_unfinished(migration: Migration) -> None:
    back = migration.phase is Phase.ROLLED_BACK
    if migration.phase not in FINALIZABLE:
        raise RefusedError(
            f"the migration is in phase {migration.phase.value}: finalize ends one whose writes have moved",
            hint="shardmig status; before the switch: shardmig abort",
        )
    name, finished = ("rollback", ROLLBACK_FINISHED) if back else ("cutover", CUTOVER_FINISHED)
    if migration.phase is not Phase.FINALIZED and migration.evidence.get(finished) != migration.routing_epoch:
        raise RefusedError(f"the {name} is not finished", hint=f"shardmig {name} --resume")


def _refuse_clients(context: Context) -> None:
    """Refuse while somebody could write where nobody would bring it over from any more (pitfall 63)."""
    with session(context.shard_map.source.url, "finalize") as source:
        if others := other_clients(source):
            raise RefusedError(
                f"others are connected to the source, which will take their writes again: {'; '.join(others)}",
                hint="end them, or ALTER DATABASE … SET default_transaction_read_only = on there; then shardmig"
                " finalize, with --despite-clients if they only read",
            )


@contextmanager
def _driver_gone(journal: Journal) -> Iterator[None]:
    deadline = time.monotonic() + DRIVER_WAIT_S
    while not journal.try_hold("driver"):
        if time.monotonic() >= deadline:
            raise HeldError(
                f"{journal.holder('driver') or 'another run'} is still working on migration {journal.name!r}",
                hint="stop it, then shardmig finalize again",
            )
        time.sleep(0.1)
    yield


def _clear_way_back(context: Context, *, keep_references: bool) -> list[str]:
    with open_sides(context.shard_map) as sides:
        drop_way_back(sides, context.shard_map, keep_references=keep_references)
        for connection in sides.shards.values():
            lift_fence(connection, migration=context.shard_map.name, sealed=True, deadline=time.monotonic() + LIFT_S)
            place("ending.shard_opened")
    kept = "; the reference tables' subscriptions stay" if keep_references else ""
    return [f"shards: slots and publications of the way back dropped{kept}"]


def _clear_finished(context: Context, journal: Journal, *, keep_references: bool, keep_journal: bool) -> list[str]:
    """Clear the source, then the shards, the journal's last: until then a finalize that died can be called again."""
    removed = _clear_source(context, begun=True)
    for name, endpoint in context.shard_map.shards.items():
        if name == context.shard_map.journal_shard:
            continue
        if keep_references and context.shard_map.references():
            removed.append(f"{name}: the guard of the reference tables stays")
        else:
            removed += _clear_shard(context, endpoint.url, name, drop_targets=False)
    if keep_journal:
        return [*removed, f"{context.shard_map.journal_shard}: the journal stays"]
    return removed + _clear_journal(context, journal, drop_targets=False)


def _clear_source(context: Context, *, begun: bool) -> list[str]:
    """Lift the fence before anything else: nobody can write while it stands.

    A sealed fence only goes where a journal says that the shards do not have the writes.
    """
    name = publication_name(context.shard_map)
    removed = []
    with session(context.shard_map.source.url, "abort") as source:
        if fence_state(source).kind is not FenceKind.NONE:
            _lift(context, source, sealed=begun)
            place("ending.source_opened")
            removed.append("source: fence lifted")
        if drop_slot(source, name):
            removed.append(f"source: replication slot {name} dropped")
            place("ending.source_slot_dropped")
        if drop_publication(source, name):
            place("ending.source_publication_dropped")
            removed.append(f"source: publication {name} dropped")
        drop_from(source)
        place("ending.books_dropped")
    return removed


def _lift(context: Context, source: Connection, *, sealed: bool) -> None:
    name = context.shard_map.name
    left = lift_fence(source, migration=name, sealed=sealed, deadline=time.monotonic() + LIFT_S)
    if left:
        raise TemporaryError(
            f"writers are let through again, but somebody keeps the fence's triggers on {left[0]} from being dropped",
            hint=f"end long transactions on the source, then {SAME_COMMAND}",
        )


def _clear_shard(context: Context, url: str, name: str, *, drop_targets: bool) -> list[str]:
    with session(url, "abort") as connection:
        return _clear(context, connection, name, drop_targets=drop_targets)


def _clear_journal(context: Context, journal: Journal, *, drop_targets: bool) -> list[str]:
    """Clear the journal's shard last: until then another abort finds everything it needs."""
    name = context.shard_map.journal_shard
    return _clear(context, journal.connection, name, drop_targets=drop_targets)


def _clear(context: Context, connection: Connection, name: str, *, drop_targets: bool) -> list[str]:
    removed = []
    end_copy_writers(connection)
    with connection.transaction():
        if drop_targets:
            removed.append(f"{name}: {_drop_targets(context, connection)}")
        drop_from(connection)
        removed.append(f"{name}: journal and checkpoints dropped")
    place("ending.shard_cleared")
    return removed


_USER_SCHEMAS = """
SELECT nspname::text FROM pg_namespace n
WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'shardmig')
"""


def _drop_targets(context: Context, connection: Connection) -> str:
    """Drop the tables where our record says that we made them; a mapping may name a wrong database, or the source."""
    if scalar(connection, "SELECT to_regclass('shardmig.ddl')") is None:
        return "its tables stay, since no record here says that they were made by a copy"
    return f"{_drop_tables(context, connection)} tables and what belongs to them dropped"


def _drop_tables(context: Context, connection: Connection) -> int:
    """Drop the schemas that our DDL fills, also those with types or functions alone; public comes back empty."""
    ours = {table.schema for table in context.shard_map.moved()} | {"public"}
    ours |= {name for (name,) in connection.execute("SELECT name FROM shardmig.ddl WHERE kind = 'SCHEMA'").fetchall()}
    count = scalar(
        connection,
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p')",
        (sorted(ours),),
    )
    for (schema,) in connection.execute(_USER_SCHEMAS).fetchall():
        if schema in ours:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
    connection.execute(_PUBLIC)
    return int(count)


_PUBLIC: LiteralString = """
CREATE SCHEMA IF NOT EXISTS public AUTHORIZATION pg_database_owner;
COMMENT ON SCHEMA public IS 'standard public schema';
GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
