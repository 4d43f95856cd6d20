"""Random histories: transactions of every shape between chunks, snapshots, batches and torn commits, seeded.

A failure names its seed and prints what was run, so that it can be run again.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator

import psycopg
import pytest

from fixia_shardmig.model.errors import TemporaryError
from tests.faults.test_torn_batches import DIES_AT_COMMIT, LIVES_AGAIN
from tests.fixtures.fix_migrations import SHARDS, Migration

KIND = "CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'west' END"
TABLES = """
users: {split_by: kind, homes: {a: north, b: south, c: west}}
items: {follows: [owner, lender]}
notes: {follows: {columns: [item], references: items, to: [id]}, otherwise: west}
log: {follows: owner}
kinds: {reference: true}
"""
DDL = """
CREATE TABLE users (id int PRIMARY KEY, kind text NOT NULL, big text);
ALTER TABLE users ALTER big SET STORAGE EXTERNAL;
CREATE TABLE items (id int PRIMARY KEY, owner int REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE
    DEFERRABLE INITIALLY DEFERRED, lender int NOT NULL REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE
    DEFERRABLE INITIALLY DEFERRED, big text);
ALTER TABLE items ALTER big SET STORAGE EXTERNAL;
CREATE TABLE notes (id int PRIMARY KEY, item int, pad text);
CREATE TABLE log (owner int NOT NULL REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE, n int);
ALTER TABLE log REPLICA IDENTITY FULL;
CREATE TABLE kinds (id int PRIMARY KEY, big text);
ALTER TABLE kinds ALTER big SET STORAGE EXTERNAL;
INSERT INTO users VALUES (1, 'a', repeat('1', 3000)), (2, 'b', NULL), (3, 'c', repeat('3', 3000));
INSERT INTO items SELECT n, nullif(n % 4, 0), 1 + n % 3, repeat(n::text, 3000) FROM generate_series(1, 9) n;
INSERT INTO notes SELECT n, n, repeat('p', 1500) FROM generate_series(1, 12) n;
INSERT INTO log SELECT 1 + n % 3, n % 2 FROM generate_series(1, 9) n;
INSERT INTO kinds SELECT n, repeat(n::text, 5000) FROM generate_series(1, 9) n;
"""
OF_ITEM = f"(SELECT {KIND} FROM users u WHERE u.id = coalesce({{0}}.owner, {{0}}.lender))"
HOMES = {
    "users": KIND,
    "items": OF_ITEM.format("t"),
    "notes": f"coalesce((SELECT {OF_ITEM.format('i')} FROM items i WHERE i.id = t.item), 'west')",
    "log": f"(SELECT {KIND} FROM users WHERE id = t.owner)",
    "kinds": "'*'",
}
USERS, ITEMS = 6, 14
ROUNDS, STATEMENTS_MAX, TRANSACTIONS_MAX = 4, 6, 6


def statement(chance: random.Random) -> str:
    """Return one random statement; some fail, which rolls back to the savepoint before it."""
    user, other, item = chance.randint(1, USERS), chance.randint(1, USERS), chance.randint(1, ITEMS)
    kind, text = chance.choice("abc"), f"repeat('{chance.choice('xyz')}', {chance.choice([3, 3000])})"
    owner = chance.choice([str(user), "NULL"])
    return chance.choice(
        [
            f"UPDATE users SET kind = '{kind}' WHERE id = {user}",
            f"UPDATE users SET kind = '{kind}' WHERE id = {user}",
            f"UPDATE users SET id = {other} WHERE id = {user}",
            f"UPDATE users SET big = {text} WHERE id = {user}",
            f"INSERT INTO users VALUES ({user}, '{kind}', {text})",
            f"DELETE FROM users WHERE id = {user}",
            f"INSERT INTO items VALUES ({item}, {owner}, {other}, {text})",
            f"INSERT INTO items VALUES ({item}, {owner}, {other}, {text})",
            f"UPDATE items SET owner = {owner} WHERE id % 3 = {item % 3}",
            f"UPDATE items SET lender = {other}, big = {text} WHERE id = {item}",
            f"UPDATE items SET id = {item} WHERE id = {chance.randint(1, ITEMS)}",
            f"DELETE FROM items WHERE id = {item}",
            f"INSERT INTO notes VALUES ({item}, {chance.randint(1, ITEMS)}, {text})",
            f"UPDATE notes SET item = {item}, pad = repeat('q', 1700) WHERE id % 4 = {user % 4}",
            f"DELETE FROM notes WHERE id = {item}",
            f"INSERT INTO log SELECT {user}, {item % 2} FROM generate_series(1, 2)",
            f"UPDATE log SET owner = {other} WHERE ctid = (SELECT min(ctid) FROM log WHERE owner = {user})",
            f"DELETE FROM log WHERE ctid = (SELECT max(ctid) FROM log WHERE n = {item % 2})",
            f"UPDATE kinds SET id = {item} WHERE id = {other}",
            f"UPDATE kinds SET big = {text} WHERE id = {other}",
            f"DELETE FROM kinds WHERE id = {item}",
            f"INSERT INTO kinds VALUES ({item}, {text})",
            chance.choice(["TRUNCATE notes", "TRUNCATE log", "TRUNCATE items", "TRUNCATE kinds"]),
        ]
    )


class History:
    """Runs random transactions on a source and remembers those statements that had an effect."""

    def __init__(self, migration: Migration, seed: int) -> None:
        """Begin."""
        self.migration = migration
        self.chance = random.Random(seed)
        self.told: list[str] = [f"seed {seed}"]

    def go_on(self) -> None:
        """Run some transactions; each statement has a savepoint, and some transactions roll back as a whole."""
        for _ in range(self.chance.randint(0, TRANSACTIONS_MAX)):
            ran: list[str] = []
            try:
                with self.migration.source.transaction():
                    ran = list(self._statements())
                    if self.chance.random() < 0.1:
                        raise psycopg.Rollback
            except psycopg.Error:
                continue
            self.told.append("; ".join(ran))

    def _statements(self) -> Iterator[str]:
        for _ in range(self.chance.randint(1, STATEMENTS_MAX)):
            text = statement(self.chance)
            try:
                with self.migration.source.transaction():
                    self.migration.source.execute(text.encode())
                    yield text
            except psycopg.Error:
                continue

    def judge(self, where: str) -> None:
        """Hold the shards against the source; a difference comes with the whole history."""
        try:
            self.migration.judge(HOMES)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}\n" + "\n".join(self.told)) from error


def copy_in_epochs(history: History) -> None:
    """Copy random chunks under up to three snapshots, some of them to one shard only, with writes in between."""
    epochs = history.migration.begin(chunk_bytes=8192)
    chance = history.chance
    for last in (False, chance.random() < 0.5, True):
        history.go_on()
        with epochs.snapshot():
            history.go_on()
            chunks = epochs.open_chunks()
            some = chunks if last else [chunk for chunk in chunks if chance.random() < 0.4]
            half = [] if last else [chunk for chunk in chunks if chunk not in some and chance.random() < 0.3]
            history.told.append(f"copied {[(c.table.name, c.first_page) for c in some]}, half {len(half)}")
            epochs.take(chunks=some[: len(some) // 2])
            history.go_on()
            epochs.take(chunks=some[len(some) // 2 :])
            epochs.take(chunks=half, only=chance.choice(SHARDS))
        if last or not epochs.open_chunks():
            break
    epochs.finish()


def catch_up(history: History) -> None:
    """Catch up, sometimes with the commit of one shard lost first."""
    if history.chance.random() < 0.4:
        dying = history.chance.choice(SHARDS)
        history.told.append(f"{dying} dies")
        history.migration.on(dying, DIES_AT_COMMIT)
        with contextlib.suppress(TemporaryError):  # raised if the batch had changes for that shard
            history.migration.tail()
        history.migration.on(dying, LIVES_AGAIN)
        history.go_on()
    history.migration.tail()


@pytest.mark.parametrize("seed", range(int(os.environ.get("SHARDMIG_HISTORIES", "4"))))
def test_any_history_ends_exact(
    migration_of: Callable[..., Migration], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happened between chunks, snapshots, batches and crashes: every row is where it has to be, once."""
    if seed % 2:  # as net changes, which a few changes are not worth otherwise
        for threshold in ("shards.MERGED_MIN", "shards.MERGED_TABLE_MIN", "bulk.STAGED_MIN"):
            monkeypatch.setattr(f"fixia_shardmig.tail.{threshold}", 1)
    migration = migration_of(TABLES, DDL)
    migration.source.execute("VACUUM ANALYZE users, items, notes, log, kinds")
    migration.source.execute("SET lock_timeout = '50ms'")  # a TRUNCATE behind the copy's reader
    history = History(migration, seed)
    copy_in_epochs(history)
    history.go_on()
    for round_number in range(ROUNDS):
        catch_up(history)
        history.judge(f"round {round_number}")
        history.go_on()
