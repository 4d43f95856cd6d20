"""The pure comparison: digests to buckets, rows of a bucket to named differences."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.comparison import (
    NAMED_MAX,
    Difference,
    Differences,
    Digest,
    Names,
    Row,
    compare_rows,
    differing_buckets,
)
from fixia_shardmig.verify.homes import EVERY_SHARD

TABLE = TableName.parse("t")
NAMES = Names(TABLE, ("id",), ("id", "v"), ("a", "b", "c"))
KEYLESS = Names(TABLE, (), ("v",), ("a", "b", "c"))


def _digest(count: int, total: int, xor: int) -> Digest:
    return Digest(count, Decimal(total), xor)


def test_equal_digests_differ_in_no_bucket() -> None:
    """Shards that hold just what the source places on them are not looked at again."""
    source = {(0, 5): _digest(1, 10, 10), (1, 5): _digest(2, 7, 3)}
    shards = {0: {(0, 5): _digest(1, 10, 10)}, 1: {(1, 5): _digest(2, 7, 3)}}
    assert frozenset() == differing_buckets(source, shards)


def test_rows_that_cancel_in_the_xor_are_seen_in_count_and_sum() -> None:
    """Pitfall 55: the same row twice too often leaves the xor as it was."""
    assert {5} == differing_buckets({(0, 5): _digest(1, 10, 10)}, {0: {(0, 5): _digest(3, 30, 10)}})


def test_changes_that_cancel_in_the_sum_are_seen_in_the_xor() -> None:
    """Pitfall 55: one hash up and one down by the same amount leave the sum as it was."""
    assert {0} == differing_buckets({(0, 0): _digest(2, 1 + 3, 1 ^ 3)}, {0: {(0, 0): _digest(2, 2 + 2, 2 ^ 2)}})


def test_an_xor_alone_is_enough_and_so_is_a_sum_alone() -> None:
    """Each of the three numbers is compared by itself."""
    base = _digest(2, 8, 6)
    for other in (_digest(3, 8, 6), _digest(2, 9, 6), _digest(2, 8, 7)):
        assert {1} == differing_buckets({(0, 1): base}, {0: {(0, 1): other}})


def test_a_bucket_that_only_one_side_has_differs() -> None:
    """Rows where there should be none, and none where there should be rows."""
    assert {1, 2} == differing_buckets({(0, 1): _digest(1, 1, 1)}, {0: {(0, 2): _digest(1, 1, 1)}})


def test_a_row_on_the_wrong_shard_makes_both_shards_differ() -> None:
    """Pitfall 56: the union is the same, and each shard is held against its own rows."""
    assert {1} == differing_buckets({(0, 1): _digest(1, 4, 4)}, {0: {}, 1: {(1, 1): _digest(1, 4, 4)}})


def test_a_reference_tables_digest_is_expected_on_every_shard() -> None:
    """Its home is no shard, so each shard must show it."""
    digest = _digest(1, 4, 4)
    shards = {0: {(0, 1): digest}, 1: {(1, 1): digest}, 2: {}}
    assert {1} == differing_buckets({(EVERY_SHARD, 1): digest}, shards)


def test_differences_past_the_limit_are_counted_and_not_named() -> None:
    """Memory is bounded; the number is still right."""
    found = Differences()
    for number in range(NAMED_MAX + 7):
        found.add(Difference(TABLE, "a", {"id": str(number)}, "missing"))
    assert (NAMED_MAX, NAMED_MAX + 7) == (len(found.named), found.total)
    assert {("a", "missing"): NAMED_MAX + 7} == found.counts


def test_a_misplaced_row_with_a_second_wrong_copy_is_one_of_each() -> None:
    """One row stands for the lost one, the other is one too many."""
    row = Row(0, ("1",), "{1,2}", 1, "")
    found = list(compare_rows(NAMES, [row], {0: [], 1: [row], 2: [row]}))
    assert [("misplaced", "b", "a"), ("duplicated", "c", "a")] == [(d.kind, d.shard, d.home) for d in found]


def test_a_null_in_the_hashes_is_a_change() -> None:
    """NULL is an element of its own and equals no hash."""
    left, right = Row(0, ("1",), "{1,NULL}", 1, ""), Row(0, ("1",), "{1,0}", 1, "")
    (found,) = compare_rows(NAMES, [left], {0: [right]})
    assert ("differing", ("v",)) == (found.kind, found.columns)


_rows = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("xyz")), max_size=8)


@given(source=_rows, shards=st.lists(st.lists(st.sampled_from("wxyz"), max_size=6), min_size=3, max_size=3))
def test_multisets_are_told_apart_as_counting_says(source: list[tuple[int, str]], shards: list[list[str]]) -> None:
    """Whatever the rows: kinds add up to the surplus and the lack that plain counting finds on each shard."""
    homes = dict(reversed([(value, home) for home, value in source]))  # equal rows have one home
    wanted = Counter(value for _, value in source)
    expected = [Row(homes[value], (), f"{{{value}}}", copies, value) for value, copies in wanted.items()]
    actual = {
        number: [Row(number, (), f"{{{value}}}", copies, value) for value, copies in Counter(values).items()]
        for number, values in enumerate(shards)
    }
    lack: Counter[str] = Counter()
    surplus: Counter[tuple[int, str]] = Counter()
    for found in compare_rows(KEYLESS, expected, actual):
        value = str(found.key["row"])
        if found.kind in {"missing", "misplaced"}:
            lack[value] += found.copies
        if found.kind in {"extra", "duplicated", "misplaced"}:
            surplus[NAMES.shards.index(found.shard), value] += found.copies
        assert (value in wanted) == (found.kind != "extra")
    for value in "wxyz":
        at_home = shards[homes[value]].count(value) if value in homes else 0
        assert max(wanted[value] - at_home, 0) == lack[value]
        for number, values in enumerate(shards):
            belongs = wanted[value] if homes.get(value) == number else 0
            assert max(values.count(value) - belongs, 0) == surplus[number, value]


@given(st.lists(st.sampled_from("xyz"), max_size=5))
def test_equal_rows_give_no_difference(values: list[str]) -> None:
    """Nothing is reported that is not there."""
    rows = [Row(1, (), f"{{{value}}}", copies, value) for value, copies in Counter(values).items()]
    assert [] == list(compare_rows(KEYLESS, rows, {0: [], 1: rows, 2: []}))
