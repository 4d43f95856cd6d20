"""A tail that is behind lets batches grow: their parts are routed as they come, and end as if they had come at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.transactions import Transaction
from fixia_shardmig.tail import locations, router, shards, tail
from fixia_shardmig.tail.batches import Batches
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.tables import Keyspace
from tests.fixtures.fix_migrations import Migration
from tests.integration.tail.test_changes import DDL, HOMES, TABLES
from tests.integration.tail.test_merged import SWAP

WAIT_S = 10.0

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture
def shop(migration_of: Callable[..., Migration]) -> Migration:
    """Give a migration with every index and constraint."""
    return migration_of(TABLES, DDL).copy()


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have every batch grow, a transaction at a time, and note of how many each part was."""
    found: list[int] = []
    begin = Batches.begin

    def noting(batches: Batches, batch: Sequence[Transaction]) -> None:
        found.append(len(batch))
        begin(batches, batch)

    monkeypatch.setattr(Batches, "begin", noting)
    monkeypatch.setattr(tail, "BEHIND", timedelta(days=-1))
    monkeypatch.setattr(tail, "AHEAD_CHANGES", 1)
    return found


def test_what_came_in_an_open_batch_is_found_though_it_was_forgotten(
    shop: Migration, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards' last commit does not know these rows, and as little is remembered as can be."""
    monkeypatch.setattr(locations, "ENTRIES_MAX", 1)
    monkeypatch.setattr(router, "PLAIN_WINDOW_CHANGES", 1)
    monkeypatch.setattr(router, "WINDOW_CHANGES", 1)
    shop.run(*(f"INSERT INTO items VALUES ({n}, 1, {n})" for n in range(1000, 1010)))
    shop.run(*(f"UPDATE items SET position = -{n} WHERE id = {n}" for n in range(1000, 1008)))
    shop.run(*(f"DELETE FROM items WHERE id = {n}" for n in range(1000, 1004)))
    result = shop.tail()
    shop.judge(HOMES)
    assert (result.conflicts, max(parts) > 1) == (0, True)


def test_a_part_that_has_to_go_in_order_takes_its_batch_with_it(
    shop: Migration, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows swap an e-mail, a table is emptied, and rows come, each in a transaction of one growing batch."""
    monkeypatch.setattr(shards, "MERGED_MIN", 1)
    monkeypatch.setattr(shards, "MERGED_TABLE_MIN", 1)
    shop.run("INSERT INTO items VALUES (1000, 1, 1000)", *SWAP, "INSERT INTO items VALUES (1001, 4, 1001)")
    shop.run("TRUNCATE items", "INSERT INTO items VALUES (1000, 4, 1)", "UPDATE users SET kind = 'c' WHERE id = 4")
    shop.tail()
    shop.judge(HOMES)
    assert max(parts) > 1


def test_a_look_aside_does_not_wait_for_who_waits_for_the_batch(
    shop: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ALTER TABLE waits for the open batch; a look-up behind it would wait for ever, which no server sees."""
    monkeypatch.setattr(shards, "ASIDE_LOCK_MS", 50)
    context = shop.context()
    name, endpoint = next(iter(context.shard_map.shards.items()))
    session = ShardSession(0, name, url=endpoint.url, catalog=context.catalog)
    session.open_aside()
    items = Keyspace(TableName("public", "items"), ("id",))
    try:
        session.connection.execute("UPDATE public.items SET position = position")
        with ThreadPoolExecutor(1) as threads, ThreadPoolExecutor(1) as threads_of_ours:
            altered = threads.submit(shop.on, name, "ALTER TABLE items ADD COLUMN later int")
            until_s = time.monotonic() + WAIT_S
            while not _waits(session) and time.monotonic() < until_s:
                assert not altered.done()
            looked = threads_of_ours.submit(session.find, items, [("1",), ("4711",)], committed=True)
            found = looked.result(WAIT_S)
            session.rollback()
            altered.result(WAIT_S)
    finally:
        session.close()
    assert found == ({0} if shop.on(name, "SELECT FROM items WHERE id = 1") else set())


def _waits(session: ShardSession) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.items'::regclass"
    row = session.connection.execute(query).fetchone()
    return bool(row and row[0])
