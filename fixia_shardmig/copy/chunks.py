"""Cuts tables into block ranges, and ranges again where they would take too long. Pure: it reads sizes and decides."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from fixia_shardmig.journal.records import Chunk
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog, Table

CHUNK_BYTES = 256 * 1024 * 1024
PAGE_BYTES = 8192
CHUNK_S_MAX = 60.0
"""What a crash repeats, and how long a signal waits, is about this for each worker."""

SPLIT_BYTES_MIN = 16 * 1024
"""Pieces are not made smaller: their transactions would cost more than their rows."""

PIECES_MAX = 64
MEASURED_CHUNKS = 16
"""How many chunks back the speed is looked for: enough to level out, few enough to follow a server's load."""

_TEXT_ONLY = frozenset(
    {"money", "xml", "tsquery", "aclitem", "regproc", "regprocedure", "regoper", "regoperator", "regclass", "regtype"}
    | {"regconfig", "regdictionary", "regrole", "regnamespace", "regcollation"}
)


def plan_chunks(shard_map: ShardMap, catalog: Catalog, *, chunk_bytes: int = CHUNK_BYTES) -> list[Chunk]:
    """Return the chunks of all moved tables, largest table first; each partition is cut by itself.

    A table without a key is one chunk, since it has to be read whole within one snapshot.
    """
    leaves = [leaf for root in shard_map.moved() for leaf in catalog.leaves(root)]
    leaves.sort(key=lambda leaf: (-leaf.size_bytes, leaf.name))
    chunks: list[Chunk] = []
    for leaf in leaves:
        for first, end, size in _ranges(leaf, chunk_bytes):
            chunks.append(Chunk(len(chunks) + 1, leaf.name, first, end, size, bool(leaf.identity_columns)))
    return chunks


class Speed:
    """How fast one worker has copied lately: planned bytes over seconds, the waits for a pace included."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._measured: deque[tuple[int, float]] = deque(maxlen=MEASURED_CHUNKS)

    def add(self, size_bytes: int, seconds: float) -> None:
        """Take a chunk into account."""
        self._measured.append((size_bytes, seconds))

    def bytes_within(self, seconds: float) -> int | None:
        """Return how much one worker copies in a time, or None before anything was measured."""
        taken_s = sum(measured for _, measured in self._measured)
        return int(sum(size for size, _ in self._measured) * seconds / taken_s) if taken_s > 0 else None


def split(chunk: Chunk, *, pages: int, size_max: int, next_id: int) -> list[Chunk]:
    """Return the pieces of a chunk, none larger than a size where pages allow it; together they are its range exactly.

    Args:
        chunk: One that nobody has begun. Without a key it stays whole.
        pages: The table's, for the length of a chunk that is open at its end.
        size_max: In planned bytes.
        next_id: The second piece's; the first keeps the chunk's own.
    """
    end = chunk.end_page if chunk.end_page is not None else max(pages, chunk.first_page + 1)
    length = end - chunk.first_page
    size_max = max(size_max, SPLIT_BYTES_MIN)
    count = min(-(-chunk.size_bytes // size_max), length, PIECES_MAX) if chunk.keyed else 1
    starts = [chunk.first_page + length * number // count for number in range(count)] if count > 1 else []
    if not starts:
        return [chunk]
    ends: list[int | None] = [*starts[1:], chunk.end_page]
    return [
        replace(
            chunk,
            id=next_id + number - 1 if number else chunk.id,
            first_page=start,
            end_page=stop,
            size_bytes=chunk.size_bytes * ((stop or end) - start) // length,
        )
        for number, (start, stop) in enumerate(zip(starts, ends, strict=True))
    ]


def _ranges(leaf: Table, chunk_bytes: int) -> list[tuple[int, int | None, int]]:
    """Return (first page, end page or None, bytes); TOAST is spread evenly over the pages."""
    bytes_per_page = max(PAGE_BYTES, leaf.size_bytes // leaf.pages) if leaf.pages else PAGE_BYTES
    step = max(1, chunk_bytes // bytes_per_page) if leaf.identity_columns else max(1, leaf.pages)
    starts = list(range(0, max(1, leaf.pages), step))
    ends: list[int | None] = [*starts[1:], None]
    return [
        (start, end, ((end or max(leaf.pages, start)) - start) * bytes_per_page)
        for start, end in zip(starts, ends, strict=True)
    ]


def can_use_binary(leaf: Table) -> bool:
    """Whether every column's binary form means the same on any server.

    Arrays, composites and ranges of user types carry OIDs of their own server, `reg*` types are OIDs, `money`
    depends on the locale, and an empty `tsquery` is refused in its own binary form: those tables travel as text
    (pitfall 47).
    """
    return all(
        column.binary_io
        and (column.type_builtin or column.type_kind == "e")
        and column.base_type.lstrip("_") not in _TEXT_ONLY
        for column in leaf.copied_columns
    )
