"""Opens connections whose settings are pinned, so that a value has one text form everywhere.

Refuses nothing by itself: it turns psycopg's connection errors into ours, without a password in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString, cast

import psycopg
from psycopg import conninfo, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.silence import CONNECT_TIMEOUT_S, watch

Connection = psycopg.Connection[TupleRow]

TRANSACTION_TIMEOUT_SINCE = 17_00_00
"""The server version that brought `transaction_timeout`; an older one refuses to set it."""

KEEPALIVE_IDLE_S = 15
KEEPALIVE_INTERVAL_S = 5
KEEPALIVES = 4
"""A host that vanished without a word is noticed after 15 + 4 * 5 seconds of silence, not after the kernel's hours."""

TCP_USER_TIMEOUT_MS = 60_000
"""How long what we have sent may stay unacknowledged: keepalives are not sent meanwhile, and the kernel would try for a
quarter of an hour. A server that is alive and takes nothing for so long, since its disk stalls, is tried again."""

PINNED: dict[str, str] = {
    "client_encoding": "UTF8",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "search_path": "pg_catalog",
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
}
"""Settings that every own session runs with: the first ones decide how a value reads as text (pitfall 48),
`row_security` turns a silent subset into an error (53), the timeouts keep a default of the role from ending a
long copy (18), and what we are told is committed has to be on disk, since the source forgets it then (37)."""


UNREADABLE = "an unreadable URL"
_HOW_TO_WRITE_URLS = "write postgresql://user:password@host:port/database, with %XX for a password's special characters"


def describe(url: str) -> str:
    """Return `user@host:port/database` of a URL, never its password."""
    parts = _parts(url)
    if parts is None:
        return UNREADABLE
    host = parts.get("host") or parts.get("hostaddr") or "local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    user = f"{parts['user']}@" if parts.get("user") else ""
    return f"{user}{host}{port}/{parts.get('dbname') or parts.get('user') or ''}"


def _parts(url: str) -> dict[str, str] | None:
    """Return what a URL says, None where a piece of the password could be taken for something else.

    libpq ends a password at the first `@`, and takes what follows a bare one in it for the host.
    """
    try:
        parts = {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError:
        return None
    return None if "@" in parts.get("host", "")[1:] else parts


def connect(url: str, purpose: str, *, autocommit: bool = True) -> Connection:
    """Open a session with pinned settings.

    Args:
        url: Where to; a secret.
        purpose: What for, shown as `shardmig <purpose>` in pg_stat_activity.
        autocommit: Whether each statement is a transaction of its own.

    Raises:
        RefusedError: The server says no (password, role, database, transaction pooler).
        TemporaryError: It cannot be reached now.
    """
    try:
        connection = psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            keepalives_idle=KEEPALIVE_IDLE_S,
            keepalives_interval=KEEPALIVE_INTERVAL_S,
            keepalives_count=KEEPALIVES,
            tcp_user_timeout=TCP_USER_TIMEOUT_MS,
            application_name=f"shardmig {purpose}",
            client_encoding="utf-8",
        )
    except psycopg.Error as error:
        raise connection_error(error, url) from None
    watch(connection, url, _pin(connection))
    connection.autocommit = autocommit
    return connection


def pinned_settings(connection: Connection) -> dict[str, str]:
    """Return the settings to pin on a server of this version."""
    if connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
        return PINNED | {"transaction_timeout": "0"}
    return PINNED


def _pin(connection: Connection) -> int:
    """Pin the settings; returns the backend's own process id, which a pooler in between would invent."""
    settings = pinned_settings(connection)
    calls = [sql.SQL("set_config({}, {}, false)").format(sql.Literal(k), sql.Literal(v)) for k, v in settings.items()]
    row = connection.execute(sql.SQL("SELECT pg_backend_pid(), ") + sql.SQL(", ").join(calls)).fetchone()
    return int(row[0]) if row else 0


