"""Cuts the changes of many transactions into windows, each of which is looked up and applied together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fixia_shardmig.postgres.pgoutput import Change
from fixia_shardmig.postgres.transactions import Transaction


def windows(
    transactions: Iterable[Transaction], changes_max: int, bytes_max: int
) -> Iterator[tuple[list[tuple[Transaction, Change]], int]]:
    """Yield the changes of all transactions in order, each with its transaction, so many at a time, and their bytes."""
    window: list[tuple[Transaction, Change]] = []
    size_bytes = 0
    for transaction in transactions:
        for change, came_bytes in transaction.changes.sized():
            if window and (len(window) >= changes_max or size_bytes + came_bytes > bytes_max):
                yield window, size_bytes
                window, size_bytes = [], 0
            window.append((transaction, change))
            size_bytes += came_bytes
    if window:
        yield window, size_bytes
