"""How tables are cut, and which of them travel in binary. No server."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.copy.chunks import SPLIT_BYTES_MIN, Speed, can_use_binary, plan_chunks, split
from fixia_shardmig.copy.worker import ChunkTask, ShardWrite
from fixia_shardmig.journal.records import Chunk
from fixia_shardmig.mapping.shard_map import Endpoint, OnShard, Reference, Rule, ShardMap, Skip
from fixia_shardmig.model.names import TableName
from tests.fixtures.fix_catalogs import catalog, column, table

PAGE = 8192


def cut(*tables: tuple[str, int, int, str], chunk_bytes: int) -> list[tuple[str, int, int | None]]:
    """Return (table, first page, end page) of the chunks of tables given as (name, pages, bytes, key)."""
    made = [replace(table(name, "id int!", pk=key), pages=pages, size_bytes=size) for name, pages, size, key in tables]
    rules = {one.name: OnShard("one") for one in made}
    shard_map = ShardMap("m", "f", Endpoint(""), {"one": Endpoint("")}, "one", rules)
    chunks = plan_chunks(shard_map, catalog(*made), chunk_bytes=chunk_bytes)
    assert [chunk.id for chunk in chunks] == list(range(1, len(chunks) + 1))
    return [(chunk.table.name, chunk.first_page, chunk.end_page) for chunk in chunks]


def test_the_last_chunk_of_a_table_is_open() -> None:
    """A table can grow between the catalog's reading and the snapshot."""
    assert [("t", 0, 4), ("t", 4, 8), ("t", 8, None)] == cut(("t", 10, 10 * PAGE, "id"), chunk_bytes=4 * PAGE)


def test_an_empty_table_is_one_open_chunk() -> None:
    """It may hold rows by the time the snapshot is there."""
    assert [("t", 0, None)] == cut(("t", 0, 0, "id"), chunk_bytes=PAGE)


def test_a_table_without_a_key_is_never_cut() -> None:
    """It has to be read whole within one snapshot (pitfall 44)."""
    assert [("t", 0, None)] == cut(("t", 1000, 1000 * PAGE, ""), chunk_bytes=PAGE)


def test_large_toast_makes_chunks_of_fewer_pages() -> None:
    """Chunks are sized by bytes with TOAST, which is spread evenly over the pages."""
    assert [("t", 0, 1), ("t", 1, None)] == cut(("t", 2, 200 * PAGE, "id"), chunk_bytes=100 * PAGE)


def test_the_largest_table_goes_first() -> None:
    """So that no giant is left alone at the end."""
    chunks = cut(("a", 1, PAGE, "id"), ("c", 9, 9 * PAGE, "id"), ("b", 9, 9 * PAGE, "id"), chunk_bytes=100 * PAGE)
    assert ["b", "c", "a"] == [name for name, _, _ in chunks]


def test_skipped_tables_have_no_chunks() -> None:
    """What is not moved is not listed."""
    made = [table("a", "id int!"), table("b", "id int!")]
    rules: dict[TableName, Rule] = {made[0].name: Skip("why"), made[1].name: Reference()}
    shard_map = ShardMap("m", "f", Endpoint(""), {"one": Endpoint("")}, "one", rules)
    assert [TableName("public", "b")] == [chunk.table for chunk in plan_chunks(shard_map, catalog(*made))]


@given(pages=st.integers(0, 500), chunk_pages=st.integers(1, 600))
def test_chunks_cover_every_page_once(pages: int, chunk_pages: int) -> None:
    """Whatever the sizes, ranges join without gap or overlap, from page 0 to the open end."""
    chunks = cut(("t", pages, pages * PAGE, "id"), chunk_bytes=chunk_pages * PAGE)
    assert [0, *(end for _, _, end in chunks[:-1])] == [first for _, first, _ in chunks]
    assert chunks[-1][2] is None


