"""The plan of a whole marketplace: its numbers are right, and making it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fixia_shardmig.mapping.check import check_mapping
from fixia_shardmig.mapping.load import read_mapping
from fixia_shardmig.plan import Plan, make_plan, render_text
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import session
from tests.fixtures.fix_split import Split
from tests.integration.plan.conftest import Planned

MAPPING = Path(__file__).parents[3] / "mappings" / "fixia.yaml"

STATE = """
SELECT 'relation', oid::text, relname::text, relfilenode::text FROM pg_class
  WHERE relnamespace >= 16384 OR relnamespace = 2200
UNION ALL SELECT 'slot', slot_name, plugin, temporary::text FROM pg_replication_slots
UNION ALL SELECT 'publication', pubname, '', '' FROM pg_publication
UNION ALL SELECT 'trigger', tgname, tgrelid::text, tgenabled::text FROM pg_trigger
UNION ALL SELECT 'role', rolname, '', '' FROM pg_roles
UNION ALL SELECT 'schema', nspname, '', '' FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)'
UNION ALL SELECT 'setting', setdatabase::text, setrole::text, setconfig::text FROM pg_db_role_setting
UNION ALL SELECT 'origin', roname, '', '' FROM pg_replication_origin
ORDER BY 1, 2, 3
"""


@pytest.fixture
def market(market_url: str, shard_urls: dict[str, str]) -> Split:
    """Give the marketplace with its real mapping."""
    env = {"PRIMARY_DATABASE_URL": market_url} | {f"{name.upper()}_DB_URL": url for name, url in shard_urls.items()}
    with session(market_url, "test") as connection:
        catalog = read_catalog(connection)
    return Split(market_url, check_mapping(read_mapping(MAPPING, env), catalog), catalog)


def query(url: str, text: str) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(url) as connection:
        return connection.execute(text.encode()).fetchall()


def states(split: Split) -> Iterator[list[tuple[object, ...]]]:
    """Yield what source and shards hold beside rows."""
    for url in (split.url, *(end.url for end in split.shard_map.shards.values())):
        yield query(url, STATE)


def rows_of(plan: Plan, table: str) -> dict[str, int]:
    """Return a table's rows by shard."""
    return next({s: share.rows for s, share in t.homes.items()} for t in plan.tables if str(t.table) == table)


def test_a_plan_changes_nothing(market: Split) -> None:
    """Neither the source nor a shard holds anything after it that was not there before."""
    before = list(states(market))
    make_plan(market.shard_map, market.url)
    assert before == list(states(market))


def test_every_row_of_the_marketplace_is_on_one_shard(market: Split) -> None:
    """The shares of each table add up to its rows, reference tables aside, and nothing stands in the way."""
    plan = make_plan(market.shard_map, market.url)
    assert not plan.has_blockers
    assert 38 == len(plan.tables)
    for table in plan.tables:
        (counted,) = query(market.url, f'SELECT count(*) FROM "{table.table}"')
        assert (table.rows,) == counted
        shares = [share.rows for share in table.homes.values()]
        assert (table.rows,) == counted
        assert sum(shares) == (3 if table.rule == "reference" else 1) * (table.rows or 0)


def test_the_shares_follow_the_split(market: Split) -> None:
    """Checked against SQL that knows nothing of mappings: a user's kind over two hops."""
    expected = query(
        market.url,
        "SELECT CASE u.user_type::text WHEN 'client' THEN 'clients' WHEN 'admin' THEN 'shared' "
        "ELSE 'professionals' END, count(*) FROM service_views v "
        "JOIN services s ON s.id = v.service_id JOIN users u ON u.id = s.professional_id GROUP BY 1",
    )
    found = rows_of(make_plan(market.shard_map, market.url), "service_views")
    assert sorted(expected) == sorted((shard, rows) for shard, rows in found.items() if rows)


def test_references_across_shards_are_counted(market: Split) -> None:
    """Pitfall 70. The number says how much work falls to the application; here for one foreign key, by plain SQL."""
    plan = make_plan(market.shard_map, market.url)
    (expected,) = query(
        market.url,
        "SELECT count(*) FROM reviews r JOIN users a ON a.id = r.reviewer_id JOIN users b ON b.id = r.professional_id "
        "WHERE (a.user_type = 'client') <> (b.user_type = 'client') "
        "OR (a.user_type = 'admin') <> (b.user_type = 'admin')",
    )
    one = next(r for r in plan.cross_shard_references if r.constraint == "reviews_reviewer_id_fkey")
    assert (one.rows, "cascade") == (*expected, one.on_delete)
    assert 79 == len(plan.cross_shard_references) + len(plan.kept)


