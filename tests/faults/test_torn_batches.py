"""A batch that some shards have committed and others have not: the record replays it exactly (docs/adr/0004)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixia_shardmig.model.errors import RefusedError, TemporaryError
from tests.fixtures.fix_migrations import EVERYWHERE, SHARDS, Migration

KIND = "CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'west' END"
TABLES = """
users: {split_by: kind, homes: {a: north, b: south, c: west}}
items: {follows: owner}
log: {follows: owner}
notes: {follows: {columns: [handle], references: users, to: [handle]}, otherwise: west}
categories: {reference: true}
"""
DDL = """
CREATE TABLE users (id int PRIMARY KEY, kind text, handle text UNIQUE, big text);
ALTER TABLE users ALTER big SET STORAGE EXTERNAL;
CREATE TABLE items (id int PRIMARY KEY, owner int REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE, big text);
ALTER TABLE items ALTER big SET STORAGE EXTERNAL;
CREATE TABLE log (owner int REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE, n int);
ALTER TABLE log REPLICA IDENTITY FULL;
CREATE TABLE notes (id int PRIMARY KEY, handle text);
CREATE TABLE categories (id int PRIMARY KEY, name text);
INSERT INTO users SELECT n, chr(97 + n % 3), 'h' || n, repeat(n::text, 3000) FROM generate_series(1, 12) n;
INSERT INTO items SELECT n, 1 + n % 12, repeat(n::text, 3000) FROM generate_series(1, 36) n;
INSERT INTO log SELECT 1 + n % 12, n % 2 FROM generate_series(1, 60) n;
INSERT INTO notes SELECT n, 'h' || n FROM generate_series(1, 15) n;
INSERT INTO categories VALUES (1, 'x'), (2, 'y');
"""
OF_OWNER = f"(SELECT {KIND} FROM users WHERE id = t.owner)"
HOMES = {
    "users": KIND,
    "items": OF_OWNER,
    "log": OF_OWNER,
    "notes": f"coalesce((SELECT {KIND} FROM users WHERE handle = t.handle), 'west')",
    "categories": EVERYWHERE,
}
BOTH_WAYS = (
    "UPDATE users SET kind = chr(97 + (id + 1) % 3)",
    "INSERT INTO users VALUES (100, 'a', 'h14', repeat('n', 3000))",
    "INSERT INTO items VALUES (100, 1, 'late'), (101, 100, 'later')",
    "UPDATE items SET owner = 1 + owner % 12 WHERE id < 12",
    "DELETE FROM users WHERE id = 5",
    "UPDATE log SET n = 2 WHERE owner = 3",
    "INSERT INTO log VALUES (1, 9), (1, 9)",
    "UPDATE users SET id = id + 1000 WHERE id IN (2, 100)",
    "UPDATE users SET handle = 'gone' WHERE id = 7",
    "UPDATE categories SET name = 'z'",
)
DIES_AT_COMMIT = """
CREATE FUNCTION shardmig.die() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN
        PERFORM pg_terminate_backend(pg_backend_pid()) FROM pg_stat_xact_user_tables
            WHERE schemaname = 'public' AND n_tup_ins + n_tup_upd + n_tup_del > 0;
        RETURN NULL;
    END $$;
CREATE CONSTRAINT TRIGGER die AFTER UPDATE ON shardmig.position DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION shardmig.die();
ALTER TABLE shardmig.position ENABLE ALWAYS TRIGGER die;
"""
"""Ends the session in a commit that carries changes of ours; one that only moves the position gets through."""

LIVES_AGAIN = "DROP FUNCTION shardmig.die CASCADE"


@pytest.fixture
def migration(migration_of: Callable[..., Migration]) -> Migration:
    """Give a migration that has caught up."""
    migration = migration_of(TABLES, DDL).copy()
    migration.tail()
    migration.judge(HOMES)
    return migration


def tear(migration: Migration, *dying: str) -> None:
    """Let the sessions of these shards die in the commit of the next batch, and heal the shards."""
    for shard in dying:
        migration.on(shard, DIES_AT_COMMIT)
    with pytest.raises(TemporaryError):
        migration.tail()
    for shard in dying:
        migration.on(shard, LIVES_AGAIN)


def positions(migration: Migration) -> dict[str, str]:
    """Return where each shard stands."""
    query = "SELECT applied_lsn::text FROM shardmig.position WHERE stream = 'forward'"
    return {shard: migration.on(shard, query)[0][0] for shard in SHARDS}


@pytest.mark.parametrize("dying", [("north",), ("south",), ("west",), ("north", "west"), ("south", "north")])
def test_moves_in_both_directions_survive_a_crash_between_commits(migration: Migration, dying: tuple[str, ...]) -> None:
    """Pitfalls 6, 7: rows go round over all shards; whichever commits are missing, the replay finishes them exactly."""
    migration.run(*BOTH_WAYS)
    tear(migration, *dying)
    at = positions(migration)
    assert {at[shard] for shard in dying} != {at[shard] for shard in SHARDS if shard not in dying}
    migration.tail()
    migration.judge(HOMES)
    assert "batch_replayed" in migration.events()


@pytest.mark.parametrize("dying", [("north",), ("south", "west")])
def test_a_record_in_many_parts_is_replayed_whole(
    migration: Migration, dying: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 7: a batch too large for one record, as a huge subtree that moves, is replayed from all parts of it."""
    monkeypatch.setattr("fixia_shardmig.tail.record.PART_CHANGES", 3)
    monkeypatch.setattr("fixia_shardmig.tail.record.PART_BYTES", 1)
    for limit in ("WINDOW_CHANGES", "PLAIN_WINDOW_CHANGES"):
        monkeypatch.setattr(f"fixia_shardmig.tail.router.{limit}", 2)
    migration.run(*BOTH_WAYS)
    tear(migration, *dying)
    assert migration.on("west", "SELECT count(*) > 5 FROM shardmig.batch_part")[0][0] is True
    migration.tail()
    migration.judge(HOMES)
    assert "batch_replayed" in migration.events()


