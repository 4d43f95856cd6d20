"""Gathers the stream's messages into whole transactions, in the order in which they committed. No server here.

Nothing of a transaction is handed out before its COMMIT (pitfall 28). What does not fit into memory waits in files
without a name, which vanish with the process, however it ends.

A transaction's changes are kept as the bytes that came and are decoded when they are iterated: its owner may do that in
another thread, and twice if it likes.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from fixia_shardmig.model.errors import ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres import framing
from fixia_shardmig.postgres.framing import Frame
from fixia_shardmig.postgres.pgoutput import (
    Begin,
    Change,
    Commit,
    Decoder,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    Update,
    time_of,
)

MEMORY_BYTES_MAX: Final = 24 * 1024 * 1024
"""How much of all open transactions together is held in memory. As much as a batch of the tail holds: what is larger is
applied by itself, and reading it from a file costs next to nothing."""

TRANSACTION_BYTES: Final = 800
"""What a transaction takes beside its messages, as measured: a million small ones are not small."""

MESSAGE_BYTES: Final = 50
"""What a message takes beside its bytes."""

READ_BYTES: Final = 1024 * 1024
"""How much of a spill file is read at once."""

_size = struct.Struct(">I")
_u32 = struct.Struct(">I").unpack_from
_RELATION = ord("R")
_CHANGES = frozenset(b"IUDT")
_STORED = _CHANGES | {_RELATION}


@dataclass(frozen=True, slots=True)
class Idle:
    """Every transaction that committed before `server_lsn` has been handed out, none is half received."""

    server_lsn: LSN


class Changes:
    """A transaction's changes in the order of their execution, without those of rolled back savepoints.

    Iterating decodes them; `len` costs nothing. May be iterated again until the transaction is closed.
    """

    __slots__ = ("_aborted", "_count", "_counts", "_file", "_head", "_relations", "_spool", "_streamed")

    def __init__(
        self, relations: Mapping[int, Relation], *, streamed: bool, spool: Path, whole: list[bytes] | None = None
    ) -> None:
        """Start with the relations known when the transaction began: empty, or with all messages of a small one."""
        self._relations = relations
        self._streamed = streamed
        self._spool = spool
        self._head: list[bytes] = whole or []
        self._file: IO[bytes] | None = None
        self._count = len(self._head)
        self._counts: dict[int, int] | None = {} if streamed else None
        self._aborted: frozenset[int] = frozenset()

    def __len__(self) -> int:
        """Return the number of changes."""
        if self._counts is None:
            return self._count
        return sum(count for xid, count in self._counts.items() if xid not in self._aborted)

    def __iter__(self) -> Iterator[Change]:
        """Decode the changes one after the other."""
        for change, _ in self.sized():
            yield change

    def sized(self) -> Iterator[tuple[Change, int]]:
        """Decode the changes one after the other; with each, how many bytes it came as."""
        decoder = Decoder(self._relations, in_stream=self._streamed)
        aborted = self._aborted
        for payload in self.payloads():
            if aborted and payload[0] != _RELATION and _u32(payload, 1)[0] in aborted:
                continue
            message = decoder.decode(payload)
            if isinstance(message, Insert | Update | Delete | Truncate):
                yield message, len(payload)

    @property
    def streamed(self) -> bool:
        """Whether it came in blocks before its COMMIT: its messages name subtransactions."""
        return self._streamed

    @property
    def relations(self) -> Mapping[int, Relation]:
        """Return the relations known when the transaction began, by OID."""
        return self._relations

    @property
    def spilled(self) -> bool:
        """Whether a part of the transaction lies on disk."""
        return self._file is not None

    def add(self, payload: bytes, *, to_disk: bool) -> None:
        """Append a change or a relation. What follows a spilled message is spilled too."""
        if payload[0] in _CHANGES:
            if self._counts is None:
                self._count += 1
            else:
                xid = _u32(payload, 1)[0]
                self._counts[xid] = self._counts.get(xid, 0) + 1
        if to_disk or self._file is not None:
            self._spill(payload)
        else:
            self._head.append(payload)

    def discard(self, subxid: int) -> None:
        """Leave out the changes of a rolled back subtransaction."""
        if self._counts is not None and subxid in self._counts:
            self._aborted |= {subxid}

    def finish(self) -> None:
        """Write out what is buffered, so that iterating sees all of it."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                raise _cannot_spill(error, self._spool) from error

    def close(self) -> None:
        """Give memory and disk back."""
        self._head.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self, payload: bytes) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._spool, buffering=READ_BYTES)  # noqa: SIM115  see close
            self._file.write(_size.pack(len(payload)))
            self._file.write(payload)
        except OSError as error:
            raise _cannot_spill(error, self._spool) from error

    def payloads(self) -> Iterator[bytes]:
        """Yield the messages as they came, changes and the relations between them; without leaving out savepoints."""
        yield from self._head
        if self._file is not None:
            yield from _stored(self._file.fileno())


