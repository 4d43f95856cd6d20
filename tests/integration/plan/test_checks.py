"""Each check of tables and objects fires for what it is about, and the small source alone raises none of them."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.plan import Severity, make_plan
from tests.fixtures.fix_split import Split
from tests.integration.plan.conftest import USERS, USERS_DDL, Planned

Plan = Callable[..., Planned]

POSTS = "CREATE TABLE posts (id text PRIMARY KEY, user_id text REFERENCES users, {}); CREATE INDEX ON posts (user_id);"
FOLLOWS = "  posts: {follows: user_id, otherwise: shared}\n"
ITEMS = "  items: {shard: shared}\n"

# code, severity, table, more DDL, more of the mapping, part of the message, part of the hint
CASES = [
    ("no-identity", "blocker", "items", "CREATE TABLE items (a int)", ITEMS, "no primary key", "IDENTITY FULL"),
    (
        "no-identity",
        "blocker",
        "items",
        'CREATE TABLE items (a int NOT NULL); CREATE UNIQUE INDEX "By" ON items (a)',
        ITEMS,
        "no primary key",
        'REPLICA IDENTITY USING INDEX "By"',
    ),
    (
        "identity-nothing",
        "blocker",
        "items",
        "CREATE TABLE items (a int PRIMARY KEY); ALTER TABLE items REPLICA IDENTITY NOTHING",
        ITEMS,
        "NOTHING",
        "ALTER TABLE public.items REPLICA IDENTITY DEFAULT",
    ),
    (
        "deferrable-key",
        "blocker",
        "items",
        "CREATE TABLE items (a int PRIMARY KEY DEFERRABLE)",
        ITEMS,
        "deferrable",
        "FULL",
    ),
    (
        "generated-key",
        "blocker",
        "items",
        "CREATE TABLE items (a int, b int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY)",
        ITEMS,
        "b, which is generated",
        "USING INDEX",
    ),
    (
        "full-identity",
        "warning",
        "items",
        "CREATE TABLE items (a int); ALTER TABLE items REPLICA IDENTITY FULL",
        ITEMS,
        "slowly",
        "ADD PRIMARY KEY",
    ),
    (
        "split-by-own-text",
        "blocker",
        "marks",
        (
            "CREATE TYPE low AS ENUM ('A', 'B'); CREATE FUNCTION lower_low(low) RETURNS text LANGUAGE sql IMMUTABLE AS"
            " $$ SELECT CASE $1 WHEN 'A' THEN 'a' ELSE 'b' END $$; CREATE CAST (low AS text) WITH"
            " FUNCTION lower_low(low); CREATE TABLE marks (id int PRIMARY KEY, kind low)"
        ),
        "  marks: {split_by: kind, homes: {A: clients, B: shared}, otherwise: shared}\n",
        "the type of kind has a cast to text of its own",
        "drop the cast for the migration",
    ),
    (
        "no-equality",
        "warning",
        "items",
        "CREATE TABLE items (a json, b point, c text); ALTER TABLE items REPLICA IDENTITY FULL",
        ITEMS,
        "a, b cannot be compared",
        "ADD PRIMARY KEY",
    ),
    (
        "root-without-key",
        "warning",
        "items",
        (
            "CREATE TABLE items (a int) PARTITION BY LIST (a); "
            "CREATE TABLE items_1 PARTITION OF items FOR VALUES IN (1); ALTER TABLE items_1 ADD PRIMARY KEY (a)"
        ),
        ITEMS,
        "no primary key",
        "add no partition",
    ),
    (
        "no-identity",
        "blocker",
        "items_1",
        "CREATE TABLE items (a int) PARTITION BY LIST (a); CREATE TABLE items_1 PARTITION OF items FOR VALUES IN (1)",
        ITEMS,
        "no primary key",
        "public.items_1",
    ),
    ("unlogged", "blocker", "items", "CREATE UNLOGGED TABLE items (a int PRIMARY KEY)", ITEMS, "WAL", "SET LOGGED"),
    (
        "inherits-from-elsewhere",
        "blocker",
        "items",
        "CREATE TABLE base (a int PRIMARY KEY); CREATE TABLE items (PRIMARY KEY (a)) INHERITS (base)",
        "  items: {reference: true}\n  base: {shard: shared}\n",
        "inherits from base, which does not live on professionals, clients",
        "NO INHERIT public.base",
    ),
    (
        "trigger-fires-always",
        "warning",
        "users",
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; "
            "CREATE TRIGGER always BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION f(); "
            "ALTER TABLE users ENABLE ALWAYS TRIGGER always"
        ),
        "",
        "always: ENABLE ALWAYS",
        "no action",
    ),
    ("no-binary-form", "info", None, "ALTER TABLE users ADD COLUMN rights aclitem", "", "users.rights", ""),
    (
        "other-writers",
        "warning",
        None,
        "CREATE SUBSCRIPTION feed CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)",
        "",
        "1 subscriptions write into this database",
        "before the cutover",
    ),
    ("rules", "info", None, "CREATE RULE quiet AS ON DELETE TO users DO INSTEAD NOTHING", "", "users (quiet)", ""),
    (
        "generated-columns",
        "info",
        None,
        "ALTER TABLE users ADD COLUMN big text GENERATED ALWAYS AS (upper(id)) STORED",
        "",
        "users.big",
        "",
    ),
    ("row-security", "info", None, "ALTER TABLE users ENABLE ROW LEVEL SECURITY", "", "users", ""),
    (
        "uniqueness-ends",
        "warning",
        "users",
        "ALTER TABLE users ADD COLUMN email text UNIQUE",
        "",
        "users_email_key (email)",
        "claim",
    ),
    (
        "uniqueness-ends",
        "warning",
        "posts",
        POSTS.format("slug text") + "CREATE UNIQUE INDEX slugs ON posts (lower(slug))",
        FOLLOWS,
        "slugs (btree (lower(slug)))",
        "claim",
    ),
    ("keys-per-shard", "info", None, "", "", "users(id)", "uuids"),
    (
        "references-end",
        "warning",
        None,
        POSTS.format("reader_id text REFERENCES users ON DELETE CASCADE"),
        FOLLOWS,
        "1 of 2 foreign keys cannot be kept",
        "the application",
    ),
    (
        "follow-without-index",
        "warning",
        "posts",
        "CREATE TABLE posts (id text PRIMARY KEY, user_id text NOT NULL REFERENCES users)",
        "  posts: {follows: user_id}\n",
        "no index begins with user_id",
        "CREATE INDEX CONCURRENTLY ON public.posts (user_id)",
    ),
    (
        "value-decides-many",
        "info",
        "people",
        (
            "CREATE TABLE roles (id int PRIMARY KEY, name text NOT NULL UNIQUE); "
            "CREATE TABLE people (id int PRIMARY KEY, role int NOT NULL REFERENCES roles)"
        ),
        (
            "  roles: {reference: true}\n"
            "  people: {split_by: {column: role, references: roles, value: name}, homes: {a: shared}, "
            "otherwise: shared}\n"
        ),
        "a changed roles.name moves",
        "change no name",
    ),
    ("sequences", "info", None, "CREATE SEQUENCE counter", "", "1 sequences are in no stream", ""),
    (
        "sequence-behind",
        "warning",
        "items",
        "CREATE TABLE items (id serial PRIMARY KEY); INSERT INTO items VALUES (7)",
        ITEMS,
        "stands at 0, and id already holds 7",
        "SELECT setval('public.items_id_seq'",
    ),
    ("large-objects", "warning", None, "SELECT lo_create(0)", "", "1 large objects are not moved", "bytea"),
    (
        "view-not-moved",
        "info",
        None,
        "CREATE TABLE items (a int PRIMARY KEY); CREATE VIEW w AS SELECT * FROM items",
        ITEMS,
        "the view w is not made on professionals, clients: it uses items",
        "read from each shard in the application",
    ),
    (
        "materialized-views",
        "info",
        None,
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM users",
        "",
        "its own rows: m",
        "REFRESH",
    ),
    (
        "database-settings",
        "warning",
        None,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 8192', current_database()); END $$",
        "",
        "work_mem=8192",
        "ALTER DATABASE",
    ),
    (
        "event-triggers",
        "warning",
        None,
        (
            "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
            "CREATE EVENT TRIGGER watcher ON ddl_command_start EXECUTE FUNCTION f()"
        ),
        "",
        "watcher",
        "by hand",
    ),
    (
        "no-home",
        "blocker",
        "users",
        "INSERT INTO users VALUES ('u5', 'dual'), ('u6', 'dual')",
        "",
        "2 rows have 'dual', which has no home (rows u5, u6)",
        "under users: homes: {…, dual: shared}, or otherwise: shared",
    ),
    (
        "no-home",
        "blocker",
        "posts",
        "CREATE TABLE posts (id text PRIMARY KEY, user_id text); INSERT INTO posts VALUES ('p1', 'gone')",
        "  posts: {follows: {columns: [user_id], references: users, to: [id]}}\n",
        "1 rows reference a row that does not exist (rows p1)",
        "under posts: otherwise: shared",
    ),
    (
        "dangling-reference",
        "warning",
        "posts",
        "CREATE TABLE posts (id text PRIMARY KEY, user_id text); INSERT INTO posts VALUES ('p1', 'gone'), ('p2', NULL)",
        "  posts: {follows: {columns: [user_id], references: users, to: [id]}, otherwise: shared}\n",
        "1 rows reference nothing; 1 rows reference a row that does not exist, and go to shared",
        "correct these references",
    ),
    (
        "by-otherwise",
        "info",
        "posts",
        POSTS.format("a int") + "INSERT INTO posts VALUES ('p1', NULL, 1), ('p2', 'u1', 1)",
        FOLLOWS,
        "1 rows reference nothing, and go to shared",
        "",
    ),
    (
        "left-over-publication",
        "blocker",
        None,
        "CREATE PUBLICATION shardmig_test FOR TABLE users",
        "",
        "the publication shardmig_test exists already",
        "DROP PUBLICATION shardmig_test",
    ),
]


@pytest.mark.parametrize(
    ("code", "severity", "table", "ddl", "tables", "message", "hint"), CASES, ids=[case[0] for case in CASES]
)
def test_it_is_found(
    planned: Plan, code: str, severity: str, table: str | None, ddl: str, tables: str, message: str, hint: str
) -> None:
    """Pitfalls 9, 11, 13, 19, 24, 26, 31, 32, 33, 53, 68, 69 and 70: each has a code, a severity and a hint."""
    made = planned(ddl, tables)
    (finding, *others) = made.found(code)
    assert [] == others
    assert (severity, table) == (finding.severity.value, str(finding.table) if finding.table else None)
    assert message in finding.message
    assert hint in finding.hint
    assert [] == made.found("check-failed")
    assert (severity == "blocker") == made.plan.has_blockers


def test_a_plain_source_has_no_blocker_and_no_warning(planned: Plan) -> None:
    """What is well raises nothing but what is good to know."""
    made = planned(POSTS.format("a int"), FOLLOWS)
    assert ["keys-per-shard"] == [finding.code for finding in made.plan.findings]


def test_uniqueness_that_a_column_keeps_inside_a_shard_is_not_listed(planned: Plan) -> None:
    """Pitfall 69. An index that holds what decides the home, or the primary key, ends nowhere."""
    ddl = POSTS.format("day int, UNIQUE (user_id, day), UNIQUE (id, day)") + "CREATE UNIQUE INDEX ON users (kind, id)"
    assert [] == planned(ddl, FOLLOWS).found("uniqueness-ends")


def test_followers_of_a_row_without_a_home_are_not_listed_again(planned: Plan) -> None:
    """One user of an unknown kind is one finding, not one for each table that follows."""
    ddl = POSTS.format("a int") + "INSERT INTO users VALUES ('u5', 'dual'); INSERT INTO posts VALUES ('p1', 'u5', 1)"
    made = planned(ddl, "  posts: {follows: user_id, otherwise: shared}\n")
    assert ["users"] == [str(finding.table) for finding in made.found("no-home")]


def test_who_asks_for_blockers_only_gets_each_of_them(planned: Plan) -> None:
    """What a copy looks at before it begins: rows without a home, also a follower's own, and no count of references."""
    ddl = POSTS.format("a int") + "INSERT INTO users VALUES ('u5', 'dual'); INSERT INTO posts VALUES ('p1', NULL, 1)"
    made = planned(ddl, "  posts: {follows: user_id}\n")
    plan = make_plan(made.split.shard_map, made.split.url, only_blockers=True)
    blockers = [str(finding) for finding in plan.findings if finding.severity.value == "blocker"]
    assert [str(finding) for finding in made.plan.findings if finding.severity.value == "blocker"] == blockers
    assert {"users", "posts"} == {str(one.table) for one in plan.findings if one.code == "no-home"}


