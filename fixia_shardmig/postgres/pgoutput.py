"""Decodes pgoutput, the messages of PostgreSQL's logical replication, protocol versions 1 and 2. No I/O.

Values stay the text the server wrote: nothing here parses a number, a date or a JSON document (pitfall 49).
The layouts are those of "Logical Replication Message Formats" in the PostgreSQL manual.

Refuses what was not asked for (binary values, two-phase messages of version 3) and bytes that do not add up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import compress
from typing import Final

from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.lsn import LSN


class Unchanged(Enum):
    """The type of `UNCHANGED`; an enum, so that it stays the same object through pickling."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED
"""Stands for a TOASTed value that an UPDATE did not touch and the WAL therefore does not hold (pitfall 21)."""

Value = str | None | Unchanged
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table's shape as the stream tells it: once before its first change, again after DDL or a reconnect.

    Attributes:
        oid: The source's; it means nothing on another server: map by schema and name (pitfall 35).
        replica_identity: `relreplident`: d default, i index, f full, n nothing.
        key_flags: For each column whether it is part of the replica identity; all of them with f.
    """

    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[str, ...]
    key_flags: tuple[bool, ...]
    type_oids: tuple[int, ...]
    type_modifiers: tuple[int, ...]

    def identity(self, row: Row) -> Row:
        """Return a row's identity values, the only ones that a `K` old row holds (pitfall 22)."""
        return tuple(compress(row, self.key_flags))


# The messages below are not frozen: setting up a frozen instance takes three times as long, once a change.
# Nobody changes them. `xid` is the (sub)transaction inside a streamed block, else 0.


@dataclass(slots=True)
class Insert:
    """A new row."""

    relation: Relation
    new: Row
    xid: int = 0


@dataclass(slots=True)
class Update:
    """A changed row.

    Attributes:
        old: The row before, empty unless the server sent one.
        old_kind: K when the identity changed (only identity values are meaningful, the rest reads NULL), O for the
            whole row under REPLICA IDENTITY FULL, empty without.
        new: The row after; untouched TOAST is `UNCHANGED`.
    """

    relation: Relation
    old: Row
    old_kind: str
    new: Row
    xid: int = 0


@dataclass(slots=True)
class Delete:
    """A row that went; `old` and `old_kind` as in `Update`, never empty."""

    relation: Relation
    old: Row
    old_kind: str
    xid: int = 0


@dataclass(slots=True)
class Truncate:
    """One TRUNCATE statement over all its tables (pitfall 25)."""

    relations: tuple[Relation, ...]
    cascade: bool
    restart_identity: bool
    xid: int = 0


Change = Insert | Update | Delete | Truncate


@dataclass(slots=True)
class Begin:
    """The start of a transaction. `final_lsn` is where its commit record begins."""

    final_lsn: LSN
    commit_clock: int
    xid: int


@dataclass(slots=True)
class Commit:
    """The end of a transaction. `end_lsn` is what to acknowledge; for `commit_clock` see `time_of`."""

    commit_lsn: LSN
    end_lsn: LSN
    commit_clock: int


@dataclass(slots=True)
class Origin:
    """The transaction came to the source through replication. `lsn` is its commit there."""

    lsn: LSN
    name: str


@dataclass(slots=True)
class Type:
    """The name of a type that is not built in."""

    oid: int
    schema: str
    name: str
    xid: int = 0


@dataclass(slots=True)
class LogicalMessage:
    """What `pg_logical_emit_message` wrote. `lsn` is where its record begins; the function returns where it ends."""

    transactional: bool
    lsn: LSN
    prefix: str
    content: bytes
    xid: int = 0


@dataclass(slots=True)
class StreamStart:
    """A block of a transaction that is still open follows."""

    xid: int
    first: bool


@dataclass(slots=True)
class StreamStop:
    """The block ends."""


@dataclass(slots=True)
class StreamCommit:
    """A streamed transaction has committed."""

    xid: int
    commit_lsn: LSN
    end_lsn: LSN
    commit_clock: int


@dataclass(slots=True)
class StreamAbort:
    """A streamed transaction, or with another `subxid` one of its subtransactions, rolled back."""

    xid: int
    subxid: int


Message = (
    Change
    | Begin
    | Commit
    | Origin
    | Relation
    | Type
    | LogicalMessage
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
)

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from
_column = struct.Struct(">Ii").unpack_from
_begin = struct.Struct(">QqI").unpack_from
_commit = struct.Struct(">BQQq").unpack_from
_stream_commit = struct.Struct(">IBQQq").unpack_from
_two_u32 = struct.Struct(">II").unpack_from
_xid_flag = struct.Struct(">IB").unpack_from
_message = struct.Struct(">BQ").unpack_from
_u64 = struct.Struct(">Q").unpack_from

_TEXT, _NULL, _UNCHANGED = b"tnu"
_KEY, _OLD, _NEW = b"KON"
_CARRIES_XID = frozenset(b"IUDTRYM")
_CASCADE, _RESTART_IDENTITY = 1, 2
_IDENTITY_COLUMN = 1

