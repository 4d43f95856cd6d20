"""Sessions that all look at one snapshot of one database, handed out to threads and closed at the end.

The snapshot itself is made by the caller: at the barrier, where source and shards stand at one LSN. Every session is
read only and repeatable read with pinned settings. Refuses a snapshot that is gone, and a role from which row level
security would hide rows (`row_security` is off in every own session: an error and not a subset, pitfall 53).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import LiteralString, Self

import psycopg
from psycopg import errors, sql

from fixia_shardmig.model.errors import RefusedError, ShardmigError
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import Connection, connect, describe, scalar

NEXT_COMMAND = "shardmig verify"
CANCEL_TIMEOUT_S = 5.0

_SET_PATH: LiteralString = "SELECT set_config('search_path', %s, false)"


@dataclass(frozen=True, slots=True)
class SnapshotRef:
    """One database at one moment.

    Attributes:
        url: Where it is; a secret.
        snapshot_name: An exported snapshot, alive as long as its exporter stays in its transaction. None for a
            database in which nobody writes: the first session's own snapshot is then shared by all.
    """

    url: str = field(repr=False)
    snapshot_name: str | None


class SnapshotSessions:
    """A pool of sessions on one `SnapshotRef`; as many as are asked for at once."""

    def __init__(self, ref: SnapshotRef, place: str) -> None:
        """Open nothing yet. `place` names the side in messages: `source` or a shard."""
        self._ref = ref
        self._place = place
        self._snapshot_name = ref.snapshot_name
        self._search_path = ""
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._all: list[Connection] = []

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close every session, whatever happened."""
        for connection in self._all:
            connection.close()

    @contextmanager
    def session(self, doing: str) -> Iterator[Connection]:
        """Lend a session to one thread; server errors come out as ours, with the side and what was being done."""
        try:
            connection = self._take()
            yield connection
        except psycopg.Error as error:
            raise self._explained(error, doing) from error
        self._idle.append(connection)

    def look_in(self, schemas: Iterable[str]) -> None:
        """Let the operators of some schemas be found after pg_catalog's, in sessions that are idle or new (pitfall 50).

        To be called when catalogs are read and nobody has a session: from now on type names may come without schema.
        """
        self._search_path = search_path(schemas)
        for connection in self._idle:
            connection.execute(_SET_PATH, (self._search_path,))

    def cancel(self) -> None:
        """End what runs in any session now, so that its thread comes back with an error."""
        for connection in tuple(self._all):
            if not connection.closed:
                connection.cancel_safe(timeout=CANCEL_TIMEOUT_S)

    def _take(self) -> Connection:
        """Open under the lock: the first session's snapshot must be known before a second one asks for it."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            connection = connect(self._ref.url, "verify", autocommit=False)
            self._all.append(connection)
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if self._snapshot_name is None:
                self._snapshot_name = str(scalar(connection, "SELECT pg_export_snapshot()"))
            else:
                name = sql.Literal(self._snapshot_name)
                connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(name))
            if self._search_path:
                connection.execute(_SET_PATH, (self._search_path,))
            return connection

    def _explained(self, error: psycopg.Error, doing: str) -> ShardmigError:
        where = f"{self._place} ({describe(self._ref.url)})"
        if isinstance(error, errors.InsufficientPrivilege):
            cause = str(error).splitlines()[0]
            return RefusedError(
                f"{where}: {doing}: {cause}",
                hint="let the URL's role see every row: GRANT pg_read_all_data TO …, and ALTER ROLE … BYPASSRLS",
            )
        if isinstance(error, errors.UndefinedObject | errors.InvalidParameterValue) and "snapshot" in str(error):
            return RefusedError(f"{where}: the snapshot to compare at is gone", hint=f"run again: {NEXT_COMMAND}")
        return as_shardmig_error(error, self._ref.url, doing=f"{self._place}: {doing}", next_command=NEXT_COMMAND)


def search_path(schemas: Iterable[str]) -> str:
    """Return the search path in which operators are pg_catalog's first, then those of some schemas."""
    return ", ".join(map(_quoted, dict.fromkeys(["pg_catalog", *schemas])))


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