def test_a_view_over_a_view_is_followed_down(planned: Plan) -> None:
    """What a view reads through another view decides too."""
    ddl = "CREATE TABLE items (a int PRIMARY KEY); CREATE VIEW v AS TABLE items; CREATE VIEW w AS TABLE v"
    assert ["v", "w"] == [one.message.split()[2] for one in planned(ddl, ITEMS).found("view-not-moved")]


def test_a_label_without_a_home_is_found_before_its_first_row(planned: Plan) -> None:
    """Pitfall 9. An enum can say more than the mapping knows."""
    ddl = (
        "CREATE TYPE sort AS ENUM ('client', 'professional');"
        "ALTER TABLE users ADD COLUMN sort sort NOT NULL DEFAULT 'client'"
    )
    users = "  users: {split_by: sort, homes: {client: clients, professional: professionals}}\n"
    made = planned(ddl, users=users)
    assert [] == made.found("value-without-home")
    with psycopg.connect(made.split.url, autocommit=True) as connection:
        connection.execute("ALTER TYPE sort ADD VALUE 'dual'")
    (finding,) = [
        one for one in make_plan(made.split.shard_map, made.split.url).findings if one.code == "value-without-home"
    ]
    assert (Severity.WARNING, "users") == (finding.severity, str(finding.table))
    assert "sort can be dual, which has no home" in finding.message