_OLD_KINDS = {_KEY: "K", _OLD: "O"}


class Decoder:
    """Turns one message's bytes after the other into objects, and remembers the relations they refer to.

    Within a streamed block (version 2) the relations that its transaction announced come first. They are taken over
    when it commits and forgotten when it rolls back, as the server does with its own note of what it has sent.
    """

    def __init__(self, relations: Mapping[int, Relation] | None = None, *, in_stream: bool = False) -> None:
        """Start with the relations known so far, outside or inside a streamed block."""
        self._relations: Mapping[int, Relation] = relations or {}
        self._announced_by: dict[int, dict[int, Relation]] = {}
        self._announced: dict[int, Relation] | None = None
        self._known: Mapping[int, Relation] = self._relations
        self._in_stream = in_stream

    @property
    def relations(self) -> Mapping[int, Relation]:
        """Return the relations that the next message may refer to, by OID. Later messages do not change it."""
        return self._known

    def decode(self, payload: bytes) -> Message:
        """Decode one message.

        Raises:
            ShardmigError: The bytes are no message of versions 1 and 2, or refer to a relation never announced.
        """
        try:
            kind = payload[0]
            if self._in_stream and kind in _CARRIES_XID:
                message, end = _READERS[kind](self, payload, 5, _u32(payload, 1)[0])
            else:
                message, end = _READERS[kind](self, payload, 1, 0)
        except (IndexError, struct.error, UnicodeDecodeError, ValueError, OverflowError) as error:
            raise _broken(payload, str(error)) from error
        except KeyError as error:
            raise self._unknown(payload, error) from None
        if end != len(payload):
            raise _broken(payload, f"{len(payload)} bytes where {end} were announced")
        return message

    def _unknown(self, payload: bytes, error: KeyError) -> ShardmigError:
        if payload[0] not in _READERS:
            return _broken(payload, "unknown message kind")
        return _broken(payload, f"relation {error} was never announced")

    def _insert(self, data: bytes, at: int, xid: int) -> tuple[Message, int]:
        relation = self._known[_u32(data, at)[0]]
        _expect(data, at + 4, _NEW)
        new, at = _read_row(data, at + 5)
        return Insert(relation, new, xid), at

    def _update(self, data: bytes, at: int, xid: int) -> tuple[Message, int]:
        relation = self._known[_u32(data, at)[0]]
        at += 4
        old: Row = ()
        old_kind = _OLD_KINDS.get(data[at], "")
        if old_kind:
            old, at = _read_row(data, at + 1)
        _expect(data, at, _NEW)
        new, at = _read_row(data, at + 1)
        return Update(relation, old, old_kind, new, xid), at

    def _delete(self, data: bytes, at: int, xid: int) -> tuple[Message, int]:
        relation = self._known[_u32(data, at)[0]]
        old_kind = _OLD_KINDS.get(data[at + 4])
        if old_kind is None:
            raise ValueError("a delete without an old row")
        old, at = _read_row(data, at + 5)
        return Delete(relation, old, old_kind, xid), at

    def _truncate(self, data: bytes, at: int, xid: int) -> tuple[Message, int]:
        count, flags = _xid_flag(data, at)
        end = at + 5 + 4 * count
        relations = tuple(self._known[_u32(data, place)[0]] for place in range(at + 5, end, 4))
        return Truncate(relations, bool(flags & _CASCADE), bool(flags & _RESTART_IDENTITY), xid), end

    def _relation(self, data: bytes, at: int, _xid: int) -> tuple[Message, int]:
        relation, at = _read_relation(data, at)
        self._known = {**self._known, relation.oid: relation}
        if self._announced is not None:
            self._announced[relation.oid] = relation
        else:
            self._relations = self._known
        return relation, at

    def _stream_start(self, data: bytes, at: int, _xid: int) -> tuple[Message, int]:
        xid, first = _xid_flag(data, at)
        self._announced = self._announced_by.setdefault(xid, {})
        self._known = {**self._relations, **self._announced}
        self._in_stream = True
        return StreamStart(xid, bool(first)), at + 5

    def _stream_stop(self, _data: bytes, at: int, _xid: int) -> tuple[Message, int]:
        self._announced = None
        self._known = self._relations
        self._in_stream = False
        return StreamStop(), at

    def _stream_commit(self, data: bytes, at: int, _xid: int) -> tuple[Message, int]:
        xid, _flags, commit_lsn, end_lsn, microseconds = _stream_commit(data, at)
        self._relations = {**self._relations, **self._announced_by.pop(xid, {})}
        self._known = self._relations
        return StreamCommit(xid, LSN(commit_lsn), LSN(end_lsn), microseconds), at + 29

    def _stream_abort(self, data: bytes, at: int, _xid: int) -> tuple[Message, int]:
        xid, subxid = _two_u32(data, at)
        if xid == subxid:
            self._announced_by.pop(xid, None)
        return StreamAbort(xid, subxid), at + 8


