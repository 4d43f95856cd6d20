"""Tables in the order in which homes can be decided: parents first."""

from __future__ import annotations

from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Path,
    Reference,
    Rule,
    Skip,
    SplitByColumn,
    SplitByReference,
    topological,
)
from fixia_shardmig.model.names import TableName


def following(*parents: str) -> Follows:
    """Return a rule that follows tables in this order."""
    return Follows(tuple(Path((f"{one}_id",), TableName.parse(one), ("id",), declared=True) for one in parents))


def order(rules: dict[str, Rule]) -> list[str]:
    """Return the names in topological order."""
    return [str(name) for name in topological({TableName.parse(name): rule for name, rule in rules.items()})]


def test_parents_come_before_those_that_follow_them() -> None:
    """Over several hops and for every alternative, not only for the first."""
    rules: dict[str, Rule] = {
        "a": following("b", "z"),
        "b": following("c"),
        "c": following("users"),
        "users": SplitByColumn("kind", {}),
        "z": following("users"),
    }
    assert ["users", "c", "b", "z", "a"] == order(rules)


def test_the_table_that_names_kinds_comes_before_the_one_it_splits() -> None:
    """Pitfall 11: a split by reference needs its small table first."""
    roles = SplitByReference("role_id", TableName.parse("roles"), "id", "name", {})
    assert ["roles", "accounts"] == order({"accounts": roles, "roles": Reference()})


def test_what_nothing_ties_together_comes_by_name() -> None:
    """The order is the same in every run."""
    assert ["a", "b", "sales.a"] == order({"sales.a": OnShard("x"), "b": Reference(), "a": OnShard("x")})


def test_a_skipped_table_is_left_out() -> None:
    """It is not moved, so it has no place in the order."""
    assert ["a"] == order({"a": OnShard("x"), "b": Skip("old")})
