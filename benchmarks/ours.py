"""What is measured of shardmig: functions that run in a process of their own and call what the commands call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.servers import Servers
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.replication import Stream, replication_connection
from fixia_shardmig.postgres.slots import create_slot
from fixia_shardmig.postgres.transactions import Idle, Transaction, TransactionReader
from fixia_shardmig.runner.context import load
from fixia_shardmig.runner.copying import CopyOptions, copy
from fixia_shardmig.runner.ending import abort
from fixia_shardmig.runner.planning import refuse_blockers
from fixia_shardmig.runner.schemas import apply_schemas
from fixia_shardmig.runner.tailing import tail
from fixia_shardmig.runner.verifying import VerifyOptions, verify_now

READ_BYTES = 4 * 1024 * 1024
WAIT_S = 0.1

DATA = "table data"
"""The part of a copy that peers without indexes are compared with."""

_LAST_CHUNK = "SELECT extract(epoch FROM max(done_at))::float8 FROM shardmig.chunk"
_STAGES = """
SELECT stage, extract(epoch FROM max(done_at))::float8 FROM shardmig.ddl
WHERE stage IN ('indexes', 'constraints', 'foreign_keys') GROUP BY stage ORDER BY 2
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """A mapping file, the variables for it, and its shards' URLs by name; the shard `shared` keeps the journal."""

    mapping: Path
    variables: Mapping[str, str]
    shard_urls: Mapping[str, str]


@contextmanager
def shard_databases(servers: Servers, prefix: str, shards: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Make an empty database for each shard and yield its URL; they are dropped with the block."""
    names = {shard: f"{prefix}_{shard}" for shard in shards}
    try:
        yield {shard: servers.target.create_database(name) for shard, name in names.items()}
    finally:
        for name in names.values():
            servers.target.drop_database(name)


def migrate(migration: Migration, jobs: int) -> dict[str, float]:
    """Copy everything and tail until caught up, with every index and key; return the seconds of the parts.

    Each part begins where the one before it ended, so catching up counts to what comes after it. The clocks of the
    server and of this process are one machine's.
    """
    began = time.time()
    context = load(migration.mapping, env=migration.variables)
    refuse_blockers(context)
    apply_schemas(context)
    defined = time.time()
    copy(context, CopyOptions(resume=True, jobs=jobs))
    copied = time.time()
    tail(context, caught_up=True, jobs=jobs)
    ended = time.time()
    data = _last_chunk(migration.shard_urls["shared"])
    parts = {"plan and definitions": defined - began, DATA: data - defined, "primary keys, ANALYZE": copied - data}
    for stage, done in _stages(migration).items():
        parts[stage.replace("_", " ")] = done - copied
        copied = done
    return parts | {"the last catching up": ended - copied}


def _last_chunk(journal_url: str) -> float:
    with psycopg.connect(journal_url) as connection:
        found = connection.execute(_LAST_CHUNK).fetchone()
    if found is None or found[0] is None:
        raise ShardmigError("the copy had no chunk", hint="was there a table to copy?")
    return float(found[0])


def _stages(migration: Migration) -> dict[str, float]:
    """Return when each stage ended on the shard that was last, in the order of time."""
    ends: dict[str, float] = {}
    for url in migration.shard_urls.values():
        with psycopg.connect(url) as connection:
            for stage, done in connection.execute(_STAGES):
                ends[stage] = max(done, ends.get(stage, 0.0))
    return dict(sorted(ends.items(), key=lambda entry: entry[1]))


def follow(migration: Migration, until: int) -> tuple[int, int]:
    """Tail until everything below an LSN is on the shards; return how many changes and how many moved rows."""
    result = tail(load(migration.mapping, env=migration.variables), until=LSN(until))
    return result.changes, result.moved_rows


def verify(migration: Migration, jobs: int) -> int:
    """Verify both sides and return how many rows they have.

    Raises:
        ShardmigError: They differ.
    """
    result = verify_now(load(migration.mapping, env=migration.variables), VerifyOptions(jobs=jobs))
    if not result.equal:
        raise ShardmigError(f"{result.differences_total} differences", hint="shardmig verify names them")
    return sum(table.source_rows for table in result.tables)


def clear(migration: Migration) -> None:
    """Take slot, publication and journal away again; what was never begun is no failure."""
    abort(load(migration.mapping, env=migration.variables))


def make_slot(url: str, name: str) -> int:
    """Create a slot and return where its stream begins."""
    with replication_connection(url, "bench slot") as walsender:
        return create_slot(walsender, name).lsn


def receive(url: str, slot: str, publication: str, between: tuple[int, int], spool: Path) -> int:
    """Receive and decode every change between two LSNs and throw it away; return how many there were."""
    start, until = map(LSN, between)
    reader = TransactionReader(spool, message_prefixes=frozenset())
    stream = Stream(url, slot, start=start, publication=publication, purpose="bench")
    changes = 0
    try:
        reached = False
        while not reached:
            for item in reader.feed(stream.read(READ_BYTES, WAIT_S)):
                match item:
                    case Transaction():
                        changes += sum(1 for _ in item.changes)
                        item.close()
                        reached = item.end_lsn > until
                    case Idle():
                        reached = reached or item.server_lsn > until
                    case _:
                        pass
        return changes
    finally:
        reader.close()
        stream.close()