def _read_row(data: bytes, at: int) -> tuple[Row, int]:
    """Read a TupleData. The inner loop of the whole tail; each shortcut here was measured."""
    (count,) = _u16(data, at)
    at += 2
    values: list[Value] = []
    append = values.append
    for _ in range(count):
        kind = data[at]
        if kind == _TEXT:
            (size,) = _u32(data, at + 1)
            at += 5
            end = at + size
            append(data[at:end].decode())
            at = end
        elif kind == _NULL:
            append(None)
            at += 1
        elif kind == _UNCHANGED:
            append(UNCHANGED)
            at += 1
        else:
            raise ValueError(f"a value of kind {chr(kind)!r}; only text was asked for")
    return tuple(values), at


def _read_relation(data: bytes, at: int) -> tuple[Relation, int]:
    (oid,) = _u32(data, at)
    schema, at = _read_text(data, at + 4)
    name, at = _read_text(data, at)
    replica_identity = chr(data[at])
    (count,) = _u16(data, at + 1)
    at += 3
    columns: list[tuple[str, bool, int, int]] = []
    for _ in range(count):
        flags = data[at]
        column, at = _read_text(data, at + 1)
        type_oid, type_modifier = _column(data, at)
        at += 8
        columns.append((column, bool(flags & _IDENTITY_COLUMN), type_oid, type_modifier))
    return (
        Relation(
            oid=oid,
            schema=schema or "pg_catalog",
            name=name,
            replica_identity=replica_identity,
            columns=tuple(column[0] for column in columns),
            key_flags=tuple(column[1] for column in columns),
            type_oids=tuple(column[2] for column in columns),
            type_modifiers=tuple(column[3] for column in columns),
        ),
        at,
    )


def _read_begin(_decoder: Decoder, data: bytes, at: int, _xid: int) -> tuple[Message, int]:
    final_lsn, microseconds, xid = _begin(data, at)
    return Begin(LSN(final_lsn), microseconds, xid), at + 20


def _read_commit(_decoder: Decoder, data: bytes, at: int, _xid: int) -> tuple[Message, int]:
    _flags, commit_lsn, end_lsn, microseconds = _commit(data, at)
    return Commit(LSN(commit_lsn), LSN(end_lsn), microseconds), at + 25


def _read_origin(_decoder: Decoder, data: bytes, at: int, _xid: int) -> tuple[Message, int]:
    (lsn,) = _u64(data, at)
    name, at = _read_text(data, at + 8)
    return Origin(LSN(lsn), name), at


def _read_type(_decoder: Decoder, data: bytes, at: int, xid: int) -> tuple[Message, int]:
    (oid,) = _u32(data, at)
    schema, at = _read_text(data, at + 4)
    name, at = _read_text(data, at)
    return Type(oid, schema or "pg_catalog", name, xid), at


def _read_message(_decoder: Decoder, data: bytes, at: int, xid: int) -> tuple[Message, int]:
    flags, lsn = _message(data, at)
    prefix, at = _read_text(data, at + 9)
    (size,) = _u32(data, at)
    at += 4
    return LogicalMessage(bool(flags & 1), LSN(lsn), prefix, data[at : at + size], xid), at + size


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    """Read a text that ends with a zero byte."""
    end = data.index(0, at)
    return data[at:end].decode(), end + 1


def time_of(clock: int) -> datetime:
    """Return the time that a message gives in microseconds since 2000. Worked out only where somebody looks at it."""
    return _POSTGRES_EPOCH + timedelta(microseconds=clock)


_READERS: Final[Mapping[int, Callable[[Decoder, bytes, int, int], tuple[Message, int]]]] = {
    ord("I"): Decoder._insert,  # noqa: SLF001  its own methods, looked up once and not with every decoder
    ord("U"): Decoder._update,  # noqa: SLF001
    ord("D"): Decoder._delete,  # noqa: SLF001
    ord("T"): Decoder._truncate,  # noqa: SLF001
    ord("R"): Decoder._relation,  # noqa: SLF001
    ord("B"): _read_begin,
    ord("C"): _read_commit,
    ord("O"): _read_origin,
    ord("Y"): _read_type,
    ord("M"): _read_message,
    ord("S"): Decoder._stream_start,  # noqa: SLF001
    ord("E"): Decoder._stream_stop,  # noqa: SLF001
    ord("c"): Decoder._stream_commit,  # noqa: SLF001
    ord("A"): Decoder._stream_abort,  # noqa: SLF001
}


def _expect(data: bytes, at: int, byte: int) -> None:
    if data[at] != byte:
        raise ValueError(f"{chr(data[at])!r} where {chr(byte)!r} belongs")


def _broken(payload: bytes, cause: str) -> ShardmigError:
    kind = ascii(chr(payload[0])) if payload else "empty"
    return ShardmigError(
        f"cannot decode a replication message of kind {kind}, {len(payload)} bytes: {cause}",
        hint="check that the slot's plugin is pgoutput and that the server is PostgreSQL 15 or later, then run again",
    )
