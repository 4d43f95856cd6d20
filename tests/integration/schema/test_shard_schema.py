"""What each shard gets of a source with one of everything, and in which stage."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.errors import RefusedError, ShardmigError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.schema import (
    STAGES,
    Problem,
    ShardSchema,
    apply_pre_data,
    build,
    build_all,
    diff,
    notes,
    pending,
    run_stage,
)
from tests.fixtures.fix_split import Split

Everything = Callable[..., Split]


def execute(url: str, text: str) -> list[tuple[object, ...]]:
    """Run SQL on a database; the rows of its last statement."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []


def make_shard(split: Split, shard: str, *, jobs: int = 2) -> ShardSchema:
    """Build and run all stages of one shard."""
    schema = build(split.url, split.shard_map, split.catalog, shard)
    apply_pre_data(split.shard_url(shard), schema)
    for stage in STAGES[1:]:
        run_stage(split.shard_url(shard), stage, jobs=jobs)
    return schema


@pytest.mark.parametrize(("source", "target"), [(15, 15), (15, 18), (18, 15), (18, 18)])
def test_every_shard_becomes_what_the_source_says(everything: Everything, source: int, target: int) -> None:
    """Between any two versions, after all stages nothing is missing, extra or different on any shard."""
    split = everything(source, target)
    for shard in split.shard_map.shard_names:
        schema = make_shard(split, shard)
        assert [] == [str(one) for one in diff(schema, split.shard_url(shard))]


def test_before_the_copy_there_is_no_key_and_no_index(everything: Everything) -> None:
    """An index while rows are copied costs more than all of the copy, so that pre-data makes none."""
    split = everything()
    schemas = build_all(split.url, split.shard_map, split.catalog)
    apply_pre_data(split.shard_url("shared"), schemas["shared"])
    assert [(0,)] == execute(
        split.shard_url("shared"),
        "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
        "WHERE c.relnamespace::regnamespace::text IN ('public', 'extra')",
    )
    found = {one.problem for one in diff(schemas["shared"], split.shard_url("shared"))}
    assert {Problem.PENDING} == found


def test_only_what_lives_there_is_made(everything: Everything) -> None:
    """Pitfall 70. A table of another shard is not made, and what uses it is listed with the reason."""
    split = everything()
    clients = build(split.url, split.shard_map, split.catalog, "clients")
    tables = {str(step.table) for step in clients.stage("pre_data") if step.kind == "TABLE"}
    assert {"templates", "cl"} & tables == set()
    assert {"users", "extra.events_1", "nopk"} <= tables
    reason = "it uses templates, which does not live on clients"
    left = {(one.kind, one.name): one.reason for one in clients.not_moved}
    assert reason == left["view", "public.v_tmpl"]
    assert reason == left["function", "public.f_tmpl(public.templates)"]


def test_foreign_keys_are_kept_or_dropped_with_a_reason(everything: Everything) -> None:
    """Pitfall 70. Every foreign key of a shard's tables is accounted for."""
    split = everything()
    schemas = build_all(split.url, split.shard_map, split.catalog)
    both = {"nv", "services_user_id_fkey", "template_uses_user_id_fkey"}
    assert both == {fate.key.name for fate in schemas["clients"].kept}
    assert both | {"template_notes_template_id_fkey"} == {fate.key.name for fate in schemas["shared"].kept}
    reasons = {fate.key.name: fate.reason for fate in schemas["clients"].dropped}
    assert {"emp_boss_fkey", "template_uses_template_id_fkey"} == set(reasons)
    assert all(reasons.values())


def test_foreign_keys_are_validated_in_a_statement_of_their_own(everything: Everything) -> None:
    """The lock that stops writers is held only while the key is added, not while rows are checked."""
    split = everything()
    schema = build(split.url, split.shard_map, split.catalog, "clients")
    steps = [(step.kind, step.name, step.rank) for step in schema.stage("foreign_keys")]
    assert ("FK CONSTRAINT", "services_user_id_fkey", 0) in steps
    assert ("VALIDATE", "services_user_id_fkey", 1) in steps
    added = next(s for s in schema.stage("foreign_keys") if s.name == "services_user_id_fkey")
    assert added.sql.endswith("DEFERRABLE INITIALLY DEFERRED NOT VALID;")
    assert ("VALIDATE", "nv", 1) not in steps  # the source has not validated it either


