"""Tables of other shapes, and definitions that change while the tail runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixia_shardmig.model.errors import DriftError, UnroutableError
from tests.fixtures.fix_migrations import Migration

KIND = "CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'west' END"
USERS = "users: {split_by: kind, homes: {a: north, b: south}, otherwise: west}"
USERS_DDL = "CREATE TABLE users (id int PRIMARY KEY, kind text); INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c');"
OF_OWNER = f"(SELECT {KIND} FROM users WHERE id = t.owner)"

PARTITIONED = """
CREATE TABLE events (id int, owner int REFERENCES users, at date, big text, PRIMARY KEY (id, at))
    PARTITION BY RANGE (at);
CREATE TABLE events_2023 PARTITION OF events FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY HASH (id);
CREATE TABLE events_2024_1 PARTITION OF events_2024 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_2024_2 (at date NOT NULL, dropped int, big text, owner int, id int NOT NULL);
ALTER TABLE events_2024_2 DROP dropped;
ALTER TABLE events_2024 ATTACH PARTITION events_2024_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE parts (id int PRIMARY KEY, event int, at date, FOREIGN KEY (event, at) REFERENCES events
    ON UPDATE CASCADE ON DELETE CASCADE);
INSERT INTO events SELECT n, 1 + n % 3, '2023-06-01'::date + n * 30, repeat(n::text, 4000)
    FROM generate_series(1, 15) n;
INSERT INTO parts SELECT id, id, at FROM events;
"""
PARTITIONED_HOMES = {
    "users": KIND,
    "events": OF_OWNER,
    "parts": f"(SELECT {KIND} FROM users u JOIN events e ON e.owner = u.id WHERE (e.id, e.at) = (t.event, t.at))",
}


def test_partitions_and_updates_across_them(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 31: an update across partitions is a DELETE and an INSERT; leaves differ in the order of columns."""
    migration = migration_of(
        f"{USERS}\nevents: {{follows: owner}}\nparts: {{follows: {{columns: [event, at]}}}}", USERS_DDL + PARTITIONED
    ).copy()
    migration.judge(PARTITIONED_HOMES)
    for statements in (
        ["UPDATE events SET owner = 1 + owner % 3 WHERE id % 2 = 0"],
        ["UPDATE events SET at = at - 100 WHERE id > 12"],
        ["UPDATE users SET kind = 'b' WHERE id = 1"],
        ["UPDATE events SET at = at + 1, owner = 3 WHERE id < 4", "UPDATE users SET kind = 'a' WHERE id = 3"],
        [
            "DELETE FROM events WHERE id = 6",
            "INSERT INTO events VALUES (6, 2, '2024-02-01')",
            "TRUNCATE events_2023 CASCADE",
        ],
        ["INSERT INTO parts VALUES (60, 6, '2024-02-01')", "UPDATE events SET id = 66 WHERE id = 6"],
    ):
        migration.run(*statements)
        assert migration.tail().conflicts == 0
        migration.judge(PARTITIONED_HOMES)


def test_a_split_partitioned_table_moves_between_shards_and_leaves(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 31: the split value stands in a partitioned table whose partitions are by that value too."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}, otherwise: west}\nitems: {follows: {columns:"
        " [owner, kind]}}",
        "CREATE TABLE users (id int, kind text, big text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);"
        "CREATE TABLE users_a PARTITION OF users FOR VALUES IN ('a'); CREATE TABLE users_rest PARTITION OF"
        " users DEFAULT;"
        "CREATE TABLE items (id int PRIMARY KEY, owner int, kind text, FOREIGN KEY (owner, kind) REFERENCES users"
        " ON UPDATE CASCADE);"
        "INSERT INTO users SELECT n, chr(97 + n % 3), repeat('x', 4000) FROM generate_series(1, 9) n;"
        "INSERT INTO items SELECT n, n, chr(97 + n % 3) FROM generate_series(1, 9) n",
    ).copy()
    homes = {"users": KIND, "items": KIND}
    migration.judge(homes)
    migration.run("UPDATE users SET kind = chr(97 + (id + 1) % 3)")
    assert migration.tail().conflicts == 0
    migration.judge(homes)
    migration.run("UPDATE users SET kind = 'c' WHERE kind = 'b'", "UPDATE users SET id = id + 100 WHERE kind = 'a'")
    assert migration.tail().conflicts == 0
    migration.judge(homes)