def _stored(descriptor: int) -> Iterator[bytes]:
    """Yield the messages of a spill file; by position, so that two readers do not disturb each other."""
    position = 0
    needed = _size.size
    while len(block := os.pread(descriptor, max(READ_BYTES, needed), position)) >= needed:
        at, needed = 0, _size.size
        while len(block) - at >= _size.size:
            needed = _size.size + _u32(block, at)[0]
            if at + needed > len(block):
                break
            yield block[at + _size.size : at + needed]
            at, needed = at + needed, _size.size
        position += at


def _cannot_spill(error: OSError, spool: Path) -> TemporaryError:
    return TemporaryError(
        f"cannot spill a large transaction to {spool}: {(error.strerror or str(error)).lower()}",
        hint=f"make room in {spool}, then run the same command again; nothing of the transaction was applied",
    )


@dataclass(slots=True)
class Transaction:
    """A committed transaction of the source.

    Attributes:
        xid: 32 bits; add the epoch before comparing it with a snapshot's (pitfall 44).
        end_lsn: What to acknowledge once every shard has it.
        changes: Its changes; close them when they are applied.
        origin: The replication origin's name if it came to the source through replication, else None.
        messages: The transactional logical messages that the reader keeps.
        size_bytes: The bytes of its messages.
        held_bytes: What it takes in memory; little for one that is on disk.
    """

    xid: int
    commit_lsn: LSN
    end_lsn: LSN
    commit_clock: int
    changes: Changes
    origin: str | None
    messages: list[LogicalMessage]
    size_bytes: int
    held_bytes: int

    @property
    def commit_time(self) -> datetime:
        """Return when the source committed it, by the source's clock."""
        return time_of(self.commit_clock)

    def close(self) -> None:
        """Give memory and disk of the changes back."""
        self.changes.close()


Item = Transaction | LogicalMessage | Idle


@dataclass(slots=True)
class _Open:
    """A transaction whose COMMIT has not come yet."""

    xid: int
    changes: Changes
    origin: str | None = None
    messages: list[LogicalMessage] = field(default_factory=list)
    size_bytes: int = 0
    memory_bytes: int = 0


