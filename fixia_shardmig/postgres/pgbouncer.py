"""PgBouncer's admin console as a session: what it says, PAUSE with a deadline, RESUME, RELOAD, RECONNECT.

The console takes plain text in autocommit and no parameters, and quotes names in a way of its own: double quotes, and
no double quote inside. It refuses nothing that PgBouncer does; who may do what is asked for by `may_pause`.

A PAUSE that meets an open transaction never returns, so it has a connection of its own, is waited for by the client's
clock, and ends by a RESUME from another connection (pitfall 61).
"""

from __future__ import annotations

import re
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import psycopg
from psycopg import pq
from psycopg.rows import DictRow, dict_row

from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.postgres.sessions import connection_error, describe

CONNECT_TIMEOUT_S: Final = 5
"""A console answers at once or not at all: it is one process that waits for nothing."""

NAME: Final = re.compile(r"[0-9A-Za-z_.-]+")
"""What a database may be called in PgBouncer's file and its console alike."""

ADMIN_USERS: Final = "add the user of admin_url to admin_users in pgbouncer.ini, then RELOAD"


@dataclass(frozen=True, slots=True)
class PooledDatabase:
    """One line of SHOW DATABASES. `pool_mode` is empty where the database has none of its own."""

    name: str
    host: str
    port: int
    database: str
    pool_mode: str
    min_pool_size: int
    paused: bool
    disabled: bool

    @property
    def leads_to(self) -> tuple[str, int, str]:
        """Where its server connections go, as PgBouncer itself says."""
        return self.host, self.port, self.database


@dataclass(frozen=True, slots=True)
class Holder:
    """A client that has a server connection, and so is in the way of a PAUSE."""

    alias: str
    user: str
    application: str
    address: str
    since: str
    server_pid: int

    def __str__(self) -> str:
        """Say whom an operator has to ask."""
        who = f"{self.application or 'no application name'} as {self.user} from {self.address}"
        return f"{who} in {self.alias}, its last request at {self.since}, server process {self.server_pid}"


class Console:
    """A session on one PgBouncer's admin console, opened when it is first asked and again when it was lost."""

    def __init__(self, url: str) -> None:
        """Keep where it is; `url` is a secret."""
        self.url = url
        self._connection: psycopg.Connection[DictRow] | None = None

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __str__(self) -> str:
        """Return the place, without the password."""
        return describe(self.url)

    def close(self) -> None:
        """End the session; the next question opens a new one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def version(self) -> tuple[int, ...]:
        """Return the version's numbers."""
        text = str(self._rows("SHOW VERSION")[0]["version"])
        return tuple(int(number) for number in re.findall(r"\d+", text))

    def config(self) -> dict[str, str]:
        """Return every setting as text."""
        return {str(row["key"]): str(row["value"] or "") for row in self._rows("SHOW CONFIG")}

    def databases(self) -> dict[str, PooledDatabase]:
        """Return every database by its name."""
        return {row["name"]: _database(row) for row in self._rows("SHOW DATABASES")}

    def pools(self) -> list[dict[str, Any]]:
        """Return SHOW POOLS as it is, a row for each database and user that was met."""
        return self._rows("SHOW POOLS")

    def logins(self, aliases: Iterable[str]) -> int:
        """Return how many server connections of these databases are logging in."""
        wanted = set(aliases)
        return sum(int(row["sv_login"]) for row in self.pools() if row["database"] in wanted)

    def server_pids(self, aliases: Iterable[str]) -> list[int]:
        """Return the server processes behind these databases."""
        wanted = set(aliases)
        return [int(row["remote_pid"]) for row in self._rows("SHOW SERVERS") if row["database"] in wanted]

    def holders(self, aliases: Iterable[str]) -> list[Holder]:
        """Return the clients that have a server connection of these databases now."""
        wanted = set(aliases)
        clients = {row["ptr"]: row for row in self._rows("SHOW CLIENTS")}
        servers = self._rows("SHOW SERVERS")
        return [
            _holder(row, clients.get(row["link"], {}))
            for row in servers
            if row["database"] in wanted and str(row["state"]).startswith("active")
        ]

    def pause(self, name: str) -> Pause:
        """Send PAUSE of one database over a connection of its own; `Pause.done` tells when it has returned."""
        return Pause(self, name)

    def resume(self, name: str) -> bool:
        """Let the clients of one database go on; returns whether it was paused. One that is not is left as it is."""
        try:
            self.run(f"RESUME {quoted_name(name)}")
        except psycopg.errors.ProtocolViolation as error:
            if "is not paused" in str(error):
                return False
            raise
        return True

    def set(self, name: str, value: str) -> None:
        """Change a setting until the next RELOAD, which takes all of them from the files."""
        self.run(f"SET {name} = '{value}'")

    def reload(self) -> None:
        """Have the files read again. A mistake in them is not told: look at `databases` afterwards."""
        self.run("RELOAD")

    def reconnect(self, name: str) -> None:
        """Have every server connection of a database closed when it is next free: sessions and plans are new then."""
        self.run(f"RECONNECT {quoted_name(name)}")

    def may_pause(self) -> str:
        """Return why this user may not PAUSE, or nothing. Asks with a RESUME of what is not there."""
        try:
            self.run('RESUME "shardmig.no.such.database"')
        except psycopg.errors.ProtocolViolation as error:
            return "" if "no such database" in str(error) else str(error).strip()
        return ""

    def run(self, command: str) -> None:
        """Run one command; a session that was lost since the last one is opened again.

        Raises:
            psycopg.errors.ProtocolViolation: What PgBouncer says no to.
            TemporaryError, RefusedError: It cannot be reached, or lets us not in.
        """
        self._rows(command)

    def _rows(self, command: str) -> list[dict[str, Any]]:
        if self._connection is not None and not self._connection.closed:
            try:
                return self._ask(self._connection, command)
            except psycopg.errors.ProtocolViolation:
                raise
            except psycopg.OperationalError:
                self.close()
        self._connection = open_console(self.url)
        try:
            return self._ask(self._connection, command)
        except psycopg.errors.ProtocolViolation:
            raise
        except psycopg.Error as error:
            self.close()
            raise console_error(error, self.url) from None

    @staticmethod
    def _ask(connection: psycopg.Connection[DictRow], command: str) -> list[dict[str, Any]]:
        cursor = connection.execute(command.encode())
        return cursor.fetchall() if cursor.description else []


