"""Keeps a slot's stream in a spool while somebody else copies: one thread that reads, writes, syncs, acknowledges.

In this order, so that the source is never told more than what survives a crash of this host. Where the spool may not
grow it stops reading, and the slot keeps what follows: nothing is lost by a spool that is full, it only helps no more.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Final

import psycopg

from fixia_shardmig.model.errors import HeldError, ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.places import place
from fixia_shardmig.tail.spool import Messages, Spool
from fixia_shardmig.tail.spool_files import SEGMENT_BYTES, SegmentWriter

SPOOL_BYTES: Final = 50 * 1024**3
"""How much a spool may hold if nothing else is said."""

FREE_BYTES_MIN: Final = 1024**3
"""What a spool leaves free on its disk for everybody else."""

READ_BYTES: Final = 4 * 1024 * 1024
"""How much is read at once; by about so much, or one message, a spool may exceed its bound."""

READ_WAIT_S: Final = 0.1
FULL_WAIT_S: Final = 1.0
"""How often a full spool looks for room, and shows the server that we are alive."""

SYNC_S: Final = 0.5
SYNC_BYTES: Final = 16 * 1024 * 1024
"""What is appended waits at most so long, or until it is so much, for its fsync."""

AGAIN_S: Final = 2.0
LOST_S_MAX: Final = 600.0
"""A spool whose stream does not come back for so long gives up; the slot keeps what follows."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Spooler:
    """A spool that is being filled. `failure` says why it ended, if it ended by itself."""

    def __init__(
        self,
        spool: Spool,
        start: LSN,
        *,
        open_stream: Callable[[LSN], Messages],
        say: Callable[[str], None],
        bytes_max: int = SPOOL_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        free_bytes_min: int = FREE_BYTES_MIN,
    ) -> None:
        """Start; takes the spool over and closes it.

        Args:
            spool: Where to keep the stream; what a crash left half written is cut.
            start: Where a spool that holds nothing yet begins.
            open_stream: Opens the slot's stream at a position.
            say: Told when it is full, when it goes on, and when it ends by itself.
            bytes_max: How much it may hold.
            segment_bytes: From which size on a segment ends.
            free_bytes_min: What it leaves free on the disk.
        """
        self.failure: Exception | None = None
        self.flushed_lsn = start
        self._spool = spool
        self._start = start
        self._open_stream = open_stream
        self._say = say
        self._bytes_max = bytes_max
        self._segment_bytes = segment_bytes
        self._free_bytes_min = free_bytes_min
        self._held_bytes = 0
        self._was_full = False
        self._ending = Event()
        self._thread = Thread(target=self._run, name="spooler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Make durable what has come, tell the source, and end."""
        self._ending.set()
        self._thread.join()
        self._spool.close()

    def _run(self) -> None:
        """Keep the stream, over as many connections as it takes."""
        heard_at = time.monotonic()
        while not self._ending.is_set():
            began = self.flushed_lsn
            try:
                self._keep()
            except (TemporaryError, HeldError) as error:
                heard_at = time.monotonic() if self.flushed_lsn > began else heard_at
                if time.monotonic() - heard_at > LOST_S_MAX:
                    self._give_up(error)
                    return
                self._say(f"the spool goes on in {AGAIN_S:.0f} s: {error.message}")
                self._ending.wait(AGAIN_S)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    self._give_up(error)
                    return
                self._ending.wait(AGAIN_S)
            except (ShardmigError, psycopg.Error) as error:
                self._give_up(error)
                return

    def _give_up(self, error: Exception) -> None:
        self.failure = error
        self._say(
            f"the spool ended at {self.flushed_lsn}, and the slot keeps what follows: {str(error).splitlines()[0]}"
        )

    def _keep(self) -> None:
        """Append one connection's messages to what is there, until told to end or the disk is full."""
        writer = self._spool.writer(self._start, segment_bytes=self._segment_bytes)
        try:
            extent = self._spool.extent()
            self._held_bytes = (extent.bytes if extent else 0) - writer.written_bytes
            self.flushed_lsn = writer.sync()
            if not self._has_room(writer) and self._wait_for_room(writer, None):
                return
            stream = self._open_stream(self.flushed_lsn)
            try:
                self._append(writer, stream)
            finally:
                stream.close()
        finally:
            writer.close()

    def _append(self, writer: SegmentWriter, stream: Messages) -> None:
        synced_at, synced_bytes = time.monotonic(), writer.written_bytes
        while not self._ending.is_set():
            if not self._has_room(writer):
                self._sync(writer, stream)
                if self._wait_for_room(writer, stream):
                    return
            writer.append(stream.read(READ_BYTES, READ_WAIT_S))
            place("spool.appended")
            if time.monotonic() - synced_at >= SYNC_S or writer.written_bytes - synced_bytes >= SYNC_BYTES:
                self._sync(writer, stream)
                synced_at, synced_bytes = time.monotonic(), writer.written_bytes
        self._sync(writer, stream)

    def _sync(self, writer: SegmentWriter, stream: Messages) -> None:
        self.flushed_lsn = writer.sync()
        place("spool.synced")
        stream.acknowledge(self.flushed_lsn)
        place("spool.acknowledged")

    def _has_room(self, writer: SegmentWriter) -> bool:
        within = self._held_bytes + writer.written_bytes + READ_BYTES <= self._bytes_max
        return within and _free_bytes(self._spool.directory) >= self._free_bytes_min + READ_BYTES

    def _wait_for_room(self, writer: SegmentWriter, stream: Messages | None) -> bool:
        """Read nothing until there is room, as after somebody cleared the disk; True when told to end before."""
        if not self._was_full:
            self._was_full = True
            held = self._held_bytes + writer.written_bytes
            self._say(
                f"the spool {self._spool.directory} is full: it holds {held:,} of {self._bytes_max:,} bytes, its disk"
                f" has {_free_bytes(self._spool.directory):,} free; the slot keeps what follows {self.flushed_lsn}."
                " Make room on the disk, or stop and run: shardmig copy --resume"
                f" --spool {self._spool.directory.parent} --spool-bytes MORE"
            )
        while not self._has_room(writer):
            if self._ending.wait(FULL_WAIT_S):
                return True
            if stream is not None:
                stream.send_status()
        self._was_full = False
        self._say("the spool has room again and goes on")
        return False


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free
