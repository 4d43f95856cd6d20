"""Has the slot's stream kept in a spool while a copy lasts, and opens the spool, or the stream alone, for the tail.

The journal says that a spool is in use, and where: a tail without it would begin below what the slot was told, and the
server would silently leave out what lies between (pitfall 39).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Migration
from fixia_shardmig.model.errors import RefusedError, ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.replication import Stream
from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.postgres.slots import slot_state
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.progress import mib
from fixia_shardmig.tail.spool import (
    Extent,
    Messages,
    Spool,
    SpooledStream,
    extent_at,
    refuse_unusable,
    remove_spool,
    spool_path,
)
from fixia_shardmig.tail.spool_files import Identity
from fixia_shardmig.tail.spooler import SPOOL_BYTES, Spooler

SPOOL = "spool"
"""The evidence that a spool is in use: its directory, as the operator named it, and its host."""

Start = Callable[[], None]


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """Where to keep the stream, and how much of it."""

    directory: Path
    bytes_max: int = SPOOL_BYTES


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """The spool that the journal knows of; `extent` is None where it holds nothing, or lies on another host."""

    directory: str
    host: str
    extent: Extent | None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the part of `status`."""
        extent = self.extent
        return {
            "directory": self.directory,
            "host": self.host,
            "bytes": extent.bytes if extent else 0,
            "first_lsn": str(extent.first_lsn) if extent else None,
            "last_lsn": str(extent.end_lsn) if extent else None,
        }

    def text(self) -> str:
        """Return it for people."""
        where = f"in {self.directory} on {self.host}"
        if self.extent is None:
            return f"{where}; {self.problem or 'holds nothing that we can see here'}"
        return f"{mib(self.extent.bytes)}, {self.extent.first_lsn} to {self.extent.end_lsn}, {where}"


def with_spool(command: str, migration: Migration) -> str:
    """Return a command that needs the spool with the option that names it, and others as they are."""
    used = migration.evidence.get(SPOOL)
    needs = command in {"shardmig tail", "shardmig copy --resume"}
    return f"{command} --spool {used['directory']}" if used and needs else command


@contextmanager
def spooling(context: Context, options: SpoolOptions | None, journal: Journal) -> Iterator[Start]:
    """Give a function that starts the spool, once the slot is there; called again it does nothing. Ends it at the end.

    What ends the spool by itself does not end the copy: the slot keeps what the spool does not.
    """
    if options is None:
        yield _without(context, journal)
        return
    migration = journal.get()
    refuse_unusable(options.directory, migration.slot, empty=migration.slot_lsn is None)
    running: list[Spooler] = []

    def start() -> None:
        if not running:
            running.append(_start(context, options, journal))

    try:
        yield start
    finally:
        for spooler in running:
            spooler.close()
            if spooler.failure is not None:
                journal.event("spool_ended", reason=str(spooler.failure), flushed_lsn=str(spooler.flushed_lsn))


def _without(context: Context, journal: Journal) -> Start:
    """Say once that a spool of an earlier run is not filled in this one."""
    told: list[str] = []

    def start() -> None:
        used = journal.get().evidence.get(SPOOL)
        if used and not told:
            told.append(used["directory"])
            context.say(f"the spool in {used['directory']} is not filled in this run; the slot keeps what follows it")

    return start


def _start(context: Context, options: SpoolOptions, journal: Journal) -> Spooler:
    migration = journal.get()
    identity = identity_of(migration)
    spool = Spool(options.directory, identity)
    try:
        confirmed = _confirmed(context, migration)
        spool.refuse_short(confirmed)
        if spool.extent() is None and confirmed is not None and confirmed > identity.slot_lsn:
            raise _elsewhere(migration, options.directory, confirmed, identity.slot_lsn)
        used = {"directory": str(options.directory.absolute()), "host": socket.gethostname()}
        if migration.evidence.get(SPOOL) != used:
            journal.add_evidence({SPOOL: used})
            journal.event("spool_begun", **used)
        context.say(f"the slot's stream is kept in {spool.directory}, at most {mib(options.bytes_max)}")
        return Spooler(
            spool,
            identity.slot_lsn,
            open_stream=stream_opener(context, migration, f"spool {migration.name}"),
            say=context.say,
            bytes_max=options.bytes_max,
        )
    except BaseException:
        spool.close()
        raise