def test_old_transactions_are_named(planned: Plan, monkeypatch: pytest.MonkeyPatch, source_url: str) -> None:
    """Pitfall 40. A new slot would wait for them."""
    monkeypatch.setattr("fixia_shardmig.plan.checks.source_server.LONG_TRANSACTION_S", -1)
    with psycopg.connect(source_url, application_name="forgotten") as holder:
        holder.execute("SELECT 1")
        pid = holder.info.backend_pid
        (finding,) = planned().found("long-transactions")
        assert f"pid {pid} forgotten" in finding.message


def test_a_left_over_slot_is_named_with_what_it_holds_back(planned: Plan, source_url: str) -> None:
    """Pitfall 19. A killed run's slot fills the disk until somebody drops it."""
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('shardmig_test', 'pgoutput')")
    made = planned()
    (finding,) = made.found("left-over-slot")
    assert Severity.BLOCKER is finding.severity
    assert "SELECT pg_drop_replication_slot('shardmig_test')" in finding.hint
    running = make_plan(made.split.shard_map, source_url, running=True)
    assert [] == [one for one in running.findings if one.code == "left-over-slot"]


def test_another_reader_of_the_source_is_named(planned: Plan, source_url: str) -> None:
    """Pitfall 71. Whoever reads the source by replication gets nothing after the cutover."""
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('warehouse', 'pgoutput')")
    (finding,) = planned().found("other-readers")
    assert "warehouse" in finding.message


