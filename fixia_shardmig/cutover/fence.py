"""The database's fence: refusing triggers on every moved table, up in one transaction, open again by themselves.

What it is no match for, so gates look there first: prepared transactions, whose locks nobody's timeout ends (pitfalls
29, 59), and the apply worker of a subscription on the source, which fires no statement's trigger (71).

SQLSTATEs are of class SM, which neither the standard nor PostgreSQL uses: SM001 while writes are paused (the same
write may succeed when the fence is lifted), SM002 once they have moved (it will not: the client has the old URL, 63).

Settings, REVOKE and read-only defaults are no fence: open sessions, owners and superusers write on (59). A trigger
that is ENABLE ALWAYS binds all of them, and `session_replication_role = replica` too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, LiteralString, cast

from psycopg import errors, sql

from fixia_shardmig.cutover.fence_locks import (
    BUSY,
    LOCK_TIMEOUT_S,
    SHORT_LOCK_TIMEOUT_S,
    hold,
    in_a_short_try,
    jitter,
    pairs,
    prepared_transactions,
    short_try,
    under_locks,
)
from fixia_shardmig.journal.way_back import APPLY_SETTING
from fixia_shardmig.model.errors import HeldError, RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection

TRIGGER: Final = "shardmig_fence"
SQLSTATE_PAUSED: Final = "SM001"
SQLSTATE_MOVED: Final = "SM002"

AT_ONCE_S: Final = 0.02
"""How long readers may keep triggers from being dropped while clients wait."""

SEAL_LEFT_S: Final = 2.0
"""So much of the fence's time must be left when it is sealed; a commit that takes longer is found afterwards."""


class FenceKind(Enum):
    """What a fence does with a write now."""

    NONE = "none"
    RAISED = "raised"
    EXPIRED = "expired"
    SEALED = "sealed"
    OPEN = "open"
    """It was lifted, and triggers are left over that let everything through."""


@dataclass(frozen=True, slots=True)
class FenceState:
    """The fence as it stands on a database, read by the server's own clock.

    Attributes:
        expires_at: None unless it was raised with an expiry.
        left_s: Seconds until the expiry, negative after it.
        tables: Where its trigger is.
        gaps: Descendants of these tables without it, or where somebody has disabled it.
        back: Whether it stands on a shard, for writes that go back to the source.
    """

    kind: FenceKind
    migration: str = ""
    owner: str = ""
    expires_at: datetime | None = None
    left_s: float | None = None
    tables: tuple[TableName, ...] = ()
    gaps: tuple[TableName, ...] = ()
    back: bool = False

    @property
    def refuses(self) -> bool:
        """Whether a write fails now."""
        return self.kind in {FenceKind.RAISED, FenceKind.SEALED}


class FenceExpiredError(RefusedError):
    """The fence was down, another's, or too near its expiry, so nothing that was proven behind it holds."""


_BODY: LiteralString = """-- {about}
BEGIN
    IF pg_catalog.current_setting({setting}, true) = {migration} THEN
        RETURN NULL;
    END IF;
    IF pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) >= {expires} THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING ERRCODE = {sqlstate}, HINT = {hint}, DETAIL = {detail},
        MESSAGE = pg_catalog.format({message}, TG_TABLE_SCHEMA, TG_TABLE_NAME);
END
"""

_OPEN_BODY: LiteralString = """-- {about}
BEGIN
    RETURN NULL;
END
"""

_LOOK: LiteralString = """
WITH RECURSIVE fenced(oid, enabled) AS (
    SELECT t.tgrelid, t.tgenabled = 'A' FROM pg_catalog.pg_trigger t WHERE t.tgname = %s AND NOT t.tgisinternal
), tree(oid) AS (
    SELECT f.oid FROM fenced f
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent
)
SELECT (SELECT p.prosrc FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'shardmig' AND p.proname = 'refuse_write' AND p.pronargs = 0),
       extract(epoch FROM clock_timestamp())::float8,
       (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                   n.nspname, c.relname, f.oid IS NOT NULL, coalesce(f.enabled, false)) ORDER BY n.nspname, c.relname)
        FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace LEFT JOIN fenced f ON f.oid = tree.oid)
"""

