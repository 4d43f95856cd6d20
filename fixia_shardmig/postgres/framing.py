"""Messages of a replication stream as frames: taken off libpq by a compiled part where it was built, else one by one.

The compiled `Taker` calls the libpq that psycopg has loaded, by the addresses of its functions; where these cannot be
had, as from psycopg's implementation in Python, psycopg hands the messages over. See `_frames.pyx` and docs/adr/0013.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from psycopg import pq

from fixia_shardmig.model.compiled import is_built

IS_COMPILED = is_built("fixia_shardmig.postgres._frames")
"""Whether `compiled` is there."""

if TYPE_CHECKING or IS_COMPILED:
    from fixia_shardmig.postgres import _frames as compiled

__all__ = ["IS_COMPILED", "Frame", "Stopped", "Takes", "compiled", "taker_of"]

Frame = tuple[int, bytes]
"""A position and a message's bytes; no bytes for a keepalive, whose position is all that the server has sent."""

_XLOG_DATA, _KEEPALIVE = b"wk"
_HEADER_BYTES: Final = 25
_lsn = struct.Struct(">Q").unpack_from
_keepalive = struct.Struct(">QqB").unpack_from


class Stopped(IntEnum):
    """Why no more was taken: nothing is here, the stream is over, enough, an answer is asked for, a strange message."""

    DRY = 0
    ENDED = 1
    FULL = 2
    ASKED = 3
    UNKNOWN = 4


class Takes(Protocol):
    """Takes messages off a connection."""

    def take(self, frames: list[Frame], bytes_max: int, /) -> tuple[int, int]:
        """Append what libpq has; return (why it stopped, bytes taken)."""
        ...


def taker_of(connection: pq.abc.PGconn) -> Takes:
    """Return what takes messages off a connection in the quickest way there is."""
    if IS_COMPILED and (functions := _functions()) is not None:
        return compiled.Taker(getattr(connection, "pgconn_ptr"), *functions)  # noqa: B009  the protocol leaves it out
    return _Taker(connection)


def _functions() -> tuple[int, int] | None:
    """Return the addresses of libpq's PQgetCopyData and PQfreemem in psycopg's own copy of it."""
    module = sys.modules[pq.PGconn.__module__].__file__
    if pq.__impl__ not in {"c", "binary"} or module is None:
        return None
    library = ctypes.CDLL(module)  # loaded already; symbols are looked for in what it is linked with, too
    try:
        if library.PQlibVersion() != pq.version():
            return None
        found = [
            ctypes.cast(function, ctypes.c_void_p).value for function in (library.PQgetCopyData, library.PQfreemem)
        ]
    except AttributeError:  # linked in, with its names hidden
        return None
    return (found[0], found[1]) if found[0] and found[1] else None


class _Taker:
    """Has psycopg hand over one message after the other."""

    def __init__(self, connection: pq.abc.PGconn) -> None:
        self._get = connection.get_copy_data

    def take(self, frames: list[Frame], bytes_max: int, /) -> tuple[int, int]:
        taken = 0
        while taken < bytes_max:
            count, data = self._get(1)
            if count <= 0:
                return (Stopped.ENDED if count < 0 else Stopped.DRY), taken
            taken += count
            if data[0] == _XLOG_DATA:
                frames.append((_lsn(data, 1)[0], bytes(data[_HEADER_BYTES:])))
            elif data[0] == _KEEPALIVE:
                position, _clock, asked = _keepalive(data, 1)
                frames.append((position, b""))
                if asked:
                    return Stopped.ASKED, taken
            else:
                return Stopped.UNKNOWN, taken
        return Stopped.FULL, taken
