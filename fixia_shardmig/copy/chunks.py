"""Cuts tables into block ranges. Pure: it reads sizes from the catalog and decides."""

from __future__ import annotations

from fixia_shardmig.journal.records import Chunk
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog, Table

CHUNK_BYTES = 256 * 1024 * 1024
PAGE_BYTES = 8192

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