_RELATIVES: LiteralString = """
WITH RECURSIVE named(oid) AS (
    SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN unnest(%s::text[], %s::text[]) AS wanted(schema, name) ON n.nspname = schema AND c.relname = name
), down(oid) AS (
    SELECT oid FROM named
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN down ON down.oid = i.inhparent
), up(oid) AS (
    SELECT oid FROM named
    UNION
    SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN up ON up.oid = i.inhrelid
)
SELECT n.nspname, c.relname FROM (SELECT oid FROM down UNION SELECT oid FROM up) AS relative(oid)
JOIN pg_catalog.pg_class c ON c.oid = relative.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1, 2
"""


def fence_state(connection: Connection) -> FenceState:
    """Return how the fence stands, also when only half of it is there. Reads catalogs, waits for nobody."""
    return _look(connection)[0]


def _look(connection: Connection) -> tuple[FenceState, float]:
    """Return how the fence stands, and the server's time in seconds. Prepared, so that a second look is quick."""
    row = connection.execute(_LOOK, [TRIGGER], prepare=True).fetchone()
    source, now, trees = row or (None, 0.0, None)
    tables = tuple(TableName(schema, name) for schema, name, fenced, _ in trees or () if fenced)
    gaps = tuple(TableName(schema, name) for schema, name, _, enabled in trees or () if not enabled)
    if source is None:
        return FenceState(FenceKind.NONE, tables=tables, gaps=gaps), now
    about = _about(source)
    expires = about.get("expires")
    left_s = expires - now if expires is not None else None
    kind = FenceKind(about.get("kind", "open"))
    if kind is FenceKind.RAISED and left_s is not None and left_s <= 0:
        kind = FenceKind.EXPIRED
    state = FenceState(
        kind,
        migration=about.get("migration", ""),
        owner=about.get("owner", ""),
        expires_at=datetime.fromtimestamp(expires, UTC) if expires is not None else None,
        left_s=left_s,
        tables=tables,
        gaps=gaps,
        back=bool(about.get("back")),
    )
    return state, now


def prepare_fence(connection: Connection, tables: Collection[TableName], *, migration: str, owner: str) -> None:
    """Put the triggers on the tables while they let everything through, so that raising the fence is a moment's work.

    Nobody waits for longer than one short try a table. A table that is missed gets its trigger when the fence is
    raised, as one does that was made since. `lift_fence` takes it all away again.

    Raises:
        HeldError, RefusedError: Another's fence is up, or our role may not.
    """
    with _explaining_rights(), connection.transaction():
        hold(connection)
        state = fence_state(connection)
        _refuse_other(state, migration, owner)
        connection.execute("CREATE SCHEMA IF NOT EXISTS shardmig")
        connection.execute(_replacement(FenceKind.OPEN, connection, migration=migration, owner=owner, expires=None))
    fenced = frozenset(state.tables) - frozenset(state.gaps)
    for table in _relatives(connection, tables):
        if table not in fenced:
            in_a_short_try(connection, _trigger(table))
    for look in (prepared_transactions, fence_state, lambda c: _relatives(c, tables)):
        look(connection)  # with their plans made, looks under the locks are quick