def test_inheritance_children_are_tables_of_their_own(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 31: ONLY everywhere; a parent's change must not touch a child's row of the same key."""
    migration = migration_of(
        f"{USERS}\nplaces: {{follows: owner}}\ncapitals: {{follows: {{columns: [owner], references: users,"
        f" to: [id]}}}}",
        USERS_DDL + "CREATE TABLE places (id int PRIMARY KEY, owner int REFERENCES users, name text);"
        "CREATE TABLE capitals (PRIMARY KEY (id), country text) INHERITS (places);"
        "INSERT INTO places SELECT n, 1 + n % 3, 'p' FROM generate_series(1, 6) n;"
        "INSERT INTO capitals SELECT n, 1 + n % 3, 'c', 'x' FROM generate_series(1, 6) n",
    ).copy()
    homes = {"users": KIND, "places": OF_OWNER, "capitals": OF_OWNER}
    assert migration.judge(homes) == 3 + 6 + 6
    migration.run("DELETE FROM ONLY places WHERE id = 1", "UPDATE ONLY places SET name = 'q', owner = 2 WHERE id = 2")
    migration.run("UPDATE capitals SET owner = 3 WHERE id = 3", "UPDATE users SET kind = 'b' WHERE id = 1")
    migration.run("DELETE FROM capitals WHERE id = 4", "TRUNCATE ONLY places")
    assert migration.tail().conflicts == 0
    migration.judge(homes)


def test_generated_columns_and_identities_always(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 32: generated columns are computed by the shards; GENERATED ALWAYS is overridden and never in SET."""
    migration = migration_of(
        f"{USERS}\nitems: {{follows: owner}}",
        USERS_DDL
        + "CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner int REFERENCES users,"
        " n int, doubled int GENERATED ALWAYS AS (n * 2) STORED, serial bigint GENERATED BY DEFAULT AS IDENTITY);"
        "INSERT INTO items (owner, n) SELECT 1 + n % 3, n FROM generate_series(1, 9) n",
    ).copy()
    homes = {"users": KIND, "items": OF_OWNER}
    migration.judge(homes)
    migration.run(
        "INSERT INTO items (owner, n) VALUES (1, 100), (2, 200)", "UPDATE items SET n = n + 1, serial = DEFAULT"
    )
    migration.run("INSERT INTO items (id, owner, n) OVERRIDING SYSTEM VALUE VALUES (5000, 3, 1)")
    migration.run("UPDATE items SET id = DEFAULT WHERE n = 101", "UPDATE items SET owner = 2, n = 7 WHERE id = 5000")
    migration.run("UPDATE users SET kind = 'a' WHERE id = 2")
    assert migration.tail().conflicts == 0
    migration.judge(homes)


def test_virtual_generated_columns_are_left_alone(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 32: 18's virtual columns hold nothing, are not published, and read right on the shards."""
    migration = migration_of(
        USERS,
        "CREATE TABLE users (id int PRIMARY KEY, kind text, shown text GENERATED ALWAYS AS (upper(kind)) VIRTUAL);"
        "INSERT INTO users VALUES (1, 'a'), (2, 'b')",
    ).copy()
    migration.run("INSERT INTO users VALUES (3, 'c')", "UPDATE users SET kind = 'b' WHERE id = 1")
    assert migration.tail().conflicts == 0
    migration.judge({"users": KIND})


# definitions that change


@pytest.fixture
def notes(migration_of: Callable[..., Migration]) -> Migration:
    """Give users with notes, whose definitions a test changes."""
    return migration_of(
        f"{USERS}\nnotes: {{follows: owner}}",
        USERS_DDL + "CREATE TYPE mood AS ENUM ('sad', 'ok');"
        "CREATE TABLE notes (id int PRIMARY KEY, owner int REFERENCES users, m mood, n int);"
        "INSERT INTO notes SELECT n, 1 + n % 3, 'ok', n FROM generate_series(1, 9) n",
    ).copy()


HOMES = {"users": KIND, "notes": OF_OWNER}


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE notes ADD extra text NOT NULL DEFAULT 'new'",
        "ALTER TABLE notes DROP n",
        "ALTER TABLE notes ALTER n TYPE text USING n::text || '!'",
        "ALTER TABLE notes ALTER n TYPE bigint",
        "ALTER TABLE notes RENAME n TO number",
    ],
)
def test_a_changed_definition_stops_the_tail_until_the_shards_have_it(notes: Migration, ddl: str) -> None:
    """Pitfall 30: what came before is applied, the first change of the new shape is not; the same DDL is enough."""
    notes.run("UPDATE notes SET owner = 2, n = 77 WHERE id = 1", "INSERT INTO notes VALUES (40, 1, 'ok', 5)")
    notes.source.execute(ddl.encode())
    notes.run("UPDATE notes SET owner = 1 WHERE id = 2", "INSERT INTO notes (id, owner) VALUES (50, 3)")
    with pytest.raises(DriftError) as refused:
        notes.tail()
    assert "the definition of notes changed" in refused.value.message
    assert notes.where("notes")[40] == "north"
    assert 50 not in notes.where("notes")
    notes.on_shards(ddl)
    notes.tail()
    notes.judge(HOMES)


