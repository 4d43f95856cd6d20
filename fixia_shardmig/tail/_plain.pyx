# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""Plain changes, from the bytes of the stream to the rows of a COPY, without an object for each value. Compiled.

A change is plain when one look decides it: an INSERT whose home is known, an UPDATE that keeps key and home and brings
all values, a DELETE of a row whose place is known. `Windows` reads changes and finds what has to be looked up, `Plain`
decides and queues, `merge` works out the net change, `lines` and `array_of` write it. Everything else goes the general
way, through `Router`, in its turn; without a compiler everything does.

The layouts are those of "Logical Replication Message Formats" and of COPY's text format in the PostgreSQL manual.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.list cimport PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.ref cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8

from fixia_shardmig.postgres.pgoutput import Decoder
from fixia_shardmig.tail.operations import DELETE, UPDATE, Operation

cdef extern from *:
    const char *SOURCE_DIGEST  # set by hatch_build.py

SOURCE = SOURCE_DIGEST.decode()
"""Of which source this was built."""

cdef enum:
    COLUMNS_MAX = 1664  # PostgreSQL's own limit of columns in a result
    KEY_MAX = 32        # and of columns in an index
    MISSING = -1        # NULL
    UNCHANGED = -2

cdef struct Tuple:
    int count
    int start[COLUMNS_MAX]
    int size[COLUMNS_MAX]


cdef inline unsigned int u32(const unsigned char *at) noexcept:
    return (<unsigned int>at[0] << 24) | (<unsigned int>at[1] << 16) | (<unsigned int>at[2] << 8) | at[3]


cdef int read_tuple(const unsigned char *data, Py_ssize_t length, Py_ssize_t at, Tuple *row) noexcept:
    """Note where a tuple's values are; whether it fills the message to its end, with text only."""
    cdef int number
    cdef Py_ssize_t size
    if at + 2 > length:
        return 0
    row.count = (data[at] << 8) | data[at + 1]
    at += 2
    if row.count > COLUMNS_MAX:
        return 0
    for number in range(row.count):
        if at >= length:
            return 0
        if data[at] == c't':
            if at + 5 > length:
                return 0
            size = u32(data + at + 1)
            row.start[number] = <int>(at + 5)
            row.size[number] = <int>size
            at += 5 + size
        elif data[at] == c'n':
            row.size[number] = MISSING
            at += 1
        elif data[at] == c'u':
            row.size[number] = UNCHANGED
            at += 1
        else:
            return 0
    return at == length


cdef tuple key_at(const unsigned char *data, const Tuple *row, const int *places, int count):
    """Return the values at some places; None when one is missing."""
    cdef int number, place
    for number in range(count):
        if row.size[places[number]] < 0:
            return None
    if count == 1:
        place = places[0]
        return (PyUnicode_DecodeUTF8(<const char *>data + row.start[place], row.size[place], NULL),)
    return tuple([
        PyUnicode_DecodeUTF8(<const char *>data + row.start[places[number]], row.size[places[number]], NULL)
        for number in range(count)
    ])


cdef class Parent:
    """Where a row names a parent, and what is known of that parent's keyspace."""

    cdef object space
    cdef dict located
    cdef int count
    cdef int places[KEY_MAX]
    cdef list wanted


cdef class Shape:
    """What a `RelationPlan` says of a relation, for changes that are plain."""

    cdef readonly object plan
    cdef object leaf, own_space
    cdef dict located, homes
    cdef list parents, wanted, queues
    cdef int count, own_count, home_place, fixed
    cdef int own[KEY_MAX]
    cdef long long turn

    def __init__(self, plan, int shards):
        table = plan.table
        self.plan = plan
        self.leaf = table.leaf
        self.own_space = table.own
        self.located = plan.located
        self.homes = plan.homes
        self.count = len(plan.columns)
        self.fixed = -1 if table.fixed_mask is None else table.fixed_mask
        self.own_count = len(plan.own_places)
        for number, place in enumerate(plan.own_places):
            self.own[number] = place
        self.home_place = plan.deciding[0][1] if self.homes is not None else -1
        self.parents = []
        cdef Parent parent
        for known in plan.parents:
            parent = Parent()
            parent.space = known.space
            parent.located = known.located
            parent.count = len(known.places)
            for number, place in enumerate(known.places):
                parent.places[number] = place
            parent.wanted = []
            self.parents.append(parent)
        self.wanted = []
        self.queues = [None] * shards
        self.turn = -1