def raise_fence(
    connection: Connection,
    tables: Collection[TableName],
    *,
    migration: str,
    owner: str,
    expires_in_s: float,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    deadline: float,
    back: bool = False,
) -> FenceState:
    """Refuse every write to the tables from the moment of this transaction's commit on.

    Its locks come only when each writer in flight has ended, so a marker written after it is behind the last write.
    A statement's trigger fires only for the table that the statement names: partitioned roots, their leaves and
    tables between, and parents by inheritance each get one, as the server's catalog says under the locks.

    The commit does not wait for the disk. A server that crashes has also ended our session, and where the fence is lost
    with it, sealing does not find it; the flush of the marker that follows, and that of the seal, are behind it.

    Args:
        connection: On the source, or for a rollback on a shard; in autocommit, without a transaction.
        tables: Moved tables; partitions may be left out.
        migration: Its name, for those who are refused.
        owner: Who raises it. Only the same owner can seal it.
        expires_in_s: After so long by the server's clock it lets writes through, whatever became of us (72).
        lock_timeout_s: How long one try may keep new writers waiting (60).
        deadline: Of all tries together, by `time.monotonic`.
        back: Whether the writes go from here back to the source; those who are refused are told where to.

    Raises:
        FenceBlockedError: A writer did not end in time; it is named, and nobody waits any more.
        HeldError: Another's fence is up.
        RefusedError: A prepared transaction is left over, or our role may not.
    """
    _refuse_prepared(connection)
    raised: list[FenceState] = []

    def create() -> None:
        state, now = _look(connection)
        _refuse_other(state, migration, owner)
        relatives = _relatives(connection, tables)
        if state.kind is FenceKind.NONE:
            connection.execute("CREATE SCHEMA IF NOT EXISTS shardmig")
        expires = now + expires_in_s
        statements = [
            _replacement(FenceKind.RAISED, connection, migration=migration, owner=owner, expires=expires, back=back)
        ]
        fenced = frozenset(state.tables) - frozenset(state.gaps)
        statements += [_trigger(table) for table in relatives if table not in fenced]
        connection.execute(sql.SQL("; ").join(statements), prepare=False)
        expires_at = datetime.fromtimestamp(expires, UTC)
        raised.append(
            FenceState(FenceKind.RAISED, migration, owner, expires_at, expires_in_s, tables=relatives, back=back)
        )

    with _explaining_rights():
        under_locks(connection, tables, create, lock_timeout_s=lock_timeout_s, deadline=deadline, flushed=False)
    return raised[-1]


def _refuse_prepared(connection: Connection) -> None:
    prepared = prepared_transactions(connection)
    if prepared:
        raise RefusedError(
            f"prepared transactions are left over: {'; '.join(map(str, prepared))}",
            hint="COMMIT PREPARED or ROLLBACK PREPARED each of them on the source",
        )


@contextmanager
def _explaining_rights() -> Iterator[None]:
    try:
        yield
    except errors.InsufficientPrivilege as error:
        raise RefusedError(
            f"our role may not raise the fence: {error.diag.message_primary}",
            hint="use the owner of the moved tables, with CREATE on the database, as the user of source.url",
        ) from None


def _relatives(connection: Connection, tables: Collection[TableName]) -> tuple[TableName, ...]:
    """Return the tables with all that a statement which reaches their rows may name."""
    rows = connection.execute(_RELATIVES, pairs(tables), prepare=True).fetchall()
    return tuple(TableName(*row) for row in rows)


def seal_fence(
    connection: Connection,
    *,
    migration: str,
    owner: str,
    left_s_min: float = SEAL_LEFT_S,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    deadline: float,
) -> FenceState:
    """Take the expiry away, if the fence is still ours, without gaps, with time enough left by the server's clock.

    Takes the tables' locks once more. A statement of a transaction that got ROW EXCLUSIVE behind the fence (LOCK TABLE)
    looks at no catalog while it runs, so a loop in it would call the function with the expiry on, past the expiry.

    Raises:
        FenceExpiredError: It is not, or the commit took until after the expiry; then it may be sealed already, but
            somebody may have written in between: undo.
        FenceBlockedError: The locks could not be had in time.
    """
    before: list[FenceState] = []

    def replace() -> None:
        state = fence_state(connection)
        _refuse_unsealable(state, migration, owner, left_s_min=left_s_min)
        before.append(state)
        connection.execute(
            _replacement(FenceKind.SEALED, connection, migration=migration, owner=owner, expires=None, back=state.back),
            prepare=False,
        )

    state = fence_state(connection)
    _refuse_unsealable(state, migration, owner, left_s_min=left_s_min)
    under_locks(connection, state.tables, replace, lock_timeout_s=lock_timeout_s, deadline=deadline)
    sealed, now = _look(connection)
    expires_at = before[-1].expires_at
    if expires_at is None or now >= expires_at.timestamp():
        raise FenceExpiredError(
            "the fence expired while it was being sealed", hint="nothing was switched; run shardmig cutover again"
        )
    return sealed


