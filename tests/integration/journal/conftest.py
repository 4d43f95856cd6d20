"""A migration that has just begun, with its journal in a database of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Migration
from fixia_shardmig.model.phase import Phase


def begun(name: str = "shop") -> Migration:
    """Return the record with which a migration begins."""
    return Migration(
        name=name,
        created_at=datetime.now(UTC),
        phase=Phase.PLANNED,
        routing_epoch=0,
        mapping_fingerprint="m1",
        catalog_fingerprint="c1",
        source_system="7",
        source_database="shop",
        source_timeline=1,
        shard_names=("pros", "it's shared"),
        slot=f"shardmig_{name}",
        publication=f"shardmig_{name}",
        slot_lsn=None,
        consistent_lsn=None,
        schema_stage="",
        evidence={},
    )


@pytest.fixture
def journal_url(target_cluster: Cluster, fresh_database: Callable[..., str]) -> str:
    """Give the URL of a database without a journal."""
    return fresh_database(target_cluster, "journal")


@pytest.fixture
def journal(journal_url: str) -> Iterator[Journal]:
    """Give the journal of a migration that has begun."""
    with Journal(journal_url, "shop", actor="ann") as made:
        made.create(begun())
        yield made


@pytest.fixture
def other(journal: Journal) -> Iterator[Journal]:
    """Give a second session on the same journal."""
    with Journal(journal.url, "shop", actor="bob") as made:
        yield made
