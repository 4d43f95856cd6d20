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
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, LiteralString, cast

from psycopg import errors, sql

from fixia_shardmig.journal.journal import LOCK_CLASS
from fixia_shardmig.journal.way_back import APPLY_SETTING
from fixia_shardmig.model.errors import HeldError, RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection, scalar
from fixia_shardmig.postgres.slots import BlockingTransaction

TRIGGER: Final = "shardmig_fence"
SQLSTATE_PAUSED: Final = "SM001"
SQLSTATE_MOVED: Final = "SM002"

LOCK_TIMEOUT_S: Final = 0.25
"""How long one try may wait. Every new writer queues behind it for as long (pitfall 60)."""

LOCK_TRIES_MAX: Final = 100

DEADLOCK_TIMEOUT: Final = "20ms"
"""After so long a wait the server cancels an autovacuum that is in our way, and ends a deadlock at our expense and not
at the application's. At the usual 1 s it would do neither within a try."""

SEAL_LEFT_S: Final = 2.0
"""So much of the fence's time must be left when it is sealed; a commit that takes longer is found afterwards."""

DROP_LOCK_TIMEOUT_S: Final = 0.1
FENCE_LOCK: Final = 3
"""Second key of the advisory lock under which the function is replaced; the journal has 1 and 2."""


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


class FenceBlockedError(RefusedError):
    """Writers that are still in flight kept the locks for as long as was allowed. `blockers` names them."""

    def __init__(self, blockers: list[BlockingTransaction], tries: int) -> None:
        """Name whom an operator has to ask."""
        named = "; ".join(str(blocker) for blocker in blockers) or "writers that have ended since"
        pid = next((blocker.pid for blocker in blockers if blocker.pid is not None), None)
        end = f", or on the source: SELECT pg_terminate_backend({pid})" if pid is not None else ""
        super().__init__(
            f"the moved tables could not be locked in {tries} tries: {named}",
            hint=f"wait for it to end{end}; then run shardmig cutover again",
        )
        self.blockers = blockers


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

_SOURCE: LiteralString = """
SELECT p.prosrc, extract(epoch FROM clock_timestamp())::float8
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'shardmig' AND p.proname = 'refuse_write' AND p.pronargs = 0
"""

_TREES: LiteralString = """
WITH RECURSIVE fenced(oid, enabled) AS (
    SELECT t.tgrelid, t.tgenabled = 'A' FROM pg_catalog.pg_trigger t WHERE t.tgname = %s AND NOT t.tgisinternal
), tree(oid) AS (
    SELECT f.oid FROM fenced f
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent
)
SELECT n.nspname, c.relname, f.oid IS NOT NULL, coalesce(f.enabled, false)
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN fenced f ON f.oid = tree.oid ORDER BY 1, 2
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

_BLOCKERS: LiteralString = """
WITH RECURSIVE tree(oid) AS (
    SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN unnest(%s::text[], %s::text[]) AS wanted(schema, name) ON n.nspname = schema AND c.relname = name
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent
), holder AS (
    SELECT DISTINCT l.pid, l.virtualtransaction FROM pg_catalog.pg_locks l
    WHERE l.locktype = 'relation' AND l.granted AND l.relation IN (SELECT oid FROM tree)
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
      AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
)
SELECT h.pid, coalesce(p.gid, ''), coalesce(nullif(a.application_name, ''), a.backend_type, ''),
       coalesce(a.usename, p.owner, ''),
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8, a.query_start
FROM holder h
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = h.pid
LEFT JOIN pg_catalog.pg_prepared_xacts p ON h.pid IS NULL AND h.virtualtransaction = '-1/' || p.transaction
ORDER BY 5 DESC NULLS LAST, 1
"""

_PREPARED: LiteralString = """
SELECT NULL::int, gid, '', owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8, NULL::timestamptz
FROM pg_catalog.pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""

_PREPARE_TRY: LiteralString = """
SELECT pg_catalog.set_config('lock_timeout', %(ms)s, true), pg_catalog.set_config('statement_timeout', %(ms)s, true),
       CASE WHEN (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
                OR pg_catalog.has_parameter_privilege('deadlock_timeout', 'SET')
            THEN pg_catalog.set_config('deadlock_timeout', %(deadlock)s, true) END,
       CASE WHEN current_setting('synchronous_commit') = 'off'
            THEN pg_catalog.set_config('synchronous_commit', 'local', true) END
"""