def open_fence(
    connection: Connection, *, migration: str, owner: str = "", sealed: bool = False, flushed: bool = True
) -> bool:
    """Let writers through at once, waiting for no table's lock; returns whether there was a fence.

    Args:
        connection: On the source; may be within a transaction.
        migration: Whose fence it must be.
        owner: If given, another owner's fence is left as it is.
        sealed: Whether it may be opened although the shards could be the writer (pitfall 63): only by those who have
            made sure in the journal that they are not.
        flushed: Whether it has to be on disk when this returns. A fence that a crash brings back refuses, and loses
            nothing; a write that was let through is behind the opening in the WAL.
    """
    with connection.transaction():
        if not flushed:
            connection.execute("SET LOCAL synchronous_commit = off")
        hold(connection)
        state = fence_state(connection)
        if state.kind is FenceKind.NONE or (owner and state.owner != owner):
            return False
        _refuse_to_open(state, migration, sealed=sealed)
        opened = _replacement(FenceKind.OPEN, connection, migration=state.migration, owner=state.owner, expires=None)
        connection.execute(opened, prepare=False)
    return True


def _refuse_to_open(state: FenceState, migration: str, *, sealed: bool) -> None:
    if state.refuses and state.migration != migration:
        raise HeldError(f"the fence is that of migration {state.migration!r}", hint="use the mapping of that migration")
    if state.kind is FenceKind.SEALED and not sealed:
        raise RefusedError(
            "the source is sealed: the shards may be the writer", hint="shardmig cutover --resume decides which"
        )


def open_at_once(connection: Connection, *, migration: str) -> None:
    """Let writers through, who wait for it, and spare their first statements the triggers if nobody is in the way.

    Only for those who have made sure in the journal that this side is the writer. What is left, `lift_fence` drops. A
    fence that a crash brings back refuses, and loses nothing; a write that was let through is behind this in the WAL.
    """
    try:
        with connection.transaction():
            connection.execute(short_try(AT_ONCE_S, flushed=False), prepare=False)
            hold(connection)
            state = fence_state(connection)
            _refuse_to_open(state, migration, sealed=True)
            dropping = [*map(_dropping, state.tables), sql.SQL("DROP FUNCTION IF EXISTS shardmig.refuse_write()")]
            connection.execute(sql.SQL("; ").join(dropping), prepare=False)
    except (*BUSY, errors.DependentObjectsStillExist):
        open_fence(connection, migration=migration, sealed=True, flushed=False)


def lift_fence(
    connection: Connection, *, migration: str, owner: str = "", sealed: bool = False, deadline: float | None = None
) -> tuple[TableName, ...]:
    """Open the fence, then remove its triggers, its function and, if nothing else is in it, our schema.

    Dropping a trigger waits for readers too, so it is done table by table with short tries; a trigger that stays
    lets everything through and goes with the next lift.

    Returns:
        The tables whose trigger could not be dropped before the deadline (by default: in one try each).
    """
    opened = open_fence(connection, migration=migration, owner=owner, sealed=sealed)
    left = fence_state(connection).tables if opened else ()
    while left:
        left = tuple(table for table in left if not _drop_trigger(connection, table))
        if not left or deadline is None or time.monotonic() >= deadline:
            break
        time.sleep(jitter(SHORT_LOCK_TIMEOUT_S))
    if left or not opened:
        return left
    connection.execute("DROP FUNCTION IF EXISTS shardmig.refuse_write()")
    try:
        connection.execute("DROP SCHEMA IF EXISTS shardmig")
    except errors.DependentObjectsStillExist:
        return ()  # the way back keeps its positions there
    return ()