class Pause:
    """A PAUSE that was sent. Its connection is its own, so that others can be asked meanwhile."""

    def __init__(self, console: Console, name: str) -> None:
        """Connect; `send` sends."""
        self.console = console
        self.name = name
        self._connection = open_console(console.url)

    def send(self) -> None:
        """Send it and return at once."""
        self._connection.pgconn.send_query(f"PAUSE {quoted_name(self.name)}".encode())

    def fileno(self) -> int:
        """Return the socket, to wait on it."""
        return self._connection.pgconn.socket

    def done(self) -> bool:
        """Whether the answer has come. Never waits.

        Raises:
            TemporaryError: PgBouncer went away.
            RefusedError: It said no.
        """
        pgconn = self._connection.pgconn
        try:
            pgconn.consume_input()
            if pgconn.is_busy():
                return False
            result = pgconn.get_result()
        except psycopg.OperationalError as error:
            raise console_error(error, self.console.url) from None
        if result is not None and result.status != pq.ExecStatus.COMMAND_OK:
            reason = result.error_message.decode(errors="replace").strip().removeprefix("ERROR:").strip()
            if pgconn.status != pq.ConnStatus.OK:
                raise console_error(psycopg.OperationalError(reason), self.console.url)
            raise RefusedError(f"{self.console}: PAUSE {self.name}: {reason}", hint=ADMIN_USERS)
        return True

    def close(self) -> None:
        """End the connection; whether the database stays paused is not changed by it."""
        self._connection.close()


def await_pauses(pauses: Iterable[Pause], deadline: float) -> bool:
    """Wait until all of them have returned; False when the deadline came first. One that fails ends the wait."""
    waiting = list(pauses)
    while waiting:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        ready, _, _ = select.select(waiting, [], [], left_s)
        waiting = [pause for pause in waiting if pause not in ready or not pause.done()]
    return True


def quoted_name(name: str) -> str:
    """Return a database's name as the console reads it."""
    if not NAME.fullmatch(name):
        raise RefusedError(
            f"{name!r} cannot be the name of a database in PgBouncer",
            hint="use letters, digits, _, . and - for the aliases in the mapping and in PgBouncer's files",
        )
    return f'"{name}"'


def open_console(url: str) -> psycopg.Connection[DictRow]:
    """Connect to the admin console.

    Raises:
        RefusedError: It lets us not in, or it is no console.
        TemporaryError: It cannot be reached now.
    """
    try:
        connection = psycopg.Connection[DictRow].connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="shardmig cutover",
            row_factory=dict_row,
            prepare_threshold=None,
        )
    except psycopg.Error as error:
        raise console_error(error, url) from None
    if not (connection.info.parameter_status("server_version") or "").endswith("/bouncer"):
        connection.close()
        raise _no_console(url)
    return connection


def console_error(error: psycopg.Error, url: str) -> ShardmigError:
    """Turn what went wrong at the console into an error with the next step, without a secret."""
    where = describe(url)
    text = str(error)
    if "not allowed" in text:
        return RefusedError(f"{where}: the admin console does not let this user in", hint=ADMIN_USERS)
    if re.search(r'database "pgbouncer" does not exist|unrecognized configuration parameter', text):
        return _no_console(url)
    if "password authentication failed" in text or "SASL authentication failed" in text:
        return RefusedError(
            f"{where}: PgBouncer does not know this user with this password",
            hint="correct pgbouncer.admin_url in the mapping, or PgBouncer's auth_file",
        )
    found = connection_error(error, url)
    if isinstance(found, TemporaryError):
        return TemporaryError(
            found.message.replace("cannot connect", "cannot reach the admin console"),
            hint="check that PgBouncer runs and that pgbouncer.admin_url is right, then run the same command again",
        )
    return found


def _no_console(url: str) -> RefusedError:
    return RefusedError(
        f"{describe(url)}: this is a database and not PgBouncer's admin console",
        hint="pgbouncer.admin_url needs PgBouncer's own port (usually 6432) and the database pgbouncer",
    )


def _database(row: dict[str, Any]) -> PooledDatabase:
    return PooledDatabase(
        name=str(row["name"]),
        host=str(row["host"] or ""),
        port=int(row["port"] or 0),
        database=str(row["database"] or ""),
        pool_mode=str(row["pool_mode"] or ""),
        min_pool_size=int(row.get("min_pool_size") or 0),
        paused=bool(row["paused"]),
        disabled=bool(row["disabled"]),
    )


def _holder(server: dict[str, Any], client: dict[str, Any]) -> Holder:
    return Holder(
        alias=str(server["database"]),
        user=str(client.get("user") or server["user"]),
        application=str(client.get("application_name") or server.get("application_name") or ""),
        address=f"{client.get('addr', '?')}:{client.get('port', '?')}",
        since=str(client.get("request_time") or server["request_time"]),
        server_pid=int(server.get("remote_pid") or 0),
    )
