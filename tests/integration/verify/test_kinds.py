"""Every kind of difference is found, rightly named, and nothing else is reported."""

from __future__ import annotations

import threading

import pytest

from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Path,
    Reference,
    Rule,
    Skip,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
)
from fixia_shardmig.model.errors import DriftError, MappingError, RefusedError, StoppedError, UnroutableError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.verify.render import render_text
from fixia_shardmig.verify.scans import Progress
from fixia_shardmig.verify.snapshots import SnapshotRef
from fixia_shardmig.verify.verification import verify
from tests.integration.verify.conftest import AT, SHARDS, World

HOMES = {"professional": "professionals", "client": "clients"}
USERS = TableName.parse("users")
RULES: dict[str, Rule] = {
    "users": SplitByColumn("user_type", HOMES, otherwise="shared"),
    "services": Follows((Path(("owner",), USERS, ("id",), declared=False),), otherwise="shared"),
}


def test_sides_that_agree_are_equal(users: World) -> None:
    """Rows in place on every shard give no difference, and the counts a shard are those of its homes."""
    result = users.compare(RULES)
    assert [] == list(result.differences)
    assert result.equal
    counts = {(str(t.table), t.shard): (t.source_rows, t.target_rows, t.equal) for t in result.tables}
    assert (3, 3, True) == counts["services", "professionals"]
    assert (1, 1, True) == counts["users", "shared"]


def test_a_removed_row_is_missing(users: World) -> None:
    """A row deleted on its home shard is named with that shard."""
    users.run("clients", "DELETE FROM services WHERE id = 4")
    assert [("missing", "clients", "services", ("4",), ())] == users.differences(RULES)


def test_an_added_row_is_extra(users: World) -> None:
    """A row that the source has not is named where it is."""
    users.run("shared", "INSERT INTO users VALUES ('x', 'client', 'who')")
    assert [("extra", "shared", "users", ("x",), ())] == users.differences(RULES)


def test_a_changed_row_is_differing_with_its_columns(users: World) -> None:
    """NULL for '' and 1.1 for 1.10 are changes, and the columns that changed are named."""
    users.run("clients", "UPDATE users SET name = NULL WHERE id = 'c2'")
    users.run("professionals", "UPDATE services SET price = 1.1, title = 'Paint' WHERE id = 1")
    expected = [
        ("differing", "clients", "users", ("c2",), ("name",)),
        ("differing", "professionals", "services", ("1",), ("price", "title")),
    ]
    assert expected == users.differences(RULES)


def test_a_row_on_another_shard_is_misplaced_and_not_missing_and_extra(users: World) -> None:
    """One difference for one row: where it is, and where it belongs."""
    users.run("clients", "DELETE FROM services WHERE id = 4")
    users.run("shared", "INSERT INTO services VALUES (4, 'c1', 'walk', 3)")
    result = users.compare(RULES)
    (found,) = result.differences
    assert ("misplaced", "shared", "clients", ()) == (found.kind, found.shard, found.home, found.columns)
    assert not result.equal


def test_a_misplaced_row_that_was_also_changed_says_so(users: World) -> None:
    """The columns that changed are named beside the wrong place."""
    users.run("clients", "DELETE FROM services WHERE id = 4")
    users.run("shared", "INSERT INTO services VALUES (4, 'c1', 'walk', 4)")
    assert [("misplaced", "shared", "services", ("4",), ("price",))] == users.differences(RULES)


def test_a_row_on_its_home_and_elsewhere_is_duplicated(users: World) -> None:
    """The second copy is named where it is too many."""
    users.run("shared", "INSERT INTO services VALUES (4, 'c1', 'walk', 3)")
    assert [("duplicated", "shared", "services", ("4",), ())] == users.differences(RULES)


def test_a_row_twice_on_its_home_is_duplicated(users: World) -> None:
    """Where a shard has no primary key yet, a doubled row is found."""
    users.run("clients", "ALTER TABLE services DROP CONSTRAINT services_pkey")
    users.run("clients", "INSERT INTO services VALUES (4, 'c1', 'walk', 3)")
    assert [("duplicated", "clients", "services", ("4",), ())] == users.differences(RULES)


def test_one_missing_and_one_extra_are_two_differences(users: World) -> None:
    """Pitfall 56: the count is the same on both sides, and both rows are named."""
    users.run("clients", "UPDATE users SET id = 'c3' WHERE id = 'c1'; ")
    users.run("clients", "UPDATE services SET id = 40 WHERE id = 4")
    expected = [
        ("extra", "clients", "services", ("40",), ()),
        ("extra", "clients", "users", ("c3",), ()),
        ("missing", "clients", "services", ("4",), ()),
        ("missing", "clients", "users", ("c1",), ()),
    ]
    assert expected == users.differences(RULES)


