"""The copy's own sessions compare keys as placement means it, extension types too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import psycopg
import pytest

from fixia_shardmig.copy import worker
from fixia_shardmig.copy.statements import chunk_task
from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.journal.journal import prepare_shard
from fixia_shardmig.journal.records import Chunk, SnapshotEpoch
from fixia_shardmig.mapping.shard_map import Endpoint, Follows, Path, ShardMap, SplitByColumn
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import scalar, session

USERS, NOTES = TableName("public", "users"), TableName("public", "notes")
SCHEMA = """
    CREATE SCHEMA "Ext";
    CREATE EXTENSION citext SCHEMA "Ext";
    CREATE TABLE users (id "Ext".citext PRIMARY KEY, kind text);
    CREATE TABLE notes (id int PRIMARY KEY, user_id "Ext".citext REFERENCES users);
"""
ROWS = """
    INSERT INTO users VALUES ('Ann', 'pro'), ('Bob', 'client');
    INSERT INTO notes VALUES (1, 'ANN'), (2, 'bob'), (3, 'Ann');
"""


@pytest.fixture
def urls(source_cluster: Cluster, fresh_database: Callable[..., str]) -> Mapping[str, str]:
    """Give the URLs of a filled source and of two shards with its tables."""
    found = {label: fresh_database(source_cluster, label) for label in ("source", "pros", "clients")}
    for label, url in found.items():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SCHEMA)
            if label == "source":
                connection.execute(ROWS)
            else:
                prepare_shard(connection)
    return found


@pytest.fixture(autouse=True)
def _closed_sessions() -> Iterator[None]:
    """Close what the worker keeps open for its process's next chunk."""
    yield
    for kept in (worker._sources, worker._targets):
        while kept:
            kept.popitem()[1].close()


def test_a_row_follows_a_citext_key_in_another_spelling(urls: Mapping[str, str]) -> None:
    """Pitfall 50: 'ANN' is 'Ann' for the foreign key, so it has to be for the copy's join."""
    path = Path(("user_id",), USERS, ("id",), declared=True)
    shard_map = ShardMap(
        name="shop",
        file="",
        source=Endpoint(urls["source"]),
        shards={shard: Endpoint(urls[shard]) for shard in ("pros", "clients")},
        journal_shard="pros",
        tables={USERS: SplitByColumn("kind", {"pro": "pros", "client": "clients"}), NOTES: Follows((path,))},
    )
    with session(urls["source"], "test") as holder, holder.transaction():
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = scalar(holder, "SELECT pg_export_snapshot()")
        with session(urls["source"], "test") as reader:
            catalog = read_catalog(reader)
            task = chunk_task(
                Chunk(1, NOTES, 0, None, 8192, keyed=True),
                SnapshotEpoch(1, "", LSN(0)),
                shard_map=shard_map,
                catalog=catalog,
                snapshot=snapshot,
                quoting=reader,
            )
        result = worker.copy_chunk(task)
    assert {"pros": 2, "clients": 1} == result.rows_by_shard