@cython.no_gc
@cython.freelist(1024)
cdef class PlainChange:
    """A change that waits for a shard. The same object waits on each shard that it goes to."""

    cdef Shape shape
    cdef object transaction
    cdef bytes payload
    cdef tuple key
    cdef Parent parent
    cdef object parent_key
    cdef unsigned char kind

    @property
    def first_of_key(self):
        """Return the key's first value, to sort by."""
        return self.key[0]

    def decode(self):
        """Return the change as the general way has it."""
        relation = self.shape.plan.relation
        return Decoder({relation.oid: relation}).decode(self.payload)

    def operation(self):
        """Return the change as an operation of the general way."""
        plan = self.shape.plan
        if self.kind == c'D':
            return Operation(DELETE, plan.table.own.columns, self.key)
        if self.kind == c'I':
            return Operation(plan.put_kind, plan.columns, self.decode().new)
        return Operation(UPDATE, plan.columns, self.decode().new + self.key)


cdef class GeneralChange:
    """A change that goes the general way, in its turn between plain ones."""

    cdef readonly object transaction, change

    def __init__(self, transaction, change):
        self.transaction = transaction
        self.change = change


cdef class Windows:
    """Cuts the changes of transactions into windows."""

    cdef object router, transactions, payloads, transaction, decoder, relations
    cdef dict shapes
    cdef list touched, general
    cdef int shards, changes_max
    cdef Py_ssize_t bytes_max
    cdef object left

    def __init__(self, router, transactions, int changes_max, Py_ssize_t bytes_max):
        self.router = router
        self.transactions = iter(transactions)
        self.payloads = None
        self.transaction = None
        self.decoder = None
        self.relations = None
        self.shapes = {}
        self.shards = len(router.shards)
        self.changes_max = changes_max
        self.bytes_max = bytes_max
        self.left = None

    def next(self):
        """Return (changes, bytes, keys to look up by keyspace, what goes the general way) of the next window, or None.

        Bytes of what goes the general way count twice, since it is decoded.
        """
        cdef list window = []
        cdef Py_ssize_t size_bytes = 0, size
        cdef bytes payload
        self.touched = []
        self.general = []
        while PyList_GET_SIZE(window) < self.changes_max:
            payload = self.next_payload()
            if payload is None:
                break
            size = PyBytes_GET_SIZE(payload)
            if PyList_GET_SIZE(window) and size_bytes + size > self.bytes_max:
                self.left = payload
                break
            change = self.read(payload)
            size_bytes += size if type(change) is PlainChange else 2 * size
            window.append(change)
        return (window, size_bytes, self.take_wanted(), self.general) if PyList_GET_SIZE(window) else None

    cdef bytes next_payload(self):
        """Return the next change's bytes; relations on the way are taken in."""
        cdef bytes payload
        if self.left is not None:
            payload, self.left = self.left, None
            return payload
        while True:
            if self.payloads is None:
                self.transaction = next(self.transactions, None)
                if self.transaction is None:
                    return None
                self.begin(self.transaction.changes)
            for payload in self.payloads:
                if PyBytes_AS_STRING(payload)[0] == c'R':
                    self.decode(payload)
                    self.shapes = {}
                else:
                    return payload
            self.payloads = None

    cdef begin(self, changes):
        self.payloads = changes.payloads()
        self.decoder = None
        if changes.relations is not self.relations:
            self.relations = changes.relations
            self.shapes = {}

    cdef decode(self, bytes payload):
        if self.decoder is None:
            self.decoder = Decoder(self.relations)
        return self.decoder.decode(payload)

    cdef Shape shape_of(self, unsigned int oid):
        """Return a relation's shape; None when its changes have to go the general way."""
        known = self.relations if self.decoder is None else self.decoder.relations
        relation = known.get(oid)
        shape = None
        if relation is not None:
            plan = self.router.plan_of(relation)
            if plan.is_plain:
                shape = plan.shape
                if shape is None:
                    shape = plan.shape = Shape(plan, self.shards)
        self.shapes[oid] = shape
        return shape

    cdef read(self, bytes payload):
        """Return a change, plain if it can be, and note what has to be looked up for it."""
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(payload)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(payload)
        cdef Shape shape
        cdef PlainChange plain
        cdef Tuple row
        cdef unsigned int oid
        if length > 6 and (data[0] == c'I' or data[0] == c'U' or data[0] == c'D'):
            oid = u32(data + 1)
            try:
                shape = self.shapes[oid]
            except KeyError:
                shape = self.shape_of(oid)
            if (
                shape is not None
                and data[5] == (c'K' if data[0] == c'D' else c'N')
                and read_tuple(data, length, 6, &row)
                and row.count == shape.count
            ):
                plain = self.plain(shape, payload, data, &row)
                if plain is not None:
                    return plain
        change = self.decode(payload)
        self.general.append(change)
        return GeneralChange(self.transaction, change)

    cdef PlainChange plain(self, Shape shape, bytes payload, const unsigned char *data, const Tuple *row):
        cdef PlainChange plain
        cdef Parent parent
        cdef tuple key, parent_key = None
        cdef int number
        key = key_at(data, row, shape.own, shape.own_count)
        if key is None:
            return None
        plain = PlainChange.__new__(PlainChange)
        if data[0] != c'D':
            for number in range(row.count):
                if row.size[number] == UNCHANGED:
                    return None
            if shape.fixed >= 0:
                pass
            elif shape.homes is not None:
                if row.size[shape.home_place] < 0:
                    return None
                plain.parent_key = PyUnicode_DecodeUTF8(
                    <const char *>data + row.start[shape.home_place], row.size[shape.home_place], NULL
                )
            else:
                for parent in shape.parents:
                    parent_key = key_at(data, row, parent.places, parent.count)
                    if parent_key is not None:
                        break
                if parent_key is None:
                    return None
                plain.parent = parent
                plain.parent_key = parent_key
                if PyDict_GetItem(parent.located, parent_key) is NULL:
                    if not PyList_GET_SIZE(parent.wanted):
                        self.touched.append((parent.space, parent.wanted))
                    parent.wanted.append(parent_key)
        if data[0] != c'I' and shape.fixed < 0 and PyDict_GetItem(shape.located, key) is NULL:
            if not PyList_GET_SIZE(shape.wanted):
                self.touched.append((shape.own_space, shape.wanted))
            shape.wanted.append(key)
        plain.shape = shape
        plain.transaction = self.transaction
        plain.payload = payload
        plain.key = key
        plain.kind = data[0]
        return plain

    cdef list take_wanted(self):
        """Return (keyspace, keys) of what has to be looked up; the lists begin anew."""
        taken = [(space, list(keys)) for space, keys in self.touched]
        for _, keys in self.touched:
            keys.clear()
        return taken


