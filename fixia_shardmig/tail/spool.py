"""A slot's stream kept on this host: a directory of segments, read as if they were the stream.

While a spool is kept, the source is told "flushed" for what is durable here, so the slot moves on long before shards
have the changes. From then on the spool is part of the migration: what it lost, nobody else has. Therefore it refuses
another migration's files, a second process, a gap, and an end below what the slot was told. It cuts off only what was
never acknowledged: a torn record, a transaction without its COMMIT.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

from fixia_shardmig.model.errors import HeldError, RefusedError, ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.framing import Frame
from fixia_shardmig.tail.spool_files import (
    SEGMENT_BYTES,
    SUFFIX,
    Boundary,
    DamagedRecordError,
    Header,
    Identity,
    SegmentWriter,
    read_records,
    survey,
    sync_directory,
)

LOCK: Final = "lock"
BEGIN_AGAIN: Final = "restore the file, or: shardmig abort --drop-targets, and begin again"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Messages(Protocol):
    """Where a tail's messages come from: the stream, or a spool and then the stream."""

    @property
    def server_lsn(self) -> LSN:
        """Return the newest position that was spoken of."""
        ...

    def read(self, max_bytes: int, wait_s: float) -> list[Frame]:
        """Return what has come, in order."""
        ...

    def acknowledge(self, flushed_lsn: LSN) -> None:
        """Declare that everything that committed before a position is durable on every shard."""
        ...

    def send_status(self) -> None:
        """Show the server that we are alive."""
        ...

    def close(self) -> None:
        """End it."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """One file, and what it says of itself; no header where it was torn while being made."""

    path: Path
    number: int
    first_lsn: LSN
    header: Header | None


@dataclass(frozen=True, slots=True)
class Extent:
    """What a spool holds: everything that committed from `first_lsn` on and before `end_lsn`, in so many bytes."""

    first_lsn: LSN
    end_lsn: LSN
    bytes: int


class Spool:
    """The directory of one migration's spool, held by this process until it is closed."""

    def __init__(self, base: Path, identity: Identity) -> None:
        """Make the directory below `base` where it is missing, and lock it.

        Raises:
            HeldError: Another process has it.
            RefusedError: It holds another slot's stream, or others than its owner can look into it.
        """
        self.directory = spool_path(base, identity.slot)
        self.identity = identity
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self.directory)
        except OSError as error:
            raise _unusable(self.directory, error) from error
        try:
            _refuse_others(self.directory)
            _refuse_foreign(self.segments(), identity)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Let others have it."""
        os.close(self._lock)

    def segments(self) -> list[Segment]:
        """Return the files in order; refuses a missing one and one that is not a segment."""
        return _segments(self.directory)

    def extent(self) -> Extent | None:
        """Return what survives, read from the last segment's records and the names; None where nothing is kept."""
        return _extent(self.segments())

    def refuse_short(self, confirmed: LSN | None) -> None:
        """Refuse a spool that lost what the slot was told to be durable."""
        segments = self.segments()
        extent = _extent(segments)
        if extent is None or confirmed is None or extent.end_lsn >= confirmed:
            return
        where = _end_of(segments)
        raise RefusedError(
            f"spool {self.directory} ends at {extent.end_lsn}, and the slot was told that it is durable up to"
            f" {confirmed}: {where}",
            hint=BEGIN_AGAIN,
        )

    def writer(self, start: LSN, *, segment_bytes: int = SEGMENT_BYTES) -> SegmentWriter:
        """Return what appends after the last whole transaction; to a new segment from `start` where none is there."""
        segments = self.segments()
        while segments and segments[-1].header is None:
            torn = segments.pop()
            torn.path.unlink()
            start = torn.first_lsn
        if not segments:
            return SegmentWriter(self.directory, Header(self.identity, 1, start), None, segment_bytes=segment_bytes)
        last = segments[-1]
        header = _header_of(last)
        boundary, _ = survey(last.path, header)
        return SegmentWriter(self.directory, header, boundary, segment_bytes=segment_bytes)

    def drop_below(self, lsn: LSN, *, end: LSN) -> None:
        """Delete the segments that end below a position; `end` is where the spool, and so its last one, ends."""
        segments = self.segments()
        ends = [*(following.first_lsn for following in segments[1:]), end]
        gone = [segment for segment, its_end in zip(segments, ends, strict=False) if its_end <= lsn]
        for segment in gone:
            segment.path.unlink()
            place("spool.segment_deleted")
        if gone:
            sync_directory(self.directory)

    def frames(self, start: LSN) -> Iterator[Frame]:
        """Return the messages from the segment that holds `start` up to the last boundary.

        Raises:
            RefusedError: The spool begins after `start`.
            ShardmigError: While they are read: a record does not check, or two segments do not join.
        """
        segments = self.segments()
        if segments and segments[0].first_lsn > start:
            raise RefusedError(
                f"spool {self.directory} begins at {segments[0].first_lsn}, and a shard stands at {start} only",
                hint="the changes between are gone (was a shard restored from a backup?): " + BEGIN_AGAIN,
            )
        needed = [s for s, after in pairwise(segments) if after.first_lsn > start]
        return _joined([*needed, *segments[-1:]])