def test_values_swapped_between_two_rows_are_found(users: World) -> None:
    """Pitfall 55: count and every column's own values stay the same; the pair does not cancel in the sum or the xor."""
    users.run("professionals", "UPDATE services SET title = CASE id WHEN 1 THEN 'roof' ELSE 'paint' END WHERE id < 3")
    expected = [
        ("differing", "professionals", "services", ("1",), ("title",)),
        ("differing", "professionals", "services", ("2",), ("title",)),
    ]
    assert expected == users.differences(RULES)


def test_a_moved_parent_takes_its_followers_home_along(users: World) -> None:
    """When the source says that a user is a client now, the user and all services are on the wrong shard."""
    users.run("source", "UPDATE users SET user_type = 'client' WHERE id = 'p1'")
    expected = [
        ("misplaced", "professionals", "services", ("1",), ()),
        ("misplaced", "professionals", "services", ("2",), ()),
        ("misplaced", "professionals", "users", ("p1",), ("user_type",)),
    ]
    assert expected == users.differences(RULES)


def test_only_the_tables_asked_for_are_compared(users: World) -> None:
    """A second look at one table does not read the others."""
    users.run("clients", "DELETE FROM services")
    assert users.compare(RULES, tables=[USERS]).equal
    with pytest.raises(MappingError, match="not moved by the mapping: nope"):
        users.compare(RULES, tables=[TableName.parse("nope")])


def test_a_row_without_a_home_is_refused_with_the_table(users: World) -> None:
    """Without `otherwise` nothing is guessed: the rows are counted and the comparison says that it cannot tell."""
    rules: dict[str, Rule] = {**RULES, "users": SplitByColumn("user_type", HOMES)}
    with pytest.raises(UnroutableError, match="users: 1 rows of the source have no home"):
        users.compare(rules)


def test_a_table_that_a_shard_lacks_is_refused(users: World) -> None:
    """What is not there cannot be compared; the hint says how it gets there."""
    users.run("clients", "DROP TABLE services")
    with pytest.raises(RefusedError, match=r"services is not on clients\nhint: shardmig schema apply"):
        users.compare(RULES)


def test_a_column_that_a_shard_lacks_is_refused(users: World) -> None:
    """A missing column is never left out silently."""
    users.run("clients", "ALTER TABLE services DROP COLUMN price")
    with pytest.raises(RefusedError, match=r"services\.price is not on clients"):
        users.compare(RULES)


def test_a_definition_that_changed_since_the_plan_is_refused(users: World) -> None:
    """Pitfall 30: a column with a default emits no rows, and by the plan's catalog it would not be compared."""
    with session(users.urls["source"], "test") as connection:
        planned = read_catalog(connection)
    users.everywhere("ALTER TABLE users ADD COLUMN added int")
    with pytest.raises(DriftError, match="changed on the source since the plan: users"):
        verify(
            users.shard_map(RULES),
            planned,
            source=SnapshotRef(users.urls["source"], None),
            shards={shard: SnapshotRef(users.urls[shard], None) for shard in SHARDS},
            at_lsn=AT,
        )


def test_reference_tables_are_compared_on_every_shard(world: World) -> None:
    """Each shard must hold the whole table."""
    world.everywhere("CREATE TABLE kinds (id int PRIMARY KEY, name text); INSERT INTO kinds VALUES (1,'a'),(2,'b')")
    world.run("clients", "DELETE FROM kinds WHERE id = 1")
    world.run("shared", "UPDATE kinds SET name = 'c' WHERE id = 2; INSERT INTO kinds VALUES (3,'x')")
    expected = [
        ("differing", "shared", "kinds", ("2",), ("name",)),
        ("extra", "shared", "kinds", ("3",), ()),
        ("missing", "clients", "kinds", ("1",), ()),
    ]
    assert expected == world.differences({"kinds": Reference()})


def test_a_whole_table_on_one_shard_is_missed_elsewhere_by_nobody(world: World) -> None:
    """Shards that do not hold the table may lack it; rows where it should be empty are found."""
    world.everywhere("CREATE TABLE notes (id int PRIMARY KEY)")
    world.run("professionals", "DROP TABLE notes")
    for side in ("source", "shared"):
        world.run(side, "INSERT INTO notes VALUES (1), (2)")
    assert world.compare({"notes": OnShard("shared")}).equal
    world.run("clients", "INSERT INTO notes VALUES (2), (9)")
    expected = [("duplicated", "clients", "notes", ("2",), ()), ("extra", "clients", "notes", ("9",), ())]
    assert expected == world.differences({"notes": OnShard("shared")})


