"""Notices a server that has gone silent in the middle of a statement, and ends that session.

TCP notices a host that vanished. It does not notice a connection that something in between keeps open while nothing
gets through any more: there, a statement without an answer looks like one that takes long. So who has waited for long
asks over a connection of its own what the backend does, and cuts the first one when the answer cannot be that.
Works on sockets, not on calls: a reader deep inside libpq wakes too. Streams have a timeout of their own.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.pq import TransactionStatus


def _setting(default_s: float) -> float:
    try:
        return max(1.0, float(os.environ.get(VARIABLE, default_s)))
    except ValueError:
        return default_s


VARIABLE: Final = "SHARDMIG_SILENCE_S"
PURPOSE: Final = "silence"
SILENCE_S: Final = _setting(30.0)
"""How long nothing may come from a server that we wait for, before it is asked what it does."""

COPY_SILENCE: Final = 4
"""So many times as long a shard may wait for rows of ours that are slow to come, before we take them for lost."""

LOOKS: Final = 3
"""How often a session is looked at within that time."""

BAD_LOOKS: Final = 2
"""So many in a row have to agree: one alone could fall between an answer's sending and its coming."""

CONNECT_TIMEOUT_S: Final = max(2, min(10, int(SILENCE_S)))
"""How long a server may take to let us in, and to answer the question."""

_TCP_INFO_FIELDS = struct.Struct("=44xI4xI")
"""`tcpi_last_data_sent` and `tcpi_last_data_recv` of Linux' struct tcp_info, in milliseconds ago."""

_PROBE = """
SELECT a.state = 'active' AND coalesce(a.wait_event, '') NOT IN ('ClientRead', 'ClientWrite'),
       EXISTS (SELECT FROM pg_catalog.pg_stat_progress_copy AS c WHERE c.pid = a.pid AND c.command = 'COPY FROM')
FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = {}
"""


@dataclass(slots=True, eq=False)
class _Watched:
    """One session, as long as somebody else holds it."""

    connection: weakref.ref[psycopg.Connection[Any]]
    url: str = field(repr=False)
    backend_pid: int
    bad_looks: int = 0

    def look(self) -> bool:
        """Cut the session if it has been silent for too long; False once there is nothing left to look at."""
        connection = self.connection()
        if connection is None or connection.closed:
            return False
        silent_s = self._silent_s(connection)
        if silent_s < SILENCE_S or _works(self.url, self.backend_pid, silent_s=silent_s):
            self.bad_looks = 0
            return True
        self.bad_looks += 1
        if self.bad_looks >= BAD_LOOKS and self._silent_s(connection) >= SILENCE_S:
            _cut(connection)
            return False
        return True

    def _silent_s(self, connection: psycopg.Connection[Any]) -> float:
        excused_at = _excused.get(connection)
        silent_s = _silent_s(connection)
        return silent_s if excused_at is None else min(silent_s, time.monotonic() - excused_at)


_lock = threading.Lock()
_watched: list[_Watched] = []
_guards: list[threading.Thread] = []
_excused: weakref.WeakKeyDictionary[psycopg.Connection[Any], float] = weakref.WeakKeyDictionary()
_at_work: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()


def watch(connection: psycopg.Connection[Any], url: str, backend_pid: int) -> None:
    """Look after a session from now on, for as long as it is open. A session without TCP needs none."""
    if not hasattr(socket, "TCP_INFO"):
        return
    with _lock:
        _watched.append(_Watched(weakref.ref(connection), url, backend_pid))
        if not _guards:
            _guards.append(threading.Thread(target=_guard, name="silence", daemon=True))
            _guards[0].start()


def excuse(connection: psycopg.Connection[Any]) -> None:
    """Count a session's silence from now on: it is us who had nothing to send, and nothing was waited for."""
    _excused[connection] = time.monotonic()


@contextmanager
def at_work(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Look after a session that waits for its server although libpq knows of no statement: who asked did it himself."""
    _at_work.add(connection)
    try:
        yield
    finally:
        _at_work.discard(connection)


def _guard() -> None:
    """Look at every session of this process, until there is none."""
    while True:
        time.sleep(SILENCE_S / LOOKS)
        for watched in tuple(_watched):
            if not watched.look():
                with _lock:
                    _watched.remove(watched)
        with _lock:
            if not _watched:
                _guards.clear()
                return


def _silent_s(connection: psycopg.Connection[Any]) -> float:
    """Return how long nothing has gone either way while we wait; 0 when we do not, or have not read what came."""
    try:
        if connection not in _at_work and connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return 0.0
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
            if line.family not in {socket.AF_INET, socket.AF_INET6} or _unread(line):
                return 0.0
            info = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except (OSError, psycopg.Error):
        return 0.0
    sent_ms, received_ms = _TCP_INFO_FIELDS.unpack_from(info)
    return float(min(sent_ms, received_ms)) / 1000


def _unread(line: socket.socket) -> bool:
    waiting = array.array("i", [0])
    fcntl.ioctl(line, termios.FIONREAD, waiting)
    return waiting[0] > 0


def _works(url: str, backend_pid: int, *, silent_s: float) -> bool:
    """Whether a backend is still at work, or says at least that we cannot know."""
    try:
        row = _ask(url, backend_pid)
    except psycopg.Error as error:
        return "FATAL" in str(error)  # it speaks, if only to turn us away: no free connection, for example
    if row is None:
        return False
    at_work, takes_rows = row
    return at_work or (takes_rows and silent_s < SILENCE_S * COPY_SILENCE)


def _ask(url: str, backend_pid: int) -> tuple[bool, bool] | None:
    """Return (at work, takes rows of ours) of a backend, or None where it is gone. Its waits are bounded."""
    connection = psycopg.connect(
        url, connect_timeout=CONNECT_TIMEOUT_S, application_name=f"shardmig {PURPOSE}", autocommit=True
    )
    try:
        pgconn = connection.pgconn
        pgconn.send_query(_PROBE.format(int(backend_pid)).encode())
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while pgconn.is_busy():
            poll = select.poll()
            poll.register(pgconn.socket, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise psycopg.OperationalError("no answer")
            pgconn.consume_input()
        result = pgconn.get_result()
    finally:
        connection.close()
    if result is None or result.status != pq.ExecStatus.TUPLES_OK:
        raise psycopg.OperationalError("no answer that can be read")
    if not result.ntuples:
        return None
    return result.get_value(0, 0) == b"t", result.get_value(0, 1) == b"t"


def _cut(connection: psycopg.Connection[Any]) -> None:
    """Close the line under libpq: whoever waits for it hears that the server is gone."""
    try:
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg.Error):
        return
