"""Many changes at once go as net changes; what cannot be merged goes in the source's order, with the same end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.tail import shards
from fixia_shardmig.tail.bulk import Bulk
from fixia_shardmig.tail.net import NetChange
from fixia_shardmig.tail.shards import MERGED_TABLE_MIN, ShardSession
from tests.fixtures.fix_migrations import Migration
from tests.integration.tail.test_changes import DDL, HOMES, TABLES

if TYPE_CHECKING:  # it may not have been built
    from fixia_shardmig.tail._plain import PlainNet

MANY = (
    "INSERT INTO users SELECT n, chr(97 + n % 3), 'u' || n, repeat('t', CASE WHEN n % 50 = 0 THEN 9000 ELSE 1 END),"
    " E'tab\\t, line\\n, \\\\N and \\\\' FROM generate_series(1000, 2999) n"
)

SWAP = (
    "UPDATE users SET email = 'nobody' WHERE id = 1",
    "UPDATE users SET email = 'ann' WHERE id = 4",
    "UPDATE users SET email = 'dan' WHERE id = 1",
)

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture
def shop(migration_of: Callable[..., Migration]) -> Migration:
    """Give a migration with every index and constraint."""
    return migration_of(TABLES, DDL).copy()


@pytest.fixture
def merged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the tables to which net changes have been applied so far."""
    tables: list[str] = []
    apply, apply_plain = Bulk.apply, Bulk.apply_plain

    def noting(bulk: Bulk, net: NetChange) -> int:
        tables.append(net.table.name.name)
        return apply(bulk, net)

    def noting_plain(bulk: Bulk, net: PlainNet) -> int:
        tables.append(net.plan.table.leaf.name)
        return apply_plain(bulk, net)

    monkeypatch.setattr(Bulk, "apply", noting)
    monkeypatch.setattr(Bulk, "apply_plain", noting_plain)
    return tables


def test_many_rows_come_change_and_go_in_one_batch(shop: Migration, merged: list[str]) -> None:
    """Inserts, updates that leave large columns out, deletes and moves of the same rows end as on the source."""
    shop.run(
        MANY,
        "INSERT INTO items SELECT n, n, n FROM generate_series(1000, 2999) n",
        "UPDATE users SET email = email || '!' WHERE id % 2 = 0",
        "UPDATE users SET kind = 'c' WHERE id % 7 = 0",
        "DELETE FROM users WHERE id % 5 = 0 AND id > 999",
        "INSERT INTO users SELECT n, 'b', 'again' || n FROM generate_series(1000, 2999, 10) n",
    )
    assert shop.tail().conflicts == 0
    assert {"users", "items"} <= set(merged)
    shop.judge(HOMES)
    shop.run("UPDATE users SET also_big = 'later' WHERE id > 999", "UPDATE items SET position = position + 1")
    assert shop.tail().conflicts == 0
    shop.judge(HOMES)


def test_a_swap_among_many_changes_goes_in_the_sources_order(
    shop: Migration, merged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 27: merged, the two rows would meet in the unique index; the batch is applied in order instead."""
    monkeypatch.setattr(shards, "MERGED_MIN", MERGED_TABLE_MIN)
    shop.run(MANY, *SWAP, "UPDATE users SET big = 'x' WHERE id BETWEEN 2000 AND 2400")
    assert shop.tail().conflicts == 0
    assert "users" in merged
    shop.judge(HOMES)


def test_no_shard_commits_before_all_have_taken_the_batch(shop: Migration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 7: the record is written while shards still send; when one of them refuses, none has committed."""
    happened: list[str] = []
    write, commit = Journal.write_batch_record, ShardSession.commit

    def noting_record(journal: Journal, start: LSN, end: LSN, content: bytes) -> None:
        happened.append("record")
        write(journal, start, end, content)

    def noting_commit(shard: ShardSession, lsn: LSN, *, settled: bool = False) -> None:
        happened.append("commit")
        commit(shard, lsn, settled=settled)

    shop.run(MANY, *SWAP)
    monkeypatch.setattr(shards, "MERGED_MIN", MERGED_TABLE_MIN)
    monkeypatch.setattr(Journal, "write_batch_record", noting_record)
    monkeypatch.setattr(ShardSession, "commit", noting_commit)
    shop.tail()
    assert happened[:5] == ["record", "record", *["commit"] * 3]
    shop.judge(HOMES)


def test_keys_that_change_among_many_changes_go_in_order(shop: Migration) -> None:
    """Pitfall 23: a new key under a row that is known only by what changed is no net change."""
    shop.run(MANY, "INSERT INTO items SELECT n, n, n FROM generate_series(1000, 2999) n")
    shop.tail()
    shop.run("UPDATE users SET id = id + 5000 WHERE id > 999", "UPDATE users SET email = email || '?'")
    assert shop.tail().conflicts == 0
    shop.judge(HOMES)
