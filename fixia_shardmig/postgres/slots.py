"""Makes, reads and drops logical slots, names what keeps a new one waiting, and writes marker messages into the WAL.

The order is metadata, publication, slot (pitfall 15), and it is the caller's to keep.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import errors, sql

from fixia_shardmig.model.errors import HeldError, RefusedError, ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.sessions import Connection

RELEASE_WAIT_S: Final = 10.0
"""How long a slot may stay active after its reader has gone: a server notices a lost client at its next write."""

RELEASE_POLL_S: Final = 0.2

PLUGIN: Final = "pgoutput"

BEGIN_AGAIN: Final = "shardmig abort --drop-targets, then begin again"

_BLOCKERS = """
SELECT l.pid, coalesce(p.gid, ''), coalesce(a.application_name, ''), coalesce(a.usename, p.owner, ''),
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8, a.query_start
FROM (SELECT pid, min(transactionid::text) AS xid FROM pg_catalog.pg_locks
      WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
      GROUP BY pid, virtualtransaction) AS l
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_prepared_xacts AS p ON l.pid IS NULL AND p.transaction::text = l.xid
WHERE l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
ORDER BY 5 DESC NULLS LAST, 1
"""

_STATE = """
SELECT plugin, database, active, active_pid, restart_lsn, confirmed_flush_lsn, wal_status, safe_wal_size,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), restart_lsn)::int8,
       pg_catalog.age(catalog_xmin), pg_catalog.age(xmin),
       extract(epoch FROM pg_catalog.clock_timestamp()
               - (pg_catalog.to_jsonb(s) ->> 'inactive_since')::pg_catalog.timestamptz)::float8
FROM pg_catalog.pg_replication_slots AS s WHERE slot_name = %s
"""

_HOLDER = """
SELECT coalesce(application_name, ''), coalesce(host(client_addr), 'local socket')
FROM pg_catalog.pg_stat_activity WHERE pid = %s
"""

_MARKER = """
SELECT pg_catalog.set_config('synchronous_commit', 'local', true), pg_catalog.pg_current_xact_id(),
       pg_catalog.pg_logical_emit_message(%s::bool, %s::text, %s::bytea)
"""


@dataclass(frozen=True, slots=True)
class SlotSnapshot:
    """A new slot and the snapshot that stands exactly where its stream begins.

    The snapshot lives until the next command on the connection that made the slot (pitfall 41).
    """

    lsn: LSN
    snapshot_name: str


@dataclass(frozen=True, slots=True)
class BlockingTransaction:
    """A transaction that has written something and is still open, anywhere on the server.

    Attributes:
        pid: Its backend, None for a prepared transaction.
        prepared: The identifier of a prepared transaction, else empty.
        age_s: Seconds since it began, None where our role may not see it.
    """

    pid: int | None
    prepared: str
    application: str
    user: str
    age_s: float | None
    query_start: datetime | None

    def __str__(self) -> str:
        """Return what an operator needs to find it."""
        who = f"pid {self.pid}" if self.pid is not None else f"prepared transaction {self.prepared!r}"
        about = [part for part in (self.application, self.user) if part]
        if self.age_s is not None:
            about.append(f"open for {self.age_s:.0f} s")
        return f"{who} ({', '.join(about)})" if about else who


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of pg_replication_slots, in its spelling.

    Attributes:
        wal_status: reserved, extended, unreserved or lost.
        safe_wal_size: Bytes that may still be written before the slot is in danger; None without a limit.
        retained_wal_bytes: What the slot keeps from being removed; None once it is lost.
        catalog_xmin_age: Transactions since the oldest that the slot holds vacuum of the catalogs back for.
        xmin_age: The same for all tables; a logical slot that was made with a snapshot has it for a moment.
        inactive_s: How long nobody has read from it; None while somebody does, and before 17.
    """

    name: str
    plugin: str
    database: str
    active: bool
    active_pid: int | None
    restart_lsn: LSN | None
    confirmed_flush_lsn: LSN | None
    wal_status: str
    safe_wal_size: int | None
    retained_wal_bytes: int | None
    catalog_xmin_age: int | None
    xmin_age: int | None = None
    inactive_s: float | None = None


