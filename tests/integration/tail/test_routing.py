"""Where each change goes: cascades, moves, parents of every kind, and the refusal to guess."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixia_shardmig.model.errors import DriftError, MappingError, UnroutableError
from tests.fixtures.fix_migrations import EVERYWHERE, Migration

HOME = "CASE user_type WHEN 'client' THEN 'south' WHEN 'admin' THEN 'west' ELSE 'north' END"
HOMES = {
    "users": HOME,
    "services": f"(SELECT {HOME} FROM users u WHERE u.id = t.owner)",
    "reviews": f"(SELECT {HOME} FROM users u JOIN services s ON s.owner = u.id WHERE s.id = t.service)",
}
DDL = """
CREATE TABLE users (id int PRIMARY KEY, user_type text, email text UNIQUE, about text);
CREATE TABLE services (id int PRIMARY KEY, owner int NOT NULL REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE,
    title text, description text);
CREATE TABLE reviews (id int PRIMARY KEY, service int NOT NULL REFERENCES services ON DELETE CASCADE ON UPDATE CASCADE,
    stars int, words text);
ALTER TABLE services ALTER description SET STORAGE EXTERNAL;
ALTER TABLE reviews ALTER words SET STORAGE EXTERNAL;
INSERT INTO users VALUES (1, 'client', 'a', repeat('x', 9000)), (2, 'professional', 'b', ''), (3, 'admin', 'c', NULL);
INSERT INTO services SELECT n, 1 + n % 3, 'service ' || n, repeat(n::text, 5000) FROM generate_series(1, 9) n;
INSERT INTO reviews SELECT n, 1 + n % 9, n % 5, repeat(n::text, 5000) FROM generate_series(1, 27) n;
"""
TABLES = """
users: {split_by: user_type, homes: {client: south, professional: north, admin: west}}
services: {follows: owner}
reviews: {follows: service}
"""


@pytest.fixture
def people(migration_of: Callable[..., Migration]) -> Migration:
    """Give users of three types with services and their reviews, copied."""
    return migration_of(TABLES, DDL).copy()


def test_a_cascade_reaches_the_rows_where_they_are(people: Migration) -> None:
    """Pitfall 1: the parent's DELETE is decoded before its children's, which still find their rows by key."""
    people.run("DELETE FROM users WHERE id = 1")
    people.run("DELETE FROM users WHERE id = 3")
    assert people.tail().conflicts == 0
    assert people.judge(HOMES) == 1 + 3 + 9


def test_a_move_takes_unchanged_toast_from_the_old_home(people: Migration) -> None:
    """Pitfall 2: an UPDATE of a foreign key brings neither the old value nor the large columns it left alone."""
    people.run("UPDATE services SET owner = 2 WHERE id = 3", "UPDATE services SET title = 'later' WHERE id = 3")
    people.run("UPDATE services SET description = 'the future' WHERE id = 3")
    people.tail()
    people.judge(HOMES)


def test_a_moved_row_is_as_of_its_place_in_the_stream(people: Migration) -> None:
    """Pitfall 2: columns left out are read on the old home, not on the live source, which is ahead of the stream."""
    people.run("UPDATE services SET owner = 2 WHERE id = 3")
    goal = people.here()
    people.run("UPDATE services SET description = 'the future' WHERE id = 3")
    people.tail_until(goal)
    assert people.rows("north", "services WHERE id = 3", "owner, length(description)") == [(2, 5000)]
    people.tail()
    people.judge(HOMES)


def test_a_user_s_new_type_takes_grandchildren_along(people: Migration) -> None:
    """Pitfall 3: one event moves the user with services and reviews, none of which are in the WAL."""
    before = people.where("reviews")
    people.run("UPDATE users SET user_type = 'professional' WHERE id = 1")
    moved = people.tail().moved_rows
    assert moved == 1 + 3 + 9
    assert before != people.where("reviews")
    people.judge(HOMES)


def test_changes_after_the_move_in_the_same_batch_find_the_rows(people: Migration) -> None:
    """Pitfall 3: what is written to the closure between two moves is in the rows that move."""
    people.run(
        "UPDATE users SET user_type = 'professional' WHERE id = 1",
        "INSERT INTO services VALUES (90, 1, 'between', 'x')",
        "INSERT INTO reviews VALUES (900, 90, 5, 'x')",
        "DELETE FROM reviews WHERE id = 9",
        "UPDATE users SET user_type = 'admin' WHERE id = 1",
        "UPDATE services SET title = 'after' WHERE owner = 1",
    )
    people.tail()
    people.judge(HOMES)
    assert people.where("reviews")[900] == "west"


def test_there_and_back_again_in_one_batch_moves_nothing(people: Migration) -> None:
    """A row that returns to its home within a batch costs nothing (docs/adr/0005)."""
    people.run("UPDATE users SET user_type = 'admin' WHERE id = 1")
    people.run("UPDATE users SET user_type = 'client' WHERE id = 1")
    assert people.tail().moved_rows == 0
    people.judge(HOMES)


def test_a_re_parented_row_moves_its_descendants(people: Migration) -> None:
    """Pitfall 4: handing a service to another user moves its reviews, which have no event of their own."""
    people.run("UPDATE services SET owner = 3 WHERE owner = 2")
    people.tail()
    people.judge(HOMES)
    assert people.where("services")[2] == "west"
    assert people.where("reviews")[1] == "west"


def test_a_child_follows_its_parent_of_then_not_of_now(people: Migration) -> None:
    """Pitfall 5: the source's owner of now is another one; the stop before the change shows where the child went."""
    people.run("INSERT INTO services VALUES (50, 1, 'then', '')")
    goal = people.here()
    people.run("UPDATE users SET user_type = 'professional' WHERE id = 1")
    people.tail_until(goal)
    assert people.where("services")[50] == "south"
    people.tail()
    assert people.where("services")[50] == "north"
    people.judge(HOMES)


