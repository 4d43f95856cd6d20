"""Reads and writes the journal. One object is one session; a thread that needs the journal opens its own.

`advance` is a compare-and-set: two operators cannot both take a migration from one phase to the next.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, Self

from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from fixia_shardmig.journal.records import FORWARD, Barrier, Chunk, Event, Migration, SnapshotEpoch, TailState
from fixia_shardmig.model.errors import HeldError, RefusedError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import EDGES, Phase
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.named_sql import named_sql
from fixia_shardmig.postgres.sessions import Connection, connect, describe, is_open, scalar

FORMAT = 1
COPY_WRITER = "copy writer"
"""What a worker's sessions on a shard are for; the shard's name follows."""

TERMINATE_MS_MAX = 10_000
FENCE_WAIT_S_MAX = 30
"""A chunk that an earlier run has in hand ends within this, or the next run is asked for."""

LOCK_CLASS = 0x5348
"""First key of our advisory locks; the second tells driver (1) from operator (2)."""

BARRIER_LOCK_CLASS = 0x5349
"""First key of the locks that say that a barrier's owner is alive; the second is the barrier's id."""


def _ddl(name: str) -> LiteralString:
    return named_sql("fixia_shardmig.journal", "journal.sql", name)


def prepare_shard(connection: Connection) -> None:
    """Create the checkpoint tables that every shard keeps. Does nothing where they are there."""
    prepare_positions(connection)
    connection.execute(_ddl("on_every_shard"))


def prepare_positions(connection: Connection) -> None:
    """Create the table of the streams' positions. Does nothing where it is there."""
    connection.execute(_ddl("positions"))


def end_earlier_epochs(connection: Connection, epoch: int) -> None:
    """End what is left of a copy's writers on a shard, and refuse chunks of snapshot epochs before this one.

    A worker that lost its driver may still be at work: what it wrote after the tail began, nobody would correct.
    """
    end_copy_writers(connection)
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{FENCE_WAIT_S_MAX}s",))
        connection.execute("UPDATE shardmig.copy_fence SET epoch_min = %s", (epoch,))


def end_copy_writers(connection: Connection) -> None:
    """End the sessions in which workers that nobody drives any more write to this shard; the driver's lock is ours.

    A server notices a client that is gone only when it next reads from it, not while it waits for a table.
    """
    connection.execute(
        "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE datname = current_database()"
        " AND usename = current_user AND pid <> pg_backend_pid() AND starts_with(application_name, %s)",
        (TERMINATE_MS_MAX, f"shardmig {COPY_WRITER}"),
    )


def drop_from(connection: Connection) -> None:
    """Remove everything of ours from a database but the data."""
    connection.execute("DROP SCHEMA IF EXISTS shardmig CASCADE")


def position(connection: Connection, stream: str = FORWARD) -> LSN | None:
    """Return up to where a shard has applied a stream, or None before its first position."""
    if scalar(connection, "SELECT to_regclass('shardmig.position')") is None:
        return None
    text = scalar(connection, "SELECT applied_lsn::text FROM shardmig.position WHERE stream = %s", (stream,))
    return LSN.parse(text) if text else None


SET_POSITION: LiteralString = """
INSERT INTO shardmig.position AS p (stream, applied_lsn) VALUES (%s, %s)
ON CONFLICT (stream) DO UPDATE SET applied_lsn = excluded.applied_lsn, applied_at = clock_timestamp()
"""


def set_position(connection: Connection, lsn: LSN, stream: str = FORWARD) -> None:
    """Record a position in the caller's transaction, so that it commits with the rows it speaks of."""
    connection.execute(SET_POSITION, (stream, str(lsn)))


