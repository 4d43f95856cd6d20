"""The stream's reading of placement, case by case, with lookups that are told what to answer."""

from __future__ import annotations

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
    SplitByReference,
    SplitBySql,
)
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.stream import Key, Lookups, as_cast_to_text, comparable, deciding_path, home_of
from tests.fixtures.fix_catalogs import column

USERS = TableName("public", "users")
BY_ORDER = Path(("order_no", "tenant"), TableName("public", "orders"), ("no", "tenant"), declared=True)
BY_USER = Path(("user_id",), USERS, ("id",), declared=True)
MAP = ShardMap("shop", "", Endpoint(""), {"pros": Endpoint(""), "shared": Endpoint("")}, "shared", {})


def home(rule: Rule, row: dict[str, str | None], answer: str | None = None) -> str | None:
    """Decide a row's home where every lookup gives the same answer."""
    lookups = Lookups(
        parent_home=lambda _path, _key: answer,
        referenced_value=lambda _rule, _key: answer,
        evaluated=lambda _rule: answer,
    )
    return home_of(rule, row, shard_map=MAP, lookups=lookups)


@pytest.mark.parametrize(
    ("declared", "output", "expected"),
    [
        ("c bool", "t", "true"),
        ("c bool", "f", "false"),
        ("c bpchar", "ab  ", "ab"),
        ("c bpchar", "   ", ""),
        ("c text", "ab  ", "ab  "),
        ("c inet", "10.0.0.1", "10.0.0.1/32"),
        ("c inet", "10.0.0.0/8", "10.0.0.0/8"),
        ("c inet", "::1", "::1/128"),
        ("c numeric", "1.00", "1.00"),
        ("c enum(t|f)", "t", "t"),
        ("c bool", None, None),
    ],
)
def test_a_value_reads_as_its_cast_to_text(declared: str, output: str | None, expected: str | None) -> None:
    """Pitfall 49: the mapping's values are those of `::text`; no other type's text is touched."""
    assert expected == as_cast_to_text(column(declared), output)


@pytest.mark.parametrize(
    ("declared", "values", "different"),
    [
        ("c numeric", ["1", "1.0", "1.000"], ["10", "0.1", "1.01", "-1"]),
        ("c numeric", ["10", "10.0"], ["1", "100", "10.01"]),
        ("c numeric", ["0", "0.00"], ["NaN", "Infinity"]),
        ("c citext", ["ab", "AB", "aB"], ["ab ", "b"]),
        ("c bpchar", ["a", "a  "], [" a", "A"]),
        ("c text", ["a"], ["a ", "A", ""]),
        ("c bool", ["t", "true"], ["f", "false"]),
        ("c inet", ["10.0.0.1", "10.0.0.1/32"], ["10.0.0.1/8"]),
        ("c inet", ["::1", "::1/128"], ["::1/32"]),
        ("c float8", ["0", "-0"], ["-1", "0.5"]),
    ],
)
def test_equal_keys_and_only_those_compare_as_equal(declared: str, values: list[str], different: list[str]) -> None:
    """Pitfalls 49 and 50: 1.0 is 1.00, 'A' is 'a' in citext; text stays exact."""
    (same,) = {comparable(column(declared), value) for value in values}
    assert same not in {comparable(column(declared), value) for value in different}


def test_the_first_path_without_a_null_decides() -> None:
    """Pitfall 8: a composite path with one NULL is none, and the order is the mapping's."""
    rule = Follows((BY_ORDER, BY_USER))
    whole = {"order_no": "1", "tenant": "2", "user_id": "3"}
    assert (BY_ORDER, ("1", "2")) == deciding_path(rule, whole)
    assert (BY_USER, ("3",)) == deciding_path(rule, {**whole, "tenant": None})
    assert (None, ()) == deciding_path(rule, {**whole, "tenant": None, "user_id": None})


def test_a_later_path_does_not_stand_in_for_a_parent_that_is_missing() -> None:
    """Pitfall 8: the first path that is set decides even when it dangles, as the SQL says too."""
    asked: list[tuple[Path, Key]] = []

    def parent_home(path: Path, key: Key) -> str | None:
        asked.append((path, key))
        return None

    lookups = Lookups(parent_home, referenced_value=lambda _rule, _key: None, evaluated=lambda _rule: None)
    row: dict[str, str | None] = {"order_no": "1", "tenant": "2", "user_id": "3"}
    rule = Follows((BY_ORDER, BY_USER), "shared")
    assert home_of(rule, row, shard_map=MAP, lookups=lookups) == "shared"
    assert [(BY_ORDER, ("1", "2"))] == asked


@pytest.mark.parametrize(("otherwise", "expected"), [("shared", "shared"), (None, None)])
@pytest.mark.parametrize("value", [None, "unknown", ""])
def test_a_null_or_unknown_value_goes_to_otherwise_or_nowhere(
    value: str | None, otherwise: str | None, expected: str | None
) -> None:
    """Pitfall 9: nothing is guessed; without `otherwise` the home is undecided."""
    homes = {"pro": "pros"}
    assert expected == home(SplitByColumn("kind", homes, otherwise), {"kind": value})
    assert expected == home(SplitByReference("kind", USERS, "id", "name", homes, otherwise), {"kind": "7"}, value)
    assert expected == home(SplitBySql("f(kind)", ("kind",), homes, otherwise), {"kind": "7"}, value)


def test_a_known_value_goes_home() -> None:
    """Each kind of split finds the shard of its value."""
    homes = {"pro": "pros"}
    assert home(SplitByColumn("kind", homes), {"kind": "pro"}) == "pros"
    assert home(SplitByReference("role", USERS, "id", "name", homes), {"role": "7"}, "pro") == "pros"
    assert home(SplitBySql("f(kind)", ("kind",), homes), {"kind": "7"}, "pro") == "pros"
    assert home(Follows((BY_USER,), "shared"), {"user_id": "7"}, "pros") == "pros"
    assert home(OnShard("shared"), {}) == "shared"


def test_an_expression_without_homes_gives_a_shards_name() -> None:
    """A name that no shard has is an unknown value."""
    rule = SplitBySql("f(kind)", ("kind",), {}, "shared")
    assert ["pros", "shared"] == [home(rule, {}, "pros"), home(rule, {}, "prs")]


def test_a_null_reference_is_not_looked_up() -> None:
    """A row without a reference to the small table has no value, whatever that table holds."""
    assert home(SplitByReference("role", USERS, "id", "name", {"pro": "pros"}), {"role": None}, "pro") is None


@pytest.mark.parametrize("rule", [Reference(), Skip("old")])
def test_a_table_that_is_everywhere_or_nowhere_has_no_home(rule: Rule) -> None:
    """A reference table's rows are on every shard, a skipped one's on none; neither is one home."""
    assert home(rule, {}) is None


def test_a_deciding_column_that_is_left_out_is_an_error() -> None:
    """Pitfall 2: a value that is not in the row is not NULL; the caller has to find it first."""
    with pytest.raises(KeyError):
        home(SplitByColumn("kind", {}, "shared"), {})