def test_parents_of_the_same_transaction_and_batch_are_found(people: Migration) -> None:
    """A new user's service and its review come in the same transaction, a second service in the next one."""
    people.run(
        "INSERT INTO users VALUES (10, 'client', 'new')",
        "INSERT INTO services VALUES (100, 10)",
        "INSERT INTO reviews VALUES (1000, 100)",
    )
    people.run("INSERT INTO services VALUES (101, 10)", "UPDATE services SET owner = 10 WHERE id = 100")
    people.tail()
    people.judge(HOMES)


def test_a_deleted_parent_s_key_can_come_back_elsewhere(people: Migration) -> None:
    """Pitfall 27: a key that is deleted and inserted again with another type takes new children to the new home."""
    people.run("DELETE FROM users WHERE id = 1", "INSERT INTO users VALUES (1, 'admin', 'again')")
    people.run("INSERT INTO services VALUES (200, 1)", "INSERT INTO reviews VALUES (2000, 200)")
    people.tail()
    people.judge(HOMES)
    assert people.where("reviews")[2000] == "west"


def test_an_unknown_type_stops_the_tail_before_its_transaction(people: Migration) -> None:
    """Pitfall 9: the row, the reason and the line to add are named, and nothing of the transaction is applied."""
    people.run("INSERT INTO users VALUES (20, 'client', 'before')")
    people.run("INSERT INTO users VALUES (21, 'client', 'with it')", "INSERT INTO users VALUES (22, 'dual', 'd')")
    people.run("INSERT INTO users VALUES (23, 'client', 'behind')")
    with pytest.raises(UnroutableError) as stopped:
        people.tail()
    assert "row (id = 22) of users has no home" in stopped.value.message
    assert "user_type = dual" in stopped.value.message
    assert "under `users:`" in stopped.value.hint
    assert {20, 21, 22, 23} & set(people.where("users")) == {20}