def test_extensions_are_compared(
    split_of: Callable[..., Split],
    clusters_by_major: Callable[[int], Cluster],
    fresh_database: Callable[..., str],
) -> None:
    """Pitfall 54. A used extension that the shards lack blocks, an unused one is a warning."""
    source_url = fresh_database(clusters_by_major(15), "source")
    bare = clusters_by_major(16)  # this build has no contrib modules
    shard_urls = {shard: fresh_database(bare, shard) for shard in ("professionals", "clients", "shared")}
    ddl = "CREATE EXTENSION hstore; CREATE EXTENSION citext; ALTER TABLE users ADD COLUMN extra hstore;"
    split = split_of(source_url, shard_urls, USERS, USERS_DDL + ddl)
    plan = make_plan(split.shard_map, split.url)
    found = {(f.severity.value, f.message.split()[2]) for f in plan.findings if f.code == "target-extension"}
    assert {("blocker", "hstore"), ("warning", "citext")} == found
    (version, *_) = [finding for finding in plan.findings if finding.code == "target-version"]
    assert Severity.INFO is version.severity


def test_a_foreign_table_stays_behind(
    split_of: Callable[..., Split],
    clusters_by_major: Callable[[int], Cluster],
    fresh_database: Callable[..., str],
) -> None:
    """Pitfall 33. Foreign tables and their servers are listed."""
    cluster = clusters_by_major(15)
    ddl = (
        "CREATE EXTENSION postgres_fdw; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw; "
        "CREATE FOREIGN TABLE far (a int) SERVER s;"
    )
    shard_urls = {shard: fresh_database(cluster, shard) for shard in ("professionals", "clients", "shared")}
    split = split_of(fresh_database(cluster, "source"), shard_urls, USERS, USERS_DDL + ddl)
    plan = make_plan(split.shard_map, split.url)
    (finding,) = [one for one in plan.findings if one.code == "foreign-tables"]
    assert "far" in finding.message


def test_a_key_that_takes_different_texts_for_equal_is_named(
    split_of: Callable[..., Split],
    clusters_by_major: Callable[[int], Cluster],
    fresh_database: Callable[..., str],
) -> None:
    """Pitfall 50. `A` and `a` are one citext key."""
    cluster = clusters_by_major(15)
    ddl = "CREATE EXTENSION citext; CREATE TABLE items (id citext PRIMARY KEY);"
    shard_urls = {shard: fresh_database(cluster, shard) for shard in ("professionals", "clients", "shared")}
    split = split_of(fresh_database(cluster, "source"), shard_urls, USERS + ITEMS, USERS_DDL + ddl)
    (finding,) = [one for one in make_plan(split.shard_map, split.url).findings if one.code == "key-collation"]
    assert (Severity.WARNING, "items") == (finding.severity, str(finding.table))
