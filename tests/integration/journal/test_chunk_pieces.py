"""A chunk is replaced by its pieces at once or not at all, and only as long as nobody has copied it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixia_shardmig.copy.chunks import split
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Chunk
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.names import TableName

LARGE, SMALL = TableName("public", "large"), TableName("public", "small")
LISTED = [
    Chunk(1, LARGE, 0, 100, 100 * 8192, keyed=True),
    Chunk(2, LARGE, 100, None, 100 * 8192, keyed=True),
    Chunk(3, SMALL, 0, None, 8192, keyed=True),
]


def cut_first(journal: Journal) -> None:
    """Cut the first chunk into four."""
    journal.replace_chunk(LISTED[0], split(LISTED[0], pages=200, size_max=25 * 8192, next_id=4))


def test_pieces_stand_in_their_chunks_place(journal: Journal) -> None:
    """A copy that goes on takes them in the order of the blocks, and the large table still goes first."""
    journal.plan_chunks(LISTED)
    cut_first(journal)
    ranges = [(LARGE, 0, 25), (LARGE, 25, 50), (LARGE, 50, 75), (LARGE, 75, 100), (LARGE, 100, None), (SMALL, 0, None)]
    assert ranges == [(one.table, one.first_page, one.end_page) for one in journal.chunks()]
    assert sum(one.size_bytes for one in LISTED) == sum(one.size_bytes for one in journal.chunks())


def test_a_chunk_that_is_done_is_not_cut(journal: Journal) -> None:
    """Its shards have the whole of it under its id."""
    journal.plan_chunks(LISTED)
    journal.chunk_done(1, 1, rows=5, size_bytes=5)
    with pytest.raises(RefusedError):
        cut_first(journal)
    assert [replace(LISTED[0], done_epoch=1, rows=5, bytes=5), *LISTED[1:]] == journal.chunks()


def test_a_cut_that_fails_leaves_the_chunk_whole(journal: Journal) -> None:
    """Half of the pieces would be a gap."""
    journal.plan_chunks(LISTED)
    pieces = split(LISTED[0], pages=200, size_max=25 * 8192, next_id=2)  # an id that is taken
    with pytest.raises(Exception, match="duplicate key"):
        journal.replace_chunk(LISTED[0], pieces)
    assert LISTED == journal.chunks()