def test_the_tail_goes_on_once_the_mapping_says_more(people: Migration) -> None:
    """Pitfall 9: after a line is added nothing was lost of what came meanwhile; another change stays refused."""
    people.run("UPDATE users SET user_type = 'dual' WHERE id = 1")
    people.run("INSERT INTO services VALUES (60, 1)")
    with pytest.raises(UnroutableError):
        people.tail()
    people.rewrite_mapping("admin: west}", "admin: west, dual: north}")
    people.tail()
    people.judge(HOMES)
    assert people.where("services")[60] == "north"
    assert "mapping_changed" in people.events()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("admin: west}", "admin: north}"),
        ("admin: west}", "dual: west}"),
        ("services: {follows: owner}", "services: {follows: owner, otherwise: west}\n  extra: {shard: west}"),
        ("services: {follows: owner}", "services: {shard: west}"),
        ("reviews: {follows: service}", "reviews: {reference: true}"),
    ],
)
def test_a_mapping_that_would_move_rows_is_refused(people: Migration, old: str, new: str) -> None:
    """Pitfall 9: values without a home may get one, before or after they stop the tail; no row's home may change."""
    people.run("UPDATE users SET user_type = 'dual' WHERE id = 1")
    with pytest.raises(UnroutableError):
        people.tail()
    people.rewrite_mapping(old, new)
    with pytest.raises((DriftError, MappingError)):
        people.tail()


def test_a_home_for_all_other_values_takes_none_away(people: Migration) -> None:
    """Pitfall 9: once there is an `otherwise`, every value has a home, and none may get another."""
    people.rewrite_mapping("admin: west}}", "admin: west}, otherwise: west}")
    people.run("UPDATE users SET user_type = 'dual' WHERE id = 1")
    people.tail()
    assert people.where("users")[1] == "west"
    people.rewrite_mapping("admin: west}", "admin: west, dual: north}")
    with pytest.raises(DriftError):
        people.tail()


def test_rows_that_follow_are_named_by_their_reference(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 9: a child without its parent stops the tail too; the reason names the value it follows."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}\n"
        "notes: {follows: {columns: [owner], references: users, to: [id]}}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text); CREATE TABLE notes (id int PRIMARY KEY, owner int);"
        "INSERT INTO users VALUES (1, 'a'), (2, 'b')",
    ).copy()
    migration.run("INSERT INTO notes VALUES (1, 99)")
    with pytest.raises(UnroutableError) as stopped:
        migration.tail()
    assert "owner = 99" in stopped.value.message
    assert "otherwise: <shard> under `notes:`" in stopped.value.hint
    migration.rewrite_mapping("to: [id]}}", "to: [id]}, otherwise: west}")
    migration.tail()
    assert migration.where("notes") == {1: "west"}


PATHS_DDL = """
CREATE TABLE users (id int PRIMARY KEY, kind text);
CREATE TABLE matches (id int PRIMARY KEY, owner int NOT NULL REFERENCES users);
CREATE TABLE reveals (id int PRIMARY KEY, match int REFERENCES matches, viewer int REFERENCES users, note text);
INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c');
INSERT INTO matches VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO reveals VALUES (1, 1, 2), (2, NULL, 2), (3, NULL, NULL), (4, 3, NULL);
"""
PATHS_TABLES = """
users: {split_by: kind, homes: {a: north, b: south, c: west}}
matches: {follows: owner}
reveals: {follows: [match, viewer], otherwise: west}
"""
KIND = "CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' WHEN 'c' THEN 'west' END"
PATHS_HOMES = {
    "users": KIND,
    "matches": f"(SELECT {KIND} FROM users WHERE id = t.owner)",
    "reveals": f"coalesce((SELECT {KIND} FROM users u JOIN matches m ON m.owner = u.id WHERE m.id = t.match),"
    f" CASE WHEN t.match IS NULL THEN (SELECT {KIND} FROM users WHERE id = t.viewer) END, 'west')",
}


PATHS_CHANGES = (
    "UPDATE reveals SET match = 1 WHERE id = 2",
    "UPDATE reveals SET match = NULL WHERE id = 1",
    "UPDATE reveals SET viewer = 1 WHERE id = 3",
    "INSERT INTO reveals VALUES (10, NULL, 1), (11, 2, 1), (12, NULL, NULL)",
    "UPDATE matches SET owner = 2",
    "UPDATE reveals SET viewer = 1",
    "UPDATE users SET kind = 'c' WHERE id < 3",
    "UPDATE reveals SET match = NULL, viewer = NULL WHERE id < 4",
)