def test_triggers_that_would_fire_for_applied_changes_wait_for_the_switch(everything: Everything) -> None:
    """Pitfall 26. ENABLE ALWAYS would run a second time on rows that the source's trigger has already changed."""
    split = everything()
    url = split.shard_url("clients")
    schema = build(split.url, split.shard_map, split.catalog, "clients")
    apply_pre_data(url, schema)
    states = "SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    for stage in STAGES[1:-1]:
        run_stage(url, stage)
    assert [("t1", "O"), ("t2", "O"), ("t3", "D")] == execute(url, states)
    assert ["t2"] == [step.name for step in schema.stage("after_switch")]
    run_stage(url, "after_switch")
    assert [("t1", "O"), ("t2", "A"), ("t3", "D")] == execute(url, states)


def test_the_replica_identity_comes_with_the_keys(everything: Everything) -> None:
    """Pitfall 24. What the tail finds rows by is there as soon as the keys are, on partitions too."""
    split = everything()
    url = split.shard_url("clients")
    apply_pre_data(url, build(split.url, split.shard_map, split.catalog, "clients"))
    run_stage(url, "primary_keys", jobs=2)
    rows = execute(
        url,
        "SELECT c.relname::text, c.relreplident::text, i.indisvalid FROM pg_class c "
        "LEFT JOIN pg_index i ON i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident) "
        "WHERE c.relname IN ('byidx', 'nopk', 'events', 'events_1') ORDER BY 1",
    )
    assert [("byidx", "i", True), ("events", "d", True), ("events_1", "d", True), ("nopk", "f", None)] == rows


def test_a_stage_may_be_run_for_some_tables(everything: Everything) -> None:
    """The partitions of a root count as the root."""
    split = everything()
    url = split.shard_url("clients")
    apply_pre_data(url, build(split.url, split.shard_map, split.catalog, "clients"))
    ran: list[str] = []
    events = TableName("extra", "events")
    run_stage(url, "primary_keys", only_tables={events}, on_progress=lambda p: ran.append(str(p.statement)))
    assert 5 == len(ran)
    with session(url, "test") as connection:
        assert () == pending(connection, "primary_keys", only_tables={events})
        assert pending(connection, "primary_keys")


def test_applied_twice_is_applied_once(everything: Everything) -> None:
    """A run that was killed after its commit finds its work done."""
    split = everything()
    schema = build(split.url, split.shard_map, split.catalog, "shared")
    assert [True, False] == [apply_pre_data(split.shard_url("shared"), schema) for _ in range(2)]


def test_changed_ddl_is_refused_on_a_shard_that_was_made(everything: Everything) -> None:
    """Pitfall 30. Tables made from an older definition are not taken for the present one."""
    split = everything()
    apply_pre_data(split.shard_url("shared"), build(split.url, split.shard_map, split.catalog, "shared"))
    execute(split.url, "ALTER TABLE public.users ADD COLUMN extra text")
    changed = build(split.url, split.shard_map, split.catalog, "shared")
    with pytest.raises(RefusedError, match="made from other DDL"):
        apply_pre_data(split.shard_url("shared"), changed)


def test_a_target_with_tables_is_refused_and_untouched(everything: Everything) -> None:
    """Somebody's tables are named, and nothing of ours is left behind."""
    split = everything()
    url = split.shard_url("shared")
    execute(url, "CREATE SCHEMA theirs; CREATE TABLE theirs.customers (id int)")
    with pytest.raises(RefusedError, match=r"has 1 tables \(theirs.customers\)") as caught:
        apply_pre_data(url, build(split.url, split.shard_map, split.catalog, "shared"))
    assert "empty database" in caught.value.hint
    assert [(None,)] == execute(url, "SELECT to_regclass('shardmig.ddl')")


