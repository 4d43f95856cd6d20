"""Speaks the streaming replication protocol: a connection to a walsender, and the stream of a slot's changes.

psycopg opens the connection and runs commands on it; while a stream runs, libpq is driven directly (`psycopg.pq`),
since psycopg has no reader for it. The facts behind each step are in "Streaming Replication Protocol" of the manual.

Refuses poolers (pitfall 46), a start that the server would silently move forward (39), a missing publication (15).
"""

from __future__ import annotations

import contextlib
import select
import struct
import time
from typing import Final, LiteralString, cast

import psycopg
from psycopg import errors, pq, sql

from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.framing import Frame, Stopped, taker_of
from fixia_shardmig.postgres.publications import publication_tables
from fixia_shardmig.postgres.retry import is_passing
from fixia_shardmig.postgres.sessions import (
    KEEPALIVE_IDLE_S,
    KEEPALIVE_INTERVAL_S,
    KEEPALIVES,
    TCP_USER_TIMEOUT_MS,
    Connection,
    connection_error,
    describe,
    pinned_settings,
    scalar,
    without_secret,
)
from fixia_shardmig.postgres.silence import CONNECT_TIMEOUT_S, SILENCE_S, watch
from fixia_shardmig.postgres.slots import (
    BEGIN_AGAIN,
    PLUGIN,
    RELEASE_POLL_S,
    RELEASE_WAIT_S,
    refuse_lost_slot,
    slot_held,
    slot_state,
)

STATUS_INTERVAL_S: Final = 10.0
"""At least this often the server hears from us: a sixth of wal_sender_timeout's default."""

PROGRESS_INTERVAL_S: Final = 1.0
"""At most this often a moved position is told unasked: a status costs a system call, a slot wants to move on."""

GATHER_S: Final = 0.001
"""How long `read` lets frames gather that come one by one. Without it a fast reader wakes for every second row of a
busy stream: up to five times the CPU, which the appliers want."""

LEAVE_WAIT_S: Final = 2.0
"""How long a stream that is closed waits for the server to agree. A walsender busy with a large transaction may not."""

SEND_TIMEOUT_S: Final = 30.0
"""A server that takes no status for so long is gone."""

_SERVER_16: Final = 160000

_POSTGRES_EPOCH_S: Final = 946_684_800
_status = struct.Struct(">cQQQqB")

_CONNECT_REFUSALS = (
    (
        ("must be superuser or replication role", "permission denied to start WAL sender"),
        "the role may not replicate",
        "as a superuser: ALTER ROLE … REPLICATION (on RDS: GRANT rds_replication TO …)",
    ),
    (
        ("unsupported startup parameter",),
        "this is a connection pooler, and replication needs PostgreSQL itself",
        "use the server's direct URL, not PgBouncer's",
    ),
    (
        ("exceeds max_wal_senders",),
        "no walsender is free",
        "end readers nobody needs (pg_stat_replication), or raise max_wal_senders and restart",
    ),
)


def replication_connection(url: str, purpose: str) -> Connection:
    """Open a connection to a walsender of the URL's database, with the settings that values are read under pinned.

    It takes replication commands and plain SQL, both without server-side parameters.

    Args:
        url: The server's own URL, not a pooler's; a secret.
        purpose: Shown as `shardmig <purpose>` in pg_stat_activity.

    Raises:
        RefusedError: A pooler, a role without REPLICATION, wal_level is not logical, or any refusal of `connect`.
        TemporaryError: It cannot be reached now.
    """
    try:
        connection = psycopg.connect(
            url,
            autocommit=True,
            replication="database",
            cursor_factory=psycopg.ClientCursor,
            connect_timeout=CONNECT_TIMEOUT_S,
            keepalives_idle=KEEPALIVE_IDLE_S,
            keepalives_interval=KEEPALIVE_INTERVAL_S,
            keepalives_count=KEEPALIVES,
            tcp_user_timeout=TCP_USER_TIMEOUT_MS,
            application_name=f"shardmig {purpose}",
            client_encoding="utf-8",
        )
    except psycopg.Error as error:
        raise _connect_error(error, url) from None
    try:
        _prepare(connection, url)
    except psycopg.Error as error:
        connection.close()
        raise connection_error(error, url) from None
    except BaseException:
        connection.close()
        raise
    watch(connection, url, connection.info.backend_pid)
    return connection


