"""Prepares the way back while nobody writes, and takes it down: slots, publications, the source's books.

On every shard a publication of what may be written there and a slot; on the source, for each, the position where it
begins. Slots take long to make, so they are made before anybody waits; but where their streams begin is said behind the
drain and before the switch (pitfall 65), when every shard stands still: a stream that began earlier would bring back
what the tail of the way there has applied. Reference tables go from their home to the other shards by PostgreSQL's own
publication and subscriptions, whose slots are set forward to the same moment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, LiteralString

import psycopg
from psycopg import errors, sql

from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.way_back import SourceBooks
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.errors import RefusedError, ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.publications import create_publication, drop_publication
from fixia_shardmig.postgres.sessions import Connection, scalar, session
from fixia_shardmig.postgres.slots import blocking_transactions, drop_slot

ORIGIN_NONE_SINCE: Final = 16_00_00

_ADVANCE: LiteralString = "SELECT pg_catalog.pg_replication_slot_advance(%s, %s::pg_lsn)"

BACK_SLOTS: Final = "back_slots"
"""The migration's evidence that slots of the way back may be on the shards, though no cutover is under way."""

GUARD: Final = "shardmig_reference_guard"
SQLSTATE_ELSEWHERE: Final = "SM003"
"""A reference table is written on its home only; what is written elsewhere would reach nobody."""

_SUBSCRIBED: LiteralString = (
    "SELECT 1 FROM pg_catalog.pg_subscription WHERE subname = %s AND subdbid = (SELECT oid"
    " FROM pg_catalog.pg_database WHERE datname = current_database())"
)


def make_slots(sides: Sides, shard_map: ShardMap, *, deadline: float) -> None:
    """Make publications and slots on all shards, and the source's books, while everybody still writes to the source.

    What an earlier cutover left is dropped first.

    Raises:
        RefusedError: A slot could not be made in time: an open transaction on that server is named; or not at all.
    """

    def on_shard(name: str, connection: Connection) -> None:
        slot, tables = shard_map.back_name(name), shard_map.written_on(name)
        with _within(connection, deadline, name):
            drop_slot(connection, slot)
            drop_publication(connection, slot)
            if tables:
                create_publication(connection, slot, tables)
            _create_slot(connection, slot)
            place("cutover.back_slot_made")
            if name == shard_map.reference_home and shard_map.references():
                _publish_references(connection, shard_map)

    with sides.beside(lambda source: SourceBooks(source).prepare()) as books:
        sides.each_shard(on_shard)
    books.result()
    place("cutover.slots_made")


def begin_way_back(sides: Sides, shard_map: ShardMap, begins: Mapping[str, LSN], *, deadline: float) -> None:
    """Say where the stream of each shard begins: in the source's books, and in the slots of the reference tables.

    Args:
        sides: Nobody may write to the shards, nor the tail, since before these positions were taken.
        shard_map: The mapping.
        begins: By shard, a position that is durable there and behind all that the way there has brought. Written down
            here it is not durable yet: the seal's commit on the source is, which comes after it.
        deadline: Of all of it, by `time.monotonic`.
    """
    home = shard_map.reference_home
    if shard_map.references():
        with _within(sides.shards[home], deadline, home):
            for name in shard_map.shard_names:
                if name != home:
                    sides.shards[home].execute(_ADVANCE, [shard_map.reference_name(name), str(begins[home])])
        place("cutover.reference_slots_advanced")
    SourceBooks(sides.source).begin(begins)
    place("cutover.way_back_begun")


def guard_references(sides: Sides, shard_map: ShardMap) -> None:
    """Refuse writes to reference tables but on their home, before the first client comes; again is harmless.

    The guard lets the subscription's worker through, which fires no such trigger.
    """
    tables = sorted(shard_map.references())
    home = shard_map.reference_home

    def on_shard(name: str, connection: Connection) -> None:
        if name == home:
            return
        with connection.transaction():
            connection.execute("CREATE SCHEMA IF NOT EXISTS shardmig")
            connection.execute(_guard_function(home))
            for table in tables:
                connection.execute(_guard(sql.Identifier(table.schema, table.name)))

    if tables:
        sides.each_shard(on_shard)