def test_a_failing_statement_names_itself_and_the_stage_goes_on_from_there(everything: Everything) -> None:
    """Statements that were done stay done; after the cause is removed the rest follows."""
    split = everything()
    url = split.shard_url("shared")
    schema = build(split.url, split.shard_map, split.catalog, "shared")
    apply_pre_data(url, schema)
    run_stage(url, "primary_keys")
    execute(url, "INSERT INTO templates (id, name) VALUES (1, 'twice'), (2, 'twice')")
    with pytest.raises(ShardmigError, match="CONSTRAINT templates_name_key on templates") as caught:
        run_stage(url, "constraints", jobs=2)
    assert "shardmig tail" in caught.value.hint
    execute(url, "DELETE FROM templates WHERE id = 2")
    with session(url, "test") as connection:
        left = len(pending(connection, "constraints"))
    assert left == run_stage(url, "constraints")
    assert 0 == run_stage(url, "constraints")


def test_a_failing_table_leaves_the_target_empty(everything: Everything) -> None:
    """Pre-data is one transaction, and its error names the statement."""
    split = everything(18, 15)
    execute(split.url, "ALTER TABLE public.byidx ADD COLUMN v int GENERATED ALWAYS AS (a * 2) VIRTUAL")
    with pytest.raises(ShardmigError, match="TABLE byidx: syntax error"):
        apply_pre_data(split.shard_url("shared"), build(split.url, split.shard_map, split.catalog, "shared"))
    assert [(0,)] == execute(split.shard_url("shared"), "SELECT count(*) FROM pg_class WHERE relname = 'users'")


def test_owners_and_grants_of_missing_roles_are_noted(
    everything: Everything, new_cluster: Callable[..., Cluster]
) -> None:
    """A role that the target does not have costs its own grants, and the note says so."""
    split = everything()
    url = new_cluster(major=15).create_database("lonely")
    schema = build(split.url, split.shard_map, split.catalog, "shared")
    apply_pre_data(url, schema)
    for stage in STAGES[1:]:
        run_stage(url, stage)
    with session(url, "test") as connection:
        found = notes(connection)
    assert {'role "app_x" does not exist'} == {reason for _, reason in found}
    assert "OWNER public.services" in {what for what, _ in found}
    assert [] == diff(schema, url)


def test_owners_and_grants_follow_where_the_roles_exist(everything: Everything) -> None:
    """An application's role finds its rights on the shard."""
    split = everything()
    make_shard(split, "clients")
    rows = execute(
        split.shard_url("clients"),
        "SELECT has_table_privilege('app_x', 'public.users', 'SELECT'), "
        "pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = 'public.services'::regclass",
    )
    assert [(True, "app_x")] == rows