_REST_OF_TRY: LiteralString = "SELECT pg_catalog.set_config('statement_timeout', %s, true)"

_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.QueryCanceled)


def fence_state(connection: Connection) -> FenceState:
    """Return how the fence stands, also when only half of it is there. Reads catalogs, waits for nobody."""
    row = connection.execute(_SOURCE).fetchone()
    trees = connection.execute(_TREES, [TRIGGER]).fetchall()
    tables = tuple(TableName(schema, name) for schema, name, fenced, _ in trees if fenced)
    gaps = tuple(TableName(schema, name) for schema, name, _, enabled in trees if not enabled)
    if row is None:
        return FenceState(FenceKind.NONE, tables=tables, gaps=gaps)
    about = _about(row[0])
    expires = about.get("expires")
    left_s = expires - row[1] if expires is not None else None
    kind = FenceKind(about.get("kind", "open"))
    if kind is FenceKind.RAISED and left_s is not None and left_s <= 0:
        kind = FenceKind.EXPIRED
    return FenceState(
        kind,
        migration=about.get("migration", ""),
        owner=about.get("owner", ""),
        expires_at=datetime.fromtimestamp(expires, UTC) if expires is not None else None,
        left_s=left_s,
        tables=tables,
        gaps=gaps,
        back=bool(about.get("back")),
    )


def prepared_transactions(connection: Connection) -> list[BlockingTransaction]:
    """Return the prepared transactions of this database, oldest first (pitfall 59)."""
    return [BlockingTransaction(*row) for row in connection.execute(_PREPARED).fetchall()]


def lock_holders(connection: Connection, tables: Collection[TableName]) -> list[BlockingTransaction]:
    """Return who holds a lock that the fence has to wait for, oldest transaction first. Readers do not."""
    rows = connection.execute(_BLOCKERS, _pairs(tables)).fetchall()
    return [BlockingTransaction(*row) for row in rows]


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
    prepared = prepared_transactions(connection)
    if prepared:
        raise RefusedError(
            f"prepared transactions are left over: {'; '.join(map(str, prepared))}",
            hint="COMMIT PREPARED or ROLLBACK PREPARED each of them on the source",
        )

    def create() -> None:
        _refuse_other(fence_state(connection), migration, owner)
        rows = connection.execute(_RELATIVES, _pairs(tables)).fetchall()
        expires = scalar(connection, "SELECT extract(epoch FROM clock_timestamp())::float8") + expires_in_s
        connection.execute("CREATE SCHEMA IF NOT EXISTS shardmig")
        _replace(connection, FenceKind.RAISED, migration=migration, owner=owner, expires=expires, back=back)
        connection.execute(sql.SQL("; ").join(_trigger(TableName(*row)) for row in rows))

    try:
        _under_locks(connection, tables, create, lock_timeout_s=lock_timeout_s, deadline=deadline)
    except errors.InsufficientPrivilege as error:
        raise RefusedError(
            f"our role may not raise the fence: {error.diag.message_primary}",
            hint="use the owner of the moved tables, with CREATE on the database, as the user of source.url",
        ) from None
    return fence_state(connection)


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
        _replace(connection, FenceKind.SEALED, migration=migration, owner=owner, expires=None, back=state.back)

    state = fence_state(connection)
    _refuse_unsealable(state, migration, owner, left_s_min=left_s_min)
    _under_locks(connection, state.tables, replace, lock_timeout_s=lock_timeout_s, deadline=deadline)
    now = scalar(connection, "SELECT clock_timestamp()")
    expires_at = before[-1].expires_at
    if expires_at is None or now >= expires_at:
        raise FenceExpiredError(
            "the fence expired while it was being sealed", hint="nothing was switched; run shardmig cutover again"
        )
    return fence_state(connection)


