"""The bytes of a spool: segment files of checksummed records, written at their end, read from any boundary.

A segment is a header and records, in network byte order:

    header  "SHMSPOOL", version u16, timeline u32, system identifier u64, segment u64, slot's start LSN u64,
            first LSN u64, length of the slot's name u16, the name, CRC-32 of all that u32
    record  CRC-32 of what follows u32, length u32, LSN u64, payload

A payload is a message of the stream as it came; none is a keepalive. Segments begin at a boundary, a place where no
transaction is open, and repeat the Relation messages known by then, so that each can be read without those before it.
A record that does not check is where a file ends for us; whether that loses anything is the caller's to judge.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Self

from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.framing import Frame

MAGIC: Final = b"SHMSPOOL"
VERSION: Final = 1
SUFFIX: Final = ".spool"

SEGMENT_BYTES: Final = 64 * 1024 * 1024
"""A segment that has reached this ends at the next boundary: what is applied can be deleted in steps of about this. A
larger transaction makes a larger segment, since nothing of it could go before all of it."""

READ_BYTES: Final = 4 * 1024 * 1024
"""How much of a segment is read at once."""

_header = struct.Struct(">8sHIQQQQH")
_crc = struct.Struct(">I")
_about = struct.Struct(">IQ")
_record = struct.Struct(">IIQ")
_u32 = struct.Struct(">I").unpack_from
_end_lsn = struct.Struct(">Q").unpack_from
_END_LSN_AT: Final = 10
_BEGIN, _COMMIT, _RELATION = b"BCR"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose stream a spool holds: a slot by its name and its very beginning, on one server and timeline."""

    system: int
    timeline: int
    slot: str
    slot_lsn: LSN


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself."""

    identity: Identity
    number: int
    first_lsn: LSN

    def to_bytes(self) -> bytes:
        """Return the header with its checksum."""
        identity, slot = self.identity, self.identity.slot.encode()
        head = _header.pack(
            MAGIC,
            VERSION,
            identity.timeline,
            identity.system,
            self.number,
            identity.slot_lsn,
            self.first_lsn,
            len(slot),
        )
        return head + slot + _crc.pack(zlib.crc32(head + slot))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return a segment's header, or None where it is torn, damaged or of another format."""
        with path.open("rb") as file:
            head = file.read(_header.size)
            if len(head) < _header.size:
                return None
            magic, version, timeline, system, number, slot_lsn, first_lsn, length = _header.unpack(head)
            slot, crc = file.read(length), file.read(_crc.size)
        if magic != MAGIC or version != VERSION or crc != _crc.pack(zlib.crc32(head + slot)):
            return None
        return cls(Identity(system, timeline, slot.decode(), LSN(slot_lsn)), number, LSN(first_lsn))

    @property
    def file_name(self) -> str:
        """Return the name of its file, which sorts by number and says where the segment begins."""
        return f"{self.number:08d}-{self.first_lsn:016X}{SUFFIX}"


@dataclass(slots=True)
class Boundary:
    """The last place in a segment where no transaction was open.

    Attributes:
        lsn: Everything that committed before it lies before `position`.
        position: The byte at which the segment may be cut.
        relations: The Relation messages by id, as last sent.
    """

    lsn: LSN
    position: int
    is_open: bool = False
    relations: dict[int, bytes] = field(default_factory=dict[int, bytes])

    def take(self, lsn: int, payload: bytes, position: int) -> None:
        """Pass over a message that ends at a position."""
        if not payload:
            if not self.is_open:
                self.lsn, self.position = max(self.lsn, LSN(lsn)), position
        elif payload[0] == _BEGIN:
            self.is_open = True
        elif payload[0] == _COMMIT:
            self.is_open = False
            self.lsn, self.position = LSN(_end_lsn(payload, _END_LSN_AT)[0]), position
        elif payload[0] == _RELATION:
            self.relations[_u32(payload, 1)[0]] = payload


class Record(NamedTuple):
    """One record of a segment; `end` is the position after it."""

    end: int
    lsn: int
    payload: bytes


class DamagedRecordError(Exception):
    """A record does not check, or the file ends within it."""

    def __init__(self, path: Path, position: int) -> None:
        """Say where."""
        super().__init__(f"{path} at byte {position}")
        self.path = path
        self.position = position


