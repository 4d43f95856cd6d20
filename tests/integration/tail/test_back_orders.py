"""Pitfall 67: whatever order the shards' streams come in, the source ends with what the shards have."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

import pytest

from fixia_shardmig.journal.way_back import SourceBooks
from fixia_shardmig.postgres.sessions import insert_lsn, session
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.runner.context import spool_directory
from fixia_shardmig.tail.back import BackTail
from tests.fixtures.fix_migrations import SHARDS, Migration
from tests.integration.tail.test_way_back import DDL, HOMES, TABLES, switch

KINDS: dict[str, str] = dict(zip(SHARDS, "nsw", strict=True))
ROUNDS = 12
STEPS = 25
TURNS_MAX = 4_000


class Application:
    """Writes to the shards as an application does that moves its users itself, and never has one on two shards."""

    def __init__(self, migration: Migration, chance: random.Random) -> None:
        """Begin with what is there."""
        self.migration = migration
        self.chance = chance

    def step(self) -> None:
        """Do one thing to one user."""
        users = [(shard, row[0]) for shard in SHARDS for row in self.migration.rows(shard, "users", "id")]
        shard, user = self.chance.choice(users)
        act = self.chance.choice((self.move, self.move, self.move, self.change, self.rename, self.add, self.remove))
        act(shard, user)

    def move(self, shard: str, user: int) -> None:
        """Take a user with all posts to another shard: away here first, or there first, as applications do both."""
        there = self.chance.choice([other for other in SHARDS if other != shard])
        rows = self.migration.on(shard, "SELECT email, note FROM users WHERE id = %s", user)
        posts = self.migration.on(shard, "SELECT id, body FROM posts WHERE user_id = %s", user)
        leave = self.chance.random() < 0.5
        if leave:
            self.migration.on(shard, "DELETE FROM users WHERE id = %s", user)
        email, note = rows[0]
        self.migration.on(there, "INSERT INTO users VALUES (%s, %s, %s, %s)", user, KINDS[there], email, note)
        for post in posts:
            statement = "INSERT INTO posts OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s)"
            self.migration.on(there, statement, post[0], user, post[1])
        if not leave:
            self.migration.on(shard, "DELETE FROM users WHERE id = %s", user)

    def change(self, shard: str, user: int) -> None:
        """Write to a user and its posts."""
        word = str(self.chance.random())
        self.migration.on(shard, "UPDATE users SET email = %s WHERE id = %s", word, user)
        self.migration.on(shard, "UPDATE posts SET body = %s WHERE user_id = %s", word, user)

    def rename(self, shard: str, user: int) -> None:
        """Give an e-mail free on one shard and take it on another."""
        there = self.chance.choice([other for other in SHARDS if other != shard])
        others = self.migration.rows(there, "users", "id")
        email = self.migration.on(shard, "SELECT email FROM users WHERE id = %s", user)[0][0]
        if others:
            self.migration.on(shard, "UPDATE users SET email = NULL WHERE id = %s", user)
            self.migration.on(there, "UPDATE users SET email = %s WHERE id = %s", email, self.chance.choice(others)[0])

    def add(self, shard: str, user: int) -> None:
        """Add a post, and a note that is equal to others."""
        self.migration.on(shard, "INSERT INTO posts (user_id, body) VALUES (%s, 'new')", user)
        self.migration.on(shard, "INSERT INTO notes VALUES (%s, 'note 1')", KINDS[shard])

    def remove(self, shard: str, user: int) -> None:
        """Delete a user's posts and a note."""
        self.migration.on(shard, "DELETE FROM posts WHERE user_id = %s", user)
        note = "DELETE FROM notes WHERE ctid = (SELECT min(ctid) FROM notes)"
        self.migration.on(shard, note)


def bring_in_some_order(migration: Migration, chance: random.Random) -> int:
    """Bring everything back while streams are held and let go at random; returns how many rows were contested."""
    with migration.journal() as journal, journal.holding("driver"):
        tail = BackTail(
            migration.context().shard_map,
            migration.context().catalog,
            journal=journal,
            spool=spool_directory(migration.context().shard_map),
        )
        try:
            return _turn_at_random(migration, tail, chance)
        finally:
            tail.close()


def _turn_at_random(migration: Migration, tail: BackTail, chance: random.Random) -> int:
    held: set[str] = set()
    for stream in tail._streams:
        receive = stream.receive
        stream.receive = partial(_unless_held, stream.shard, held, receive)  # type: ignore[method-assign]
    until = {}
    for shard in SHARDS:
        with session(migration.urls[shard], "test") as connection:
            until[shard] = insert_lsn(connection)
            emit_marker(connection, "shardmig", b"test")
    tail._hurry = True
    contested = 0
    for turn in range(TURNS_MAX):
        if turn < 40 and turn % 4 == 0:  # at first whole streams are late, in the end all come
            held.clear()
            held.update(chance.sample(SHARDS, chance.randrange(len(SHARDS))))
        elif turn >= 40:
            held.clear()
        tail._turn()
        contested = max(contested, len(tail._merge.contested))
        if tail._has_passed(until) and not len(tail._merge.contested):
            return contested
        time.sleep(0.005)
    pytest.fail("the streams do not come to their end")


def _unless_held(shard: str, held: set[str], receive: Callable[[], None]) -> None:
    if shard not in held:
        receive()


def test_any_order_of_the_streams_ends_with_what_the_shards_have(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 67. Users go there and back, e-mails change hands, streams are late by turns; the union is exact."""
    migration = switch(migration_of(TABLES, DDL).copy())
    contested = 0
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        application = Application(migration, chance)
        for _ in range(STEPS):
            application.step()
        contested += bring_in_some_order(migration, chance)
        migration.judge(HOMES)
    assert contested > 0
    with session(migration.urls["source"], "test") as source:
        assert 0 == SourceBooks(source).contested_count()


def test_a_row_that_moves_while_it_is_read_is_not_taken_for_a_doubled_one(
    migration_of: Callable[..., Migration],
) -> None:
    """Pitfall 67. Read where it was, then where it had come to; only one that two readings found twice is named."""
    migration = switch(migration_of(TABLES, DDL).copy())
    user = migration.on("north", "SELECT min(id) FROM users")[0][0]
    migration.on("south", "INSERT INTO users (id, kind) VALUES (%s, 's')", user)
    named = []
    with migration.journal() as journal, journal.holding("driver"):
        context = migration.context()
        spool = spool_directory(context.shard_map)
        tail = BackTail(context.shard_map, context.catalog, journal=journal, spool=spool)
        tail._hurry, contested = True, tail._merge.contested
        try:
            for _ in range(TURNS_MAX):
                before = contested._reading
                tail._turn()
                if contested._reading is not before and contested._reading is not None:
                    named.append([key for _, key in contested.doubled])
                if len(named) == 2:
                    migration.on("north", "DELETE FROM users WHERE id = %s", user)
                if named and not len(contested):
                    break
                time.sleep(0.005)
        finally:
            tail.close()
    assert [[], [(str(user),)], []] == [*named[:2], named[-1]]
    migration.judge(HOMES)