def _connect_error(error: psycopg.Error, url: str) -> ShardmigError:
    text = str(error)
    for fragments, message, hint in _CONNECT_REFUSALS:
        if any(fragment in text for fragment in fragments):
            return RefusedError(f"{describe(url)}: {message}", hint=hint)
    return connection_error(error, url)


def _prepare(connection: Connection, url: str) -> None:
    """Pin the settings and refuse a server that cannot serve a stream."""
    for name, value in pinned_settings(connection).items():
        connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", [name, value])
    # PgBouncer 1.23 and later pass replication through but invent the process id they tell their client.
    if connection.info.backend_pid != scalar(connection, "SELECT pg_catalog.pg_backend_pid()"):
        raise RefusedError(
            f"{describe(url)}: this is a connection pooler, and replication needs PostgreSQL itself",
            hint="use the server's direct URL, not PgBouncer's",
        )
    wal_level = scalar(connection, "SELECT pg_catalog.current_setting('wal_level')")
    if wal_level != "logical":
        raise RefusedError(
            f"{describe(url)}: wal_level is {wal_level}, and a slot needs logical",
            hint="ALTER SYSTEM SET wal_level = logical, then restart the server",
        )


class Stream:
    """A slot's changes, read by one thread. Call `read` at least every ten seconds, also with nothing to do.

    The server learns only what `acknowledge` was told: until then it keeps the WAL, and it waits for it before it shuts
    down. Acknowledge an `Idle` as soon as all before it is durable, or the source cannot be stopped.
    """

    def __init__(
        self,
        url: str,
        slot: str,
        *,
        start: LSN,
        publication: str,
        purpose: str = "stream",
        streaming: bool = False,
        origin_none: bool = False,
    ) -> None:
        """Connect and start.

        Args:
            url: The server's own URL; a secret.
            slot: An existing pgoutput slot.
            start: Transactions that committed before it are left out; what the shards have.
            publication: An existing publication.
            purpose: Shown as `shardmig <purpose>` in pg_stat_activity.
            streaming: Whether large transactions come before their COMMIT, in blocks between others.
            origin_none: Whether the server leaves out what came to it through replication. Needs 16: on 15 it sends
                them, and `Transaction.origin` tells.

        Raises:
            RefusedError: The slot or the publication is missing or unusable, or the start is already acknowledged.
            HeldError: Another process reads from the slot and does not let go.
            TemporaryError: The server cannot be reached now.
        """
        self._url = url
        self._slot = slot
        self._acknowledged = start
        self._server_lsn = start
        self._ended = False
        self._connection = replication_connection(url, purpose)
        try:
            _check_publication(self._connection, publication)
            origin_filter = origin_none and self._connection.info.server_version >= _SERVER_16
            self._start(_start_command(slot, start, publication, streaming=streaming, origin_none=origin_filter))
        except psycopg.Error as error:
            self._connection.close()
            raise self._lost(error) from None
        except BaseException:
            self._connection.close()
            raise
        self._pgconn = self._connection.pgconn
        self._pgconn.nonblocking = 1
        self._taker = taker_of(self._pgconn)
        self._told = start
        self._told_at = 0.0
        self._heard_at = time.monotonic()
        self._asked_at: float | None = None

    @property
    def server_lsn(self) -> LSN:
        """Return the newest position the server has spoken of. It proves nothing alone: see `transactions.Idle`."""
        return self._server_lsn

    @property
    def acknowledged_lsn(self) -> LSN:
        """Return what the owner has declared durable."""
        return self._acknowledged

    @property
    def backend_pid(self) -> int:
        """Return the walsender's process id."""
        return self._connection.info.backend_pid

    def acknowledge(self, flushed_lsn: LSN) -> None:
        """Declare that everything that committed before a position is durable on every shard.

        The server is told by the next `read` or `send_status`. A position below an earlier one changes nothing.
        """
        self._acknowledged = max(self._acknowledged, flushed_lsn)

    def read(self, max_bytes: int, wait_s: float) -> list[Frame]:
        """Return what has come, in order, as frames for a `TransactionReader`.

        Returns as soon as nothing more is there, at the latest when `max_bytes` are exceeded; waits for a first frame
        up to `wait_s` seconds. An empty list means silence.

        Raises:
            TemporaryError: The connection is lost or the server shuts down.
            RefusedError: The slot or the publication is gone.
        """
        deadline = time.monotonic() + wait_s
        try:
            while True:
                self._tell_if_due()
                frames = self._receive(max_bytes)
                left_s = deadline - time.monotonic()
                if not frames:
                    self._refuse_silence()
                if frames or left_s <= 0:
                    return frames
                self._wait(select.POLLIN, min(left_s, self._due_in_s()))
        except psycopg.Error as error:
            self._ended = True
            raise self._lost(error) from None

    def send_status(self) -> None:
        """Tell the server now what is acknowledged."""
        try:
            self._send_status()
        except psycopg.Error as error:
            self._ended = True
            raise self._lost(error) from None

    def close(self) -> None:
        """Tell the server a last time what is acknowledged, and let the slot go. May be called twice."""
        if not self._ended and not self._connection.closed:
            self._ended = True
            with contextlib.suppress(psycopg.Error):
                self._send_status()
                self._leave()
        self._connection.close()

    def _start(self, command: sql.Composed) -> None:
        """Start as soon as the slot is free: only then does its position stand still and can be compared."""
        deadline = time.monotonic() + RELEASE_WAIT_S
        while _in_use(self._connection, self._slot, start=self._acknowledged) or not self._started(command):
            if time.monotonic() >= deadline:
                raise slot_held(self._connection, self._slot)
            time.sleep(RELEASE_POLL_S)

    def _started(self, command: sql.Composed) -> bool:
        try:
            self._connection.execute(command)
        except errors.ObjectInUse:
            return False
        return True

    def _receive(self, max_bytes: int) -> list[Frame]:
        """Take what libpq has or finds on the socket; waits for no first frame, but a moment for more of them."""
        if self._ended:
            raise TemporaryError(f"the stream of slot {self._slot} has ended", hint="run the same command again")
        frames: list[Frame] = []
        size = 0
        looked = gathered = False
        while size < max_bytes:
            stopped, taken = self._taker.take(frames, max_bytes - size)
            size += taken
            looked = looked and not taken
            if stopped == Stopped.ENDED:  # what came before is sent again: nothing of it was acknowledged
                raise self._end()
            if stopped == Stopped.UNKNOWN:
                raise _unknown_message()
            if stopped == Stopped.ASKED:
                self._send_status()
            elif stopped == Stopped.DRY and not looked:
                self._pgconn.consume_input()
                looked = True
            elif stopped == Stopped.DRY and frames and not gathered:
                time.sleep(GATHER_S)
                self._pgconn.consume_input()
                gathered = True
            elif stopped == Stopped.DRY:
                break
        self._server_lsn = max(self._server_lsn, LSN(frames[-1][0] if frames else 0))
        if frames:
            self._heard_at, self._asked_at = time.monotonic(), None
        return frames

    def _refuse_silence(self) -> None:
        """Ask a server that has said nothing for long, as a walreceiver does, and give it up when it does not answer.

        Nothing but its answer tells an idle source from a line on which nothing gets through any more.
        """
        now = time.monotonic()
        if self._asked_at is None and now - self._heard_at >= SILENCE_S:
            self._asked_at = now
            self._send_status(answer=True)
        elif self._asked_at is not None and now - self._asked_at >= SILENCE_S:
            raise psycopg.OperationalError(f"the server has not answered for {now - self._heard_at:.0f} s")

    def _end(self) -> psycopg.Error:
        """Return why the server ended the stream. libpq says so once: asking again would hide it."""
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return errors.error_from_result(result, encoding="utf-8")
        return errors.AdminShutdown("the server ended the stream, as it does when it shuts down")

    def _leave(self) -> None:
        """End the stream and pass over what is still on its way.

        A socket that is closed with unread data resets the connection, and the server would lose the last status.
        """
        deadline = time.monotonic() + LEAVE_WAIT_S
        self._pgconn.put_copy_end()
        self._pgconn.flush()
        count = 0
        while count >= 0 and (left_s := deadline - time.monotonic()) > 0:
            count, _data = self._pgconn.get_copy_data(1)
            if count == 0 and self._wait(select.POLLIN, left_s):
                self._pgconn.consume_input()

    def _due_in_s(self) -> float:
        interval_s = PROGRESS_INTERVAL_S if self._acknowledged > self._told else STATUS_INTERVAL_S
        return max(0.0, self._told_at + interval_s - time.monotonic())

    def _tell_if_due(self) -> None:
        if self._due_in_s() == 0.0 and not self._ended:
            self._send_status()

    def _send_status(self, *, answer: bool = False) -> None:
        lsn = self._acknowledged
        clock = int((time.time() - _POSTGRES_EPOCH_S) * 1_000_000)
        self._put(_status.pack(b"r", lsn, lsn, lsn, clock, answer))
        self._told = lsn
        self._told_at = time.monotonic()

    def _put(self, message: bytes) -> None:
        """Send a message; read meanwhile, else a server that is blocked in sending never takes it."""
        deadline = time.monotonic() + SEND_TIMEOUT_S
        queued = self._pgconn.put_copy_data(message) == 1
        while not queued or self._pgconn.flush() != 0:
            if time.monotonic() >= deadline:
                raise psycopg.OperationalError("the server takes no messages")
            if self._wait(select.POLLIN | select.POLLOUT, deadline - time.monotonic()) & select.POLLIN:
                self._pgconn.consume_input()
            queued = queued or self._pgconn.put_copy_data(message) == 1

    def _wait(self, events: int, wait_s: float) -> int:
        """Wait for the socket; returns what it is ready for, or 0."""
        poll = select.poll()
        poll.register(self._pgconn.socket, events)
        ready = poll.poll(max(0.0, wait_s) * 1000)
        return ready[0][1] if ready else 0

    def _lost(self, error: psycopg.Error) -> ShardmigError:
        cause = without_secret((str(error).splitlines() or [type(error).__name__])[0], self._url)
        message = f"{describe(self._url)}: the stream of slot {self._slot} ended: {cause}"
        if isinstance(error, errors.UndefinedObject):
            return RefusedError(
                message, hint="a slot without its publication is of no use: shardmig abort, then begin again"
            )
        if isinstance(error, errors.ObjectNotInPrerequisiteState):
            return RefusedError(message, hint=f"a lost slot cannot be revived: {BEGIN_AGAIN}")
        if is_passing(error):
            return TemporaryError(message, hint="when the server is back, run the same command again; nothing is lost")
        return ShardmigError(message, hint="look into the server's log, remove the cause, then run again")


