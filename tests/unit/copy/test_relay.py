"""Rows are sorted by home as they came, by the compiled way and by the one in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.copy import relay
from fixia_shardmig.copy.relay import BINARY_HEADER, BINARY_TRAILER, Block, GetCopyData, ReadBlock
from hatch_build import digest

WAYS = [
    pytest.param(relay.read_block_in_python, id="python"),
    pytest.param(relay.read_block, id="compiled"),
]
HOMES = 3
ROWS = st.lists(st.tuples(st.integers(-1, HOMES - 1), st.binary(max_size=40)), max_size=30)


def coming(messages: Sequence[bytes]) -> GetCopyData:
    """Give messages one after the other, as libpq does, and then the end."""
    left = [(len(message), memoryview(message)) for message in messages] + [(-1, memoryview(b""))]
    return lambda _: left.pop(0)


def all_of(read: ReadBlock, messages: Sequence[bytes], *, binary: bool, routed: bool, bytes_max: int = 64) -> Block:
    """Read all blocks and put them together."""
    homes = HOMES if routed else 1
    by_home: list[list[bytes]] = [[] for _ in range(homes + 1)]
    rows = size = 0
    get, more = coming(messages), True
    while more:
        block = read(get, binary=binary, routed=routed, homes=homes, bytes_max=bytes_max)
        for all_its, its in zip(by_home, block[0], strict=True):
            all_its.extend(its)
        rows, size, more = rows + block[1], size + block[2], block[3]
    return by_home, rows, size, more


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


@pytest.mark.parametrize("read", WAYS)
@given(rows=ROWS)
def test_the_home_is_taken_off_a_binary_row(read: ReadBlock, rows: list[tuple[int, bytes]]) -> None:
    """The first field is an int2; the row without it has one field less and is otherwise untouched."""
    messages = [binary_row(home, rest) for home, rest in rows]
    sent = [BINARY_HEADER + (messages[0] if messages else BINARY_TRAILER), *messages[1:], BINARY_TRAILER]
    expected: list[list[bytes]] = [[] for _ in range(HOMES + 1)]
    for home, rest in rows:
        expected[home].append(binary_row(None, rest))
    size = sum(map(len, messages))
    assert (expected, len(rows), size, False) == all_of(read, sent, binary=True, routed=True)


@pytest.mark.parametrize("read", WAYS)
@given(rows=ROWS)
def test_the_home_is_taken_off_a_text_row(read: ReadBlock, rows: list[tuple[int, bytes]]) -> None:
    """Only the first tab separates; tabs within values are escaped by the server and stay."""
    messages = [str(home).encode() + b"\t" + rest for home, rest in rows]
    expected: list[list[bytes]] = [[] for _ in range(HOMES + 1)]
    for home, rest in rows:
        expected[home].append(rest)
    size = sum(map(len, messages))
    assert (expected, len(rows), size, False) == all_of(read, messages, binary=False, routed=True)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("binary", [True, False])
def test_rows_that_are_not_routed_pass_as_they_are(read: ReadBlock, *, binary: bool) -> None:
    """The header and the trailer of the binary format are each sink's own."""
    rows = [binary_row(None, b"abc"), binary_row(None, b"")]
    sent = [BINARY_HEADER + rows[0], rows[1], BINARY_TRAILER] if binary else rows
    assert ([rows, []], 2, sum(map(len, rows)), False) == all_of(read, sent, binary=binary, routed=False)


@pytest.mark.parametrize("read", WAYS)
def test_a_block_ends_with_the_row_that_fills_it(read: ReadBlock) -> None:
    """What is asked for is what a worker holds at once, but for one row."""
    get = coming([b"0\taaaa", b"1\tbbbb", b"2\tcccc"])
    assert ([[b"aaaa"], [b"bbbb"], [], []], 2, 12, True) == read(get, binary=False, routed=True, homes=3, bytes_max=7)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("row", [b"3\tx", b"-2\tx", b"x\tx", b"1"])
def test_a_row_without_a_home_of_ours_is_refused(read: ReadBlock, row: bytes) -> None:
    """A row is never put on a shard that nobody named."""
    with pytest.raises(ValueError, match=r"home|literal"):
        read(coming([row]), binary=False, routed=True, homes=3, bytes_max=7)