def test_a_skipped_table_is_not_looked_at(users: World) -> None:
    """Its rows are on the source alone, on purpose."""
    users.run("source", "CREATE TABLE old (id int PRIMARY KEY); INSERT INTO old VALUES (1)")
    assert users.compare({**RULES, "old": Skip("frozen")}).equal


def test_a_split_by_reference_reads_the_value_over_the_small_table(world: World) -> None:
    """The type stands in a role's name; a user without a role is where `otherwise` says."""
    world.everywhere(
        "CREATE TABLE \"Role\" (id int PRIMARY KEY, name text); INSERT INTO \"Role\" VALUES (1,'pro'),(2,'cli');"
        'CREATE TABLE "User" (id int PRIMARY KEY, "roleId" int)'
    )
    world.run("source", 'INSERT INTO "User" VALUES (1,1),(2,2),(3,NULL)')
    world.run("professionals", 'INSERT INTO "User" VALUES (1,1)')
    world.run("clients", 'INSERT INTO "User" VALUES (2,2)')
    world.run("shared", 'INSERT INTO "User" VALUES (3,NULL)')
    homes = {"pro": "professionals", "cli": "clients"}
    by_role = SplitByReference("roleId", TableName.parse("Role"), "id", "name", homes, otherwise="shared")
    rules: dict[str, Rule] = {"Role": Reference(), "User": by_role}
    assert world.compare(rules).equal
    world.run("source", "UPDATE \"Role\" SET name = 'other' WHERE id = 1")
    world.everywhere("UPDATE \"Role\" SET name = 'other' WHERE id = 1")
    assert [("misplaced", "professionals", "User", ("1",), ())] == world.differences(rules)


def test_a_split_by_sql_reads_bare_column_names(world: World) -> None:
    """The expression's own names are the table's columns, and its value is a shard's name."""
    world.everywhere("CREATE TABLE stores (home int PRIMARY KEY, active int, bucket int)")
    world.run("source", "INSERT INTO stores VALUES (1,1,0),(2,1,0),(3,0,0)")
    world.run("professionals", "INSERT INTO stores VALUES (1,1,0)")
    world.run("clients", "INSERT INTO stores VALUES (2,1,0)")
    world.run("shared", "INSERT INTO stores VALUES (3,0,0)")
    expression = "case when active <> 1 then 'shared' when home % 2 = 0 then 'clients' else 'professionals' end"
    rules: dict[str, Rule] = {"stores": SplitBySql(expression, ("home", "active"), {})}
    assert world.compare(rules).equal


def test_several_paths_decide_in_order_and_a_gone_parent_does_not_pass_on(world: World) -> None:
    """The first path that is not NULL decides, even when its parent is gone: then `otherwise`, not the next path."""
    world.everywhere(
        "CREATE TABLE users (id int PRIMARY KEY, user_type text);"
        "CREATE TABLE matches (id int PRIMARY KEY, owner int);"
        "CREATE TABLE reveals (id int PRIMARY KEY, match_id int, user_id int)"
    )
    world.run("source", "INSERT INTO users VALUES (1,'professional'),(2,'client'); INSERT INTO matches VALUES (10,1)")
    world.run("source", "INSERT INTO reveals VALUES (1,10,2),(2,NULL,2),(3,99,2),(4,NULL,NULL)")
    world.run("professionals", "INSERT INTO users VALUES (1,'professional'); INSERT INTO matches VALUES (10,1)")
    world.run("professionals", "INSERT INTO reveals VALUES (1,10,2)")
    world.run("clients", "INSERT INTO users VALUES (2,'client'); INSERT INTO reveals VALUES (2,NULL,2)")
    world.run("shared", "INSERT INTO reveals VALUES (3,99,2),(4,NULL,NULL)")
    matches = TableName.parse("matches")
    to_user = Path(("user_id",), USERS, ("id",), declared=False)
    rules: dict[str, Rule] = {
        "users": SplitByColumn("user_type", HOMES),
        "matches": Follows((Path(("owner",), USERS, ("id",), declared=False),)),
        "reveals": Follows((Path(("match_id",), matches, ("id",), declared=False), to_user), otherwise="shared"),
    }
    result = world.compare(rules)
    assert result.equal
    dangling = {(str(r.table), r.columns): (r.source_dangling, r.shards_dangling) for r in result.references}
    assert (1, 1) == dangling["reveals", ("match_id",)]