def create_slot(connection: Connection, name: str, *, temporary: bool = False) -> SlotSnapshot:
    """Create a pgoutput slot and export its snapshot.

    Waits for every transaction that is open on the server, however long that takes (pitfall 40): meanwhile
    `blocking_transactions` on another connection names them, and `connection.cancel_safe()` gives up without a trace.
    Afterwards the connection must stay silent for as long as somebody may want to import the snapshot (41).

    Args:
        connection: From `replication_connection`.
        name: [a-z0-9_], at most 63 characters.
        temporary: Whether the slot goes with its connection.

    Raises:
        RefusedError: The name is taken, no slot is free, or the server's settings or our role do not allow it.
    """
    statement = sql.SQL("CREATE_REPLICATION_SLOT {}{} LOGICAL pgoutput (SNAPSHOT 'export')").format(
        sql.Identifier(name), sql.SQL(" TEMPORARY" if temporary else "")
    )
    try:
        row = connection.execute(statement).fetchone()
    except errors.DuplicateObject:
        raise RefusedError(
            f"replication slot {name} already exists",
            hint=f"if no migration uses it, run shardmig abort, or: SELECT pg_drop_replication_slot('{name}')",
        ) from None
    except errors.ConfigurationLimitExceeded:
        raise RefusedError(
            f"cannot create replication slot {name}: all slots are in use",
            hint="drop slots nobody reads (pg_replication_slots), or raise max_replication_slots and restart",
        ) from None
    except errors.InvalidName:
        raise RefusedError(
            f"{name!r} cannot be the name of a slot", hint="use lower case letters, digits and underscores"
        ) from None
    if row is None:
        raise ShardmigError(f"the server did not say where slot {name} begins", hint="check that it is PostgreSQL")
    return SlotSnapshot(LSN.parse(row[1]), row[2])


def blocking_transactions(connection: Connection) -> list[BlockingTransaction]:
    """Return the open transactions that a new slot waits for, the oldest first.

    Read from pg_locks, which shows a transaction also to a role that may not see its session's details.
    """
    rows = connection.execute(_BLOCKERS).fetchall()
    return [
        BlockingTransaction(pid, gid, application, user, age_s, query_start)
        for pid, gid, application, user, age_s, query_start in rows
    ]


def slot_state(connection: Connection, name: str) -> SlotState | None:
    """Return how a slot is, or None where there is none of this name."""
    row = connection.execute(_STATE, [name]).fetchone()
    if row is None:
        return None
    plugin, database, active, active_pid, restart, confirmed, status, safe, retained, catalog_age, age, idle_s = row
    return SlotState(
        name=name,
        plugin=plugin or "",
        database=database or "",
        active=active,
        active_pid=active_pid,
        restart_lsn=LSN.parse(restart) if restart else None,
        confirmed_flush_lsn=LSN.parse(confirmed) if confirmed else None,
        wal_status=status or "",
        safe_wal_size=safe,
        retained_wal_bytes=retained,
        catalog_xmin_age=catalog_age,
        xmin_age=age,
        inactive_s=idle_s,
    )


def refuse_lost_slot(name: str, state: SlotState | None) -> SlotState:
    """Return a slot's state; refuse one that is gone or lost: what it kept cannot be read again from anywhere.

    Raises:
        RefusedError: With the way forward, which is to begin again.
    """
    if state is None:
        raise RefusedError(
            f"replication slot {name} does not exist: somebody dropped it, or a failover before 17 lost it, with what"
            " changed since it began",
            hint=BEGIN_AGAIN,
        )
    if state.wal_status == "lost":
        raise RefusedError(
            f"replication slot {name} is lost: the server removed WAL that it needed (max_slot_wal_keep_size)",
            hint=f"raise max_slot_wal_keep_size on the source; {BEGIN_AGAIN}",
        )
    return state


def drop_slot(connection: Connection, name: str) -> bool:
    """Drop a slot; returns whether there was one.

    Raises:
        HeldError: Somebody still reads from it after a short wait.
    """
    deadline = time.monotonic() + RELEASE_WAIT_S
    while True:
        try:
            connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", [name])
        except errors.UndefinedObject:
            return False
        except errors.ObjectInUse:
            if time.monotonic() >= deadline:
                raise slot_held(connection, name) from None
            time.sleep(RELEASE_POLL_S)
        else:
            return True


def slot_held(connection: Connection, name: str) -> HeldError:
    """Return the error that names who reads from a slot."""
    state = slot_state(connection, name)
    pid = state.active_pid if state else None
    row = connection.execute(_HOLDER, [pid]).fetchone() if pid is not None else None
    about = f" ({row[0] or 'no application name'}, {row[1]})" if row else ""
    return HeldError(
        f"replication slot {name} is in use by pid {pid}{about}",
        hint=f"stop that process, or on the source: SELECT pg_terminate_backend({pid})",
    )


def emit_marker(connection: Connection, prefix: str, content: bytes, *, transactional: bool = False) -> LSN:
    """Write a logical message into the WAL and flush it, so that it reaches the stream at once, also on an idle server.

    A message alone is flushed only by the next commit or the WAL writer, up to seconds later. A transaction id in the
    same transaction makes its commit a flush; 17's flush argument would do it too, but not on 15 and 16. No standby is
    waited for.

    Args:
        connection: With no transaction open, else the flush comes with that transaction's commit.
        prefix: Whose message it is; the reader keeps only the prefixes it was told.
        content: Anything that tells this marker from others.
        transactional: Whether it takes part in commit order rather than standing where it is written.

    Returns:
        Where its record ends. The stream shows where it begins: recognise a marker by its content.
    """
    with connection.transaction():
        row = connection.execute(_MARKER, [transactional, prefix, content]).fetchone()
    if row is None:
        raise ShardmigError("the server did not say where the marker is", hint="check that it is PostgreSQL")
    return LSN.parse(row[2])
