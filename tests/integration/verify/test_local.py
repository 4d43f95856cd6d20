"""Who is at home is said by the shards where they can, and by the source as soon as anything is not as it should be."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from fixia_shardmig.mapping.shard_map import Follows, Path, Rule, SplitByColumn
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify import verification
from fixia_shardmig.verify.homes import home_sql
from fixia_shardmig.verify.scans import Pacing
from tests.integration.verify.conftest import World

RULES: dict[str, Rule] = {
    "users": SplitByColumn("user_type", {"professional": "professionals", "client": "clients", "admin": "shared"}),
    "services": Follows((Path(("owner",), TableName.parse("users"), ("id",), declared=False),)),
}


@pytest.fixture
def owned(users: World) -> World:
    """Give the users, and of their services those that have an owner."""
    for side in ("source", "shared"):
        users.run(side, "DELETE FROM services WHERE owner IS NULL")
    return users


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list of tables of which the source was asked for homes."""
    tables: list[str] = []

    def ask(shard_map: Any, catalog: Any, table: TableName) -> Any:
        tables.append(str(table))
        return home_sql(shard_map, catalog, table)

    monkeypatch.setattr(verification, "home_sql", ask)
    return tables


def test_the_source_is_not_asked_for_homes_while_all_is_equal(owned: World, asked: list[str]) -> None:
    """Each shard's rows are told apart all the same, and no reference is counted that the join has counted."""
    result = owned.compare(RULES)
    assert result.equal
    assert [] == asked
    rows = {(str(entry.table), entry.shard): entry.target_rows for entry in result.tables}
    assert (3, 1, 0) == tuple(rows["services", shard] for shard in ("professionals", "clients", "shared"))
    (reference,) = result.references
    assert (0, 0, True) == (reference.source_dangling, reference.shards_dangling, reference.implied)


def test_a_row_that_only_changed_its_shard_is_misplaced(owned: World, asked: list[str]) -> None:
    """All shards together still hold just what the source holds: the row's parent is not beside it."""
    owned.run("professionals", "DELETE FROM services WHERE id = 1")
    owned.run("clients", "INSERT INTO services VALUES (1, 'p1', 'paint', 1.10)")
    assert [("misplaced", "clients", "services", ("1",), ())] == owned.differences(RULES)
    assert {"services"} == set(asked)


def test_a_family_that_changed_its_shard_together_is_misplaced(owned: World) -> None:
    """Each service stands beside its owner, who is where its own value does not put it."""
    for table, key in (("services", "owner"), ("users", "id")):
        owned.run("professionals", f"DELETE FROM {table} WHERE {key} = 'p1'")
    owned.run("clients", "INSERT INTO users VALUES ('p1', 'professional', 'Ana')")
    owned.run("clients", "INSERT INTO services VALUES (1, 'p1', 'paint', 1.10), (2, 'p1', 'roof', NULL)")
    expected = [("misplaced", "clients", table, (key,), ()) for table, key in (("services", "1"), ("services", "2"))]
    assert [*expected, ("misplaced", "clients", "users", ("p1",), ())] == owned.differences(RULES)


def test_an_index_that_knows_other_rows_than_its_table_is_not_believed(
    owned: World, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The join may read an index: if it met fewer rows than the table has, it says nothing, and homes are asked for."""
    monkeypatch.setattr(verification, "strays_query", lambda *_: sql.SQL("SELECT 0::int8, 0::int8").format())
    assert owned.compare(RULES).equal
    assert ["services", "users"] == sorted(asked)


def test_homes_are_asked_for_where_what_is_followed_is_not_compared_at_the_same_moment(
    owned: World, asked: list[str]
) -> None:
    """With one table alone, or with snapshots that are given back when old, no induction holds."""
    assert owned.compare(RULES, tables=[TableName.parse("services")]).equal
    assert ["services"] == asked
    assert owned.compare(RULES, pacing=Pacing(until_s=float("inf"))).equal
    assert ["services", "services", "users"] == sorted(asked)