def test_a_lock_that_is_held_for_a_moment_is_waited_for(
    everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer in the way delays a statement; it does not fail it."""
    monkeypatch.setattr("fixia_shardmig.schema.apply.LOCK_TIMEOUT_MS", 100)
    split = everything()
    url = split.shard_url("clients")
    apply_pre_data(url, build(split.url, split.shard_map, split.catalog, "clients"))
    holder = psycopg.connect(url)
    holder.execute("LOCK TABLE public.users IN ROW EXCLUSIVE MODE")
    holder.execute("SET idle_in_transaction_session_timeout = 700")  # ends the holder a little later
    assert run_stage(url, "primary_keys", jobs=2)
    holder.close()


def test_the_record_holds_no_secret(everything: Everything) -> None:
    """The statements on the target carry no URL and no password."""
    split = everything()
    make_shard(split, "shared")
    password = split.url.split(":")[2].split("@")[0]
    assert [(0,)] == execute(
        split.shard_url("shared"), f"SELECT count(*) FROM shardmig.ddl WHERE statement LIKE '%{password}%'"
    )


def test_a_table_that_inherits_from_elsewhere_is_refused(
    split_of: Callable[..., Split], source_url: str, shard_urls: dict[str, str]
) -> None:
    """Pitfall 31. A child table cannot be made where its parent is not."""
    ddl = "CREATE TABLE base (id int PRIMARY KEY); CREATE TABLE child (x int, PRIMARY KEY (id)) INHERITS (base)"
    split = split_of(source_url, shard_urls, "  base: {shard: shared}\n  child: {reference: true}\n", ddl)
    with pytest.raises(RefusedError, match="child cannot be made on clients: it needs base"):
        build(split.url, split.shard_map, split.catalog, "clients")


def test_a_function_over_another_shards_table_stays_behind(everything: Everything) -> None:
    """A body in a string is not looked into; a signature is."""
    split = everything()
    execute(split.url, "CREATE FUNCTION public.lazy() RETURNS text LANGUAGE sql AS 'SELECT name FROM public.templates'")
    make_shard(split, "clients")
    names = execute(split.shard_url("clients"), "SELECT proname::text FROM pg_proc WHERE proname IN ('lazy', 'f_tmpl')")
    assert [("lazy",)] == names


def test_the_fence_of_the_source_is_no_part_of_a_shard(everything: Everything) -> None:
    """Its triggers are neither made on a shard nor missed there, whether it is up or left over."""
    split = everything()
    execute(
        split.url,
        "CREATE SCHEMA shardmig; CREATE FUNCTION shardmig.refuse_write() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER shardmig_fence BEFORE INSERT ON users"
        " EXECUTE FUNCTION shardmig.refuse_write(); ALTER TABLE users ENABLE ALWAYS TRIGGER shardmig_fence",
    )
    schema = make_shard(split, "clients")
    assert [] == [statement.sql for statement in schema.statements if "shardmig_fence" in statement.sql]
    assert [] == [str(one) for one in diff(schema, split.shard_url("clients")) if "shardmig_fence" in str(one)]
    assert "shardmig_fence" not in str(schema.not_moved)


def test_diff_names_what_somebody_changed(everything: Everything) -> None:
    """Each kind of change on a shard is found: missing, extra and different."""
    split = everything()
    url = split.shard_url("clients")
    schema = make_shard(split, "clients")
    execute(
        url,
        "DROP INDEX services_user_id_idx; ALTER TABLE users ADD COLUMN surplus int; "
        "ALTER TABLE nopk ALTER COLUMN b TYPE varchar(9); ALTER TABLE users DISABLE TRIGGER t1; "
        "ALTER TABLE byidx ALTER COLUMN b SET DEFAULT 'x'; ALTER TABLE services DROP CONSTRAINT services_user_id_fkey; "
        "CREATE TABLE theirs (id int)",
    )
    found = {(one.problem.value, one.kind, str(one.table), one.name) for one in diff(schema, url)}
    assert {
        ("missing", "index", "services", "services_user_id_idx"),
        ("missing", "foreign key", "services", "services_user_id_fkey"),
        ("extra", "column", "users", "surplus"),
        ("extra", "column", "theirs", "id"),
        ("extra", "table", "theirs", ""),
        ("different", "column", "nopk", "b"),
        ("different", "column", "byidx", "b"),
        ("different", "trigger", "users", "t1"),
    } == found


@pytest.mark.parametrize("major", [15, 18])
def test_a_foreign_key_of_a_partitioned_table_is_added_valid_at_once(
    major: int,
    clusters_by_major: Callable[[int], Cluster],
    fresh_database: Callable[..., str],
    split_of: Callable[..., Split],
) -> None:
    """Pitfall 31. Before 18 such a key cannot be NOT VALID; its partitions get it from the root."""
    cluster = clusters_by_major(major)
    ddl = (
        "CREATE TABLE users (id text PRIMARY KEY, kind text NOT NULL); "
        "CREATE TABLE visits (id int PRIMARY KEY, user_id text NOT NULL REFERENCES users) PARTITION BY RANGE (id); "
        "CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (10); "
        "CREATE TABLE notes (id int PRIMARY KEY, visit_id int NOT NULL REFERENCES visits)"
    )
    tables = (
        "  users: {split_by: kind, homes: {a: clients, b: shared}}\n"
        "  visits: {follows: user_id}\n  notes: {follows: visit_id}\n"
    )
    urls = {shard: fresh_database(cluster, shard) for shard in ("clients", "shared")}
    split = split_of(fresh_database(cluster, "source"), urls, tables, ddl)
    schema = make_shard(split, "clients")
    assert ["notes_visit_id_fkey", "visits_user_id_fkey"] == sorted(fate.key.name for fate in schema.kept)
    assert ["notes_visit_id_fkey"] == [s.name for s in schema.stage("foreign_keys") if s.kind == "VALIDATE"]
    assert [] == [str(one) for one in diff(schema, split.shard_url("clients"))]
