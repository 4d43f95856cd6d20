"""Sequences on real shards: thousands of ids from all of them, and none twice."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from fixia_shardmig.cutover.sequences import (
    Observed,
    SequencePlan,
    observe_sequences,
    plan_sequences,
    record_increments,
    set_sequences,
)
from fixia_shardmig.cutover.sides import Sides, open_sides
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.catalog import read_catalog
from tests.integration.cutover.conftest import ORDERS, USERS, Arena, begin, run, shard_map_of, split_by_hand

IDS = 2000


@pytest.fixture
def split(source_url: str, shard_urls: dict[str, str]) -> ShardMap:
    """Give the mapping of a source that is copied to its shards."""
    split_by_hand(source_url, shard_urls)
    return shard_map_of(source_url, shard_urls)


def observe(sides: Sides, shard_map: ShardMap) -> Observed:
    """Read what the plan is made from."""
    return observe_sequences(sides, shard_map, read_catalog(sides.source))


def set_on_all(sides: Sides, plans: tuple[SequencePlan, ...]) -> None:
    """Set every shard's sequences."""
    sides.each_shard(lambda name, connection: set_sequences(name, connection, plans))


def settle(shard_map: ShardMap) -> None:
    """Observe, plan and apply, as a cutover does."""
    with open_sides(shard_map) as sides:
        plans = plan_sequences(shard_map, read_catalog(sides.source), observe(sides, shard_map))
        assert [] == [reason for plan in plans for reason in plan.refusals]
        set_on_all(sides, plans)


def insert(url: str, statement: str, number: int) -> list[int]:
    """Insert rows on one shard and return the ids they got."""
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(statement.encode(), [number]).fetchall()]


SERIAL = "INSERT INTO users (user_type) SELECT 'client' FROM generate_series(1, %s) RETURNING id"
IDENTITY = "INSERT INTO orders (user_id) SELECT 1 FROM generate_series(1, %s) RETURNING id"


@pytest.mark.parametrize(("statement", "top"), [(SERIAL, 30), (IDENTITY, 60)])
def test_ids_of_all_shards_never_collide(split: ShardMap, statement: str, top: int) -> None:
    """Pitfall 68: serial and identity columns, thousands of rows on each shard, every id new and different."""
    settle(split)
    ids = [i for endpoint in split.shards.values() for i in insert(endpoint.url, statement, IDS)]
    assert set(range(top + 1, top + 1 + 3 * IDS)) == set(ids)
    assert 3 * IDS == len(ids)


def test_settling_again_after_an_undone_cutover_does_not_count_faster(split: ShardMap) -> None:
    """Pitfall 64: re-entrant; the source went on meanwhile, and its ids stay free of collisions."""
    settle(split)
    moved_on = insert(split.source.url, SERIAL, 25)
    settle(split)
    ids = [insert(endpoint.url, SERIAL, 3) for endpoint in split.shards.values()]
    assert [[56, 59, 62], [57, 60, 63], [58, 61, 64]] == ids
    assert max(moved_on) == 55


def test_rows_with_ids_of_their_own_are_stayed_above(split: ShardMap) -> None:
    """Pitfall 68: an import past the sequence, seen on a shard alone or on the source, is not repeated."""
    run(split.shards["clients"].url, "INSERT INTO users VALUES (900, 'client')")
    settle(split)
    assert [901] == insert(split.shards["professionals"].url, SERIAL, 1)


def test_negative_text_shared_and_unowned_sequences_go_on(source_url: str, shard_urls: dict[str, str]) -> None:
    """One sequence for two columns, one that counts down, one inside a text default, and one that no column uses."""
    extra = """
    CREATE SEQUENCE tickets INCREMENT BY -5;
    CREATE SEQUENCE loose;
    CREATE SEQUENCE joint;
    ALTER TABLE users ADD ticket int DEFAULT nextval('tickets'), ADD code text DEFAULT 'U-' || nextval('joint');
    ALTER TABLE orders ADD code bigint DEFAULT nextval('joint');
    """
    split_by_hand(source_url, shard_urls)
    for url in (source_url, *shard_urls.values()):
        run(url, extra)
    run(source_url, "SELECT setval('loose', 7), setval('joint', 1000)")
    shard_map = shard_map_of(source_url, shard_urls)
    lowest = run(source_url, "SELECT min(ticket) FROM users")[0][0]
    with open_sides(shard_map) as sides:
        plans = plan_sequences(shard_map, read_catalog(sides.source), observe(sides, shard_map))
        set_on_all(sides, plans)
    found = {plan.name.name: (plan.increment, tuple(plan.next_values.values())) for plan in plans}
    assert (-15, (lowest - 5, lowest - 10, lowest - 15)) == found["tickets"]
    assert (3, (8, 9, 10)) == found["loose"]
    assert (3, (1001, 1002, 1003)) == found["joint"]
    rows = run(shard_urls["clients"], "INSERT INTO users (user_type) VALUES ('client') RETURNING ticket, code")
    assert [(lowest - 10, "U-1002")] == rows


def test_setval_with_is_called_false_is_seen(split: ShardMap) -> None:
    """`pg_sequences` shows NULL there; the sequence itself does not."""
    run(split.source.url, "SELECT setval('users_id_seq', 500, false)")
    settle(split)
    assert [500] == insert(split.shards["professionals"].url, SERIAL, 1)


def test_a_large_column_without_an_index_is_not_scanned_in_the_pause(
    split: ShardMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told instead; an index on it, or a small table, and it is read."""
    monkeypatch.setattr("fixia_shardmig.cutover.sequences.SCAN_PAGES_MAX", -1)
    run(split.source.url, "ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    with open_sides(split) as sides:
        catalog = read_catalog(sides.source)
        observed = observe_sequences(sides, split, catalog)
        plans = {plan.name.name: plan for plan in plan_sequences(split, catalog, observed)}
    assert frozenset({(ORDERS, "id")}) == observed.unread
    assert (USERS, "id") in observed.ends
    assert "no index" in plans["orders_id_seq"].warnings[0]


def test_a_failing_statement_leaves_the_shard_as_it_was(split: ShardMap) -> None:
    """RESTART is undone with its transaction: a shard has all its sequences set, or none."""
    run(split.shards["clients"].url, "ALTER SEQUENCE users_id_seq MAXVALUE 20")
    with open_sides(split) as sides:
        plans = plan_sequences(split, read_catalog(sides.source), observe(sides, split))
        with pytest.raises(psycopg.Error):
            set_on_all(sides, plans)
    state = sql.SQL("SELECT last_value, is_called FROM orders_id_seq").as_string()
    assert [(1, False)] == run(split.shards["clients"].url, state)


def test_former_increments_are_kept_for_rollback(split: ShardMap) -> None:
    """The journal's evidence has the source's increment, and where each shard went on."""
    begin(split)
    arena = Arena(split, split.source.url, {name: endpoint.url for name, endpoint in split.shards.items()})
    with open_sides(split) as sides, arena.journal() as journal:
        plans = plan_sequences(split, read_catalog(sides.source), observe(sides, split))
        record_increments(journal, plans)
        kept = journal.get().evidence["sequences"]["users_id_seq"]
        journal_slot = journal.get().slot
    run(split.source.url, "SELECT pg_drop_replication_slot(%s)", journal_slot)
    expected = {"professionals": 31, "clients": 32, "shared": 33}
    assert {"former_increment": 1, "increment": 3, "next_values": expected} == kept
    assert TableName("public", "users_id_seq") in {plan.name for plan in plans}
