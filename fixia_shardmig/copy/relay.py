"""Sorts the rows of a COPY by home, as they come over the wire; no value is looked into.

With `routed` each row begins with its home's place, as an int2 field in the binary format, as digits and a tab in the
text format; that goes, the rest stays as it came. The compiled `_relay.pyx` does the same where it was built
(docs/adr/0013).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from fixia_shardmig.model.compiled import is_built

BINARY_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
BINARY_HEADER = BINARY_SIGNATURE + b"\x00" * 8
BINARY_TRAILER = b"\xff\xff"
NO_HOME = -1

Buffer: TypeAlias = bytes | bytearray | memoryview

_FRAME_BYTES = 5
"""A message of the protocol begins with its letter, `d` for a row, and the length of the rest, itself included."""

_HOME_FIELD_BYTES = 6
_HEAD_BYTES = 32
"""More than any head of a message that is looked at: the format's header, a field count and a home."""

_DIGITS_MAX = 8


class Sorter(Protocol):
    """Takes what a COPY sends, whole messages or pieces of the stream, and keeps rows by home until they are taken.

    A row is never held as a whole: what has come of it can be taken. Raises ValueError for a row that does not begin
    with a home.
    """

    @property
    def rows(self) -> list[int]:
        """How many rows have begun, by home; those without a home come last."""
        ...

    @property
    def size(self) -> int:
        """The bytes of all rows that have begun, as they come over the wire."""
        ...

    def fill(self, home: int, /) -> int:
        """Return how much there is to take for a home."""
        ...

    def take(self, home: int, /) -> bytes:
        """Return what there is for a home, and keep it no longer."""
        ...

    def message(self, data: Buffer, /) -> None:
        """Take a row, as libpq gives it."""
        ...

    def frames(self, data: Buffer, /) -> int:
        """Take a piece of the stream; returns where something begins that is no row, or not enough of one.

        What lies behind that has to come again, at the start of the next piece.
        """
        ...


class PythonSorter:
    """See `Sorter`."""

    def __init__(self, *, binary: bool, routed: bool, homes: int) -> None:
        """Begin a COPY in a format to so many homes; without `routed` to one that no row names."""
        self.rows = [0] * (homes + 1)
        self.size = 0
        self._kept = [bytearray() for _ in range(homes + 1)]
        self._binary, self._routed, self._homes = binary, routed, homes
        self._at = 0
        self._left = 0

    def fill(self, home: int, /) -> int:
        """Return how much there is to take for a home."""
        return len(self._kept[home])

    def take(self, home: int, /) -> bytes:
        """Return what there is for a home, and keep it no longer."""
        taken, self._kept[home] = bytes(self._kept[home]), bytearray()
        return taken

    def message(self, data: Buffer, /) -> None:
        """Take a row, as libpq gives it."""
        row = memoryview(data)
        head = self._begin(row, len(row))
        self._kept[self._at] += row[head:]
        self._left = 0

    def frames(self, data: Buffer, /) -> int:
        """Take a piece of the stream; see `Sorter`."""
        piece = memoryview(data)
        at = 0
        while True:
            if self._left:
                rest = piece[at : at + self._left]
                self._kept[self._at] += rest
                self._left -= len(rest)
                at += len(rest)
            if len(piece) - at < _FRAME_BYTES or piece[at] != ord("d"):
                return at
            length = int.from_bytes(piece[at + 1 : at + _FRAME_BYTES], "big") - 4
            ready = piece[at + _FRAME_BYTES : at + _FRAME_BYTES + length]
            if len(ready) < min(length, _HEAD_BYTES):
                return at
            at += _FRAME_BYTES + self._begin(ready, length)

    def _begin(self, ready: memoryview, length: int) -> int:
        """Take the head of a message off; returns how long it was. What is left of it goes where `_at` says."""
        head = 0
        self._at = 0
        if self._binary:
            if bytes(ready[: len(BINARY_SIGNATURE)]) == BINARY_SIGNATURE:
                head = len(BINARY_HEADER)
            if length == head or bytes(ready[head : head + 3]) == BINARY_TRAILER:
                return length
        self.size += length - head
        if self._routed:
            head = self._binary_home(ready, head) if self._binary else self._text_home(ready)
        self.rows[self._at] += 1
        self._left = length - head
        return head

    def _binary_home(self, ready: memoryview, head: int) -> int:
        """Turn to the home that a leading int2 field names, and put the count of the other fields there."""
        if len(ready) - head < 2 + _HOME_FIELD_BYTES:
            raise ValueError("a row without its home")
        fields = int.from_bytes(ready[head : head + 2], "big") - 1
        self._to_home(int.from_bytes(ready[head + 6 : head + 8], "big", signed=True))
        self._kept[self._at] += fields.to_bytes(2, "big")
        return head + 2 + _HOME_FIELD_BYTES

    def _text_home(self, ready: memoryview) -> int:
        digits, tab, _ = bytes(ready[:_DIGITS_MAX]).partition(b"\t")
        if not tab:
            raise ValueError("a row without its home")
        self._to_home(int(digits))
        return len(digits) + 1

    def _to_home(self, home: int) -> None:
        if not NO_HOME <= home < self._homes:
            raise ValueError(f"home {home} of {self._homes}")
        self._at = home


IS_COMPILED = is_built("fixia_shardmig.copy._relay")
"""Whether `new_sorter` gives the compiled one."""

if TYPE_CHECKING:

    def new_sorter(*, binary: bool, routed: bool, homes: int) -> Sorter:
        """Return what sorts the rows of one COPY."""
        ...

elif IS_COMPILED:
    from fixia_shardmig.copy import _relay

    new_sorter = _relay.CompiledSorter
else:
    new_sorter = PythonSorter