def open_fence(connection: Connection, *, migration: str, owner: str = "", sealed: bool = False) -> bool:
    """Let writers through at once, waiting for no table's lock; returns whether there was a fence.

    Args:
        connection: On the source; may be within a transaction.
        migration: Whose fence it must be.
        owner: If given, another owner's fence is left as it is.
        sealed: Whether it may be opened although the shards could be the writer (pitfall 63): only by those who have
            made sure in the journal that they are not.
    """
    with connection.transaction():
        _hold(connection)
        state = fence_state(connection)
        if state.kind is FenceKind.NONE or (owner and state.owner != owner):
            return False
        if state.refuses and state.migration != migration:
            raise HeldError(
                f"the fence is that of migration {state.migration!r}", hint="use the mapping of that migration"
            )
        if state.kind is FenceKind.SEALED and not sealed:
            raise RefusedError(
                "the source is sealed: the shards may be the writer", hint="shardmig cutover --resume decides which"
            )
        _replace(connection, FenceKind.OPEN, migration=state.migration, owner=state.owner, expires=None)
    return True


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
        time.sleep(_jitter(DROP_LOCK_TIMEOUT_S))
    if left or not opened:
        return left
    connection.execute("DROP FUNCTION IF EXISTS shardmig.refuse_write()")
    try:
        connection.execute("DROP SCHEMA IF EXISTS shardmig")
    except errors.DependentObjectsStillExist:
        return ()  # the way back keeps its positions there
    return ()


def _under_locks(
    connection: Connection,
    tables: Collection[TableName],
    work: Callable[[], None],
    *,
    lock_timeout_s: float,
    deadline: float,
) -> None:
    """Do work in one transaction that holds off every writer; short tries with pauses, so that queues can run off."""
    listed = sql.SQL(", ").join(sql.Identifier(t.schema, t.name) for t in sorted(tables))
    lock = sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(listed)
    blockers: list[BlockingTransaction] = []
    for number in range(1, LOCK_TRIES_MAX + 1):
        wait_s = min(lock_timeout_s, max(deadline - time.monotonic(), 0.001))
        try:
            with connection.transaction():
                milliseconds = str(max(1, int(wait_s * 1000)))
                connection.execute(_PREPARE_TRY, {"ms": milliseconds, "deadlock": DEADLOCK_TIMEOUT})
                _hold(connection)
                connection.execute(lock)
                connection.execute(_REST_OF_TRY, [str(max(1, int((deadline - time.monotonic()) * 1000)))])
                work()
        except _BUSY:
            blockers = _those_in_the_way(connection, tables, wait_s) or blockers
        else:
            return
        pause_s = _jitter(lock_timeout_s)
        if time.monotonic() + pause_s >= deadline:
            raise FenceBlockedError(blockers, number)
        time.sleep(pause_s)
    raise FenceBlockedError(blockers, LOCK_TRIES_MAX)


def _those_in_the_way(
    connection: Connection, tables: Collection[TableName], waited_s: float
) -> list[BlockingTransaction]:
    """Name the holders that are older than the try; the short ones came and went behind it."""
    holders = lock_holders(connection, tables)
    return [holder for holder in holders if holder.age_s is None or holder.age_s >= waited_s]


def _hold(connection: Connection) -> None:
    """Let nobody else replace the function until this transaction ends."""
    connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, FENCE_LOCK))


def _jitter(base_s: float) -> float:
    return base_s * random.uniform(0.5, 1.5)  # noqa: S311  keeps tries apart, no secret


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


def _replace(
    connection: Connection,
    kind: FenceKind,
    *,
    migration: str,
    owner: str,
    expires: float | None,
    back: bool = False,
) -> None:
    """Put another body into the function.

    Owner and expiry are literals in it, never rows: a REPEATABLE READ transaction from before the fence would not see
    those (ADR 0006).
    """
    about = json.dumps({"kind": kind.value, "migration": migration, "owner": owner, "expires": expires, "back": back})
    body = _body(kind, about, migration=migration, owner=owner, expires=expires, back=back).as_string(connection)
    connection.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION shardmig.refuse_write() RETURNS trigger LANGUAGE plpgsql"
            " SET search_path TO pg_catalog, pg_temp AS {}"
        ).format(sql.Literal(body))
    )


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
    statement = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
        sql.Identifier(TRIGGER), sql.Identifier(table.schema, table.name)
    )
    try:
        with connection.transaction():
            milliseconds = str(int(DROP_LOCK_TIMEOUT_S * 1000))
            connection.execute(_PREPARE_TRY, {"ms": milliseconds, "deadlock": DEADLOCK_TIMEOUT})
            connection.execute(statement)
    except _BUSY:
        return False
    except errors.UndefinedTable:
        return True
    return True


def _pairs(tables: Collection[TableName]) -> list[list[str]]:
    ordered = sorted(tables)
    return [[table.schema for table in ordered], [table.name for table in ordered]]