def read_records(path: Path, position: int) -> Iterator[Record]:
    """Yield a segment's records from a position on.

    Raises:
        DamagedRecordError: Where the first record stands that does not check.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(position)
        base, at, buffer = position, 0, b""
        while block := file.read(READ_BYTES):
            buffer = buffer[at:] + block
            base, at = base + at, 0
            while len(buffer) - at >= _record.size:
                crc, length, lsn = _record.unpack_from(buffer, at)
                end = at + _record.size + length
                if base + end > size:
                    raise DamagedRecordError(path, base + at)
                if end > len(buffer):
                    break
                if zlib.crc32(memoryview(buffer)[at + _crc.size : end]) != crc:
                    raise DamagedRecordError(path, base + at)
                yield Record(base + end, lsn, buffer[at + _record.size : end])
                at = end
        if at < len(buffer):
            raise DamagedRecordError(path, base + at)


def survey(path: Path, header: Header) -> tuple[Boundary, DamagedRecordError | None]:
    """Return a segment's last boundary, and what stands in the way of reading on, if anything does."""
    start = len(header.to_bytes())
    boundary = Boundary(header.first_lsn, start)
    try:
        for record in read_records(path, start):
            boundary.take(record.lsn, record.payload, record.end)
    except DamagedRecordError as damage:
        return boundary, damage
    return boundary, None


class SegmentWriter:
    """Appends a stream's messages to a directory's last segment, and begins the next one where it is large enough."""

    def __init__(
        self, directory: Path, header: Header, boundary: Boundary | None, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Go on with a segment from its last boundary, or create it where there is none.

        What stands after the boundary is cut: it was never acknowledged, and the slot sends it again.
        """
        self.directory = directory
        self.written_bytes = 0
        self.is_synced = False
        self._segment_bytes = segment_bytes
        if boundary is None:
            self._create(header, {})
            return
        self._header, self._boundary, self._size = header, boundary, boundary.position
        self._file = os.open(directory / header.file_name, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        boundary.is_open = False
        os.ftruncate(self._file, boundary.position)

    def append(self, frames: Iterable[Frame]) -> None:
        """Write messages. After an OSError some of them may be there: close, and go on from the last boundary."""
        parts: list[bytes] = []
        for lsn, payload in _without_repeats(frames):
            parts += _record_parts(lsn, payload)
            self._size += _record.size + len(payload)
            self._boundary.take(lsn, payload, self._size)
            if self._size >= self._segment_bytes and self._boundary.position == self._size:
                self._write(b"".join(parts))
                parts = []
                self._roll()
        self._write(b"".join(parts))

    def sync(self) -> LSN:
        """Make all that was appended durable; returns up to where whole transactions are."""
        if not self.is_synced:
            os.fsync(self._file)
            self.is_synced = True
        return self._boundary.lsn

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _roll(self) -> None:
        """Begin the next segment; the one before is durable first, so that a gap can only be damage."""
        self.sync()
        os.close(self._file)
        self._create(
            Header(self._header.identity, self._header.number + 1, self._boundary.lsn), self._boundary.relations
        )

    def _create(self, header: Header, relations: dict[int, bytes]) -> None:
        self._header = header
        path = self.directory / header.file_name
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        known = [part for payload in relations.values() for part in _record_parts(header.first_lsn, payload)]
        head = b"".join([header.to_bytes(), *known])
        self._boundary = Boundary(header.first_lsn, len(head), relations=relations)
        self._size = len(head)
        place("spool.segment_named")
        self._write(head)
        self.sync()
        place("spool.segment_written")
        sync_directory(self.directory)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self.is_synced = False
            count = os.write(self._file, view)
            self.written_bytes += count
            view = view[count:]


def sync_directory(directory: Path) -> None:
    """Make durable which files a directory has."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _record_parts(lsn: int, payload: bytes) -> tuple[bytes, bytes, bytes]:
    about = _about.pack(len(payload), lsn)
    return _crc.pack(zlib.crc32(payload, zlib.crc32(about))), about, payload


def _without_repeats(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Leave out keepalives that another one follows: the newest proves what they prove."""
    waiting: Frame | None = None
    for frame in frames:
        if not frame[1]:
            waiting = frame
            continue
        if waiting is not None:
            yield waiting
            waiting = None
        yield frame
    if waiting is not None:
        yield waiting