@pytest.mark.parametrize(
    ("base_type", "builtin", "kind", "binary"),
    [
        ("int4", True, "b", True),
        ("_text", True, "b", True),
        ("Kind", False, "e", True),
        ("_Kind", False, "b", False),
        ("hstore", False, "b", False),
        ("pair", False, "c", False),
        ("money", True, "b", False),
        ("_money", True, "b", False),
        ("tsquery", True, "b", False),
        ("regclass", True, "b", False),
    ],
)
def test_binary_is_for_types_that_mean_the_same_everywhere(
    base_type: str,
    builtin: bool,  # noqa: FBT001  the columns of a table of cases
    kind: str,
    binary: bool,  # noqa: FBT001
) -> None:
    """Pitfall 47: one column of another kind sends the whole table as text."""
    other = replace(column("x text"), base_type=base_type, type_builtin=builtin, type_kind=kind)
    made = replace(table("t", "id int!"), columns=(column("id int!"), other))
    assert binary == can_use_binary(made)


def test_a_type_without_binary_functions_travels_as_text() -> None:
    """Pitfall 47: not every type has send and receive functions."""
    made = table("t", "id int!")
    assert not can_use_binary(replace(made, columns=(replace(made.columns[0], binary_io=False),)))


def test_generated_columns_do_not_matter() -> None:
    """Pitfall 32: what is not copied has no say."""
    made = table("t", "id int!", "g money generated")
    assert can_use_binary(made)


def test_a_task_shows_no_url() -> None:
    """An executor may log a task, or show it on a page; passwords travel in it all the same."""
    write = ShardWrite("one", "postgresql://u:s3cret@h/one", (), "COPY", ())
    secret = "dbname=j password=s3cret"
    task = ChunkTask(1, "t", 1, secret, "", "", "COPY", binary=True, routed=True, writes=(write,), pace_url=secret)
    assert "s3cret" not in repr(task)
    assert task == pickle.loads(pickle.dumps(task))  # noqa: S301  our own


def chunk(first: int, end: int | None, size: int, *, keyed: bool = True) -> Chunk:
    """Return a chunk of a table t, with id 1."""
    return Chunk(1, TableName("public", "t"), first, end, size, keyed)


CHUNKS = st.builds(
    lambda first, length, size: chunk(first, None if length is None else first + length, size),
    st.integers(0, 2**32 - 2),
    st.none() | st.integers(1, 2**20),
    st.integers(0, 2**45),
)


@given(whole=CHUNKS, pages=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 2**40), min_size=1, max_size=2))
def test_pieces_are_the_range_of_their_chunk_exactly(whole: Chunk, pages: int, sizes: list[int]) -> None:
    """Cut, and each piece cut again: no gap, no overlap, no empty piece, no id twice; an open end stays open."""
    pieces = [whole]
    for size_max in sizes:
        before, pieces = pieces, []
        for one in before:
            next_id = max(each.id for each in (*before, *pieces)) + 1
            pieces += split(one, pages=pages, size_max=size_max, next_id=next_id)
    assert [whole.first_page, *(one.end_page for one in pieces[:-1])] == [one.first_page for one in pieces]
    assert whole.end_page == pieces[-1].end_page
    assert all(one.end_page is None or one.first_page < one.end_page for one in pieces)
    assert len(pieces) == len({one.id for one in pieces})


def test_a_piece_is_no_larger_than_was_asked_for() -> None:
    """Where pages allow it; and not smaller than what is worth a transaction."""
    pieces = split(chunk(10, 1010, 1000 * PAGE), pages=0, size_max=100 * PAGE, next_id=7)
    assert [(1, 10, 110), (7, 110, 210)] == [(one.id, one.first_page, one.end_page) for one in pieces[:2]]
    assert [100 * PAGE] * 10 == [one.size_bytes for one in pieces]
    small = split(chunk(0, 4, 4 * PAGE), pages=0, size_max=1, next_id=7)
    assert [SPLIT_BYTES_MIN] * 2 == [one.size_bytes for one in small]


def test_a_chunk_without_a_key_is_never_cut_again() -> None:
    """Pitfall 44: its table is read whole within one snapshot."""
    whole = chunk(0, None, 2**40, keyed=False)
    assert [whole] == split(whole, pages=2**20, size_max=1, next_id=2)


def test_the_speed_is_that_of_the_last_chunks() -> None:
    """Unknown before the first one; a server that slows down is followed."""
    speed = Speed()
    assert speed.bytes_within(60) is None
    speed.add(1000, 1.0)
    assert 60_000 == speed.bytes_within(60)
    for _ in range(16):
        speed.add(1000, 10.0)
    assert 6000 == speed.bytes_within(60)