cdef long long turns = 0


cdef long long next_turn() noexcept:
    """Return a number that nobody had: shards' queues are looked up again whenever a flush may have taken them."""
    global turns
    turns += 1
    return turns


cdef class Plain:
    """Decides plain changes and queues them on the shards."""

    cdef object router
    cdef list shards
    cdef long long turn

    def __init__(self, router):
        self.router = router
        self.shards = list(router.shards)
        self.turn = 0

    def route(self, list window):
        """Route a window's changes in order; those that are not plain through the router."""
        cdef PlainChange plain
        cdef Shape shape
        cdef long long mask
        cdef list counts = [0] * len(self.shards)
        self.turn = next_turn()
        put_mask = self.router.decisions.masks.append
        for change in window:
            if type(change) is PlainChange:
                plain = <PlainChange>change
                mask = self.decide(plain)
                if mask:
                    self.queue(plain, mask, counts)
                    put_mask(mask)
                    shape = plain.shape
                    if shape.fixed < 0:
                        if plain.kind == c'I':
                            shape.located[plain.key] = mask
                        elif plain.kind == c'D':
                            shape.located[plain.key] = 0
                    continue
                transaction, change = plain.transaction, plain.decode()
            else:
                transaction, change = (<GeneralChange>change).transaction, (<GeneralChange>change).change
            self.count(counts)
            self.router.route_general(transaction, change)
            self.turn = next_turn()
        self.count(counts)

    cdef long long decide(self, PlainChange plain):
        """Return the shards that a change goes to; 0 when one look does not tell."""
        cdef Shape shape = plain.shape
        cdef long long at, home
        if plain.kind == c'I':
            return self.home(plain)
        if shape.fixed >= 0:
            return shape.fixed
        found = PyDict_GetItem(shape.located, plain.key)
        if found is NULL:
            return 0
        at = <object>found
        if plain.kind == c'D':
            return at
        return at if at and self.home(plain) == at else 0

    cdef long long home(self, PlainChange plain):
        cdef Shape shape = plain.shape
        cdef PyObject *found
        cdef long long mask
        if shape.fixed >= 0:
            return shape.fixed
        if plain.parent is None:
            found = PyDict_GetItem(shape.homes, plain.parent_key)
        else:
            found = PyDict_GetItem(plain.parent.located, plain.parent_key)
        if found is NULL:
            return 0
        mask = <object>found
        return mask & -mask

    cdef queue(self, PlainChange plain, long long mask, list counts):
        cdef Shape shape = plain.shape
        cdef int number
        if shape.turn != self.turn:
            shape.turn = self.turn
            for number in range(PyList_GET_SIZE(shape.queues)):
                shape.queues[number] = None
        number = 0
        while mask:
            if mask & 1:
                queue = shape.queues[number]
                if queue is None:
                    queue = shape.queues[number] = self.shards[number].queue_of(shape.leaf)
                (<list>queue).append(plain)
                counts[number] += 1
            mask >>= 1
            number += 1

    cdef count(self, list counts):
        cdef int number
        for number in range(PyList_GET_SIZE(counts)):
            if counts[number]:
                self.shards[number].pending += counts[number]
                counts[number] = 0


