"""The way back: what is written to the shards after the switch comes to the source, once, and rollback is exact."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from fixia_shardmig.journal.control import change_control
from fixia_shardmig.journal.way_back import SourceBooks
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.runner.ending import abort, finalize
from fixia_shardmig.runner.returning import BackResult, bring_back
from fixia_shardmig.runner.status import status
from fixia_shardmig.runner.switching import cut_over, roll_back
from fixia_shardmig.runner.tailing import tail_running
from fixia_shardmig.runner.throttling import current_pace
from fixia_shardmig.runner.verifying import verify_now
from tests.fixtures.fix_migrations import EVERYWHERE, SHARDS, Homes, Migration

TABLES = """
users: {split_by: kind, homes: {n: north, s: south, w: west}}
posts: {follows: user_id}
kinds: {reference: true}
notes:
  split_by: kind
  homes: {n: north, s: south, w: west}
"""
DDL = """
CREATE TABLE kinds (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE users (id serial PRIMARY KEY, kind text NOT NULL, email text UNIQUE, note text);
CREATE TABLE posts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id int NOT NULL REFERENCES users
    ON DELETE CASCADE, body text);
CREATE TABLE notes (kind text NOT NULL, what text);
ALTER TABLE notes REPLICA IDENTITY FULL;
ALTER TABLE users ALTER note SET STORAGE EXTERNAL;
INSERT INTO kinds VALUES (1, 'one'), (2, 'two');
INSERT INTO users (kind, email, note)
    SELECT (ARRAY['n', 's', 'w'])[1 + g % 3], g || '@x', repeat(md5(g::text), 100) FROM generate_series(1, 30) g;
