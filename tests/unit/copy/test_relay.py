"""Rows are sorted by home as they came, by the compiled way and by the one in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.copy import relay
from fixia_shardmig.copy.relay import BINARY_HEADER, BINARY_TRAILER, PythonSorter, Sorter
from hatch_build import digest

NewSorter = Callable[..., Sorter]

WAYS = [pytest.param(PythonSorter, id="python"), pytest.param(relay.new_sorter, id="compiled")]
HOMES = 3
ROWS = st.lists(st.tuples(st.integers(-1, HOMES - 1), st.binary(max_size=80)), max_size=30)
CUTS = st.lists(st.integers(1, 90), min_size=1, max_size=8)


def sort(new: NewSorter, messages: Sequence[bytes], cuts: Sequence[int] = (), *, binary: bool, routed: bool) -> Sorter:
    """Give a sorter messages one after the other, or with cuts the stream that they are, in pieces of these lengths."""
    sorter = new(binary=binary, routed=routed, homes=HOMES if routed else 1)
    if not cuts:
        for message in messages:
            sorter.message(memoryview(message))
        return sorter
    stream = b"".join(b"d" + (len(message) + 4).to_bytes(4, "big") + message for message in messages) + b"c\0\0\0\4"
    at = pieces = used = 0
    while at < len(stream) - 5:
        size = cuts[pieces % len(cuts)] + (0 if used else pieces)  # a piece that was too short comes again, longer
        used = sorter.frames(memoryview(stream)[at : at + size])
        at, pieces = at + used, pieces + 1
    assert 0 == sorter.frames(stream[at:])
    return sorter


def all_of(sorter: Sorter) -> list[bytes]:
    """Return what there is to take, those without a home last."""
    return [sorter.take(home) for home in range(len(sorter.rows))]


def binary_row(home: int | None, rest: bytes) -> bytes:
    """Write a row of two fields, a home before them or not."""
    field = b"" if home is None else (2).to_bytes(4, "big") + home.to_bytes(2, "big", signed=True)
    return (2 + (home is not None)).to_bytes(2, "big") + field + rest


def test_the_compiled_part_is_built_of_this_source() -> None:
    """A tree in which it was left out, or left behind, would test something else than it says."""
    assert relay.IS_COMPILED, "python hatch_build.py"
    from fixia_shardmig.copy import _relay

    source = Path(relay.__file__).with_name("_relay.pyx")
    assert digest(source) == _relay.SOURCE, "python hatch_build.py"


@pytest.mark.parametrize("new", WAYS)
@given(rows=ROWS, cuts=st.just([]) | CUTS)
def test_the_home_is_taken_off_a_binary_row(new: NewSorter, rows: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """The first field is an int2; the row without it has one field less and is otherwise untouched."""
    messages = [binary_row(home, rest) for home, rest in rows]
    sent = [BINARY_HEADER + (messages[0] if messages else BINARY_TRAILER), *messages[1:], BINARY_TRAILER]
    expected = [b""] * (HOMES + 1)
    counts = [0] * (HOMES + 1)
    for home, rest in rows:
        expected[home] += binary_row(None, rest)
        counts[home] += 1
    sorter = sort(new, sent, cuts, binary=True, routed=True)
    assert (expected, counts, sum(map(len, messages))) == (all_of(sorter), sorter.rows, sorter.size)


@pytest.mark.parametrize("new", WAYS)
@given(rows=ROWS, cuts=st.just([]) | CUTS)
def test_the_home_is_taken_off_a_text_row(new: NewSorter, rows: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """Only the first tab separates; tabs within values are escaped by the server and stay."""
    messages = [str(home).encode() + b"\t" + rest for home, rest in rows]
    expected = [b""] * (HOMES + 1)
    for home, rest in rows:
        expected[home] += rest
    sorter = sort(new, messages, cuts, binary=False, routed=True)
    assert (expected, sum(map(len, messages))) == (all_of(sorter), sorter.size)
    assert [0] * (HOMES + 1) == [sorter.fill(home) for home in range(HOMES + 1)]


@pytest.mark.parametrize("new", WAYS)
@pytest.mark.parametrize("binary", [True, False])
@given(texts=st.lists(st.binary(max_size=80), max_size=10), cuts=st.just([]) | CUTS)
def test_rows_that_are_not_routed_pass_as_they_are(
    new: NewSorter, *, binary: bool, texts: list[bytes], cuts: list[int]
) -> None:
    """The header and the trailer of the binary format are each sink's own; either may come in a message of its own."""
    rows = [binary_row(None, text) for text in texts]
    sent = [BINARY_HEADER, *rows, BINARY_TRAILER] if binary else rows
    sorter = sort(new, sent, cuts, binary=binary, routed=False)
    assert ([b"".join(rows), b""], [len(rows), 0]) == (all_of(sorter), sorter.rows)


@pytest.mark.parametrize("new", WAYS)
def test_a_row_is_given_on_before_all_of_it_has_come(new: NewSorter) -> None:
    """A worker's memory does not know how large a value is."""
    sorter = new(binary=False, routed=True, homes=HOMES)
    assert 5 + 40 == sorter.frames(b"d" + (4 + 1000).to_bytes(4, "big") + b"1\t" + b"a" * 38)
    assert ([0, 1, 0, 0], b"a" * 38) == (sorter.rows, sorter.take(1))
    assert 10 == sorter.frames(b"b" * 10)
    assert b"b" * 10 == sorter.take(1)


@pytest.mark.parametrize("new", WAYS)
@pytest.mark.parametrize("row", [b"3\tx", b"-2\tx", b"x\tx", b"1"])
def test_a_row_without_a_home_of_ours_is_refused(new: NewSorter, row: bytes) -> None:
    """A row is never put on a shard that nobody named."""
    with pytest.raises(ValueError, match=r"home|literal"):
        sort(new, [row], binary=False, routed=True)
    with pytest.raises(ValueError, match=r"home|literal"):
        sort(new, [row], [99], binary=False, routed=True)


@pytest.mark.parametrize("new", WAYS)
def test_a_row_that_is_too_short_for_a_home_is_refused(new: NewSorter) -> None:
    """Whatever the server sent there, it was not what was asked for."""
    with pytest.raises(ValueError, match="without its home"):
        sort(new, [b"\0\1\0\0"], binary=True, routed=True)