class SpooledStream:
    """A spool's messages, and after them the stream's, which begins exactly where the spool ends.

    A transaction that was cut at the end of the spool was never acknowledged: the slot sends it again, whole.
    """

    def __init__(self, spool: Spool, start: LSN, *, open_stream: Callable[[LSN], Messages]) -> None:
        """Begin at the shards' position; takes the spool over and closes it."""
        self._spool = spool
        self._open_stream = open_stream
        self._stream: Messages | None = None
        self._dropped_at = start
        extent = spool.extent()
        self._end = max(extent.end_lsn, start) if extent else start
        spool.drop_below(start, end=self._end)
        self._server_lsn = self._end
        self._frames = spool.frames(start)

    @property
    def server_lsn(self) -> LSN:
        """Return the spool's end, then the newest position that the server has spoken of."""
        return self._stream.server_lsn if self._stream else self._server_lsn

    def read(self, max_bytes: int, wait_s: float) -> list[Frame]:
        """Return the next messages; waits only once the spool is at its end."""
        if self._stream is None:
            frames: list[Frame] = []
            size = 0
            for frame in self._frames:
                frames.append(frame)
                size += len(frame[1])
                if size >= max_bytes:
                    return frames
            if frames:
                return frames
            self._stream = self._open_stream(self._end)
        return self._stream.read(max_bytes, wait_s)

    def acknowledge(self, flushed_lsn: LSN) -> None:
        """Delete what every shard has. The server is told only what the spool no longer has to keep.

        In this order: a slot that is told more than the spool holds always means damage.
        """
        if self._dropped_at < self._end and flushed_lsn > self._dropped_at:
            self._dropped_at = flushed_lsn
            self._spool.drop_below(flushed_lsn, end=self._end)
        if self._stream is not None:
            self._stream.acknowledge(flushed_lsn)

    def send_status(self) -> None:
        """Show the server that we are alive, once we speak with it."""
        if self._stream is not None:
            self._stream.send_status()

    def close(self) -> None:
        """Close the stream and let the spool go."""
        if self._stream is not None:
            self._stream.close()
        self._spool.close()


def spool_path(base: Path, slot: str) -> Path:
    """Return the directory of a slot's spool below the one that the operator names."""
    return base.absolute() / slot


def extent_at(directory: Path) -> Extent | None:
    """Return what a spool's directory holds, without holding it; None where nothing is kept or no such directory is."""
    return _extent(_segments(directory)) if directory.is_dir() else None


def refuse_unusable(base: Path, slot: str, *, empty: bool) -> None:
    """Refuse a place where no spool can be kept, or that is not `empty` as it must be before there is a slot."""
    directory = spool_path(base, slot)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _unusable(directory, error) from error
    if empty and _segments(directory):
        raise RefusedError(
            f"{directory} holds the spool of an earlier migration",
            hint="delete it if that migration has ended, or give another directory",
        )


def remove_spool(base: Path, slot: str) -> bool:
    """Delete a spool whatever it holds; returns whether there was one. Refuses while another process has it."""
    directory = spool_path(base, slot)
    if not directory.is_dir():
        return False
    lock = _locked(directory)
    try:
        for path in [*directory.glob(f"*{SUFFIX}"), directory / LOCK]:
            path.unlink()
        directory.rmdir()
    finally:
        os.close(lock)
    return True


