"""The batch record, what is known of keys, and how operations are grouped. No server."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.stream import Key
from fixia_shardmig.tail.locations import Locations
from fixia_shardmig.tail.operations import Operation
from fixia_shardmig.tail.record import Decisions, Explicit
from fixia_shardmig.tail.shards import _runs
from fixia_shardmig.tail.tables import Keyspace

SPACE = Keyspace(TableName("public", "users"), ("id",))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
EXPLICIT = st.builds(
    Explicit,
    st.integers(0, 100),
    st.integers(0, 63),
    st.sampled_from(["put", "remove", "remove_one"]),
    st.builds(TableName, TEXT, TEXT),
    st.lists(TEXT, max_size=3).map(tuple),
    st.lists(st.none() | TEXT, max_size=3).map(tuple),
)


@given(masks=st.lists(st.integers(0, 2**64 - 1)), explicit=st.lists(EXPLICIT, max_size=5))
def test_a_record_reads_back_as_it_was_written(masks: list[int], explicit: list[Explicit]) -> None:
    """Pitfall 6: 64 shards, NULL and empty values, every character."""
    decisions = Decisions(array("Q", masks), explicit)
    assert decisions == Decisions.from_bytes(decisions.to_bytes())


class Shards:
    """Stands for the shards: says where keys are and remembers what it was asked."""

    def __init__(self, **homes: int) -> None:
        """Take key -> shard set."""
        self.homes = homes
        self.asked: list[Key] = []

    def find(self, _: Keyspace, keys: list[Key]) -> list[int]:
        """Answer one question."""
        self.asked += keys
        return [self.homes.get(key[0], 0) for key in keys]


def test_a_key_is_asked_for_once() -> None:
    """Absence is an answer too."""
    shards = Shards(a=1)
    locations = Locations(shards.find)
    locations.fetch(SPACE, [("a",), ("b",), ("a",)])
    assert (1, 0) == (locations.of(SPACE, ("a",)), locations.of(SPACE, ("b",)))
    assert [("a",), ("b",)] == shards.asked


def test_what_was_routed_counts_more_than_what_the_shards_say() -> None:
    """Operations wait in queues, so a shard's answer would be older."""
    shards = Shards(a=1)
    locations = Locations(shards.find)
    locations.put(SPACE, ("a",), 2)
    locations.fetch(SPACE, [("a",)])
    assert locations.of(SPACE, ("a",)) == 2
    assert [] == shards.asked


def test_a_batch_that_is_rolled_back_is_forgotten() -> None:
    """The shards are asked again, as after a TRUNCATE of one table."""
    shards = Shards(a=1)
    locations = Locations(shards.find)
    locations.put(SPACE, ("a",), 2)
    locations.forget_all()
    assert locations.of(SPACE, ("a",)) == 1
    locations.put(SPACE, ("a",), 4)
    locations.forget(SPACE)
    assert locations.of(SPACE, ("a",)) == 1


def test_neighbours_of_one_kind_share_a_statement_and_nobody_overtakes() -> None:
    """Pitfall 27: the order on a table is the source's."""
    operations = [
        Operation("upsert", ("id",), ("1",)),
        Operation("upsert", ("id",), ("2",)),
        Operation("delete", ("id",), ("1",)),
        Operation("upsert", ("id",), ("1",)),
        Operation("upsert", ("id", "x"), ("1", "y")),
    ]
    runs = _runs(operations)
    assert [2, 1, 1, 1] == [len(values) for _, _, values in runs]
    assert operations == [Operation(kind, columns, one) for kind, columns, values in runs for one in values]