def subscribe_references(sides: Sides, shard_map: ShardMap) -> None:
    """Have every other shard follow the home's reference tables; again is harmless. The slots have kept what came."""
    home = shard_map.reference_home

    def on_shard(name: str, connection: Connection) -> None:
        if name == home:
            return
        subscription = shard_map.reference_name(name)
        if scalar(connection, _SUBSCRIBED, [subscription]) is None:
            connection.execute(_subscription(connection, shard_map, name))
        place("cutover.subscribed")

    if shard_map.references():
        sides.each_shard(on_shard)


def rehearse_subscription(connection: Connection, shard_map: ShardMap, shard: str) -> str:
    """Return why a shard cannot subscribe to the reference tables' home, or nothing; leaves nothing behind.

    Tries what needs no publication yet: the right to make a subscription, and that this server reaches the home.
    """
    probe = f"{shard_map.reference_name(shard)}_probe"[:63]
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(
                sql.SQL(
                    "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {}"
                    " WITH (connect = true, enabled = false, create_slot = false, copy_data = false, slot_name = NONE)"
                ).format(
                    sql.Identifier(probe),
                    sql.Literal(shard_map.shards[shard_map.reference_home].url),
                    sql.Identifier(probe),
                )
            )
    except psycopg.Error as error:
        return (error.diag.message_primary or str(error)).splitlines()[0]
    return ""


def drop_way_back(sides: Sides, shard_map: ShardMap, *, keep_references: bool = False) -> None:
    """Take everything of the way back off the shards; the source's books go with our schema there."""

    def subscriptions(name: str, connection: Connection) -> None:
        if keep_references:
            return
        drop_subscription(connection, shard_map.reference_name(name))
        drop_guards(connection)
        place("way_back.subscription_dropped")

    def slots(name: str, connection: Connection) -> None:
        drop_slot(connection, shard_map.back_name(name))
        place("way_back.slot_dropped")
        drop_publication(connection, shard_map.back_name(name))
        if name == shard_map.reference_home and not keep_references:
            _drop_published_references(connection, shard_map)

    sides.each_shard(subscriptions)
    sides.each_shard(slots)


def _drop_published_references(connection: Connection, shard_map: ShardMap) -> None:
    for name in shard_map.shard_names:
        drop_slot(connection, shard_map.reference_name(name))
    place("way_back.reference_slots_dropped")
    drop_publication(connection, _reference_publication(shard_map))


def forget_way_back(shard_map: ShardMap) -> str:
    """Drop slots and books of a cutover that was undone, over sessions of its own; returns why it could not, if so.

    A slot that stays holds WAL on its shard until the next cutover or an abort drops it.
    """
    try:
        with session(shard_map.source.url, "cutover undo") as connection:
            SourceBooks(connection).drop()
            place("cutover.books_forgotten")
    except (ShardmigError, psycopg.Error) as error:
        return f"the source: {str(error).splitlines()[0]}"
    for name, endpoint in shard_map.shards.items():
        try:
            with session(endpoint.url, "cutover undo") as connection:
                drop_slot(connection, shard_map.back_name(name))
                place("cutover.back_slot_forgotten")
                drop_publication(connection, shard_map.back_name(name))
                if name == shard_map.reference_home:
                    _drop_published_references(connection, shard_map)
        except (ShardmigError, psycopg.Error) as error:
            return f"{name}: {str(error).splitlines()[0]}"
    return ""


def forget_slots(shard_map: ShardMap, journal: Journal) -> None:
    """Drop the slots that a cutover which did not happen has left, if it left any."""
    if not journal.get().evidence.get(BACK_SLOTS):
        return
    if failure := forget_way_back(shard_map):
        journal.event("way_back_left_over", reason=failure)
        return
    journal.add_evidence({BACK_SLOTS: None})


