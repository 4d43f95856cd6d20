"""What many operations come to, key by key, is what they come to one after the other."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.tail.net import NetChange, Values
from fixia_shardmig.tail.operations import DELETE, UPDATE, Operation
from fixia_shardmig.tail.shards import merge
from fixia_shardmig.tail.statements import UPSERT
from tests.fixtures.fix_catalogs import table

COLUMNS = ("id", "a", "b")
TABLE = table("things", "id text", "a text", "b text")
KEYS = st.sampled_from("xyz")
VALUES = st.one_of(st.none(), st.sampled_from("123"))
V = TypeVar("V")
Rows = dict[str, dict[str, str | None]]


@st.composite
def operations(draw: st.DrawFn) -> tuple[Rows, list[Operation]]:
    """Draw a table's rows, and operations that a stream could bring: each is about a row that is there, or is not."""
    before = {key: {"a": draw(VALUES), "b": draw(VALUES)} for key in draw(st.sets(KEYS))}
    there = set(before)
    drawn: list[Operation] = []
    for key in draw(st.lists(KEYS, max_size=12)):
        if key not in there:
            drawn.append(Operation(UPSERT, COLUMNS, (key, draw(VALUES), draw(VALUES))))
            there.add(key)
        elif draw(st.booleans()):
            columns = draw(st.sampled_from([("id", "a", "b"), ("id", "a"), ("b",)]))
            new = tuple(key if name == "id" else draw(VALUES) for name in columns)
            drawn.append(Operation(UPDATE, columns, (*new, key)))
        else:
            drawn.append(Operation(DELETE, ("id",), (key,)))
            there.remove(key)
    return before, drawn


def test_an_update_with_a_column_that_the_row_was_put_without_goes_in_order() -> None:
    """Pitfall 30: the row is from before an ADD COLUMN that the shards had earlier, the update from after it."""
    put = Operation(UPSERT, ("id", "a"), ("x", "1"))
    assert merge(TABLE, [put, Operation(UPDATE, ("a", "b"), ("2", "3", "x"))]) is None


@given(operations())
def test_a_net_change_is_what_the_operations_come_to(drawn: tuple[Rows, list[Operation]]) -> None:
    """Deletes, then updates, then rows to put, give the rows that the operations give in their order."""
    before, stream = drawn
    net = merge(TABLE, stream)
    assert net is not None
    assert _in_order(before, stream) == _merged(before, net)


@given(operations())
def test_no_row_is_put_where_one_is_and_none_is_changed_where_none_is(drawn: tuple[Rows, list[Operation]]) -> None:
    """COPY would fail on the first, and the second would count as a change that hit no row."""
    before, stream = drawn
    net = merge(TABLE, stream)
    assert net is not None
    deleted = {key[0] for key in net.deletes}
    assert deleted <= set(before)
    assert {key[0] for key in net.updates} <= set(before) - deleted
    assert not {key[0] for key in net.puts} & (set(before) - deleted)


def test_a_key_that_changes_under_an_unknown_row_is_not_merged() -> None:
    """Pitfall 23: the row's other values are on the shard only, so the operations go one after the other."""
    change = Operation(UPDATE, ("id", "a"), ("y", "1", "x"))
    assert merge(TABLE, [change]) is None


def _in_order(before: Rows, stream: list[Operation]) -> Rows:
    rows = {key: dict(row) for key, row in before.items()}
    for operation in stream:
        if operation.kind == UPSERT:
            rows[str(operation.values[0])] = dict(zip(("a", "b"), operation.values[1:], strict=True))
        elif operation.kind == UPDATE:
            new = dict(zip(operation.columns, operation.values, strict=False))
            new.pop("id", None)
            rows[str(operation.values[-1])].update(new)
        else:
            del rows[str(operation.values[0])]
    return rows


def _merged(before: Rows, net: NetChange) -> Rows:
    rows = {key: dict(row) for key, row in before.items() if (key,) not in net.deletes}
    for (key,), (columns, values) in _named(net.updates).items():
        rows[key].update(zip(columns, values, strict=True))
    for (key,), row in _named(net.puts).items():
        rows[key] = dict(zip(("a", "b"), row[1:], strict=True))
    return rows


def _named(by_key: dict[Values, V]) -> dict[tuple[str], V]:
    return {(str(key[0]),): value for key, value in by_key.items()}
