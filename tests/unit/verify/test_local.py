"""Of which tables a shard alone can say that its rows are at home there; what it says is tried in tests/integration."""

from __future__ import annotations

import pytest

from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Path,
    Reference,
    Rule,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
)
from fixia_shardmig.model.catalog import Column, Table
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.local import local_tables, strays_query
from tests.unit.verify.catalogs import catalog, column, shard_map, table

USERS = TableName.parse("users")
POSTS = TableName.parse("posts")
SPLIT = SplitByColumn("kind", {"pro": "professionals"}, otherwise="shared")
OWNER = Path(("owner",), USERS, ("id",), declared=True)


def _tables(rules: dict[str, Rule], *more: Table, asked: tuple[str, ...] = ()) -> dict[str, set[str]]:
    tables = {entry.name: entry for entry in (table("users", "kind"), table("posts", "owner"), table("likes", "post"))}
    side = catalog(*(tables | {entry.name: entry for entry in more}).values())
    names = [TableName.parse(name) for name in asked or rules]
    found = local_tables(shard_map(rules), [side, side], names)
    return {str(name): {str(other) for other in followed} for name, followed in found.items()}


def test_what_is_split_and_all_that_follows_it_is_local() -> None:
    """With each table come those on the way to the split values; a whole table on one shard is split enough."""
    likes = Follows((Path(("post",), POSTS, ("id",), declared=True),))
    expected = {"users": set[str](), "posts": {"users"}, "likes": {"posts", "users"}}
    assert expected == _tables({"users": SPLIT, "posts": Follows((OWNER,)), "likes": likes})
    assert {"users", "posts"} == _tables({"users": OnShard("shared"), "posts": Follows((OWNER,))}).keys()


def test_what_follows_a_table_that_is_not_compared_now_is_not_local() -> None:
    """A parent that was found equal at another LSN may have moved since."""
    rules: dict[str, Rule] = {"users": SPLIT, "posts": Follows((OWNER,))}
    assert {} == _tables(rules, asked=("posts",))


@pytest.mark.parametrize(
    "rule",
    [
        Follows((OWNER,), otherwise="shared"),
        Follows((Path(("post",), TableName.parse("posts"), ("id",), declared=False),)),
        SplitBySql("kind", ("kind",), {}),
        SplitByReference("owner", USERS, "id", "kind", {}, None),
        Reference(),
    ],
)
def test_what_only_the_source_can_say_is_not_local(rule: Rule) -> None:
    """`otherwise` for a parent that is nowhere, a circle, an expression, another table's value, every shard."""
    assert {"users"} == _tables({"users": SPLIT, "posts": rule}, table("posts", "owner", "post", "kind")).keys()


@pytest.mark.parametrize(
    "odd",
    [
        column("owner", type_builtin=False, base_type="citext"),
        column("owner", collation_deterministic=False),
        column("owner", type_kind="e"),
    ],
)
def test_a_key_whose_equality_is_the_servers_own_is_not_local(odd: Column) -> None:
    """Two servers' citext, ICU collations or types may not agree on which rows meet (pitfall 50)."""
    assert {"users"} == _tables({"users": SPLIT, "posts": Follows((OWNER,))}, table("posts", odd)).keys()


def test_a_table_that_is_not_everywhere_is_not_local() -> None:
    """A shard without the table that is followed cannot be asked for it."""
    rules: dict[str, Rule] = {"users": SPLIT, "posts": Follows((OWNER,))}
    full, poor = catalog(table("users", "kind"), table("posts", "owner")), catalog(table("posts", "owner"))
    assert {} == local_tables(shard_map(rules), [full, poor], [USERS, POSTS])


def test_the_first_path_without_a_null_decides_who_is_at_home() -> None:
    """A row whose first parent is not there is a stray, wherever its second one is; so is one that follows nothing."""
    paths = (OWNER, Path(("second",), USERS, ("id",), declared=False))
    side = catalog(table("users", "kind"), table("posts", "owner", "second"))
    query = strays_query(shard_map({"users": SPLIT, "posts": Follows(paths)}), side, POSTS)
    assert query is not None
    expected = 'CASE WHEN "t"."owner" IS NOT NULL THEN "p1"."k1" IS NULL'
    expected += ' WHEN "t"."second" IS NOT NULL THEN "p2"."k1" IS NULL ELSE true END'
    assert expected in query.as_string(None)
