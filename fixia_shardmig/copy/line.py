"""Reads and writes a COPY on the session's socket itself, where nothing is encrypted; else through libpq.

libpq gives every row as an object of its own and copies it on the way in and on the way out: on the socket a row costs
a third of that (docs/adr/0003). It knows of nothing meanwhile, so a session is as it left it afterwards, or closed.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Iterator

import psycopg
from psycopg import errors, pq
from psycopg.pq import DiagnosticField

from fixia_shardmig.copy.relay import Sorter
from fixia_shardmig.postgres.sessions import Connection
from fixia_shardmig.postgres.silence import at_work

RECEIVE_BYTES = 64 * 1024
"""What is read at once: well within the processor's caches, and many rows."""

_HEAD = struct.Struct("!cI")
_LENGTH_BYTES = 4
_QUIET = frozenset(b"HcCNSA")
"""What a server says beside rows and means nothing to us: the COPY's begin and end, notices, settings."""


def is_bare(pgconn: pq.abc.PGconn) -> bool:
    """Whether what goes over a session's socket is the protocol itself."""
    return not (pgconn.ssl_in_use or getattr(pgconn, "used_gssapi", False))


def read_copy(connection: Connection, statement: str, sorter: Sorter) -> Iterator[None]:
    """Run a COPY … TO STDOUT into a sorter; yields once in a while, so that what it has can be taken.

    Raises:
        psycopg.Error: The server's, or that the line is gone. The session cannot be used any more then.
    """
    return (
        _on_socket(connection, statement, sorter)
        if is_bare(connection.pgconn)
        else _by_libpq(connection.pgconn, statement, sorter)
    )


def _on_socket(connection: Connection, statement: str, sorter: Sorter) -> Iterator[None]:
    pgconn = connection.pgconn
    query = statement.encode() + b"\0"
    buffer = bytearray(RECEIVE_BYTES)
    filled = 0
    with at_work(connection):
        _write(pgconn, [_HEAD.pack(b"Q", len(query) + _LENGTH_BYTES), query], events=select.POLLOUT)
        while True:
            filled += _read(pgconn.socket, memoryview(buffer)[filled:])
            used, ended = _take(memoryview(buffer)[:filled], sorter)
            yield
            if ended:
                return
            buffer[: filled - used] = buffer[used:filled]
            filled -= used
            if filled == len(buffer):
                buffer += bytes(len(buffer))  # a message, an error for example, that is longer


def _take(data: memoryview, sorter: Sorter) -> tuple[int, bool]:
    """Have the sorter take rows, and look at what comes between; returns (how much was used, whether all has come)."""
    used = 0
    while True:
        used += sorter.frames(data[used:])
        if len(data) - used < _HEAD.size or data[used] == ord("d"):
            return used, False
        kind, length = _HEAD.unpack_from(data, used)
        end = used + 1 + length
        if len(data) < end:
            return used, False
        if kind == b"E":
            raise _error(bytes(data[used + _HEAD.size : end]))
        if kind == b"Z":
            return end, True
        if kind[0] not in _QUIET:
            raise psycopg.OperationalError(f"a message {kind!r} came in the middle of a COPY")
        used = end


def _error(body: bytes) -> psycopg.Error:
    """Return the error that a server has sent: fields, each a letter and a text."""
    fields: dict[int, bytes | None] = {field[0]: field[1:] for field in body.split(b"\0") if field}
    text = fields.get(DiagnosticField.MESSAGE_PRIMARY) or b"an error without a message"
    state = (fields.get(DiagnosticField.SQLSTATE) or b"").decode()
    try:
        kind: type[psycopg.Error] = errors.lookup(state)
    except KeyError:
        kind = psycopg.DatabaseError
    return kind(text.decode(errors="replace"), info=fields, encoding="utf-8")


def _by_libpq(pgconn: pq.abc.PGconn, statement: str, sorter: Sorter) -> Iterator[None]:
    result = pgconn.exec_(statement.encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise errors.error_from_result(result, encoding="utf-8")
    passed = 0
    while (message := pgconn.get_copy_data(0))[0] > 0:
        sorter.message(message[1])
        if sorter.size - passed >= RECEIVE_BYTES:
            passed = sorter.size
            yield
    yield
    end = pgconn.get_result()
    if end is not None and end.status != pq.ExecStatus.COMMAND_OK:
        raise errors.error_from_result(end, encoding="utf-8")
    while pgconn.get_result() is not None:
        pass


def put_copy(pgconn: pq.abc.PGconn, data: bytes) -> None:
    """Send a piece of a COPY … FROM STDIN that libpq has begun, and will end."""
    if is_bare(pgconn):
        _write(pgconn, [_HEAD.pack(b"d", len(data) + _LENGTH_BYTES), data], events=select.POLLOUT | select.POLLIN)
    else:
        pgconn.put_copy_data(data)


def _read(line: int, into: memoryview) -> int:
    """Wait for what comes; who watches for silence ends the wait by cutting the line."""
    while True:
        try:
            size = os.readv(line, [into])
        except BlockingIOError:
            _wait(line, select.POLLIN)
        except OSError as error:
            raise _gone() from error
        else:
            if not size:
                raise _gone()
            return size


def _write(pgconn: pq.abc.PGconn, parts: list[bytes], *, events: int) -> None:
    """Send all. With POLLIN libpq takes what the server says meanwhile: else both could wait for each other."""
    left = [memoryview(part) for part in parts]
    while left:
        try:
            size = os.writev(pgconn.socket, left)
        except BlockingIOError:
            if _wait(pgconn.socket, events) & select.POLLIN:
                pgconn.consume_input()
            continue
        except OSError as error:
            raise _gone() from error
        while left and size >= len(left[0]):
            size -= len(left.pop(0))
        if left:
            left[0] = left[0][size:]


def _wait(line: int, events: int) -> int:
    poll = select.poll()
    poll.register(line, events)
    return poll.poll()[0][1]


def _gone() -> psycopg.OperationalError:
    return psycopg.OperationalError("the server closed the connection unexpectedly")
