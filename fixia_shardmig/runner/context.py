"""What every command begins with: the mapping, the source's catalog, the journal, and that they belong together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import psycopg

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Migration
from fixia_shardmig.mapping.check import check_mapping
from fixia_shardmig.mapping.load import MappingFile, read_mapping
from fixia_shardmig.mapping.shard_map import ShardMap, only_gains_homes
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import DriftError, RefusedError, ShardmigError, StoppedError, TemporaryError
from fixia_shardmig.model.phase import Phase, writer_in
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import Connection, describe, lost, scalar, session

SPOOL_VARIABLE = "SHARDMIG_SPOOL"

Say = Callable[[str], None]


def _silent(_: str) -> None:
    return None


@dataclass(slots=True)
class Context:
    """One command's view of a migration.

    Attributes:
        say: Takes a line of progress for people.
        stop: Set by a signal: finish what is in flight, save, and end.
    """

    shard_map: ShardMap
    catalog: Catalog
    say: Say = _silent
    stop: Event = field(default_factory=Event)

    @property
    def journal_url(self) -> str:
        """Return the URL of the shard that keeps the journal; a secret."""
        return self.shard_map.shards[self.shard_map.journal_shard].url

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """Open a session on the journal; its loss becomes a TemporaryError that names the place."""
        with Journal(self.journal_url, self.shard_map.name) as journal:
            try:
                yield journal
            except psycopg.Error as error:
                if journal.connection.broken:
                    raise lost(error, self.journal_url) from error
                raise

    def refuse_if_stopped(self, doing: str, next_command: str) -> None:
        """Raise StoppedError if a signal asked us to end."""
        if self.stop.is_set():
            raise StoppedError(f"stopped while {doing}; everything done so far is saved", hint=next_command)


def load(
    mapping: Path | str, *, say: Say = _silent, stop: Event | None = None, env: Mapping[str, str] = os.environ
) -> Context:
    """Read the mapping, connect to the source and hold the one against the other.

    Args:
        mapping: The mapping file.
        say: Where progress goes.
        stop: The signal to end.
        env: Where the mapping's variables are looked up.

    Raises:
        MappingError: The file has mistakes, all of which are named.
        RefusedError: The source refuses us.
        TemporaryError: It cannot be reached now; what the journal says is told.
    """
    mapping_file = read_mapping(mapping, env)
    try:
        with session(mapping_file.source.url, "catalog") as source:
            catalog = read_catalog(source)
    except TemporaryError as error:
        raise TemporaryError(f"{error.message}{_journal_says(mapping_file)}", hint=error.hint) from error
    return Context(check_mapping(mapping_file, catalog), catalog, say, stop or Event())


def _journal_says(mapping_file: MappingFile) -> str:
    """Return what is known without the source: where the migration stands and who may write; nothing if it is not."""
    try:
        with Journal(mapping_file.shards[mapping_file.journal_shard].url, mapping_file.document.name) as journal:
            migration = journal.find()
    except (ShardmigError, psycopg.Error):
        return "; the journal cannot be read either"
    if migration is None:
        return ""
    phase = migration.phase
    return f"; the journal says: phase {phase.value}, {writer_in(phase).value} may write"


def publication_name(shard_map: ShardMap) -> str:
    """Return the name of our publication, which is the slot's too."""
    return f"shardmig_{shard_map.name}"


def timeline(connection: Connection) -> int:
    """Return the source's timeline; a failover raises it."""
    return int(scalar(connection, "SELECT timeline_id FROM pg_control_checkpoint()"))


def new_migration(context: Context) -> Migration:
    """Return a migration that begins now; the journal's own clock says when that is."""
    shard_map = context.shard_map
    name = publication_name(shard_map)
    with session(shard_map.source.url, "begin") as source:
        source_timeline = timeline(source)
    return Migration(
        name=shard_map.name,
        created_at=datetime.now(UTC),
        phase=Phase.PLANNED,
        routing_epoch=0,
        mapping_fingerprint=shard_map.fingerprint(),
        catalog_fingerprint=context.catalog.fingerprint(shard_map.moved()),
        source_system=context.catalog.system_identifier,
        source_database=context.catalog.database,
        source_timeline=source_timeline,
        shard_names=shard_map.shard_names,
        slot=name,
        publication=name,
        slot_lsn=None,
        consistent_lsn=None,
        schema_stage="",
        evidence={},
    )


def refuse_other_plan(context: Context, migration: Migration, journal: Journal) -> None:
    """Refuse when mapping, source or definitions are not those that were planned.

    A mapping may gain homes for values that had none, by which no row that was placed moves; a definition may change if
    the shards are changed alike, which the tail's run finds out. Everything else is another migration.
    """
    where = describe(context.shard_map.source.url)
    if (migration.source_system, migration.source_database) != (
        context.catalog.system_identifier,
        context.catalog.database,
    ):
        raise RefusedError(
            f"{where} is not the database this migration began with",
            hint="correct source.url in the mapping; after a failover to a copy without the slot: shardmig abort",
        )
    if migration.shard_names != context.shard_map.shard_names:
        raise DriftError(
            f"the mapping's shards are {', '.join(context.shard_map.shard_names)}, the migration's are"
            f" {', '.join(migration.shard_names)}",
            hint="restore the mapping, or: shardmig abort, and begin again",
        )
    fingerprint = context.shard_map.fingerprint()
    if migration.mapping_fingerprint != fingerprint:
        if not only_gains_homes(journal.rules(), context.shard_map.rules()):
            raise DriftError(
                "the mapping's rules have changed since the plan",
                hint="restore the mapping (events tell its fingerprint), or: shardmig abort, and begin again",
            )
        journal.set_rules(fingerprint, context.shard_map.rules())
        journal.event("mapping_changed", before=migration.mapping_fingerprint, now=fingerprint)


def spool_directory(shard_map: ShardMap) -> Path:
    """Return a directory of ours for large transactions: `$SHARDMIG_SPOOL`, or below the system's temporary one."""
    base = os.environ.get(SPOOL_VARIABLE) or tempfile.gettempdir()
    path = Path(base) / f"shardmig-{shard_map.name}-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
