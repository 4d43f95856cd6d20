"""Named rows are put right under a barrier, in one transaction a shard, and nothing else is touched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from fixia_shardmig.cutover.run import EVIDENCE
from fixia_shardmig.model.errors import HeldError, RefusedError
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.runner.repairing import RepairOutcome, repair_now
from tests.fixtures.fix_migrations import EVERYWHERE, Migration

DDL = """
CREATE EXTENSION IF NOT EXISTS citext;
CREATE TYPE pair AS (a int, b text);
CREATE TABLE kinds (id int PRIMARY KEY, name text);
CREATE TABLE users (id citext PRIMARY KEY, kind text, mail text UNIQUE, born timestamptz, p pair, "100%" text);
CREATE TABLE things (
    id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, owner citext REFERENCES users, price numeric, tags text[],
    twice numeric GENERATED ALWAYS AS (price * 2) STORED
);
CREATE TABLE parts (thing int REFERENCES things ON DELETE CASCADE, place text, note text, PRIMARY KEY (thing, place));
CREATE TABLE events (id int, at date, kind text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_before PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
CREATE TABLE events_after PARTITION OF events FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
CREATE TABLE log (owner citext, j json);
ALTER TABLE log REPLICA IDENTITY FULL;
INSERT INTO kinds VALUES (1, 'one'), (2, E'tab\\tand\\\\'), (3, NULL);
INSERT INTO users SELECT 'u' || n, (ARRAY['n', 's', 'w'])[n % 3 + 1], 'm' || n, 'infinity', ROW(n, NULL)::pair, E'\\\\N'
    FROM generate_series(1, 30) n;
INSERT INTO things (owner, price, tags) SELECT 'U' || n, 1.10, ARRAY[NULL, 'NULL', ''] FROM generate_series(1, 30) n;
INSERT INTO parts SELECT n, p, '' FROM generate_series(1, 30) n, unnest(ARRAY['a', 'b']) p;
INSERT INTO events SELECT n, date '2023-12-20' + n, 's' FROM generate_series(1, 30) n;
INSERT INTO log SELECT 'u' || n % 3, '{"a":  1}' FROM generate_series(1, 30) n;
"""
HOME_OF = "(CASE kind WHEN 'n' THEN 'north' WHEN 's' THEN 'south' ELSE 'west' END)"
OWNER = f"(SELECT {HOME_OF} FROM users u WHERE u.id = t.owner)"
HOMES = {
    "kinds": EVERYWHERE,
    "users": HOME_OF,
    "things": OWNER,
    "parts": f"(SELECT {OWNER} FROM things t WHERE t.id = thing)",
    "events": HOME_OF,
    "log": f"coalesce({OWNER}, 'west')",
}
TABLES = """
kinds: {reference: true}
users: {split_by: kind, homes: {n: north, s: south}, otherwise: west}
things: {follows: owner}
parts: {follows: thing}
events: {split_by: kind, homes: {s: south, n: north}, otherwise: west}
log: {follows: {columns: [owner], references: users, to: [id]}, otherwise: west}
"""


@pytest.fixture
def copied(migration_of: Callable[..., Migration]) -> Migration:
    """Give a migration whose shards hold every row and that follows the source."""
    migration = migration_of(TABLES, DDL).copy()
    migration.judge(HOMES)
    return migration


def spoil(migration: Migration) -> int:
    """Do every kind of damage in every table, behind the program's back; returns how many rows differ."""
    spoilt = (
        ("north", "DELETE FROM kinds WHERE id = 1; UPDATE kinds SET name = 'x' WHERE id = 2", 2),
        ("west", "INSERT INTO kinds VALUES (9, 'nine')", 1),
        ("north", "UPDATE users SET id = 'U3', \"100%\" = NULL WHERE id = 'u3'", 2),  # citext: 'U3' is another text
        ("south", "INSERT INTO users VALUES ('new', 's', 'mail', NULL, NULL, NULL)", 1),
        ("west", "UPDATE users SET p = ROW(NULL, NULL), born = NULL WHERE id = 'u2'", 1),
        ("south", "DELETE FROM things WHERE id = 4", 1),
        ("south", "UPDATE things SET price = 1.1, tags = ARRAY['NULL', 'NULL', ''] WHERE id = 7", 1),
        ("west", "INSERT INTO things (id, owner, price) OVERRIDING SYSTEM VALUE VALUES (900, 'u2', 7)", 1),
        ("south", "UPDATE parts SET place = 'c' WHERE thing = 10 AND place = 'a'", 2),
        ("south", "DELETE FROM events WHERE id IN (1, 20); UPDATE events SET kind = NULL WHERE id = 21", 3),
        ("west", "INSERT INTO events VALUES (2, '2023-12-22', 's')", 1),
        ("south", "DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log)", 1),
        ("south", "INSERT INTO log VALUES ('u1', '{\"a\": 1}'), ('u1', '{\"a\": 1}')", 2),
    )
    for shard, statements, _ in spoilt:
        for statement in statements.split("; "):
            migration.on(shard, f"SET session_replication_role = replica; {statement}")
    return sum(count for *_, count in spoilt)


def misplace(migration: Migration, user: str, start: str, end: str) -> None:
    """Take a user and nothing that follows from one shard to another, as a mistake in routing would."""
    migration.on(start, "SET session_replication_role = replica")
    (row,) = migration.on(start, f"DELETE FROM users WHERE id = '{user}' RETURNING users::text")
    migration.on(end, "SET session_replication_role = replica")
    migration.on(end, "INSERT INTO users SELECT (%s::users).*", row[0])


def acts(outcome: RepairOutcome) -> int:
    """Return how many rows were written or taken away."""
    return sum(action.copies for action in outcome.actions)


def test_whatever_is_wrong_is_put_right(copied: Migration) -> None:
    """Pitfalls 49, 50, 56: afterwards both sides are equal, down to the text of each value, and no row is lost."""
    damaged = spoil(copied)
    outcome = repair_now(copied.context())
    assert damaged == outcome.before.differences_total == acts(outcome)
    assert outcome.last.equal
    copied.judge(HOMES)
    with copied.journal() as journal:
        assert Phase.VERIFIED is journal.get().phase
        told = {event.event: event.detail for event in journal.events()}
    assert damaged - 1 == told["repaired"]["count"]  # two equal rows of the log are one action
    assert "delete on south  users  id=new" in told["repaired"]["rows"]


def test_a_row_that_went_home_is_followed_by_what_is_written_later(copied: Migration) -> None:
    """The tail that runs afterwards knows where the row is now, though the one before had seen it elsewhere."""
    copied.run("INSERT INTO things (owner, price) VALUES ('u3', 5)")
    copied.tail()
    misplace(copied, "u3", "north", "west")
    outcome = repair_now(copied.context())
    assert [("insert", "north"), ("delete", "west")] == [(action.act, action.shard) for action in outcome.actions]
    copied.run("INSERT INTO things (owner, price) VALUES ('u3', 6)", "UPDATE users SET mail = 'z' WHERE id = 'u3'")
    copied.tail()
    copied.judge(HOMES)


def test_a_dry_run_tells_everything_and_changes_nothing(copied: Migration) -> None:
    """The same lines that the repair would do, and every shard as it was."""
    damaged = spoil(copied)
    outcome = repair_now(copied.context(), dry_run=True)
    assert (damaged, damaged, False) == (acts(outcome), outcome.last.differences_total, outcome.last.equal)
    assert outcome.after is None
    assert "  replace on west  users  id=u2" in outcome.text().splitlines()
    assert {"found": damaged, "dry_run": True}.items() <= outcome.to_json()["repair"].items()
    again = repair_now(copied.context(), dry_run=True)
    assert outcome.before.differences == again.before.differences
    assert "repaired" not in copied.events()


def test_rows_that_were_not_named_are_not_touched(copied: Migration) -> None:
    """Each untouched row of each shard is the very same version as before."""

    def versions() -> dict[tuple[str, str], set[Any]]:
        tables = ("kinds", "users", "things", "parts", "events", "log")
        return {
            (shard, table): set(copied.on(shard, f"SELECT tableoid, ctid, xmin::text FROM {table}"))
            for shard in ("north", "south", "west")
            for table in tables
        }

    before = versions()
    copied.on("south", "SET session_replication_role = replica; DELETE FROM things WHERE id = 4")
    copied.on("west", "UPDATE users SET mail = 'other' WHERE id = 'u2'")
    repair_now(copied.context())
    after = versions()
    changed = {place for place, rows in before.items() if rows != after[place]}
    assert {("south", "things"), ("west", "users")} == changed
    assert [1, 1] == [len(before[place] - after[place]) for place in sorted(changed)]


def test_a_row_that_the_shard_does_not_take_leaves_everything_as_it_was(copied: Migration) -> None:
    """A constraint of the shard's own stands against one row of many: no shard has got any of them."""
    damaged = spoil(copied)
    copied.on("south", "ALTER TABLE things ADD CONSTRAINT dear CHECK (price > 2) NOT VALID")
    with pytest.raises(RefusedError, match=r'south: writing to things: .*"dear"; nothing was written'):
        repair_now(copied.context())
    copied.on("south", "ALTER TABLE things DROP CONSTRAINT dear")
    assert damaged == repair_now(copied.context(), dry_run=True).last.differences_total
    assert repair_now(copied.context()).last.equal


def test_a_row_that_would_still_differ_leaves_everything_as_it_was(copied: Migration) -> None:
    """A trigger that fires always changes what is written: that is seen before the commit and named."""
    damaged = spoil(copied)
    copied.on(
        "south",
        "CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN NEW.note := 'spoilt'; RETURN NEW; END$$;"
        "CREATE TRIGGER spoil BEFORE INSERT ON parts FOR EACH ROW EXECUTE FUNCTION public.spoil();"
        "ALTER TABLE parts ENABLE ALWAYS TRIGGER spoil",
    )
    with pytest.raises(RefusedError, match="parts thing=10, place=a on south would still be differing in note"):
        repair_now(copied.context())
    copied.on("south", "DROP TRIGGER spoil ON parts")
    assert damaged == repair_now(copied.context(), dry_run=True).last.differences_total


def test_writes_go_on_while_rows_are_put_right(copied: Migration) -> None:
    """What the source does to the named rows and beside them, before, while and after, ends where it belongs."""
    spoil(copied)
    writer, done = copied.another_session(), threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            writer.execute("UPDATE users SET mail = %s WHERE id = %s", (f"w{number}", f"u{number % 30 + 1}"))
            writer.execute("UPDATE users SET kind = %s WHERE id = 'u9'", ("ns"[number % 2],))
            writer.execute("INSERT INTO things (owner, price) VALUES (%s, %s)", (f"u{number % 30 + 1}", number))
            writer.execute("DELETE FROM things WHERE id = 4")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        outcome = repair_now(copied.context())
    finally:
        done.set()
        thread.join()
    assert outcome.last.equal
    copied.tail()
    copied.judge(HOMES)


def test_a_tail_of_another_process_is_asked_to_end_first(copied: Migration) -> None:
    """Its memory of where rows are would be wrong: refused with what to do, before anything is compared."""
    with copied.journal() as other, other.holding("driver"), pytest.raises(HeldError, match="would not know of rows"):
        repair_now(copied.context())
    assert "verified" not in copied.events()


def test_nothing_is_done_where_nothing_differs(copied: Migration) -> None:
    """Equal sides are told as such, and no repair is begun."""
    outcome = repair_now(copied.context())
    assert (True, (), None) == (outcome.last.equal, outcome.actions, outcome.after)
    assert "repair_began" not in copied.events()


def test_after_the_switch_no_row_of_a_shard_is_made_what_the_source_has(copied: Migration) -> None:
    """The shards are the writers then: their newer rows are no damage, and a repair would undo them."""
    with copied.journal() as journal:
        for before, then in ((Phase.TAILING, Phase.VERIFIED), (Phase.VERIFIED, Phase.FENCED)):
            journal.advance(before, then)
        journal.advance(Phase.FENCED, Phase.SWITCHED, {EVIDENCE: {"way_back": True}})
    copied.on("north", "UPDATE kinds SET name = 'newer' WHERE id = 1")
    for dry_run in (True, False):
        with pytest.raises(RefusedError, match="the shards have the writes since the cutover"):
            repair_now(copied.context(), dry_run=dry_run)
    assert [("newer",)] == copied.on("north", "SELECT name FROM kinds WHERE id = 1")
