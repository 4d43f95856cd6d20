# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""Takes messages off a replication connection and cuts whole transactions from them, many at a time. Compiled.

`psycopg.pq` hands over one message a call, and an object for each call's result costs more than the message. `Taker` calls
the very libpq that psycopg has loaded, on the same connection. `whole` knows one layout: BEGIN, changes, COMMIT, all
there; everything else goes the general way, through `TransactionReader`, message by message.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.stdint cimport uintptr_t

cdef extern from *:
    const char *SOURCE_DIGEST  # set by hatch_build.py

SOURCE = SOURCE_DIGEST.decode()
"""Of which source this was built."""

ctypedef int (*GetCopyData)(void *connection, char **message, int is_async) noexcept
ctypedef void (*FreeMemory)(void *memory) noexcept

cdef enum:
    HEADER = 25           # of XLogData: its letter, two positions, a clock
    KEEPALIVE = 18        # its letter, a position, a clock, whether an answer is asked for
    BEGIN = 21
    COMMIT = 26

DRY, ENDED, FULL, ASKED, UNKNOWN = range(5)
"""Why `take` stopped: nothing more is here, the stream is over, enough, the server asks for an answer, a strange message."""


cdef inline unsigned long long u64(const unsigned char *at) noexcept:
    cdef unsigned long long value = 0
    cdef int number
    for number in range(8):
        value = value << 8 | at[number]
    return value


cdef inline unsigned int u32(const unsigned char *at) noexcept:
    return (<unsigned int>at[0] << 24) | (<unsigned int>at[1] << 16) | (<unsigned int>at[2] << 8) | at[3]


cdef class Taker:
    """One connection's messages."""

    cdef void *connection
    cdef GetCopyData get
    cdef FreeMemory free

    def __init__(self, uintptr_t connection, uintptr_t get_copy_data, uintptr_t freemem):
        self.connection = <void *>connection
        self.get = <GetCopyData>get_copy_data
        self.free = <FreeMemory>freemem

    def take(self, list frames, Py_ssize_t bytes_max):
        """Append what libpq has as (position, bytes), no bytes for a keepalive; return (why it stopped, bytes taken)."""
        cdef char *message = NULL
        cdef const unsigned char *data
        cdef Py_ssize_t taken = 0
        cdef int size
        while taken < bytes_max:
            size = self.get(self.connection, &message, 1)
            if size <= 0:
                return (ENDED if size < 0 else DRY), taken
            data = <const unsigned char *>message
            try:
                taken += size
                if data[0] == c'w' and size >= HEADER:
                    frames.append((u64(data + 1), PyBytes_FromStringAndSize(message + HEADER, size - HEADER)))
                elif data[0] == c'k' and size >= KEEPALIVE:
                    frames.append((u64(data + 1), b""))
                    if data[KEEPALIVE - 1]:
                        return ASKED, taken
                else:
                    return UNKNOWN, taken
            finally:
                self.free(message)
        return FULL, taken


def whole(list frames, Py_ssize_t start, Py_ssize_t held_max, Py_ssize_t message_bytes):
    """Return (end, xid, COMMIT's position, end position, clock, changes, bytes) of a transaction that is all there.

    None if the frames from `start` on begin with anything else, or if its changes hold more than `held_max` bytes, with
    so many for each beside its own.
    """
    cdef Py_ssize_t at, size, size_bytes = 0, held = 0
    cdef bytes payload = (<tuple>frames[start])[1]
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(payload)
    cdef unsigned int xid
    cdef list changes = []
    if PyBytes_GET_SIZE(payload) != BEGIN or data[0] != c'B':
        return None
    xid = u32(data + 17)
    for at in range(start + 1, PyList_GET_SIZE(frames)):
        payload = (<tuple>frames[at])[1]
        size = PyBytes_GET_SIZE(payload)
        if not size:
            return None
        data = <const unsigned char *>PyBytes_AS_STRING(payload)
        if data[0] == c'I' or data[0] == c'U' or data[0] == c'D':
            size_bytes += size
            held += size + message_bytes
            if held > held_max:
                return None
            changes.append(payload)
        elif data[0] == c'C' and size == COMMIT:
            return at + 1, xid, u64(data + 2), u64(data + 10), <long long>u64(data + 18), changes, size_bytes
        else:
            return None
    return None
