# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Sorts the rows of a COPY by home without looking into them; `relay.py` says what it does. Compiled."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.string cimport memchr, memcmp, memcpy

cdef extern from *:
    const char *SOURCE_DIGEST  # set by hatch_build.py

SOURCE = SOURCE_DIGEST.decode()
"""Of which source this was built."""

cdef enum:
    FRAME = 5  # the letter d and a length
    HEADER = 19
    HOME = 6  # a length and an int2
    HEAD = 32  # a header, a field count and a home; or the digits of one
    DIGITS = 8

cdef const char *signature = b"PGCOPY\n\xff\r\n\x00"
cdef const char *trailer = b"\xff\xff"


cdef struct Home:
    char *data
    Py_ssize_t fill
    Py_ssize_t room
    Py_ssize_t rows


cdef class CompiledSorter:
    """See `relay.Sorter`."""

    cdef bint binary, routed
    cdef int homes, at
    cdef Py_ssize_t left
    cdef readonly Py_ssize_t size
    cdef Home *by_home

    def __cinit__(self, *, bint binary, bint routed, int homes):
        self.binary, self.routed, self.homes = binary, routed, homes
        self.by_home = <Home *>PyMem_Calloc(homes + 1, sizeof(Home))
        if self.by_home is NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int home
        if self.by_home is not NULL:
            for home in range(self.homes + 1):
                PyMem_Free(self.by_home[home].data)
            PyMem_Free(self.by_home)

    @property
    def rows(self):
        return [self.by_home[home].rows for home in range(self.homes + 1)]

    def fill(self, int home):
        return self.by_home[home].fill

    def take(self, int home):
        cdef Home *to = &self.by_home[home]
        data = PyBytes_FromStringAndSize(to.data, to.fill)
        to.fill = 0
        return data

    def message(self, data):
        cdef Py_buffer view
        cdef Py_ssize_t used
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            used = self.begin(<const char *>view.buf, view.len, view.len)
            self.put(<const char *>view.buf + used, self.left)
            self.left = 0
        finally:
            PyBuffer_Release(&view)

    def frames(self, data):
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.walk(<const char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t walk(self, const char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t at = 0, length, ready
        while True:
            if self.left:
                length = min(self.left, size - at)
                self.put(data + at, length)
                self.left -= length
                at += length
            if size - at < FRAME or data[at] != c'd':
                return at
            length = big_endian(data + at + 1) - 4
            ready = size - at - FRAME
            if ready < min(length, HEAD):
                return at
            at += FRAME + self.begin(data + at + FRAME, length, ready)

    cdef Py_ssize_t begin(self, const char *data, Py_ssize_t length, Py_ssize_t ready) except -1:
        """Take the head of a message off; returns how long it was. What is left of it goes where `at` says."""
        cdef Py_ssize_t head = 0
        cdef int fields
        cdef const char *end
        self.at = 0
        if self.binary:
            if length >= HEADER and memcmp(data, signature, 11) == 0:
                head = HEADER
            if length == head or (length - head == 2 and memcmp(data + head, trailer, 2) == 0):
                return length
        self.size += length - head
        if not self.routed:
            pass
        elif self.binary:
            if length - head < 2 + HOME:
                raise ValueError("a row without its home")
            data += head
            fields = ((<unsigned char>data[0]) << 8 | <unsigned char>data[1]) - 1
            self.to_home(<short>((<unsigned char>data[6]) << 8 | <unsigned char>data[7]))
            self.reserve(2)
            self.put_byte(fields >> 8)
            self.put_byte(fields & 255)
            head += 2 + HOME
        else:
            end = <const char *>memchr(data, c'\t', min(ready, DIGITS))
            if end is NULL:
                raise ValueError("a row without its home")
            head = end + 1 - data
            self.to_home(int(data[:head - 1]))
        self.by_home[self.at].rows += 1
        self.left = length - head
        return head

    cdef int to_home(self, int home) except -1:
        if home < -1 or home >= self.homes:
            raise ValueError(f"home {home} of {self.homes}")
        self.at = self.homes if home < 0 else home
        return 0

    cdef int put(self, const char *data, Py_ssize_t size) except -1:
        cdef Home *to = &self.by_home[self.at]
        self.reserve(size)
        memcpy(to.data + to.fill, data, size)
        to.fill += size
        return 0

    cdef void put_byte(self, int value) noexcept:
        cdef Home *to = &self.by_home[self.at]
        to.data[to.fill] = <char>value
        to.fill += 1

    cdef int reserve(self, Py_ssize_t size) except -1:
        cdef Home *to = &self.by_home[self.at]
        cdef Py_ssize_t room
        cdef char *data
        if to.fill + size <= to.room:
            return 0
        room = max(to.fill + size, 2 * to.room)
        data = <char *>PyMem_Realloc(to.data, room)
        if data is NULL:
            raise MemoryError
        to.data, to.room = data, room
        return 0


cdef Py_ssize_t big_endian(const char *data) noexcept:
    cdef const unsigned char *byte = <const unsigned char *>data
    return (<Py_ssize_t>byte[0]) << 24 | byte[1] << 16 | byte[2] << 8 | byte[3]