class Journal:
    """A session on the journal shard."""

    def __init__(self, url: str, name: str, *, actor: str = "") -> None:
        """Connect; creates nothing."""
        self.url = url
        self.name = name
        self.actor = actor or f"{getpass.getuser()}@{socket.gethostname()}"
        self.connection = connect(url, "journal")

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        self.close()

    def close(self) -> None:
        """Close the session; locks it holds are gone with it."""
        self.connection.close()

    def create(self, migration: Migration) -> None:
        """Make the journal and its first row in one transaction."""
        with self.connection.transaction():
            prepare_shard(self.connection)
            self.connection.execute(_ddl("on_the_journal_shard"))
            self.connection.execute(
                "INSERT INTO shardmig.migration (name, format, phase, mapping_fingerprint, catalog_fingerprint,"
                " source_system, source_database, source_timeline, shard_names, slot, publication)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    migration.name,
                    FORMAT,
                    migration.phase.value,
                    migration.mapping_fingerprint,
                    migration.catalog_fingerprint,
                    migration.source_system,
                    migration.source_database,
                    migration.source_timeline,
                    list(migration.shard_names),
                    migration.slot,
                    migration.publication,
                ),
            )
            self.event("migration_created")
            place("journal.before_create")
        place("journal.created")

    def find(self) -> Migration | None:
        """Return the migration, or None where none was begun; refuses another migration's journal."""
        if scalar(self.connection, "SELECT to_regclass('shardmig.migration')") is None:
            return None
        row = self.connection.execute(
            "SELECT name, created_at, phase, routing_epoch, mapping_fingerprint, catalog_fingerprint, source_system,"
            " source_database, source_timeline, shard_names, slot, publication, slot_lsn::text, consistent_lsn::text,"
            " schema_stage, evidence, format FROM shardmig.migration"
        ).fetchone()
        if row is None:
            return None
        if row[0] != self.name:
            raise RefusedError(
                f"{describe(self.url)} holds the journal of migration {row[0]!r}, not of {self.name!r}",
                hint="use the mapping of that migration, or another database for this one",
            )
        if row[16] != FORMAT:
            raise RefusedError(f"the journal has format {row[16]}, this program reads {FORMAT}", hint="use its version")
        return _migration(row)

    def get(self) -> Migration:
        """Return the migration; refuses where none was begun."""
        migration = self.find()
        if migration is None:
            raise RefusedError(f"migration {self.name!r} has not begun", hint="shardmig plan, then shardmig copy")
        return migration

    def advance(self, start: Phase, end: Phase, evidence: dict[str, Any] | None = None) -> None:
        """Go from one phase to the next if the migration is still in the first; evidence is merged and kept."""
        if end not in EDGES[start]:
            raise RefusedError(f"no way leads from phase {start.value} to {end.value}", hint="shardmig status")
        with self.connection.transaction():
            done = self.connection.execute(
                "UPDATE shardmig.migration SET phase = %s, evidence = evidence || %s, updated_at = clock_timestamp()"
                " WHERE name = %s AND phase = %s",
                (end.value, Jsonb(evidence or {}), self.name, start.value),
            )
            if done.rowcount != 1:
                found = self.get().phase.value
                raise RefusedError(f"the migration is in phase {found}, not {start.value}", hint="shardmig status")
            self.event("phase_changed", start=start.value, end=end.value, **(evidence or {}))
            place("journal.before_advance", end.value)
        place("journal.advanced", end.value)

    def note(self, **columns: str | LSN | int | None) -> None:
        """Set plain columns of the migration: slot_lsn, schema_stage, routing_epoch and the two fingerprints."""
        for name, value in columns.items():
            self.connection.execute(_SETTERS[name], (str(value) if isinstance(value, LSN) else value, self.name))

    def add_evidence(self, evidence: dict[str, Any]) -> None:
        """Merge facts into the migration's evidence without a change of phase."""
        self.connection.execute(
            "UPDATE shardmig.migration SET evidence = evidence || %s WHERE name = %s", (Jsonb(evidence), self.name)
        )

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return the mapping's rules by which rows were placed."""
        return dict(scalar(self.connection, "SELECT rules FROM shardmig.migration"))

    def set_rules(self, fingerprint: str, rules: dict[str, dict[str, Any]]) -> None:
        """Take over a mapping's rules together with their fingerprint."""
        self.connection.execute(
            "UPDATE shardmig.migration SET mapping_fingerprint = %s, rules = %s WHERE name = %s",
            (fingerprint, Jsonb(rules), self.name),
        )

    def event(self, event: str, **detail: object) -> None:
        """Write one line of the audit trail."""
        self.connection.execute(
            "INSERT INTO shardmig.event (actor, event, detail) VALUES (%s, %s, %s)", (self.actor, event, Jsonb(detail))
        )

    def events(self, limit: int = 1000) -> list[Event]:
        """Return the newest events, oldest first."""
        rows = self.connection.execute(
            "SELECT at, actor, event, detail FROM (SELECT * FROM shardmig.event ORDER BY id DESC LIMIT %s) e"
            " ORDER BY id",
            (limit,),
        ).fetchall()
        return [Event(*row) for row in rows]

    @contextmanager
    def hurrying(self) -> Iterator[None]:
        """Have no commit of this session wait for the disk but those that say otherwise, while clients wait for us.

        A crash of this server may lose the last of them, the earlier ones never without the later: what is lost was
        not yet said, and whoever recovers undoes more. What must not be lost sets `synchronous_commit` itself, and
        with it makes durable all that was before.
        """
        self.connection.execute("SET synchronous_commit = off")
        try:
            yield
        finally:
            if is_open(self.connection):
                self.connection.execute("SET synchronous_commit = on")

    @contextmanager
    def holding(self, what: str) -> Iterator[None]:
        """Hold the migration's `driver` or `operator` lock; raises HeldError when another run has it."""
        if not self.try_hold(what):
            holder = self.holder(what) or "another run"
            raise HeldError(
                f"{holder} is working on migration {self.name!r}", hint="wait for it or stop it, then run this again"
            )
        try:
            yield
        finally:
            if not self.connection.closed:
                self.connection.execute("SELECT pg_advisory_unlock(%s, %s)", (LOCK_CLASS, _LOCKS[what]))

    def try_hold(self, what: str) -> bool:
        """Take a lock if it is free; it lasts until the session ends or `holding` gives it back."""
        return bool(scalar(self.connection, "SELECT pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, _LOCKS[what])))

    def holder(self, what: str) -> str | None:
        """Return who holds a lock, as `pid 123 (application, since …)`, or None when it is free."""
        row = self.connection.execute(
            "SELECT a.pid, a.application_name, a.client_addr::text, a.backend_start::timestamptz(0)::text"
            " FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted"
            " AND l.classid = %s AND l.objid = %s AND l.database = (SELECT oid FROM pg_database"
            " WHERE datname = current_database())",
            (LOCK_CLASS, _LOCKS[what]),
        ).fetchone()
        return f"backend {row[0]} ({row[1]}, {row[2] or 'local'}, since {row[3]})" if row else None

    # chunks and snapshots

    def plan_chunks(self, chunks: Sequence[Chunk]) -> None:
        """List every chunk before the first is copied."""
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO shardmig.chunk (id, schema_name, table_name, first_page, end_page, size_bytes, keyed)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                [(c.id, c.table.schema, c.table.name, c.first_page, c.end_page, c.size_bytes, c.keyed) for c in chunks],
            )

    def replace_chunk(self, chunk: Chunk, pieces: Sequence[Chunk]) -> None:
        """List a chunk's pieces in its place, the first under its own id. It must be as it was read, and not done."""
        first, *rest = pieces
        with self.connection.transaction():
            changed = self.connection.execute(
                "UPDATE shardmig.chunk SET end_page = %s, size_bytes = %s WHERE id = %s AND done_epoch IS NULL"
                " AND first_page = %s AND end_page IS NOT DISTINCT FROM %s",
                (first.end_page, first.size_bytes, chunk.id, chunk.first_page, chunk.end_page),
            )
            if changed.rowcount != 1:
                raise RefusedError(f"chunk {chunk.id} is not as it was read", hint="shardmig copy --resume")
            place("copy.before_chunk_cut")
            self.plan_chunks(rest)
        place("copy.chunk_cut")

    def chunks(self) -> list[Chunk]:
        """Return all chunks, largest table first as they were planned, each table's in the order of its blocks."""
        rows = self.connection.execute(
            "SELECT id, schema_name, table_name, first_page, end_page, size_bytes, keyed, done_epoch, rows, bytes"
            " FROM shardmig.chunk ORDER BY min(id) OVER (PARTITION BY schema_name, table_name), first_page"
        ).fetchall()
        return [Chunk(row[0], TableName(row[1], row[2]), *row[3:]) for row in rows]

    def chunk_done(self, chunk_id: int, epoch: int, *, rows: int, size_bytes: int) -> None:
        """Record that every shard has committed a chunk."""
        self.connection.execute(
            "UPDATE shardmig.chunk SET done_at = clock_timestamp(), done_epoch = %s, rows = %s, bytes = %s"
            " WHERE id = %s",
            (epoch, rows, size_bytes, chunk_id),
        )

    def renew_files(self, files: Mapping[TableName, int], *, whole_too: bool) -> list[TableName]:
        """Record in which file each table's blocks are; returns the tables that have to be read again from the start.

        Blocks of another file have other rows, so none of its chunks counts as done; nor do those of a table whose file
        nobody has noted, as in the journal of an earlier version. A table of one chunk was read at once; but an ALTER
        TABLE that rewrote it after the snapshot was opened had left nothing to see. So with `whole_too` it is read
        again as well.
        """
        with self.connection.transaction():
            self.connection.execute(_ddl("files"))
            known = self.connection.execute("SELECT schema_name, table_name, file FROM shardmig.table_file").fetchall()
            before = {TableName(schema, name): file for schema, name, file in known}
            changed = [table for table, file in files.items() if before.get(table) != file]
            again = [table for table in changed if self._reopen_chunks(table, whole_too=whole_too)]
            self.connection.cursor().executemany(
                "INSERT INTO shardmig.table_file VALUES (%s, %s, %s)"
                " ON CONFLICT (schema_name, table_name) DO UPDATE SET file = excluded.file",
                [(table.schema, table.name, files[table]) for table in changed],
            )
            for table in again:
                self.event("table_rewritten" if table in before else "table_file_unknown", table=str(table))
        return again

    def _reopen_chunks(self, table: TableName, *, whole_too: bool) -> bool:
        reopened = self.connection.execute(
            "UPDATE shardmig.chunk SET done_at = NULL, done_epoch = NULL, rows = NULL, bytes = NULL"
            " WHERE schema_name = %(schema)s AND table_name = %(name)s AND done_epoch IS NOT NULL"
            " AND (%(whole_too)s OR (SELECT count(*) > 1 FROM shardmig.chunk"
            " WHERE schema_name = %(schema)s AND table_name = %(name)s))",
            {"schema": table.schema, "name": table.name, "whole_too": whole_too},
        )
        return reopened.rowcount > 0

    def open_epoch(self, snapshot: str, lsn: LSN) -> SnapshotEpoch:
        """Record a new snapshot and raise `consistent_lsn` to it."""
        with self.connection.transaction():
            number = scalar(self.connection, "SELECT coalesce(max(epoch), 0) + 1 FROM shardmig.snapshot_epoch")
            self.connection.execute(
                "INSERT INTO shardmig.snapshot_epoch (epoch, snapshot, lsn) VALUES (%s, %s, %s)",
                (number, snapshot, str(lsn)),
            )
            self.connection.execute(
                "UPDATE shardmig.migration SET consistent_lsn = greatest(consistent_lsn, %s::pg_lsn)", (str(lsn),)
            )
            self.event("snapshot_opened", epoch=number, lsn=str(lsn))
        return SnapshotEpoch(number, snapshot, lsn)

    def epochs(self) -> list[SnapshotEpoch]:
        """Return the snapshots of the copy in order."""
        rows = self.connection.execute(
            "SELECT epoch, snapshot, lsn::text FROM shardmig.snapshot_epoch ORDER BY epoch"
        ).fetchall()
        return [SnapshotEpoch(row[0], row[1], LSN.parse(row[2])) for row in rows]

    # the tail

    def write_batch_record(self, start: LSN, end: LSN, decisions: bytes) -> None:
        """Commit what was decided for a batch before the first shard commits it."""
        self.connection.execute(
            "INSERT INTO shardmig.batch_record (start_lsn, end_lsn, decisions) VALUES (%s, %s, %s)"
            " ON CONFLICT (single) DO UPDATE SET start_lsn = excluded.start_lsn, end_lsn = excluded.end_lsn,"
            " decisions = excluded.decisions",
            (str(start), str(end), decisions),
        )

    def write_batch_part(self, number: int, decisions: bytes) -> None:
        """Commit a part of the record to come; it means nothing before the record itself is there and counts it."""
        self.connection.execute(
            "INSERT INTO shardmig.batch_part (number, decisions) VALUES (%s, %s)"
            " ON CONFLICT (number) DO UPDATE SET decisions = excluded.decisions",
            (number, decisions),
        )

    def batch_part(self, number: int) -> bytes:
        """Return a part of the last batch's record. Raises RefusedError when it is not there."""
        query = "SELECT decisions FROM shardmig.batch_part WHERE number = %s"
        row = self.connection.execute(query, (number,)).fetchone()
        if row is None:
            raise RefusedError(
                f"the batch record lacks its part {number}",
                hint="the journal was changed by hand: shardmig abort, then begin again",
            )
        return bytes(row[0])

    def drop_batch_parts(self) -> None:
        """Give back the space of a record in parts, once every shard has its batch."""
        self.connection.execute("TRUNCATE shardmig.batch_part")

    def batch_record(self) -> tuple[LSN, LSN, bytes] | None:
        """Return the last batch's (start, end, decisions)."""
        row = self.connection.execute(
            "SELECT start_lsn::text, end_lsn::text, decisions FROM shardmig.batch_record"
        ).fetchone()
        return (LSN.parse(row[0]), LSN.parse(row[1]), bytes(row[2])) if row else None

    def tell_tail_state(self, state: TailState) -> None:
        """Publish the tail's figures for status and for gates."""
        self.connection.execute(
            "INSERT INTO shardmig.tail_state VALUES (true, clock_timestamp(), %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (single) DO UPDATE SET updated_at = excluded.updated_at, applied_lsn = excluded.applied_lsn,"
            " source_lsn = excluded.source_lsn, applied_commit_time = excluded.applied_commit_time,"
            " transactions = excluded.transactions, changes = excluded.changes, moved_rows = excluded.moved_rows,"
            " conflicts = excluded.conflicts, changes_per_s = excluded.changes_per_s, stopped_by = excluded.stopped_by",
            (
                str(state.applied_lsn),
                str(state.source_lsn),
                state.applied_commit_time,
                state.transactions,
                state.changes,
                state.moved_rows,
                state.conflicts,
                state.changes_per_s,
                state.stopped_by,
            ),
        )

    def tail_state(self) -> TailState | None:
        """Return what the tail last said of itself."""
        row = self.connection.execute(
            "SELECT extract(epoch FROM clock_timestamp() - updated_at)::float8, applied_lsn::text, source_lsn::text,"
            " applied_commit_time, transactions, changes, moved_rows, conflicts, changes_per_s, stopped_by"
            " FROM shardmig.tail_state"
        ).fetchone()
        return TailState(row[0], LSN.parse(row[1]), LSN.parse(row[2]), *row[3:]) if row else None

    # barriers

    def request_barrier(self, owner: str, seconds: float) -> int:
        """Ask the tail to hold where it is, for a barrier whose LSN is told later; returns the barrier's id.

        It stands for as long as this session does: a lock says so, which nobody has to clean up after a death.
        """
        return int(
            scalar(
                self.connection,
                "INSERT INTO shardmig.barrier (owner, expires_at)"
                " VALUES (%s, clock_timestamp() + make_interval(secs => %s))"
                " RETURNING id + CASE WHEN pg_try_advisory_lock(%s, id::int) THEN 0 END",
                (owner, seconds, BARRIER_LOCK_CLASS),
            )
        )

    def barrier(self, barrier_id: int | None = None) -> Barrier | None:
        """Return a barrier by id, or the oldest one that is neither released nor expired, and whose owner still is."""
        row = self.connection.execute(
            "SELECT id, owner, held_at IS NOT NULL, lsn::text, reached_at IS NOT NULL, released_at IS NOT NULL,"
            " expires_at <= clock_timestamp() FROM shardmig.barrier"
            " WHERE (%(id)s::bigint IS NULL AND released_at IS NULL AND expires_at > clock_timestamp()"
            " AND EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = %(lock_class)s"
            " AND objid = id AND database = (SELECT oid FROM pg_database WHERE datname = current_database())))"
            " OR id = %(id)s ORDER BY id LIMIT 1",
            {"id": barrier_id, "lock_class": BARRIER_LOCK_CLASS},
        ).fetchone()
        return Barrier(row[0], row[1], row[2], _lsn(row[3]), row[4], row[5], row[6]) if row else None

    def barrier_held(self, barrier_id: int) -> None:
        """Say that the tail holds and applies nothing more until the barrier's LSN is known."""
        self.connection.execute(
            "UPDATE shardmig.barrier SET held_at = coalesce(held_at, clock_timestamp()) WHERE id = %s", (barrier_id,)
        )

    def set_barrier(self, barrier_id: int, lsn: LSN) -> None:
        """Tell the tail up to where it goes: everything that committed below this LSN and nothing else."""
        self.connection.execute("UPDATE shardmig.barrier SET lsn = %s WHERE id = %s", (str(lsn), barrier_id))

    def barrier_reached(self, barrier_id: int) -> None:
        """Say that every shard stands exactly at the barrier."""
        self.connection.execute(
            "UPDATE shardmig.barrier SET reached_at = coalesce(reached_at, clock_timestamp()) WHERE id = %s",
            (barrier_id,),
        )

    def release_barrier(self, barrier_id: int) -> None:
        """Let the tail go on."""
        self.connection.execute(
            "UPDATE shardmig.barrier SET released_at = clock_timestamp() WHERE id = %s AND released_at IS NULL"
            " RETURNING pg_advisory_unlock(%s, id::int)",
            (barrier_id, BARRIER_LOCK_CLASS),
        )


def _migration(row: TupleRow) -> Migration:
    """Make the record of the columns that `find` selects, in that order."""
    return Migration(
        name=row[0],
        created_at=row[1],
        phase=Phase(row[2]),
        routing_epoch=row[3],
        mapping_fingerprint=row[4],
        catalog_fingerprint=row[5],
        source_system=row[6],
        source_database=row[7],
        source_timeline=row[8],
        shard_names=tuple(row[9]),
        slot=row[10],
        publication=row[11],
        slot_lsn=_lsn(row[12]),
        consistent_lsn=_lsn(row[13]),
        schema_stage=row[14],
        evidence=row[15],
    )


def _lsn(text: str | None) -> LSN | None:
    return LSN.parse(text) if text else None


_LOCKS = {"driver": 1, "operator": 2}

_SETTERS: dict[str, LiteralString] = {
    "slot_lsn": "UPDATE shardmig.migration SET slot_lsn = %s WHERE name = %s",
    "schema_stage": "UPDATE shardmig.migration SET schema_stage = %s WHERE name = %s",
    "catalog_fingerprint": "UPDATE shardmig.migration SET catalog_fingerprint = %s WHERE name = %s",
    "routing_epoch": "UPDATE shardmig.migration SET routing_epoch = %s WHERE name = %s",
}
