"""Which changes of a mapping leave every placed row where it is."""

from __future__ import annotations

from dataclasses import replace

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
    SplitBySql,
    only_gains_homes,
)
from fixia_shardmig.model.names import TableName

USERS, NOTES = TableName("public", "users"), TableName("public", "notes")
SPLIT = SplitByColumn("kind", {"a": "north"})
FOLLOWS = Follows((Path(("owner",), USERS, ("id",), declared=True),))
BY_SQL = SplitBySql("kind", ("kind",), {})


def gains(before: Rule, now: Rule) -> bool:
    """Whether a table's rule may turn from one into the other."""
    shards = {"north": Endpoint(""), "south": Endpoint("")}
    old = ShardMap("m", "f", Endpoint(""), shards, "north", {USERS: before})
    return only_gains_homes(old.rules(), replace(old, tables={USERS: now}).rules())


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (SPLIT, SPLIT, True),
        (SPLIT, replace(SPLIT, homes={"a": "north", "b": "south"}), True),
        (SPLIT, replace(SPLIT, otherwise="south"), True),
        (SPLIT, replace(SPLIT, homes={"a": "south"}), False),
        (SPLIT, replace(SPLIT, homes={"b": "south"}), False),
        (SPLIT, replace(SPLIT, column="other"), False),
        (
            replace(SPLIT, otherwise="south"),
            replace(SPLIT, homes={"a": "north", "b": "north"}, otherwise="south"),
            False,
        ),
        (replace(SPLIT, otherwise="south"), SPLIT, False),
        (FOLLOWS, replace(FOLLOWS, otherwise="north"), True),
        (FOLLOWS, Follows(()), False),
        (FOLLOWS, OnShard("north"), False),
        (BY_SQL, replace(BY_SQL, otherwise="north"), True),
        (BY_SQL, replace(BY_SQL, homes={"x": "north"}), False),
        (OnShard("north"), OnShard("south"), False),
        (OnShard("north"), Reference(), False),
        (Skip("old"), Skip("new"), True),
        (Skip("old"), OnShard("north"), False),
    ],
)
def test_only_values_without_a_home_may_get_one(before: Rule, now: Rule, expected: bool) -> None:  # noqa: FBT001  a case
    """Pitfall 9: a row that was placed under the rules of before is where the rules of now want it."""
    assert expected == gains(before, now)


def test_a_table_that_is_skipped_does_not_change_the_fingerprint() -> None:
    """Pitfall 30: a table made mid-flight wants a word in the mapping, and is none of the migration's."""
    shards = {"north": Endpoint("")}
    old = ShardMap("m", "f", Endpoint(""), shards, "north", {USERS: OnShard("north")})
    assert old.fingerprint() == replace(old, tables={**old.tables, NOTES: Skip("made later")}).fingerprint()
    assert old.fingerprint() != replace(old, tables={**old.tables, NOTES: Reference()}).fingerprint()