def test_an_enum_value_added_mid_flight(notes: Migration) -> None:
    """Pitfall 30: rows that use the new value wait; so does the tail when no row uses it yet."""
    notes.source.execute("ALTER TYPE mood ADD VALUE 'happy' BEFORE 'ok'")
    with pytest.raises(DriftError):
        notes.tail()
    notes.run("INSERT INTO notes VALUES (50, 3, 'sad', 1)")
    notes.run("INSERT INTO notes VALUES (51, 3, 'happy', 1)")
    with pytest.raises(DriftError) as refused:
        notes.tail()
    assert "happy" in refused.value.message
    assert {50} == {50, 51} & set(notes.where("notes"))
    notes.on_shards("ALTER TYPE mood ADD VALUE 'happy' BEFORE 'ok'")
    notes.tail()
    notes.judge(HOMES)


def test_a_definition_that_changes_under_the_running_tail_stops_it(notes: Migration) -> None:
    """Pitfall 30: a tail that knows the old definitions stops in the middle of the stream as one that starts does."""
    context = notes.context()
    notes.run("UPDATE notes SET owner = 2 WHERE id = 1")
    notes.source.execute("ALTER TABLE notes ADD extra int DEFAULT 5")
    notes.run("INSERT INTO notes (id, owner) VALUES (50, 3)")
    with pytest.raises(DriftError) as refused:
        notes.tail_with(context)
    assert "new: extra integer" in refused.value.message
    assert notes.where("notes")[1] == "south"
    notes.on_shards("ALTER TABLE notes ADD extra int DEFAULT 5")
    notes.tail()
    notes.judge(HOMES)


def test_a_change_without_rows_stops_the_tail_once_all_before_it_is_applied(notes: Migration) -> None:
    """Pitfall 30: ADD COLUMN with a default emits no rows; the fingerprint finds it all the same."""
    notes.run("UPDATE notes SET owner = 2 WHERE id = 1")
    notes.source.execute("ALTER TABLE notes ADD extra int DEFAULT 5")
    with pytest.raises(DriftError) as refused:
        notes.tail()
    assert "what came before is applied" in refused.value.message
    assert notes.where("notes")[1] == "south"
    notes.on_shards("ALTER TABLE notes ADD extra int DEFAULT 5")
    notes.tail()
    notes.judge(HOMES)


def test_a_column_that_the_shards_have_too_early_is_filled_by_its_default(notes: Migration) -> None:
    """Pitfall 30: changes from before an ADD COLUMN fit a shard that has the column already."""
    ddl = "ALTER TABLE notes ADD extra int NOT NULL DEFAULT 5"
    notes.run("UPDATE notes SET owner = 2 WHERE id = 1", "INSERT INTO notes VALUES (40, 1, 'ok', 5)")
    notes.source.execute(ddl.encode())
    notes.on_shards(ddl)
    notes.run("UPDATE notes SET extra = id", "UPDATE users SET kind = 'b' WHERE id = 1")
    notes.tail()
    notes.judge(HOMES)