def _refuse_other(state: FenceState, migration: str, owner: str) -> None:
    if state.kind is FenceKind.SEALED:
        raise RefusedError(f"the source was sealed by migration {state.migration!r}", hint="shardmig cutover --resume")
    if state.kind is FenceKind.RAISED and (state.migration, state.owner) != (migration, owner):
        raise HeldError(
            f"the fence of {state.owner} is up for another {state.left_s or 0:.0f} s",
            hint="wait until it is lifted or has expired",
        )


def _refuse_unsealable(state: FenceState, migration: str, owner: str, *, left_s_min: float) -> None:
    hint = "nothing was switched; run shardmig cutover again"
    if state.kind is not FenceKind.RAISED or (state.migration, state.owner) != (migration, owner):
        raise FenceExpiredError(f"the fence is {state.kind.value} and not ours any more", hint=hint)
    if state.left_s is None or state.left_s < left_s_min:
        raise FenceExpiredError(
            f"the fence has {state.left_s or 0:.1f} s left, sealing it wants {left_s_min:g} s", hint=hint
        )
    if state.gaps:
        raise FenceExpiredError(
            f"the fence has gaps: no enabled trigger on {', '.join(map(str, state.gaps))}",
            hint="no DDL on the source during the cutover; then run it again",
        )


def _about(source: str) -> dict[str, Any]:
    """Read the first line of the function's body: it and the code below it are one catalog row and cannot disagree."""
    first = source.lstrip("\n").partition("\n")[0].removeprefix("-- ")
    try:
        about = json.loads(first)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _replacement(
    kind: FenceKind,
    connection: Connection,
    *,
    migration: str,
    owner: str,
    expires: float | None,
    back: bool = False,
) -> sql.Composed:
    """Return the statement that puts another body into the function.

    Owner and expiry are literals in it, never rows: a REPEATABLE READ transaction from before the fence would not see
    those (ADR 0006).
    """
    about = json.dumps({"kind": kind.value, "migration": migration, "owner": owner, "expires": expires, "back": back})
    body = _body(kind, about, migration=migration, owner=owner, expires=expires, back=back).as_string(connection)
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION shardmig.refuse_write() RETURNS trigger LANGUAGE plpgsql"
        " SET search_path TO pg_catalog, pg_temp AS {}"
    ).format(sql.Literal(body))


def _body(
    kind: FenceKind, about: str, *, migration: str, owner: str, expires: float | None, back: bool
) -> sql.Composed:
    quoted_about = sql.SQL(cast("LiteralString", about))  # one line of JSON, in a comment
    if kind is FenceKind.OPEN:
        return sql.SQL(_OPEN_BODY).format(about=quoted_about)
    if expires is None:
        side = "back to the source" if back else "to the shards"
        message = f"writes to %I.%I have moved {side} of migration {migration}"
        there = "the database that was split" if back else "the shard that the row lives on"
        hint = f"connect to {there}; this database takes no more writes"
    else:
        until = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        there = "back to its source" if back else "to its shards"
        message = f"writes to %I.%I are paused: migration {migration} moves it {there}"
        hint = f"try again in a moment; if nobody lifts the fence it opens by itself at {until}"
    return sql.SQL(_BODY).format(
        about=quoted_about,
        setting=sql.Literal(APPLY_SETTING),
        migration=sql.Literal(migration),
        expires=sql.Literal(expires) if expires is not None else sql.SQL("'infinity'::double precision"),
        sqlstate=sql.Literal(SQLSTATE_MOVED if expires is None else SQLSTATE_PAUSED),
        message=sql.Literal(message),
        hint=sql.Literal(hint),
        detail=sql.Literal(f"fence of {owner}"),
    )


def _trigger(table: TableName) -> sql.Composed:
    return sql.SQL(
        "CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION shardmig.refuse_write();"
        " ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER {trigger}"
    ).format(trigger=sql.Identifier(TRIGGER), table=sql.Identifier(table.schema, table.name))


def _drop_trigger(connection: Connection, table: TableName) -> bool:
    return in_a_short_try(connection, _dropping(table))


def _dropping(table: TableName) -> sql.Composed:
    return sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
        sql.Identifier(TRIGGER), sql.Identifier(table.schema, table.name)
    )
