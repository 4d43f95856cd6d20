"""The locks under which the fence changes: every moved table's at once, in short tries, so that no queue grows long.

Says who is in the way. What is done under the locks is the fence's business.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from typing import Final, LiteralString

from psycopg import errors, sql

from fixia_shardmig.journal.journal import LOCK_CLASS
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection
from fixia_shardmig.postgres.slots import BlockingTransaction

LOCK_TIMEOUT_S: Final = 0.25
"""How long one try may wait. Every new writer queues behind it for as long (pitfall 60)."""

LOCK_TRIES_MAX: Final = 100

DEADLOCK_TIMEOUT: Final = "20ms"
"""After so long a wait the server cancels an autovacuum that is in our way, and ends a deadlock at our expense and not
at the application's. At the usual 1 s it would do neither within a try."""

SHORT_LOCK_TIMEOUT_S: Final = 0.1
"""How long a trigger may wait for its table's lock where it can be left for later."""

FENCE_LOCK: Final = 3
"""Second key of the advisory lock under which the function is replaced; the journal has 1 and 2."""


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

_TRY: LiteralString = """
SELECT pg_catalog.set_config('lock_timeout', {ms}, true), pg_catalog.set_config('statement_timeout', {ms}, true),
       CASE WHEN (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
                OR pg_catalog.has_parameter_privilege('deadlock_timeout', 'SET')
            THEN pg_catalog.set_config('deadlock_timeout', {deadlock}, true) END,
       CASE WHEN {flushed} AND current_setting('synchronous_commit') = 'off'
            THEN pg_catalog.set_config('synchronous_commit', 'local', true)
            WHEN NOT {flushed} THEN pg_catalog.set_config('synchronous_commit', 'off', true) END
"""

_HOLD: LiteralString = "SELECT pg_catalog.pg_advisory_xact_lock({lock_class}, {lock})"

_REST_OF_TRY: LiteralString = "SELECT pg_catalog.set_config('statement_timeout', {ms}, true)"

BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.QueryCanceled)


def prepared_transactions(connection: Connection) -> list[BlockingTransaction]:
    """Return the prepared transactions of this database, oldest first (pitfall 59)."""
    return [BlockingTransaction(*row) for row in connection.execute(_PREPARED, prepare=True).fetchall()]


def lock_holders(connection: Connection, tables: Collection[TableName]) -> list[BlockingTransaction]:
    """Return who holds a lock that the fence has to wait for, oldest transaction first. Readers do not."""
    rows = connection.execute(_BLOCKERS, pairs(tables)).fetchall()
    return [BlockingTransaction(*row) for row in rows]


def under_locks(
    connection: Connection,
    tables: Collection[TableName],
    work: Callable[[], None],
    *,
    lock_timeout_s: float,
    deadline: float,
    flushed: bool = True,
) -> None:
    """Do work in one transaction that holds off every writer; short tries with pauses, so that queues can run off."""
    blockers: list[BlockingTransaction] = []
    for number in range(1, LOCK_TRIES_MAX + 1):
        wait_s = min(lock_timeout_s, max(deadline - time.monotonic(), 0.001))
        try:
            with connection.transaction():
                connection.execute(_locking(tables, wait_s, deadline=deadline, flushed=flushed), prepare=False)
                work()
        except BUSY:
            blockers = _those_in_the_way(connection, tables, wait_s) or blockers
        else:
            return
        pause_s = jitter(lock_timeout_s)
        if time.monotonic() + pause_s >= deadline:
            raise FenceBlockedError(blockers, number)
        time.sleep(pause_s)
    raise FenceBlockedError(blockers, LOCK_TRIES_MAX)


def _locking(tables: Collection[TableName], wait_s: float, *, deadline: float, flushed: bool) -> sql.Composed:
    """Return all that comes before the work as one message: each of them alone would cost a journey there and back."""
    listed = sql.SQL(", ").join(sql.Identifier(t.schema, t.name) for t in sorted(tables))
    hold = sql.SQL(_HOLD).format(lock_class=sql.Literal(LOCK_CLASS), lock=sql.Literal(FENCE_LOCK))
    lock = sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(listed)
    rest = sql.SQL(_REST_OF_TRY).format(ms=sql.Literal(str(max(1, int((deadline - time.monotonic()) * 1000)))))
    return sql.SQL("; ").join([short_try(wait_s, flushed=flushed), hold, lock, rest])


def short_try(wait_s: float, *, flushed: bool = True) -> sql.Composed:
    """Return the settings of one transaction: how long it waits, and whether its commit waits for the disk."""
    return sql.SQL(_TRY).format(
        ms=sql.Literal(str(max(1, int(wait_s * 1000)))),
        deadlock=sql.Literal(DEADLOCK_TIMEOUT),
        flushed=sql.Literal(flushed),
    )


def _those_in_the_way(
    connection: Connection, tables: Collection[TableName], waited_s: float
) -> list[BlockingTransaction]:
    """Name the holders that are older than the try; the short ones came and went behind it."""
    holders = lock_holders(connection, tables)
    return [holder for holder in holders if holder.age_s is None or holder.age_s >= waited_s]


def hold(connection: Connection) -> None:
    """Let nobody else replace the function until this transaction ends."""
    connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, FENCE_LOCK))


def jitter(base_s: float) -> float:
    """Return about as long a time, each time another one."""
    return base_s * random.uniform(0.5, 1.5)  # noqa: S311  keeps tries apart, no secret


def in_a_short_try(connection: Connection, statement: sql.Composed) -> bool:
    """Change one table's trigger, or leave it if its lock is not to be had at once; true as well if it is gone."""
    try:
        with connection.transaction():
            connection.execute(short_try(SHORT_LOCK_TIMEOUT_S), prepare=False)
            connection.execute(statement, prepare=False)
    except BUSY:
        return False
    except errors.UndefinedTable:
        return True
    return True


def pairs(tables: Collection[TableName]) -> list[list[str]]:
    """Return schemas and names as the two parameters of a query that unnests them."""
    ordered = sorted(tables)
    return [[table.schema for table in ordered], [table.name for table in ordered]]
