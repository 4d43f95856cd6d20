"""Gives the open chunks of an epoch one after the other, and cuts those that would take too long when their turn comes.

A cut is in the journal before any of its pieces is handed out, so a copy that is killed finds either the chunk or all
its pieces. What was handed out is never cut: shards may have its checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from fixia_shardmig.copy.chunks import Speed, split
from fixia_shardmig.copy.worker import ChunkResult
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Chunk
from fixia_shardmig.model.catalog import Catalog


class ChunkQueue:
    """The open chunks; `total` grows with every cut."""

    def __init__(self, journal: Journal, catalog: Catalog, *, chunk_s_max: float) -> None:
        """Read what is open."""
        chunks = journal.chunks()
        self._waiting = deque(chunk for chunk in chunks if chunk.done_epoch is None)
        self._sizes = {chunk.id: chunk.size_bytes for chunk in chunks}
        self._journal = journal
        self._catalog = catalog
        self._chunk_s_max = chunk_s_max
        self._speed = Speed()
        self.total = len(self._waiting)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield each chunk when somebody is there to copy it, so that the speed of those before is known."""
        while self._waiting:
            chunk, *rest = self._cut(self._waiting.popleft())
            self._waiting.extendleft(reversed(rest))
            self.total += len(rest)
            yield chunk

    def done(self, result: ChunkResult) -> None:
        """Learn from a chunk that was copied."""
        self._speed.add(self._sizes[result.chunk_id], result.seconds)

    def _cut(self, chunk: Chunk) -> list[Chunk]:
        size_max = self._speed.bytes_within(self._chunk_s_max)
        if size_max is None or chunk.size_bytes <= size_max:
            return [chunk]
        pages = self._catalog.tables[chunk.table].pages
        pieces = split(chunk, pages=pages, size_max=size_max, next_id=max(self._sizes) + 1)
        if len(pieces) > 1:
            self._journal.replace_chunk(chunk, pieces)
            self._sizes |= {piece.id: piece.size_bytes for piece in pieces}
        return pieces