INSERT INTO posts (user_id, body) SELECT 1 + g % 30, 'post ' || g FROM generate_series(1, 60) g;
INSERT INTO notes SELECT (ARRAY['n', 's', 'w'])[1 + g % 3], 'note ' || g % 5 FROM generate_series(1, 30) g;
"""
HOME = "(SELECT CASE kind WHEN 'n' THEN 'north' WHEN 's' THEN 'south' ELSE 'west' END {})"
HOMES: Homes = {
    "kinds": EVERYWHERE,
    "users": HOME.format(""),
    "posts": HOME.format("FROM users u WHERE u.id = t.user_id"),
    "notes": HOME.format(""),
}
PAUSE_S = 20.0


@pytest.fixture
def switched(migration_of: Callable[..., Migration]) -> Migration:
    """Give a migration whose shards have the writes, with a way back."""
    return switch(migration_of(TABLES, DDL).copy())


def switch(migration: Migration) -> Migration:
    """Say that both sides are equal, and cut over."""
    with migration.journal() as journal:
        at = journal.connection.execute("SELECT clock_timestamp()::text").fetchone()
        assert at is not None
        journal.add_evidence({"verified_at": at[0], "verified_equal": True, "verified_lsn": "0/1"})
    result = cut_over(migration.context(), max_pause_s=PAUSE_S)
    assert (True, "") == (result.switched, result.unfinished), result
    return migration


def bring(migration: Migration) -> BackResult:
    """Bring back everything written until now."""
    with migration.journal() as journal, journal.holding("driver"):
        return bring_back(migration.context(), journal, caught_up=True)


def contested(migration: Migration) -> int:
    """Return how many rows are contested."""
    with session(migration.urls["source"], "test") as source:
        return SourceBooks(source).contested_count()


def phase(migration: Migration) -> Phase:
    """Return where the migration stands."""
    with migration.journal() as journal:
        return journal.get().phase


def test_every_kind_of_change_on_the_shards_comes_back(switched: Migration) -> None:
    """Inserts, updates with values left out, changed keys, deletes, rows without a key, reference tables."""
    switched.on("north", "INSERT INTO users (kind, email) VALUES ('n', 'new@north')")
    switched.on("south", "UPDATE users SET email = 'changed@south' WHERE id = (SELECT min(id) FROM users)")
    switched.on("west", "DELETE FROM users WHERE id = (SELECT max(id) FROM users)")
    switched.on("south", "INSERT INTO posts (user_id, body) SELECT id, 'more' FROM users")
    switched.on("north", "UPDATE notes SET what = 'changed' WHERE what = 'note 1'")
    switched.on("south", "DELETE FROM notes WHERE what = 'note 2'")
    switched.on("west", "INSERT INTO kinds VALUES (3, 'three')")
    result = bring(switched)
    assert 0 == result.missed
    assert 0 == contested(switched)
    wait_for_kinds(switched)
    switched.judge(HOMES)


def wait_for_kinds(migration: Migration) -> None:
    """Wait until reference tables are alike: their own replication is not ours to hurry."""
    for shard in SHARDS:
        for _ in range(1500):
            if migration.rows(shard, "kinds") == migration.rows("west", "kinds"):
                break
            migration.on(shard, "SELECT pg_sleep(0.02)")


def test_a_rollback_brings_every_write_and_the_source_takes_writes_again(switched: Migration) -> None:
    """What was written between the two switches is on the source; sequences go on behind every value (pitfall 68)."""
    for shard, kind in zip(SHARDS, "nsw", strict=True):
        switched.on(shard, "INSERT INTO users (kind, email) VALUES (%s, %s)", kind, f"between@{shard}")
    result = roll_back(switched.context(), max_pause_s=PAUSE_S)
    assert (True, "") == (result.switched, result.unfinished), result
    assert Phase.ROLLED_BACK is phase(switched)
    switched.judge(HOMES)
    (new,) = switched.on("source", "INSERT INTO users (kind, email) VALUES ('n', 'after') RETURNING id")
    assert new[0] > max(id_ for shard in SHARDS for (id_,) in switched.rows(shard, "users", "id"))
    with pytest.raises(psycopg.Error, match="moved back to the source"):
        switched.on("north", "INSERT INTO users (kind) VALUES ('n')")
    abort(switched.context(), drop_targets=True)
    assert {place: [] for place in ("source", *SHARDS)} == {p: switched.on(p, OURS) for p in ("source", *SHARDS)}
    assert [] == switched.on("north", "SELECT relname FROM pg_class WHERE relname = 'users'")


def test_a_way_back_that_is_paused_brings_nothing_until_it_is_resumed(switched: Migration) -> None:
    """An operator's pause reaches the tail of the way back too; what waits stays in the shards' slots."""
    switched.on("north", "INSERT INTO users (kind, email) VALUES ('n', 'while paused')")
    context, seen = switched.context(), "SELECT count(*) FROM users WHERE email = 'while paused'"
    with switched.journal() as journal, tail_running(context):
        change_control(journal, "paused", lambda control: replace(control, paused=True))
        deadline = time.monotonic() + 20
        while (pace := current_pace(journal)) is None or not pace.verdict.held:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        switched.on("north", "UPDATE users SET note = 'later' WHERE email = 'while paused'")
        time.sleep(1.0)
        assert [(0,)] == switched.on("source", f"{seen} AND note = 'later'")
        change_control(journal, "resumed", lambda control: replace(control, paused=False))
        result = roll_back(context, max_pause_s=PAUSE_S)
    assert (True, "") == (result.switched, result.unfinished), result
    assert [(1,)] == switched.on("source", f"{seen} AND note = 'later'")


def test_a_user_who_moved_between_shards_is_kept_whichever_stream_is_faster(switched: Migration) -> None:
    """Pitfall 67. The DELETE of one shard comes last and must not take what the INSERT of the other has brought."""
    rows = switched.on("north", "DELETE FROM users WHERE id = (SELECT min(id) FROM users) RETURNING id, email, note")
    switched.on("south", "INSERT INTO users VALUES (%s, 's', %s, %s)", *rows[0])
    bring(switched)
    assert [("s",)] == switched.on("source", "SELECT kind FROM users WHERE id = %s", rows[0][0])


OURS = """
SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'subscription ' || subname FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database
    WHERE datname = current_database())
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'shardmig'
UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname LIKE 'shardmig%'
"""


def test_verify_after_the_switch_compares_the_source_with_what_the_shards_have(switched: Migration) -> None:
    """At one moment of every stream; a row that somebody changed on the source behind the fence is found."""
    switched.on("north", "INSERT INTO users (kind, email) VALUES ('n', 'new@north')")
    result = verify_now(switched.context())
    assert result.equal, result.differences
    switched.on("source", "SELECT set_config('shardmig.apply', 'test', false)")
    switched.on("source", "UPDATE users SET email = 'by hand' WHERE email = 'new@north'")
    again = verify_now(switched.context())
    assert ["differing"] == [difference.kind for difference in again.differences]


def test_finalize_leaves_nothing_of_ours_on_any_server(switched: Migration) -> None:
    """Pitfalls 19 and 63: and it refuses while a client is connected that could write to the old database unseen."""
    with pytest.raises(RefusedError, match="others are connected to the source"):
        finalize(switched.context())
    assert switched.on("source", OURS)
    assert len(finalize(switched.context(), despite_clients=True).removed) > len(SHARDS)
    assert {place: [] for place in ("source", *SHARDS)} == {p: switched.on(p, OURS) for p in ("source", *SHARDS)}
    switched.on("north", "UPDATE kinds SET name = 'free again' WHERE id = 1")


def test_status_says_whether_a_rollback_is_possible(switched: Migration) -> None:
    """Pitfall 73. With every reason why not; a shard whose slot is gone has no way back any more."""
    before = status(switched.context())
    assert before.way_back is not None
    assert (True, "") == (before.way_back.possible, before.way_back.why_not)
    assert any("nobody brings the shards' writes back" in problem for problem in before.problems)
    bring(switched)
    switched.on("south", "SELECT pg_drop_replication_slot('shardmig_test_back_1')")
    after = status(switched.context())
    assert after.way_back is not None
    assert (False, "the slot of south is not there") == (after.way_back.possible, after.way_back.why_not)
    result = roll_back(switched.context(), dry_run=True, max_pause_s=PAUSE_S)
    assert "slots" in [gate.name for gate in result.gates if not gate.ok]


def test_a_truncate_on_a_shard_takes_that_shards_rows_only(switched: Migration) -> None:
    """Pitfall 25: the source has the rows of all shards; a table without a key cannot be told apart, and stops it."""
    switched.on("north", "TRUNCATE users CASCADE")
    switched.on("north", "INSERT INTO users (kind, email) VALUES ('n', 'the only one')")
    assert 0 == bring(switched).missed
    switched.judge(HOMES)
    switched.on("south", "TRUNCATE notes")
    with pytest.raises(RefusedError, match="has no key and was truncated on south"):
        bring(switched)


def test_two_shards_with_one_unique_value_stop_the_way_back_with_a_report(switched: Migration) -> None:
    """Pitfall 69. A value that the old database allows once is not dropped: it is named, and nothing goes on."""
    switched.on("north", "INSERT INTO users (kind, email) VALUES ('n', 'twice@x')")
    switched.on("south", "INSERT INTO users (kind, email) VALUES ('s', 'twice@x')")
    with pytest.raises(RefusedError, match=r"contested rows cannot be brought back: public\.users") as refused:
        bring(switched)
    assert "twice@x" in refused.value.message
    switched.on("south", "UPDATE users SET email = 'once@x' WHERE email = 'twice@x'")
    bring(switched)
    switched.judge(HOMES)
