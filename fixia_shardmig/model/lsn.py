"""Positions in the write-ahead log."""

from __future__ import annotations


class LSN(int):
    """A byte position in the WAL. An int that reads and shows PostgreSQL's text form, `16/B374D848`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> LSN:
        """Read `high/low` in hexadecimal; raises ValueError on anything else."""
        high, slash, low = text.partition("/")
        if not slash:
            raise ValueError(f"{text!r} is not an LSN")
        return cls((int(high, 16) << 32) | int(low, 16))

    def __str__(self) -> str:
        """Return PostgreSQL's text form."""
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        """Return the text form, marked as an LSN."""
        return f"LSN({self})"
