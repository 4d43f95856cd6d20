"""Reads the rows of a COPY, a block at a time, and sorts them by home; no value is looked into.

With `routed` each row begins with its home's place, as an int2 field in the binary format, as digits and a tab in the
text format; that goes, the rest stays as it came. The compiled `_relay.pyx` does the same where it was built; a row
costs 2.5 µs of processor time here, and a quarter of it there (docs/adr/0013).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from fixia_shardmig.model.compiled import is_built

BINARY_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
BINARY_HEADER = BINARY_SIGNATURE + b"\x00" * 8
BINARY_TRAILER = b"\xff\xff"
NO_HOME = -1
_HOME_FIELD_BYTES = 6

GetCopyData = Callable[[int], tuple[int, memoryview]]
"""libpq's: (size, message); no size at the end."""

Block = tuple[list[list[bytes]], int, int, bool]
"""Rows by home, those without a home in a last list; how many rows and bytes in all; whether more may come."""


class ReadBlock(Protocol):
    """Reads messages until there are so many bytes of rows."""

    def __call__(self, get: GetCopyData, /, *, binary: bool, routed: bool, homes: int, bytes_max: int) -> Block:
        """Return a block. Raises ValueError for a row that does not begin with a home."""
        ...


def read_block_in_python(get: GetCopyData, /, *, binary: bool, routed: bool, homes: int, bytes_max: int) -> Block:
    """Read a block; see `ReadBlock`."""
    by_home: list[list[bytes]] = [[] for _ in range(homes + 1)]
    rows = total = 0
    while total < bytes_max:
        size, message = get(0)
        if size <= 0:
            return by_home, rows, total, False
        data = bytes(message)
        if binary:
            data = data[len(BINARY_HEADER) :] if data[:11] == BINARY_SIGNATURE else data
            if data == BINARY_TRAILER:
                continue
        rows += 1
        total += len(data)
        home, row = (_split_binary(data) if binary else _split_text(data)) if routed else (0, data)
        if not NO_HOME <= home < homes:
            raise ValueError(f"home {home} of {homes}")
        by_home[home].append(row)
    return by_home, rows, total, True


def _split_binary(data: bytes) -> tuple[int, bytes]:
    """Take the leading int2 field off a binary row: (its value, the row with one field less)."""
    if len(data) < 2 + _HOME_FIELD_BYTES:
        raise ValueError("a row without its home")
    fields = int.from_bytes(data[:2], "big") - 1
    home = int.from_bytes(data[6:8], "big", signed=True)
    return home, fields.to_bytes(2, "big") + data[2 + _HOME_FIELD_BYTES :]


def _split_text(data: bytes) -> tuple[int, bytes]:
    home, tab, row = data.partition(b"\t")
    if not tab:
        raise ValueError("a row without its home")
    return int(home), row


IS_COMPILED = is_built("fixia_shardmig.copy._relay")
"""Whether `read_block` is the compiled one."""

if TYPE_CHECKING:
    read_block: ReadBlock
elif IS_COMPILED:
    from fixia_shardmig.copy._relay import read_block
else:
    read_block = read_block_in_python
