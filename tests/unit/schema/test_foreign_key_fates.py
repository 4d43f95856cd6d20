"""Which foreign keys stay whole when tables are split."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from fixia_shardmig.mapping.shard_map import (
    Endpoint,
    Follows,
    OnShard,
    Path,
    Reference,
    Rule,
    ShardMap,
    Skip,
    SplitByColumn,
)
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.references import foreign_key_fates, possible_homes
from tests.fixtures.fix_catalogs import catalog, index, table

HOMES = {"client": "clients", "professional": "professionals"}
SPLIT = SplitByColumn("kind", HOMES)


def path(*columns: str, to: str = "users", keys: tuple[str, ...] = ("id",)) -> Path:
    """Build a declared path."""
    return Path(columns, TableName.parse(to), keys, declared=True)


def shard_map(rules: Mapping[str, Rule]) -> ShardMap:
    """Build a map of three shards."""
    shards = {name: Endpoint("") for name in ("professionals", "clients", "shared")}
    tables = {TableName.parse(name): rule for name, rule in rules.items()}
    return ShardMap("m", "f", Endpoint(""), shards, "shared", tables)


def source(*keys: str) -> Catalog:
    """Build a catalog of users and rows about them."""
    return catalog(
        table("users", "id text!", "kind text!", indexes=[index("id", "kind")]),
        table("items", "id text!", "user_id text!", "other_id text", "kind text!"),
        table("notes", "id text!", "item_id text", "user_id text", "kind text"),
        keys=keys,
    )


def fate(key: str, items: Rule, *, users: Rule = SPLIT, notes: Rule | None = None) -> tuple[bool, str]:
    """Return what becomes of one foreign key under the rules."""
    rules = {"users": users, "items": items, "notes": notes or Skip("not in this test")}
    (one,) = foreign_key_fates(shard_map(rules), source(key))
    return (one.kept, one.reason)


def test_the_deciding_reference_is_kept() -> None:
    """The first path of a follows rule brings a row to its parent, so the key holds on every shard."""
    assert (True, "it decides the row's home (user_id)") == fate(
        "items(user_id) -> users(id)", Follows((path("user_id"),))
    )


def test_a_nullable_deciding_reference_with_otherwise_is_kept() -> None:
    """A NULL constrains nothing, wherever `otherwise` sends the row."""
    rule = Follows((path("other_id"), path("user_id")), otherwise="shared")
    assert fate("items(other_id) -> users(id)", rule)[0]


def test_a_later_path_is_dropped() -> None:
    """Pitfall 70. The second path decides only where the first is NULL; else its parent may live elsewhere."""
    rule = Follows((path("other_id"), path("user_id")))
    assert (False, "it decides the row's home only where other_id is NULL") == fate("items(user_id) -> users(id)", rule)


def test_a_reference_beside_the_deciding_one_is_dropped() -> None:
    """Pitfall 70. Nothing brings a row to the other parent's shard."""
    assert (False, "the row's home is decided by user_id, not by other_id") == fate(
        "items(other_id) -> users(id)", Follows((path("user_id"),))
    )


def test_a_wider_key_around_the_deciding_column_is_kept() -> None:
    """The key holds the path's column, which is unique in the parent: both lead to the same row."""
    assert fate("items(user_id,kind) -> users(id,kind)", Follows((path("user_id"),)))[0]


def test_a_reference_table_is_always_there() -> None:
    """A key to a reference table holds on every shard."""
    assert (True, "users is on every shard") == fate(
        "items(user_id) -> users(id)", OnShard("clients"), users=Reference()
    )


def test_a_reference_table_cannot_point_to_a_split_one() -> None:
    """A row that is everywhere cannot reference a row that is somewhere."""
    assert not fate("items(user_id) -> users(id)", Reference())[0]


def test_two_tables_on_one_shard_keep_their_key() -> None:
    """Both always live on the same shard."""
    assert (True, "both tables live on clients only") == fate(
        "items(user_id) -> users(id)", OnShard("clients"), users=OnShard("clients")
    )


def test_two_tables_on_two_shards_lose_their_key() -> None:
    """They never meet."""
    assert not fate("items(user_id) -> users(id)", OnShard("clients"), users=OnShard("shared"))[0]


def test_a_table_that_is_not_moved_ends_its_keys() -> None:
    """Nothing can point to what stays behind."""
    assert (False, "users is not moved") == fate("items(user_id) -> users(id)", Reference(), users=Skip("old"))


def test_a_key_that_holds_both_split_values_is_kept() -> None:
    """Equal values have equal homes when both sides send them to the same shards."""
    assert fate("items(user_id,kind) -> users(id,kind)", SPLIT)[0]


@pytest.mark.parametrize("other", [{"client": "shared"}, {**HOMES, "dual": "shared"}])
def test_equal_values_with_other_homes_end_the_key(other: dict[str, str]) -> None:
    """One value, two homes: the row and its parent part."""
    assert not fate("items(user_id,kind) -> users(id,kind)", SplitByColumn("kind", other))[0]


def test_followers_of_one_shard_stay_there() -> None:
    """A table that follows only what lives on one shard can live nowhere else, so all its keys into it are kept."""
    rules: dict[str, Rule] = {"users": OnShard("shared"), "items": Follows((path("user_id"),)), "notes": SPLIT}
    assert frozenset({"shared"}) == possible_homes(shard_map(rules), TableName.parse("items"))
    assert fate("items(other_id) -> users(id)", Follows((path("user_id"),)), users=OnShard("shared"))[0]


def test_a_self_reference_is_dropped() -> None:
    """Pitfall 12. A tree whose rows are decided by another column may span shards."""
    assert not fate("items(other_id) -> items(id)", Follows((path("user_id"),)))[0]


def test_a_kept_key_needs_both_tables_on_the_shard() -> None:
    """A follower exists on every shard, the table it follows only on its own."""
    mapped = shard_map(
        {"users": OnShard("shared"), "items": Follows((path("user_id"),), "shared"), "notes": Reference()}
    )
    described = source("items(user_id) -> users(id)")
    (one,) = foreign_key_fates(mapped, described)
    assert [False, True] == [one.kept_on(mapped, described, shard) for shard in ("clients", "shared")]