def test_the_uniqueness_that_ends_is_listed(market: Split) -> None:
    """Pitfall 69. E-mail, dni, tokens and payment ids; not what holds the reference that decides the home."""
    plan = make_plan(market.shard_map, market.url)
    ended = {f.message.partition(" ")[0] for f in plan.findings if f.code == "uniqueness-ends"}
    assert {"users_email_key", "users_dni_key", "payments_mp_payment_id_key", "payments_transaction_id_key"} <= ended
    assert not {"jobs_project_id_key", "trust_scores_user_id_key", "conversations_project_id_key"} & ended


def test_the_text_names_every_table_and_no_secret(market: Split) -> None:
    """Two screens for a marketplace; URLs with passwords are nowhere in it."""
    text = render_text(make_plan(market.shard_map, market.url))
    password = market.url.split(":")[2].split("@")[0]
    assert password not in text
    assert all(str(name) in text for name in market.shard_map.tables)
    assert text.endswith("nothing stands in the way\nnext: shardmig copy\n")


def test_a_sample_comes_near_and_says_so(planned: Callable[..., Planned], monkeypatch: pytest.MonkeyPatch) -> None:
    """With estimates a part of the pages is read; the plan is marked as not exact."""
    monkeypatch.setattr("fixia_shardmig.plan.make.SAMPLE_PAGES", 40)
    ddl = (
        "INSERT INTO users SELECT 'x' || n, CASE WHEN n % 4 = 0 THEN 'professional' ELSE 'client' END "
        "FROM generate_series(1, 40000) n; ANALYZE users"
    )
    made = planned(ddl, estimates=True)
    (users,) = made.plan.tables
    assert not made.plan.exact
    assert 20_000 < (users.rows or 0) < 60_000
    assert 0.2 < users.homes["professionals"].rows / (users.rows or 1) < 0.3
    assert ["estimated"] == [finding.code for finding in made.found("estimated")]


def test_partitions_and_children_are_counted_once(planned: Callable[..., Planned]) -> None:
    """Pitfall 31. A root counts its partitions; a table with inheritance children counts only itself."""
    ddl = (
        "CREATE TABLE events (id int, user_id text REFERENCES users, PRIMARY KEY (id)) PARTITION BY RANGE (id); "
        "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10); CREATE INDEX ON events (user_id); "
        "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20); "
        "INSERT INTO events VALUES (1, 'u1'), (11, 'u3'), (12, 'u3'); "
        "CREATE TABLE base (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (base); "
        "INSERT INTO base VALUES (1); INSERT INTO child VALUES (2), (3)"
    )
    tables = "  events: {follows: user_id, otherwise: shared}\n  base: {shard: shared}\n  child: {shard: shared}\n"
    plan = planned(ddl, tables).plan
    assert {"professionals": 2, "clients": 1, "shared": 0} == rows_of(plan, "events")
    assert [1, 2] == [table.rows for table in plan.tables if str(table.table) in {"base", "child"}]


def test_the_fingerprint_changes_with_mapping_and_definitions(planned: Callable[..., Planned]) -> None:
    """A later phase refuses another plan; more rows are not another plan."""
    made = planned()
    before = made.plan.fingerprint
    with psycopg.connect(made.split.url, autocommit=True) as connection:
        connection.execute("INSERT INTO users VALUES ('u9', 'client')")
        same = make_plan(made.split.shard_map, made.split.url).fingerprint
        connection.execute("ALTER TABLE users ADD COLUMN more text")
        changed = make_plan(made.split.shard_map, made.split.url).fingerprint
    assert before == same
    assert before != changed


def test_a_reference_nobody_declared_is_counted_too(planned: Callable[..., Planned]) -> None:
    """A later path without a foreign key can cross shards as a declared one can."""
    ddl = (
        "CREATE TABLE notes (id int PRIMARY KEY, by text, about text); CREATE INDEX ON notes (by); "
        "CREATE INDEX ON notes (about); INSERT INTO notes VALUES (1, 'u1', 'u2'), (2, 'u1', 'u3'), (3, NULL, 'u3')"
    )
    to_users = "{columns: [%s], references: users, to: [id]}"
    tables = f"  notes: {{follows: [{to_users % 'by'}, {to_users % 'about'}], otherwise: shared}}\n"
    (one,) = planned(ddl, tables).plan.cross_shard_references
    assert ("", ("about",), 1) == (one.constraint, one.columns, one.rows)