def _joined(segments: list[Segment]) -> Iterator[Frame]:
    """Yield the messages of segments that follow each other; of the last one up to its last boundary."""
    before: Boundary | None = None
    for segment in segments:
        if before is not None and before.lsn != segment.first_lsn:
            raise ShardmigError(
                f"spool {segment.path} begins at {segment.first_lsn}, the segment before it ends at {before.lsn}",
                hint=BEGIN_AGAIN,
            )
        is_last = segment is segments[-1]
        if is_last and segment.header is None:
            return
        header = _header_of(segment)
        stop = survey(segment.path, header)[0].position if is_last else None
        before = Boundary(header.first_lsn, len(header.to_bytes()))
        yield from _frames(segment.path, before, stop=stop)


def _frames(path: Path, boundary: Boundary, *, stop: int | None) -> Iterator[Frame]:
    try:
        for record in read_records(path, boundary.position):
            if stop is not None and record.end > stop:
                return
            boundary.take(record.lsn, record.payload, record.end)
            yield record.lsn, record.payload
    except DamagedRecordError as damage:
        if stop is not None and damage.position >= stop:
            return
        raise ShardmigError(f"spool {damage} is damaged", hint=BEGIN_AGAIN) from None


def _segments(directory: Path) -> list[Segment]:
    found = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        number, dash, first = path.stem.partition("-")
        if not (dash and number.isdecimal() and len(first) == 16):  # noqa: PLR2004  16 hexadecimal digits
            raise ShardmigError(f"{path} is not a segment of a spool", hint="move it elsewhere")
        header = Header.read(path)
        if header is not None and header.file_name != path.name:
            raise ShardmigError(f"spool {path} says of itself that it is {header.file_name}", hint=BEGIN_AGAIN)
        found.append(Segment(path, int(number), LSN(int(first, 16)), header))
    for before, after in pairwise(found):
        if after.number != before.number + 1:
            raise ShardmigError(f"spool {before.path} is not followed by the next: {after.path}", hint=BEGIN_AGAIN)
        _header_of(before)
    return found


def _header_of(segment: Segment) -> Header:
    if segment.header is None:
        raise ShardmigError(f"spool {segment.path} at byte 0 is damaged", hint=BEGIN_AGAIN)
    return segment.header


def _extent(segments: list[Segment]) -> Extent | None:
    if not segments:
        return None
    last = segments[-1]
    end = survey(last.path, last.header)[0].lsn if last.header else last.first_lsn
    return Extent(segments[0].first_lsn, end, sum(segment.path.stat().st_size for segment in segments))


def _end_of(segments: list[Segment]) -> str:
    """Say where the last segment cannot be read on."""
    last = segments[-1]
    if last.header is None:
        return f"{last.path} at byte 0 is damaged"
    boundary, damage = survey(last.path, last.header)
    return f"{damage} is damaged" if damage else f"{last.path} ends at byte {boundary.position}"


def _refuse_others(directory: Path) -> None:
    if stat.S_IMODE(directory.stat().st_mode) & _OTHERS:
        raise RefusedError(
            f"spool {directory} holds rows of the source, and others than its owner can look into it",
            hint=f"chmod 700 {directory}",
        )


def _refuse_foreign(segments: list[Segment], identity: Identity) -> None:
    for segment in segments:
        found = segment.header.identity if segment.header else identity
        if found != identity:
            raise RefusedError(
                f"spool {segment.path.parent} is of slot {found.slot} from {found.slot_lsn} on, system"
                f" {found.system}, timeline {found.timeline}; this migration's is {identity.slot} from"
                f" {identity.slot_lsn} on, system {identity.system}, timeline {identity.timeline}",
                hint="give another directory, or remove that one if its migration has ended",
            )


def _locked(directory: Path) -> int:
    """Hold the directory's lock for as long as the descriptor is open; a process that is killed lets it go."""
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode().strip() or "unknown"
        os.close(lock)
        raise HeldError(
            f"spool {directory} is in use by process {holder}", hint="wait until it ends, or stop it"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _unusable(directory: Path, error: OSError) -> ShardmigError:
    cause = os.strerror(error.errno or errno.EIO).lower()
    return RefusedError(f"spool {directory} cannot be used: {cause}", hint="give a directory that we may write to")