def drop_subscription(connection: Connection, name: str) -> bool:
    """Drop a subscription without touching its publisher; returns whether there was one."""
    if scalar(connection, _SUBSCRIBED, [name]) is None:
        return False
    quoted = sql.Identifier(name)
    connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(quoted))
    connection.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(quoted))
    connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(quoted))
    return True


def drop_guards(connection: Connection) -> None:
    """Let reference tables be written on this shard again."""
    connection.execute("DROP FUNCTION IF EXISTS shardmig.refuse_reference() CASCADE")


def _reference_publication(shard_map: ShardMap) -> str:
    return f"shardmig_{shard_map.name}_ref"


def _publish_references(connection: Connection, shard_map: ShardMap) -> None:
    publication = _reference_publication(shard_map)
    drop_publication(connection, publication)
    create_publication(connection, publication, shard_map.references())
    for name in shard_map.shard_names:
        if name != shard_map.reference_home:
            drop_slot(connection, shard_map.reference_name(name))
            _create_slot(connection, shard_map.reference_name(name))


def _subscription(connection: Connection, shard_map: ShardMap, shard: str) -> sql.Composed:
    options = [
        sql.SQL("create_slot = false, copy_data = false, enabled = true, slot_name = {}").format(
            sql.Literal(shard_map.reference_name(shard))
        )
    ]
    if connection.info.server_version >= ORIGIN_NONE_SINCE:
        options.append(sql.SQL("origin = none").format())
    return sql.SQL("CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH ({})").format(
        sql.Identifier(shard_map.reference_name(shard)),
        sql.Literal(shard_map.shards[shard_map.reference_home].url),
        sql.Identifier(_reference_publication(shard_map)),
        sql.SQL(", ").join(options),
    )


def _guard_function(home: str) -> sql.Composed:
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION shardmig.refuse_reference() RETURNS trigger LANGUAGE plpgsql"
        " SET search_path TO pg_catalog, pg_temp AS {}"
    ).format(
        sql.Literal(
            "BEGIN RAISE EXCEPTION USING ERRCODE = '" + SQLSTATE_ELSEWHERE + "', MESSAGE = pg_catalog.format("
            "'%I.%I is written on shard " + home + " only', TG_TABLE_SCHEMA, TG_TABLE_NAME),"
            " HINT = 'it is a reference table: its rows come here by replication'; END"
        )
    )


def _guard(table: sql.Identifier) -> sql.Composed:
    return sql.SQL(
        "CREATE OR REPLACE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {}"
        " FOR EACH STATEMENT EXECUTE FUNCTION shardmig.refuse_reference()"
    ).format(sql.Identifier(GUARD), table)


_CREATE_SLOT: LiteralString = "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot(%s, 'pgoutput')"


def _create_slot(connection: Connection, name: str) -> LSN:
    try:
        return LSN.parse(scalar(connection, _CREATE_SLOT, [name]))
    except errors.ConfigurationLimitExceeded:
        raise RefusedError(
            f"cannot create replication slot {name}: all slots are in use",
            hint="raise max_replication_slots there and restart, or drop slots that nobody reads",
        ) from None
    except (errors.ObjectNotInPrerequisiteState, errors.InsufficientPrivilege) as error:
        raise RefusedError(
            f"cannot create replication slot {name}: {error.diag.message_primary}",
            hint="wal_level = logical and ALTER ROLE … REPLICATION on that shard, or shardmig cutover --no-way-back",
        ) from None


@contextmanager
def _within(connection: Connection, deadline: float, where: str) -> Iterator[None]:
    """End what takes longer than the pause allows, and say who was in the way (pitfall 40)."""
    left_ms = max(1, int((deadline - time.monotonic()) * 1000))
    connection.execute("SELECT set_config('statement_timeout', %s, false)", [str(left_ms)])
    try:
        yield
    except errors.QueryCanceled:
        blockers = "; ".join(map(str, blocking_transactions(connection))) or "nobody any more"
        raise RefusedError(
            f"the way back could not be prepared on {where} in time; open transactions there: {blockers}",
            hint="wait for them to end, or allow a longer --max-pause",
        ) from None
    finally:
        if not connection.closed:
            connection.execute("SET statement_timeout = 0")