def message_opener(context: Context, migration: Migration, directory: Path | None) -> Callable[[LSN], Messages]:
    """Return what opens a tail's messages at the shards' position.

    Raises, when it is called:
        RefusedError: The slot was told more than the shards have, and there is no spool for what lies between.
        HeldError: Another process has the spool.
    """
    open_stream = stream_opener(context, migration, f"tail {migration.name}")

    def opened(start: LSN) -> Messages:
        confirmed = _confirmed(context, migration)
        behind = confirmed is not None and start < confirmed
        if directory is None:
            if behind and confirmed is not None and migration.evidence.get(SPOOL):
                raise _elsewhere(migration, None, confirmed, start)
            return open_stream(start)
        spool = Spool(directory, identity_of(migration))
        try:
            if behind and confirmed is not None:
                spool.refuse_short(confirmed)
                if spool.extent() is None:
                    raise _elsewhere(migration, directory, confirmed, start)
            return SpooledStream(spool, start, open_stream=open_stream)
        except BaseException:
            spool.close()
            raise

    return opened


def stream_opener(context: Context, migration: Migration, purpose: str) -> Callable[[LSN], Messages]:
    """Return what opens the slot's stream at a position."""
    return lambda start: Stream(
        context.shard_map.source.url,
        migration.slot,
        start=start,
        publication=migration.publication,
        purpose=purpose,
    )


def identity_of(migration: Migration) -> Identity:
    """Return whose stream a migration's spool holds; the slot has to be there."""
    if migration.slot_lsn is None:
        raise RefusedError("the copy has no slot yet", hint="shardmig copy --resume")
    return Identity(int(migration.source_system), migration.source_timeline, migration.slot, migration.slot_lsn)


def spool_status(migration: Migration) -> SpoolStatus | None:
    """Return what the spool holds, if the journal knows of one and it lies on this host."""
    used = migration.evidence.get(SPOOL)
    if not used:
        return None
    directory, host = used["directory"], used["host"]
    if host != socket.gethostname():
        return SpoolStatus(directory, host, None)
    try:
        return SpoolStatus(directory, host, extent_at(spool_path(Path(directory), migration.slot)))
    except (ShardmigError, OSError) as error:
        return SpoolStatus(directory, host, None, str(error).splitlines()[0])


def end_spool(migration: Migration, *, drop: bool) -> list[str]:
    """Delete the spool of a migration that ends, if asked; return what became of it, in words."""
    used = migration.evidence.get(SPOOL)
    if not used:
        return []
    directory = spool_path(Path(used["directory"]), migration.slot)
    if drop and used["host"] == socket.gethostname():
        return [f"spool {directory} deleted"] if remove_spool(Path(used["directory"]), migration.slot) else []
    return [f"the spool stays in {directory} on {used['host']}: delete it there"]


def _confirmed(context: Context, migration: Migration) -> LSN | None:
    with session(context.shard_map.source.url, "slot") as source:
        state = slot_state(source, migration.slot)
    return state.confirmed_flush_lsn if state else None


def _elsewhere(migration: Migration, given: Path | None, confirmed: LSN, start: LSN) -> RefusedError:
    """Say where the spool is that holds what the slot does not have any more."""
    used = migration.evidence.get(SPOOL)
    found = f", and {given} holds no spool" if given else ""
    command = "tail" if migration.phase.value != "copying" else "copy --resume"
    if not used:
        return RefusedError(
            f"the slot was told that all is durable up to {confirmed}, and the shards stand at {start}{found}",
            hint="the changes between are gone from the stream: shardmig abort --drop-targets, then begin again",
        )
    return RefusedError(
        f"the slot was told that all is durable up to {confirmed}, and the shards stand at {start}{found}:"
        f" what lies between is in the spool in {used['directory']} on {used['host']}",
        hint=f"shardmig {command} --spool {used['directory']}",
    )