cdef class PlainNet:
    """The net change of a table on one shard, of plain changes alone; as `NetChange`, each row by its last change."""

    cdef readonly object plan
    cdef readonly dict puts, updates, deletes

    def __init__(self, plan):
        self.plan = plan
        self.puts = {}
        self.updates = {}
        self.deletes = {}


def merge(list operations):
    """Return the net change of plain changes of one shape; None if something else is among them, or cannot be merged."""
    cdef PlainChange plain
    cdef Shape shape = None
    cdef PlainNet net = None
    cdef dict puts, updates, deletes
    for operation in operations:
        if type(operation) is not PlainChange:
            return None
        plain = <PlainChange>operation
        if shape is None:
            shape = plain.shape
            net = PlainNet(shape.plan)
            puts, updates, deletes = net.puts, net.updates, net.deletes
        elif plain.shape is not shape:
            return None
        if plain.kind == c'I':
            updates.pop(plain.key, None)
            puts[plain.key] = plain
        elif plain.kind == c'U':
            if plain.key in puts:
                puts[plain.key] = plain
            elif plain.key in deletes:
                return None
            else:
                updates[plain.key] = plain
        elif puts.pop(plain.key, None) is None or plain.key in deletes:
            updates.pop(plain.key, None)
            deletes[plain.key] = None
    return net