def test_references_over_shards_are_counted_as_in_one_database(users: World) -> None:
    """A reference that a shard cannot resolve at home is looked for on the others; only a gone parent dangles."""
    users.everywhere(
        "CREATE TABLE reviews (id int PRIMARY KEY, author text, about text, FOREIGN KEY (author) REFERENCES users)"
    )
    users.everywhere("ALTER TABLE reviews DROP CONSTRAINT reviews_author_fkey")
    users.run(
        "source",
        "INSERT INTO reviews VALUES (1,'c1','p1'),(2,'c2','gone');"
        "ALTER TABLE reviews ADD CONSTRAINT about FOREIGN KEY (about) REFERENCES users NOT VALID",
    )
    users.run("clients", "INSERT INTO reviews VALUES (1,'c1','p1'),(2,'c2','gone')")
    rules: dict[str, Rule] = {**RULES, "reviews": Follows((Path(("author",), USERS, ("id",), declared=False),))}
    references = {r.columns: r for r in users.compare(rules).references if str(r.table) == "reviews"}
    assert (1, 1, True) == _counts(references["about",])
    users.run("professionals", "DELETE FROM users WHERE id = 'p1'")
    result = users.compare(rules)
    references = {r.columns: r for r in result.references if str(r.table) == "reviews"}
    assert (1, 2, False) == _counts(references["about",])
    assert (0, 0, False) == _counts(references["author",])


def _counts(reference: object) -> tuple[object, ...]:
    return tuple(getattr(reference, name) for name in ("source_dangling", "shards_dangling", "implied"))


def test_sequences_and_missing_indexes_are_told_but_do_not_count(world: World) -> None:
    """A shard whose sequence would repeat an id of any shard is not ready; the rows are equal all the same."""
    world.everywhere("CREATE TABLE items (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text)")
    world.run("source", "CREATE INDEX items_name ON items (name)")
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO items (name) VALUES ('a'), ('b')")
    world.run("shared", "SELECT setval('items_id_seq', 50)")
    homes = {"a": "clients", "b": "clients"}
    result = world.compare({"items": SplitByColumn("name", homes)})
    assert result.equal
    ready = {entry.shard: (entry.next_value, entry.highest, entry.ready) for entry in result.sequences}
    assert {"professionals": (1, 2, False), "clients": (3, 2, True), "shared": (51, 2, True)} == ready
    assert {("items_name",)} == {entry.missing_indexes for entry in result.objects}
    assert "before the cutover: 1 sequence on the shards" in render_text(result)


def test_the_report_and_the_json_say_the_same(users: World) -> None:
    """The text has the diff and the sentence, the JSON the contract's names."""
    users.run("clients", "DELETE FROM services WHERE id = 4")
    result = users.compare(RULES)
    text = render_text(result)
    assert "- clients  services  id=4" in text
    assert "at LSN 0/ABCDEF by native" in text
    assert "not equal: 1 difference" in text
    shown = result.to_json()
    assert ("0/ABCDEF", False) == (shown["at_lsn"], shown["equal"])
    expected = {"table": "services", "shard": "clients", "key": {"id": "4"}, "kind": "missing", "copies": 1}
    assert [expected] == shown["differences"]
    tables = shown["tables"]
    assert isinstance(tables, list)
    assert {"table", "shard", "source_rows", "target_rows", "equal"} <= set(tables[0])


def test_progress_counts_every_scan(users: World) -> None:
    """Two tables on four sides are eight scans, whatever the number of jobs."""
    seen: list[Progress] = []
    users.compare(RULES, on_progress=seen.append, jobs=3)
    assert list(range(1, 9)) == [progress.done for progress in seen]
    assert {8} == {progress.total for progress in seen}


def test_a_stop_ends_a_long_scan_at_once(world: World) -> None:
    """A running query is cancelled on the server; nothing waits for a scan to finish."""
    world.everywhere(
        "CREATE TABLE slow (id int PRIMARY KEY);"
        "CREATE FUNCTION public.nap(int) RETURNS text LANGUAGE sql VOLATILE AS $$SELECT 'shared' FROM pg_sleep(60)$$"
    )
    world.run("source", "INSERT INTO slow VALUES (1)")
    stop = threading.Event()
    timer = threading.Timer(1.0, stop.set)
    timer.start()
    with pytest.raises(StoppedError):
        world.compare({"slow": SplitBySql("public.nap(id)", ("id",), {})}, stop=stop)
    timer.join()
