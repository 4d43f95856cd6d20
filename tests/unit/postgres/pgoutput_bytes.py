"""Writes pgoutput messages as the server would, for tests of their reader. Shares no code with it.

`xid` is written only inside a streamed block.
"""

from __future__ import annotations

import struct

from fixia_shardmig.postgres.pgoutput import Relation, Row, Unchanged


def text(value: str) -> bytes:
    """Write a text that ends with a zero byte."""
    return value.encode() + b"\0"


def row(values: Row) -> bytes:
    """Write a TupleData."""
    parts = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, Unchanged):
            parts.append(b"u")
        else:
            encoded = value.encode()
            parts.append(b"t" + struct.pack(">I", len(encoded)) + encoded)
    return b"".join(parts)


def inside(xid: int | None) -> bytes:
    """Write the transaction id that a message carries inside a streamed block."""
    return b"" if xid is None else struct.pack(">I", xid)


def relation(shape: Relation, *, xid: int | None = None) -> bytes:
    """Write a Relation message."""
    columns = b"".join(
        struct.pack(">B", flag) + text(name) + struct.pack(">Ii", oid, modifier)
        for name, flag, oid, modifier in zip(
            shape.columns, shape.key_flags, shape.type_oids, shape.type_modifiers, strict=True
        )
    )
    schema = "" if shape.schema == "pg_catalog" else shape.schema
    head = struct.pack(">I", shape.oid) + text(schema) + text(shape.name) + shape.replica_identity.encode()
    return b"R" + inside(xid) + head + struct.pack(">H", len(shape.columns)) + columns


def insert(oid: int, new: Row, *, xid: int | None = None) -> bytes:
    """Write an Insert message."""
    return b"I" + inside(xid) + struct.pack(">I", oid) + b"N" + row(new)


def update(oid: int, new: Row, *, old: Row = (), old_kind: str = "", xid: int | None = None) -> bytes:
    """Write an Update message."""
    before = old_kind.encode() + row(old) if old_kind else b""
    return b"U" + inside(xid) + struct.pack(">I", oid) + before + b"N" + row(new)


def delete(oid: int, old: Row, old_kind: str, *, xid: int | None = None) -> bytes:
    """Write a Delete message."""
    return b"D" + inside(xid) + struct.pack(">I", oid) + old_kind.encode() + row(old)


def truncate(oids: tuple[int, ...], flags: int, *, xid: int | None = None) -> bytes:
    """Write a Truncate message: flag 1 is CASCADE, 2 RESTART IDENTITY."""
    return b"T" + inside(xid) + struct.pack(">IB", len(oids), flags) + struct.pack(f">{len(oids)}I", *oids)


def message(prefix: str, content: bytes, *, transactional: bool = False, lsn: int = 0, xid: int | None = None) -> bytes:
    """Write a Message message."""
    head = struct.pack(">BQ", transactional, lsn)
    return b"M" + inside(xid) + head + text(prefix) + struct.pack(">I", len(content)) + content


def begin(xid: int, *, final_lsn: int = 0, microseconds: int = 0) -> bytes:
    """Write a Begin message."""
    return b"B" + struct.pack(">QqI", final_lsn, microseconds, xid)


def commit(commit_lsn: int, end_lsn: int, *, microseconds: int = 0) -> bytes:
    """Write a Commit message."""
    return b"C" + struct.pack(">BQQq", 0, commit_lsn, end_lsn, microseconds)


def origin(name: str, lsn: int = 0) -> bytes:
    """Write an Origin message."""
    return b"O" + struct.pack(">Q", lsn) + text(name)


def type_name(oid: int, schema: str, name: str, *, xid: int | None = None) -> bytes:
    """Write a Type message."""
    return b"Y" + inside(xid) + struct.pack(">I", oid) + text(schema) + text(name)


def stream_start(xid: int, *, first: bool = True) -> bytes:
    """Write a Stream Start message."""
    return b"S" + struct.pack(">IB", xid, first)


def stream_stop() -> bytes:
    """Write a Stream Stop message."""
    return b"E"


def stream_commit(xid: int, commit_lsn: int, end_lsn: int, *, microseconds: int = 0) -> bytes:
    """Write a Stream Commit message."""
    return b"c" + struct.pack(">IBQQq", xid, 0, commit_lsn, end_lsn, microseconds)


def stream_abort(xid: int, subxid: int) -> bytes:
    """Write a Stream Abort message."""
    return b"A" + struct.pack(">II", xid, subxid)