def test_a_shard_that_is_ahead_otherwise_is_refused_and_can_go_back(notes: Migration) -> None:
    """Pitfall 30: a value of before cannot be what a rename or a conversion made of it; nothing is guessed."""
    notes.run("INSERT INTO notes VALUES (40, 1, 'ok', 5)")
    notes.source.execute("ALTER TABLE notes RENAME n TO number")
    notes.on_shards("ALTER TABLE notes RENAME n TO number")
    notes.run("UPDATE notes SET number = number + 1")
    with pytest.raises(DriftError) as refused:
        notes.tail()
    assert "ahead of the stream" in refused.value.message
    notes.on_shards("ALTER TABLE notes RENAME number TO n")
    with pytest.raises(DriftError):
        notes.tail()
    notes.on_shards("ALTER TABLE notes RENAME n TO number")
    notes.tail()
    notes.judge(HOMES)


def test_shards_that_differ_among_themselves_are_refused(notes: Migration) -> None:
    """Pitfall 30: DDL that ran on one shard only is named, with what each of the others lacks."""
    notes.source.execute("ALTER TABLE notes ADD extra int")
    notes.on("north", "ALTER TABLE notes ADD extra int")
    with pytest.raises(DriftError) as refused:
        notes.tail()
    assert "south: notes: extra integer" in refused.value.message
    assert "north" not in refused.value.message


def test_a_new_enum_value_as_a_type_needs_ddl_and_a_home(migration_of: Callable[..., Migration]) -> None:
    """Pitfalls 9, 30: a type that comes later wants its DDL on the shards and its line in the mapping, no more."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}",
        "CREATE TYPE k AS ENUM ('a', 'b'); CREATE TABLE users (id int PRIMARY KEY, kind k);"
        "INSERT INTO users VALUES (1, 'a'), (2, 'b')",
    ).copy()
    context = migration.context()
    migration.source.execute("ALTER TYPE k ADD VALUE 'dual'")
    migration.run("UPDATE users SET kind = 'dual' WHERE id = 1")
    with pytest.raises((DriftError, UnroutableError)):
        migration.tail_with(context)
    migration.on_shards("ALTER TYPE k ADD VALUE 'dual'")
    migration.rewrite_mapping("b: south}", "b: south, dual: west}")
    migration.tail()
    migration.judge({"users": "CASE kind::text WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'west' END"})


def test_a_new_partition_is_drift_until_the_shards_have_it(migration_of: Callable[..., Migration]) -> None:
    """Pitfalls 30, 31: a partition that is made mid-flight is published at once; the shards need it first."""
    migration = migration_of(
        f"{USERS}\nevents: {{follows: owner}}",
        USERS_DDL + "CREATE TABLE events (id int PRIMARY KEY,"
        " owner int REFERENCES users) PARTITION BY RANGE (id);"
        "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100)",
    ).copy()
    made = "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (100) TO (200)"
    context = migration.context()
    migration.source.execute(made.encode())
    migration.run("INSERT INTO events VALUES (1, 1), (101, 2)")
    with pytest.raises(DriftError):
        migration.tail_with(context)
    migration.on_shards(made)
    migration.tail()
    migration.judge({"users": KIND, "events": OF_OWNER})


def test_a_new_unmapped_table_does_not_touch_us(notes: Migration) -> None:
    """Pitfall 30: CREATE TABLE mid-flight; the next command wants a word about it, and `skip` will do."""
    context = notes.context()
    notes.source.execute(b"CREATE TABLE brand_new (id int PRIMARY KEY)")
    notes.run("INSERT INTO brand_new VALUES (1)", "INSERT INTO notes (id, owner) VALUES (50, 3)")
    notes.tail_with(context)
    assert notes.where("notes")[50] == "west"
    notes.rewrite_mapping("tables:\n", "tables:\n  brand_new: {skip: made after the plan}\n")
    notes.run("INSERT INTO notes (id, owner) VALUES (51, 1)")
    notes.tail()
    assert notes.where("notes")[51] == "north"