def test_the_first_path_that_is_not_null_decides(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 8: NULL to a value and back moves the row; a later path does not matter while an earlier one is set."""
    migration = migration_of(PATHS_TABLES, PATHS_DDL).copy()
    migration.judge(PATHS_HOMES)
    for change in PATHS_CHANGES:
        migration.run(change)
        migration.tail()
        migration.judge(PATHS_HOMES)


def test_a_child_may_come_before_its_parent(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 10: with deferred constraints a whole family arrives from its youngest on; it is routed at COMMIT."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}\n"
        "posts: {follows: owner, otherwise: west}\ntags: {follows: post, otherwise: west}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text);"
        "CREATE TABLE posts (id int PRIMARY KEY, owner int REFERENCES users DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE tags (id int PRIMARY KEY, post int REFERENCES posts DEFERRABLE INITIALLY DEFERRED)",
    ).copy()
    migration.run(
        "INSERT INTO tags VALUES (1, 1), (2, 2)",
        "INSERT INTO posts VALUES (1, 1), (2, 2)",
        "INSERT INTO users VALUES (1, 'a'), (2, 'b')",
        "UPDATE users SET kind = 'b' WHERE id = 1",
    )
    migration.tail()
    assert migration.where("tags") == {1: "south", 2: "south"}
    migration.run(
        "INSERT INTO posts VALUES (3, 3)", "INSERT INTO tags VALUES (3, 3)", "INSERT INTO users VALUES (3,'a')"
    )
    migration.tail()
    kind = "CASE kind WHEN 'a' THEN 'north' ELSE 'south' END"
    migration.judge(
        {
            "users": kind,
            "posts": f"(SELECT {kind} FROM users WHERE id = t.owner)",
            "tags": f"(SELECT {kind} FROM users u JOIN posts p ON p.owner = u.id WHERE p.id = t.post)",
        }
    )


def test_a_deferred_reference_by_another_key_than_the_primary(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 10: the user with a handle goes, a child comes, and another user of that handle comes elsewhere."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}\nposts: {follows: handle}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text, handle text UNIQUE);"
        "CREATE TABLE posts (id int PRIMARY KEY, handle text REFERENCES users (handle) DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO users VALUES (1, 'a', 'ann'), (2, 'b', 'bob')",
    ).copy()
    migration.run("INSERT INTO posts VALUES (1, 'ann'), (2, 'bob')")
    migration.run(
        "DELETE FROM posts WHERE id = 1",
        "DELETE FROM users WHERE id = 1",
        "INSERT INTO posts VALUES (3, 'ann')",
        "INSERT INTO users VALUES (3, 'b', 'ann')",
    )
    migration.run("INSERT INTO posts VALUES (4, 'ann')")
    migration.tail()
    assert migration.where("posts") == {2: "south", 3: "south", 4: "south"}


ROLES_DDL = """
CREATE TABLE "Role" (id int PRIMARY KEY, name text UNIQUE);
CREATE TABLE "User" (id int PRIMARY KEY, "roleId" int REFERENCES "Role" ON UPDATE CASCADE, bio text);
CREATE TABLE pets (id int PRIMARY KEY, "userId" int REFERENCES "User");
INSERT INTO "Role" VALUES (1, 'client'), (2, 'pro'), (3, 'staff');
INSERT INTO "User" SELECT n, 1 + n % 3, repeat('b', 3000) FROM generate_series(1, 12) n;
INSERT INTO pets SELECT n, n FROM generate_series(1, 12) n;
"""
ROLES_TABLES = """
Role: {reference: true}
User: {split_by: {column: roleId, references: Role, value: name}, homes: {client: north, pro: south}, otherwise: west}
pets: {follows: userId}
"""
BY_ROLE = (
    "coalesce((SELECT CASE r.name WHEN 'client' THEN 'north' WHEN 'pro' THEN 'south' END FROM \"Role\" r"
    " WHERE r.id = {}.\"roleId\"), 'west')"
)
ROLES_HOMES = {
    "Role": EVERYWHERE,
    "User": BY_ROLE.format("t"),
    "pets": f'(SELECT {BY_ROLE.format("u")} FROM "User" u WHERE u.id = t."userId")',
}


ROLES_CHANGES = (
    ["UPDATE \"Role\" SET name = 'pro2' WHERE id = 2"],
    ["UPDATE \"Role\" SET name = 'x' WHERE id = 1", "UPDATE \"Role\" SET name = 'client' WHERE id = 2"],
    ['UPDATE "Role" SET id = 20 WHERE id = 2'],
    ["INSERT INTO \"Role\" VALUES (4, 'pro')", 'UPDATE "User" SET "roleId" = 4 WHERE id < 5'],
    ['UPDATE "User" SET "roleId" = NULL WHERE "roleId" = 1', 'DELETE FROM "Role" WHERE id = 1'],
    ['INSERT INTO "User" VALUES (50, 4)', 'UPDATE "Role" SET name = NULL WHERE id = 4'],
)


def test_a_type_in_another_table_re_types_all_its_users(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 11: renaming a role moves every user that has it, with all that follow them."""
    migration = migration_of(ROLES_TABLES, ROLES_DDL).copy()
    migration.judge(ROLES_HOMES)
    for changes in ROLES_CHANGES:
        migration.run(*changes)
        migration.tail()
        migration.judge(ROLES_HOMES)


def test_a_table_that_references_itself_follows_another_column(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 12: replies reference replies, and users and organizations each other; one column decides."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}\n"
        "organizations: {follows: owner}\n"
        "proposals: {follows: author}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text, organization int);"
        "CREATE TABLE organizations (id int PRIMARY KEY, owner int NOT NULL REFERENCES users);"
        "ALTER TABLE users ADD FOREIGN KEY (organization) REFERENCES organizations DEFERRABLE INITIALLY DEFERRED;"
        "CREATE TABLE proposals (id int PRIMARY KEY, author int NOT NULL REFERENCES users, parent int"
        " REFERENCES proposals"
        " ON DELETE CASCADE);"
        "INSERT INTO users VALUES (1, 'a'), (2, 'b'); INSERT INTO organizations VALUES (1, 1), (2, 2);"
        "INSERT INTO proposals VALUES (1, 1, NULL), (2, 2, 1), (3, 1, 2), (4, 2, 3)",
    ).copy()
    migration.run(
        "UPDATE users SET organization = 3 - id",
        "INSERT INTO users VALUES (3, 'a', 9)",
        "INSERT INTO organizations VALUES (9, 3)",
        "INSERT INTO proposals VALUES (5, 3, 4)",
    )
    migration.run("UPDATE users SET kind = 'b' WHERE id = 1", "DELETE FROM proposals WHERE id = 4")
    migration.tail()
    kind = "CASE kind WHEN 'a' THEN 'north' ELSE 'south' END"
    homes = {
        "users": kind,
        "organizations": f"(SELECT {kind} FROM users WHERE id = t.owner)",
        "proposals": f"(SELECT {kind} FROM users WHERE id = t.author)",
    }
    assert migration.judge(homes) == 3 + 3 + 3


def test_split_by_sql_reads_the_row_s_own_columns(migration_of: Callable[..., Migration]) -> None:
    """An expression over several columns decides, on inserts, updates and for the rows that follow."""
    expression = "case when active <> 1 then 'west' when store_id % 2 = 0 then 'south' else 'north' end"
    migration = migration_of(
        f'customers: {{split_by: {{sql: "{expression}"}}}}\nrentals: {{follows: customer}}',
        "CREATE TABLE customers (id int PRIMARY KEY, store_id int NOT NULL, active int NOT NULL, name text);"
        "CREATE TABLE rentals (id int PRIMARY KEY, customer int REFERENCES customers);"
        "INSERT INTO customers SELECT n, n % 5, (n % 7 > 0)::int, repeat('n', 3000) FROM generate_series(1, 20) n;"
        "INSERT INTO rentals SELECT n, 1 + n % 20 FROM generate_series(1, 40) n",
    ).copy()
    homes = {"customers": expression, "rentals": f"(SELECT {expression} FROM customers WHERE id = t.customer)"}
    migration.judge(homes)
    migration.run("UPDATE customers SET active = 0 WHERE id < 4", "UPDATE customers SET store_id = store_id + 1")
    migration.run("INSERT INTO customers VALUES (30, 2, 1), (31, 3, 1), (32, 3, 0)")
    migration.run("INSERT INTO rentals VALUES (100, 30), (101, 31), (102, 32)")
    migration.tail()
    migration.judge(homes)