class TransactionReader:
    """Turns frames into items in commit order: transactions, markers as they come, and what idle keepalives prove.

    An `Idle` is made only between transactions, never with one half received (pitfall 37). Transactions that are being
    streamed do not stand in its way: until their COMMIT comes, a restart sends them again from their beginning.
    """

    def __init__(self, spool: Path, *, message_prefixes: frozenset[str], memory_bytes_max: int | None = None) -> None:
        """Start with nothing open.

        Args:
            spool: The directory for transactions that are too large; must exist.
            message_prefixes: Which logical messages are ours; an application's own are passed over.
            memory_bytes_max: From how many held bytes on messages go to disk; MEMORY_BYTES_MAX if nothing else is said.
        """
        self._spool = spool
        self._prefixes = message_prefixes
        self._memory_bytes_max = MEMORY_BYTES_MAX if memory_bytes_max is None else memory_bytes_max
        self._memory_bytes = 0
        self._decoder = Decoder()
        self._streamed: dict[int, _Open] = {}
        self._current: _Open | None = None

    @property
    def open_transactions(self) -> int:
        """Return how many transactions have begun to come in without their COMMIT."""
        in_block = self._current is not None and self._current.xid not in self._streamed
        return len(self._streamed) + in_block

    def feed(self, frames: Iterable[Frame]) -> list[Item]:
        """Take what `Stream.read` returned and return what is complete by now, in order.

        Raises:
            ShardmigError: A message cannot be decoded or stands where it cannot.
            TemporaryError: A large transaction does not fit on the disk.
        """
        items: list[Item] = []
        listed = frames if isinstance(frames, list) else list(frames)
        at = 0
        while at < len(listed):
            if (
                framing.IS_COMPILED
                and self._current is None
                and (at := self._take_whole(listed, at, items)) >= len(listed)
            ):
                break
            position, payload = listed[at]
            at += 1
            current = self._current
            if not payload:
                if current is None:
                    _add_idle(items, LSN(position))
            elif current is not None and payload[0] in _STORED:
                self._store(current, payload)
            elif (item := self._take(self._decoder.decode(payload))) is not None:
                items.append(item)
        return items

    def _take_whole(self, frames: list[Frame], at: int, items: list[Item]) -> int:
        """Take transactions that are all there, as nearly all are, the compiled way; return where they end."""
        while at < len(frames):
            room = self._memory_bytes_max - self._memory_bytes
            found = framing.compiled.whole(frames, at, room, MESSAGE_BYTES)
            if found is None:
                return at
            at, xid, commit_lsn, end_lsn, clock, changes, size_bytes = found
            items.append(
                Transaction(
                    xid=xid,
                    commit_lsn=LSN(commit_lsn),
                    end_lsn=LSN(end_lsn),
                    commit_clock=clock,
                    changes=self._new_changes(streamed=False, whole=changes),
                    origin=None,
                    messages=[],
                    size_bytes=size_bytes,
                    held_bytes=size_bytes + MESSAGE_BYTES * len(changes) + TRANSACTION_BYTES,
                )
            )
        return at

    def close(self) -> None:
        """Give up what is open; a restarted stream sends it again."""
        for transaction in (*self._streamed.values(), *([self._current] if self._current else [])):
            transaction.changes.close()
        self._streamed.clear()
        self._current = None
        self._memory_bytes = 0

    def _store(self, current: _Open, payload: bytes) -> None:
        size = len(payload)
        if payload[0] == _RELATION:
            self._decoder.decode(payload)
        held = size + MESSAGE_BYTES
        to_disk = self._memory_bytes + held > self._memory_bytes_max
        current.changes.add(payload, to_disk=to_disk)
        current.size_bytes += size
        if not current.changes.spilled:
            current.memory_bytes += held
            self._memory_bytes += held

    def _take(self, message: Message) -> Item | None:
        """Handle a message that is neither a change nor a relation within a transaction."""
        match message:
            case Begin():
                self._current = _Open(message.xid, self._new_changes(streamed=False))
            case Commit():
                return self._committed(self._must_be_open(), message)
            case Origin():
                self._must_be_open().origin = message.name
            case LogicalMessage():
                return self._message(message)
            case StreamStart():
                self._resume(message.xid)
            case StreamStop():
                self._must_be_open()
                self._current = None
            case StreamCommit():
                return self._stream_committed(message)
            case StreamAbort():
                self._stream_aborted(message)
            case Insert() | Update() | Delete() | Truncate():
                raise _out_of_place("a change outside a transaction")
            case _:
                pass  # type names are of no use, since values stay text; a relation out here is remembered already
        return None

    def _new_changes(self, *, streamed: bool, whole: list[bytes] | None = None) -> Changes:
        return Changes(self._decoder.relations, streamed=streamed, spool=self._spool, whole=whole)

    def _must_be_open(self) -> _Open:
        if self._current is None:
            raise _out_of_place("a message of a transaction that has not begun")
        return self._current

    def _message(self, message: LogicalMessage) -> LogicalMessage | None:
        if message.prefix not in self._prefixes:
            return None
        if not message.transactional:
            return message
        self._must_be_open().messages.append(message)
        return None

    def _resume(self, xid: int) -> None:
        if xid not in self._streamed:
            self._streamed[xid] = _Open(xid, self._new_changes(streamed=True))
        self._current = self._streamed[xid]

    def _stream_committed(self, message: StreamCommit) -> Transaction:
        streamed = self._streamed.pop(message.xid, None)
        if streamed is None:
            raise _out_of_place(f"the commit of {message.xid}, which was not streamed")
        return self._committed(streamed, message)

    def _stream_aborted(self, message: StreamAbort) -> None:
        if message.xid != message.subxid:
            if message.xid in self._streamed:
                streamed = self._streamed[message.xid]
                streamed.changes.discard(message.subxid)
                streamed.messages = [kept for kept in streamed.messages if kept.xid != message.subxid]
        elif streamed_whole := self._streamed.pop(message.xid, None):
            self._memory_bytes -= streamed_whole.memory_bytes
            streamed_whole.changes.close()

    def _committed(self, opened: _Open, commit: Commit | StreamCommit) -> Transaction:
        self._current = None
        self._memory_bytes -= opened.memory_bytes
        opened.changes.finish()
        return Transaction(
            xid=opened.xid,
            commit_lsn=commit.commit_lsn,
            end_lsn=commit.end_lsn,
            commit_clock=commit.commit_clock,
            changes=opened.changes,
            origin=opened.origin,
            messages=opened.messages,
            size_bytes=opened.size_bytes,
            held_bytes=opened.memory_bytes + TRANSACTION_BYTES,
        )


def _add_idle(items: list[Item], server_lsn: LSN) -> None:
    """Append what a keepalive proves; the newest of several in a row is enough."""
    if items and isinstance(items[-1], Idle):
        items.pop()
    items.append(Idle(server_lsn))


def _out_of_place(what: str) -> ShardmigError:
    return ShardmigError(
        f"the replication stream is out of order: {what}",
        hint="start the stream on a new connection with a new reader; if it happens again, report it",
    )
