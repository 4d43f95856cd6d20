"""What the journal holds, as plain records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase

FORWARD = "forward"
"""The stream from the source to the shards; reverse streams carry a shard's name."""


@dataclass(frozen=True, slots=True)
class Migration:
    """The one row that says where a migration stands.

    `slot_lsn` is where the slot starts; `consistent_lsn` the highest LSN of any snapshot epoch: before the tail has
    passed it, the shards together are no state the source ever had.
    """

    name: str
    created_at: datetime
    phase: Phase
    routing_epoch: int
    mapping_fingerprint: str
    catalog_fingerprint: str
    source_system: str
    source_database: str
    source_timeline: int
    shard_names: tuple[str, ...]
    slot: str
    publication: str
    slot_lsn: LSN | None
    consistent_lsn: LSN | None
    schema_stage: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block range of one table; `end_page` is None for the last one, which is open. Not `keyed`: the whole table."""

    id: int
    table: TableName
    first_page: int
    end_page: int | None
    size_bytes: int
    keyed: bool
    done_epoch: int | None = None
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SnapshotEpoch:
    """One snapshot of the copy. `snapshot` is `pg_current_snapshot()`'s text, `lsn` is not below any commit it sees."""

    epoch: int
    snapshot: str
    lsn: LSN


@dataclass(frozen=True, slots=True)
class Barrier:
    """A request to hold the tail exactly at an LSN. It ends by itself at `expires_at`."""

    id: int
    owner: str
    held: bool
    lsn: LSN | None
    reached: bool
    released: bool
    expired: bool


@dataclass(frozen=True, slots=True)
class TailState:
    """What the tail last said of itself. `lag_s` is by the server's clock."""

    age_s: float
    applied_lsn: LSN
    source_lsn: LSN
    applied_commit_time: datetime | None
    transactions: int
    changes: int
    moved_rows: int
    conflicts: int
    changes_per_s: float
    stopped_by: str


@dataclass(frozen=True, slots=True)
class Event:
    """Who did what, when."""

    at: datetime
    actor: str
    event: str
    detail: dict[str, Any]