cdef class _Buffer:
    """Bytes that grow."""

    cdef char *data
    cdef Py_ssize_t size, room

    def __cinit__(self):
        self.room = 65536
        self.data = <char *>PyMem_Malloc(self.room)
        if self.data is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef char *data
        if self.size + more > self.room:
            self.room = max(self.room * 2, self.size + more)
            data = <char *>PyMem_Realloc(self.data, self.room)
            if data is NULL:
                raise MemoryError
            self.data = data
        return 0

    cdef bytes take(self):
        taken = PyBytes_FromStringAndSize(self.data, self.size)
        self.size = 0
        return taken


cdef char *escaped(char *to, const unsigned char *value, Py_ssize_t size) noexcept:
    """Write a value as COPY's text format has it; needs twice its size at most."""
    cdef Py_ssize_t at
    cdef unsigned char byte
    for at in range(size):
        byte = value[at]
        if byte == c'\\' or byte == c'\t' or byte == c'\n' or byte == c'\r':
            to[0] = c'\\'
            to[1] = c'\\' if byte == c'\\' else c't' if byte == c'\t' else c'n' if byte == c'\n' else c'r'
            to += 2
        else:
            to[0] = byte
            to += 1
    return to


def lines(list changes, tuple places, Py_ssize_t block_bytes):
    """Yield the new rows of changes as COPY's text, each with the values at these places, in blocks of about a size."""
    cdef _Buffer buffer = _Buffer()
    for change in changes:
        add_line(buffer, (<PlainChange?>change).payload, places)
        if buffer.size >= block_bytes:
            yield buffer.take()
    if buffer.size:
        yield buffer.take()


cdef int add_line(_Buffer buffer, bytes payload, tuple places) except -1:
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(payload)
    cdef Tuple row
    cdef Py_ssize_t number, size
    cdef int place
    cdef char *to
    read_tuple(data, PyBytes_GET_SIZE(payload), 6, &row)
    buffer.reserve(2 * PyBytes_GET_SIZE(payload) + 3 * PyTuple_GET_SIZE(places) + 1)
    to = buffer.data + buffer.size
    for number in range(PyTuple_GET_SIZE(places)):
        place = <object>PyTuple_GET_ITEM(places, number)
        if number:
            to[0] = c'\t'
            to += 1
        if row.size[place] < 0:
            to[0] = c'\\'
            to[1] = c'N'
            to += 2
        else:
            to = escaped(to, data + row.start[place], row.size[place])
    to[0] = c'\n'
    buffer.size = to + 1 - buffer.data
    return 0


def array_of(keys, Py_ssize_t place):
    """Return an array literal of the values at one place of many keys."""
    cdef _Buffer buffer = _Buffer()
    cdef const char *value
    cdef Py_ssize_t size, at
    buffer.data[0] = c'{'
    buffer.size = 1
    for key in keys:
        value = PyUnicode_AsUTF8AndSize(<object>PyTuple_GET_ITEM(<tuple?>key, place), &size)
        buffer.reserve(2 * size + 4)
        if buffer.size > 1:
            buffer.data[buffer.size] = c','
            buffer.size += 1
        buffer.data[buffer.size] = c'"'
        buffer.size += 1
        for at in range(size):
            if value[at] == c'"' or value[at] == c'\\':
                buffer.data[buffer.size] = c'\\'
                buffer.size += 1
            buffer.data[buffer.size] = value[at]
            buffer.size += 1
        buffer.data[buffer.size] = c'"'
        buffer.size += 1
    buffer.reserve(1)
    buffer.data[buffer.size] = c'}'
    buffer.size += 1
    return buffer.take().decode()