def _unknown_message() -> ShardmigError:
    return ShardmigError("unknown replication message", hint="check that the server is PostgreSQL itself")


def _check_publication(connection: Connection, publication: str) -> None:
    """Refuse a missing publication, about which 18 would never complain."""
    if publication_tables(connection, publication) is None:
        raise RefusedError(
            f"publication {publication} does not exist",
            hint="made again, it would miss what happened in between: shardmig abort, then begin again",
        )


def _in_use(connection: Connection, slot: str, *, start: LSN) -> bool:
    """Return whether somebody reads from the slot; refuse one that cannot serve, or not from this start."""
    state = refuse_lost_slot(slot, slot_state(connection, slot))
    database = scalar(connection, "SELECT pg_catalog.current_database()")
    if state.plugin != PLUGIN or state.database != database:
        raise RefusedError(
            f"replication slot {slot} is for {state.plugin or 'physical'} on {state.database or 'no database'}",
            hint=f"it is not ours: rename the migration, so that its slot is another one, of {PLUGIN} on {database}",
        )
    if state.active:
        return True
    confirmed = state.confirmed_flush_lsn
    if confirmed is not None and start < confirmed:
        raise RefusedError(
            f"replication slot {slot} is acknowledged up to {confirmed}, and a shard stands at {start} only",
            hint="the changes between are gone from the stream (was a shard restored from a backup?): copy again",
        )
    return False


def _start_command(slot: str, start: LSN, publication: str, *, streaming: bool, origin_none: bool) -> sql.Composed:
    options: list[tuple[LiteralString, str]] = [
        ("proto_version", "2"),
        ("publication_names", sql.Identifier(publication).as_string()),  # a list of identifiers inside a literal
        ("messages", "true"),
    ]
    if streaming:
        options.append(("streaming", "on"))
    if origin_none:
        options.append(("origin", "none"))
    listed = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.SQL(name), sql.Literal(value)) for name, value in options)
    # Hexadecimal digits and a slash, which the grammar wants bare.
    position = sql.SQL(cast("LiteralString", str(start)))
    return sql.SQL("START_REPLICATION SLOT {} LOGICAL {} ({})").format(sql.Identifier(slot), position, listed)