def connection_error(error: psycopg.Error, url: str) -> ShardmigError:
    """Turn a failure to connect into an error that names the place and the next step, without a secret."""
    where = describe(url)
    text = str(error)
    for pattern, message, hint in _REFUSALS:
        if re.search(pattern, text):
            return RefusedError(f"{where}: {message}", hint=hint)
    if where == UNREADABLE:
        return RefusedError(UNREADABLE, hint=_HOW_TO_WRITE_URLS)
    first_line = next((line.strip() for line in text.splitlines() if line.strip()), "connection failed")
    hint = "check that the server runs and that the URL's host and port are right"
    if "No space left on device" in text:  # a session that cannot write its cache of the catalogs is not let in
        hint = "make room on that server's disk"
    return TemporaryError(
        f"{where}: cannot connect: {without_secret(first_line, url)}", hint=f"{hint}, then run the same command again"
    )


_REFUSALS = (
    ("password authentication failed", "the password is wrong", "correct the password in the URL"),
    ("no password supplied", "the server asks for a password and the URL has none", "add the password to the URL"),
    (
        'role ".*" (does not exist|is not permitted)',
        "the role does not exist or may not log in",
        "correct the user in the URL, or CREATE ROLE … LOGIN",
    ),
    ('database ".*" does not exist', "the database does not exist", "correct its name in the URL, or run createdb"),
    ('permission denied for database "', "the role may not connect to the database", "GRANT CONNECT ON DATABASE to it"),
    ("no pg_hba.conf entry", "pg_hba.conf does not let this host in", "add a line for this host, user and database"),
    ("unsupported startup parameter", "this is a pooler, not PostgreSQL itself", "use the direct URL of the server"),
    ("Name or service not known", "the host's name is unknown", "correct the host in the URL"),
    ("could not translate host name", "the host's name is unknown", "correct the host in the URL"),
    ("invalid URI query parameter", "the URL has a parameter that libpq does not know", "remove it from the URL"),
    ("invalid connection option", "the URL has a parameter that libpq does not know", "remove it from the URL"),
    ("invalid integer value", "the URL has a number that cannot be read", "correct the port or timeout in the URL"),
)


def lost(error: psycopg.Error, url: str) -> TemporaryError:
    """Turn the loss of an open session into an error that names the place."""
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "connection lost")
    return TemporaryError(
        f"{describe(url)}: lost the connection: {without_secret(first_line, url)}",
        hint="when the server is back, run the same command again",
    )


def without_secret(text: str, url: str) -> str:
    """Return a text with the URL's password, should it occur, blotted out.

    Of a URL that cannot be read nobody knows which part is the password, so nothing is left of the text.
    """
    parts = _parts(url)
    if parts is None:
        return "the URL cannot be read"
    password = parts.get("password")
    return text.replace(url, "<url>").replace(password, "***") if password else text


@contextmanager
def session(url: str, purpose: str, *, autocommit: bool = True) -> Iterator[Connection]:
    """Open a session as `connect` does and close it at the end, whatever happens in between.

    Raises:
        TemporaryError: Also when this very session was lost while it was used.
    """
    connection = connect(url, purpose, autocommit=autocommit)
    try:
        yield connection
    except psycopg.Error as error:
        if connection.broken:
            raise lost(error, url) from error
        raise
    finally:
        connection.close()


def scalar(
    connection: Connection,
    query: LiteralString | sql.SQL | sql.Composed,
    parameters: Sequence[object] | Mapping[str, object] | None = None,
) -> Any:  # noqa: ANN401  the server decides the type
    """Run a query that returns one value, or None without a row."""
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row else None


def insert_lsn(connection: Connection) -> LSN:
    """Return the position up to which WAL has been written into the buffers.

    `pg_current_wal_lsn` would miss asynchronous commits that are not flushed yet (pitfall 42).
    """
    return LSN.parse(scalar(connection, "SELECT pg_current_wal_insert_lsn()"))


def clock(connection: Connection) -> datetime:
    """Return what time a server says it is."""
    return cast("datetime", scalar(connection, "SELECT clock_timestamp()"))


def is_open(connection: Connection) -> bool:
    """Whether a connection can still be used."""
    return not connection.closed and connection.info.transaction_status is not TransactionStatus.UNKNOWN


def quoted(*parts: str) -> sql.Identifier:
    """Return a quoted name for a query that has parameters: a percent sign in it would be taken for a placeholder."""
    return sql.Identifier(*(part.replace("%", "%%") for part in parts))
