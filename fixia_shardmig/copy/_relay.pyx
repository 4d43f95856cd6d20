# cython: language_level=3, boundscheck=False, wraparound=False
"""Reads the rows of a COPY and sorts them by home without looking into them; `relay.py` says what it does. Compiled."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memchr, memcmp, memcpy

cdef extern from *:
    const char *SOURCE_DIGEST  # set by hatch_build.py

SOURCE = SOURCE_DIGEST.decode()
"""Of which source this was built."""

cdef enum:
    SIGNATURE = 11
    HEADER = 19
    HOME = 6  # a length and an int2

cdef const char *signature = b"PGCOPY\n\xff\r\n\x00"
cdef const char *trailer = b"\xff\xff"


def read_block(get, *, bint binary, bint routed, int homes, Py_ssize_t bytes_max):
    """Return (rows by home, rows, bytes, whether more may come)."""
    cdef list by_home = [[] for _ in range(homes + 1)]
    cdef Py_ssize_t rows = 0, total = 0, size
    cdef Py_buffer view
    while total < bytes_max:
        count, data = get(0)
        size = count
        if size <= 0:
            return by_home, rows, total, False
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            size = one_row(<const char *>view.buf, size, binary, routed, homes, by_home)
        finally:
            PyBuffer_Release(&view)
        if size >= 0:
            rows += 1
            total += size
    return by_home, rows, total, True


cdef Py_ssize_t one_row(
    const char *data, Py_ssize_t size, bint binary, bint routed, int homes, list by_home
) except -2:
    """Put a row where it belongs; returns its size, -1 if the message holds none."""
    cdef int home = 0, fields
    cdef const char *end
    cdef char *to
    if binary:
        if size >= HEADER and memcmp(data, signature, SIGNATURE) == 0:
            data += HEADER
            size -= HEADER
        if size == 2 and memcmp(data, trailer, 2) == 0:
            return -1
    if not routed:
        (<list>by_home[0]).append(PyBytes_FromStringAndSize(data, size))
        return size
    if binary:
        if size < 2 + HOME:
            raise ValueError("a row without its home")
        fields = ((<unsigned char>data[0]) << 8 | <unsigned char>data[1]) - 1
        home = <short>((<unsigned char>data[6]) << 8 | <unsigned char>data[7])
        row = PyBytes_FromStringAndSize(NULL, size - HOME)
        to = PyBytes_AS_STRING(row)
        to[0] = <char>(fields >> 8)
        to[1] = <char>(fields & 255)
        memcpy(to + 2, data + 2 + HOME, size - 2 - HOME)
    else:
        end = <const char *>memchr(data, c'\t', size)
        if end is NULL:
            raise ValueError("a row without its home")
        home = int(data[:end - data])
        row = PyBytes_FromStringAndSize(end + 1, size - (end + 1 - data))
    if home < -1 or home >= homes:
        raise ValueError(f"home {home} of {homes}")
    (<list>by_home[homes if home < 0 else home]).append(row)
    return size
