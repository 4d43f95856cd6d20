"""The marketplace is whole at every size, the same for the same seed, and as odd as real data."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.demo.generator import create_schema, populate

TABLES = "select tablename from pg_tables where schemaname = 'public' order by 1"


@pytest.fixture(scope="module")
def market_url(source_cluster: Cluster) -> str:
    """Give a marketplace of 300 users, only read by the tests here."""
    url = source_cluster.create_database("generated_market")
    populate(url, users=300, seed=7)
    return url


def values(url: str, statement: str) -> list[object]:
    """Run one statement and give the first column."""
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(statement.encode()).fetchall()]


def row_counts(url: str) -> dict[str, int]:
    """Count each table's rows."""
    with psycopg.connect(url) as connection:
        return {
            table: len(connection.execute(sql.SQL("select 1 from {}").format(sql.Identifier(table))).fetchall())
            for (table,) in connection.execute(TABLES).fetchall()
        }


def contents(url: str) -> dict[str, str]:
    """Give a digest of each table's rows, whatever their order."""
    digests: dict[str, str] = {}
    digest = sql.SQL("select coalesce(sum(hashtextextended(t::text, 0)), 0)::text from {} t")
    with psycopg.connect(url) as connection:
        for (table,) in connection.execute(TABLES).fetchall():
            row = connection.execute(digest.format(sql.Identifier(table))).fetchone()
            digests[table] = row[0] if row else ""
    return digests


def test_the_schema_has_every_table_key_and_index(source_url: str) -> None:
    """37 tables and Prisma's own, 178 indexes and Prisma's own, 79 foreign keys that all cascade updates."""
    create_schema(source_url)
    count = "select count(*) from "
    assert [38] == values(source_url, count + "pg_tables where schemaname = 'public'")
    assert [179] == values(source_url, count + "pg_indexes where schemaname = 'public'")
    assert [79] == values(source_url, count + "pg_constraint where contype = 'f' and confupdtype = 'c'")


@pytest.mark.parametrize("users", [4, 50])
def test_a_small_marketplace_has_every_type_of_user(source_url: str, users: int) -> None:
    """Even four users are one of each type, and the count returned is that of the rows."""
    rows = populate(source_url, users=users)
    assert [4] == values(source_url, "select count(distinct user_type) from users")
    assert users == len(values(source_url, "select 1 from users"))
    assert rows == sum(row_counts(source_url).values())


def test_fewer_than_four_users_are_refused(source_url: str) -> None:
    """Below one user of each type there is no marketplace."""
    with pytest.raises(ValueError, match="at least 4"):
        populate(source_url, users=3)


def test_the_same_seed_gives_the_same_rows(source_cluster: Cluster, fresh_database: Callable[..., str]) -> None:
    """Two runs with one seed are equal in every table; another seed is not."""
    first, second, other = (fresh_database(source_cluster, label) for label in ("first", "second", "other"))
    populate(first, users=60, seed=3)
    populate(second, users=60, seed=3)
    populate(other, users=60, seed=4)
    assert contents(first) == contents(second)
    assert contents(first)["users"] != contents(other)["users"]


def test_every_table_has_rows(market_url: str) -> None:
    """No table of a marketplace of 300 users is empty."""
    assert [] == [table for table, digest in contents(market_url).items() if digest == "0"]


@pytest.mark.parametrize(
    "condition",
    [
        "from phone_reveals where expires_at = 'infinity'",
        "from phone_reveals where expires_at < '0001-01-01 BC'",
        "from services where price = 'NaN'",
        "from job_milestones where amount = 'NaN'",
        "from projects where array_lower(skills_required, 1) = 0",
        "from professional_profiles where null = any (specialties) is null and array_position(specialties, null) > 0",
        "from notifications where message = ''",
        r"from notifications where message = '\N'",
        "from notifications where message ~ '[\\t\\n]'",
        "from notifications where message like '%👩🏽‍🔧%'",
        "from user_activity where length(metadata::text) = 401",
        "from user_activity where metadata = 'null'",
        "from phone_reveals where match_id is not null and service_match_id is not null",
        "from phone_reveals where match_id is null and service_match_id is null",
        "from proposals p join proposals q on q.id = p.parent_proposal_id where p.professional_id <> q.professional_id",
    ],
)
def test_odd_rows_are_there(market_url: str, condition: str) -> None:
    """Each value that broke a migration once occurs at least once."""
    assert [True] == values(market_url, "select count(*) > 0 " + condition)


def test_some_values_are_stored_out_of_line(market_url: str) -> None:
    """jsonb, array and text values of TOAST size are really in the TOAST table."""
    toasted = values(
        market_url,
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
        " and reltoastrelid <> 0 and pg_relation_size(reltoastrelid) > 0",
    )
    assert {"user_activity", "projects", "services", "payments"} <= set(toasted)