def test_a_crash_before_any_commit_decides_again(migration: Migration) -> None:
    """Pitfall 7: with no commit done all shards stand at the start, and the record of the batch means nothing."""
    migration.run(*BOTH_WAYS)
    tear(migration, *SHARDS)
    assert len(set(positions(migration).values())) == 1
    migration.run("UPDATE users SET kind = 'a'")
    migration.tail()
    migration.judge(HOMES)
    assert "batch_replayed" not in migration.events()


def test_what_came_after_the_torn_batch_is_not_part_of_it(migration: Migration) -> None:
    """The replay cuts the batch at the same place, though the stream has gone on, and the rest comes after it."""
    migration.run(*BOTH_WAYS)
    tear(migration, "south")
    migration.run("UPDATE users SET kind = chr(97 + (ascii(kind) - 96) % 3)", "DELETE FROM items WHERE id % 2 = 0")
    migration.run("TRUNCATE categories", "INSERT INTO categories VALUES (7, 'new')")
    migration.tail()
    migration.judge(HOMES)


def test_a_truncate_is_replayed_on_those_that_lack_it(migration: Migration) -> None:
    """Pitfalls 6, 25: TRUNCATE between other changes of the same batch."""
    migration.run("INSERT INTO categories VALUES (3, 'before')", "UPDATE users SET kind = 'b' WHERE kind = 'a'")
    migration.run("TRUNCATE categories, log", "INSERT INTO log VALUES (1, 1)", "INSERT INTO categories VALUES (4, 'x')")
    tear(migration, "north")
    migration.tail()
    migration.judge(HOMES)


def test_a_replay_that_dies_is_replayed(migration: Migration) -> None:
    """Pitfall 6: a crash in the middle of a replay leaves the same torn batch, or none."""
    migration.run(*BOTH_WAYS)
    tear(migration, "north", "south")
    tear(migration, "south")
    migration.tail()
    migration.judge(HOMES)
    assert migration.events().count("batch_replayed") == 1


def test_shards_that_no_record_joins_are_refused(migration: Migration) -> None:
    """Pitfall 7: a shard that was set back by hand is no torn batch, and guessing would lose or double."""
    migration.run(*BOTH_WAYS)
    migration.tail()
    migration.on("north", "UPDATE shardmig.position SET applied_lsn = applied_lsn + 1000")
    with pytest.raises(RefusedError) as refused:
        migration.tail()
    assert "no batch record joins" in refused.value.message


def test_the_source_is_told_only_what_every_shard_has(migration: Migration) -> None:
    """Pitfalls 7, 37: while one shard lacks a batch, the slot keeps it."""
    confirmed = "SELECT confirmed_flush_lsn <= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = 'shardmig_test'"
    migration.run(*BOTH_WAYS)
    tear(migration, "south")
    at = positions(migration)
    assert at["south"] != at["north"]
    assert migration.on("source", confirmed, at["south"]) == [(True,)]
    migration.tail()
    migration.judge(HOMES)


def test_a_torn_batch_before_consistency_is_replayed(migration_of: Callable[..., Migration]) -> None:
    """Pitfalls 6, 44: what the tail did to make several snapshots one is in the record too, keyless tables left out."""
    migration = migration_of(TABLES, DDL)
    epochs = migration.begin()
    with epochs.snapshot():
        epochs.take("users", "categories")
        epochs.take("items", only="north")
    migration.run(*BOTH_WAYS)
    migration.run("TRUNCATE log", "INSERT INTO log VALUES (1, 77)")
    with epochs.snapshot():
        epochs.take()
    epochs.finish()
    tear(migration, "south")
    migration.tail()
    migration.judge(HOMES)
    assert "batch_replayed" in migration.events()
