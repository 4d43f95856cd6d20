"""What is compared of a table, how many buckets it gets, and how a row is hashed, without a server."""

from __future__ import annotations

import pytest

from fixia_shardmig.mapping.shard_map import OnShard, Reference
from fixia_shardmig.model.catalog import Table
from fixia_shardmig.model.errors import DriftError, RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.canonical import (
    NULL_BITS,
    Field,
    HashForm,
    column_hashes_sql,
    field_of,
    row_hash_sql,
    text_sql,
)
from fixia_shardmig.verify.layouts import check_definitions, layout_of
from fixia_shardmig.verify.queries import BUCKETS_MAX, Layout, buckets_for
from tests.unit.verify.catalogs import catalog, column, shard_map, table

T = TableName.parse("t")


def _layout(source: Table, *shards: Table) -> Layout:
    names = ("professionals", "clients", "shared")
    there = {name: catalog(shard) for name, shard in zip(names, shards, strict=True)}
    return layout_of(T, shard_map({"t": Reference()}), catalog(source), there, HashForm.FAST)


def test_the_key_comes_first_and_the_rest_by_name() -> None:
    """Pitfall 52: the order is the same on every server, whatever the columns' numbers."""
    source = table("t", "z", "b", key=("z", "id"))
    layout = _layout(source, table("t", "b", "z"), source, source)
    assert ("z", "id", "b") == tuple(field.name for field in layout.fields)
    assert ("z", "id") == tuple(field.name for field in layout.key)


def test_without_a_key_all_columns_tell_the_row() -> None:
    """A table with REPLICA IDENTITY FULL and no primary key is a multiset."""
    plain = table("t", "a", key=(), replica_identity="f")
    assert () == _layout(plain, plain, plain, plain).key


def test_a_column_is_nullable_if_any_side_says_so() -> None:
    """A shard that lost its NOT NULL may hold a NULL, which must not hide the row from the sum."""
    strict, loose = table("t", column("a", not_null=True)), table("t", column("a"))
    assert [False] == [f.nullable for f in _layout(strict, strict, strict, strict).fields if f.name == "a"]
    assert [True] == [f.nullable for f in _layout(strict, strict, loose, strict).fields if f.name == "a"]


def test_generated_columns_are_compared_where_all_sides_store_them() -> None:
    """Pitfall 32: a virtual one, and one that a shard does not generate, are left out."""
    stored, virtual = column("s", generated="s"), column("v", generated="v")
    both, plain = table("t", stored, virtual), table("t", "s", "v")
    assert ("id", "s") == tuple(f.name for f in _layout(both, both, both, both).fields)
    assert ("id",) == tuple(f.name for f in _layout(both, both, plain, both).fields)


def test_a_column_that_a_shard_generates_is_refused() -> None:
    """It cannot hold what the source says."""
    with pytest.raises(RefusedError, match=r"t\.a is not on clients, or is generated there"):
        _layout(table("t", "a"), table("t", "a"), table("t", column("a", generated="s")), table("t", "a"))


def test_a_shard_that_should_not_have_the_table_may_lack_it() -> None:
    """Only the shards where rows may live must have it."""
    there = {"professionals": catalog(), "clients": catalog(table("t")), "shared": catalog()}
    layout = layout_of(T, shard_map({"t": OnShard("clients")}), catalog(table("t")), there, HashForm.FAST)
    assert T == layout.table
    with pytest.raises(RefusedError, match="t is not on shared"):
        layout_of(T, shard_map({"t": OnShard("shared")}), catalog(table("t")), there, HashForm.FAST)


def test_a_table_that_went_away_or_changed_is_drift() -> None:
    """The comparison would answer for something else than was planned."""
    planned = catalog(table("t"))
    with pytest.raises(DriftError, match="not on the source any more: t"):
        check_definitions(planned, catalog(), frozenset({T}))
    with pytest.raises(DriftError, match="changed on the source since the plan: t"):
        check_definitions(planned, catalog(table("t", "more")), frozenset({T}))
    check_definitions(planned, catalog(table("t"), table("other")), frozenset({T}))


@pytest.mark.parametrize(
    ("rows", "size_bytes", "buckets"),
    [(0.0, 0, 1), (-1.0, 0, 1), (100.0, 0, 1), (2_400_000.0, 0, 8192), (-1.0, 4_000_000, 256), (1e12, 0, BUCKETS_MAX)],
)
def test_buckets_are_a_bounded_power_of_two(rows: float, size_bytes: int, buckets: int) -> None:
    """About 500 rows a bucket, by statistics or, without them, by size."""
    entry = table("t", rows=rows, size_bytes=size_bytes)
    assert buckets == buckets_for(entry, (entry,))


def test_char_and_foreign_types_are_read_by_their_output() -> None:
    """Pitfall 50: `::text` cuts a char(n)'s blanks, and an extension's cast may be anything."""
    char = field_of(column("c", base_type="bpchar"), nullable=True)
    hstore = field_of(column("c", base_type="hstore", type_builtin=False), nullable=False)
    assert 'CASE WHEN "t"."c" IS DISTINCT FROM NULL THEN pg_catalog.concat("t"."c") END' == text_sql(char).as_string(
        None
    )
    assert 'pg_catalog.concat("t"."c")' == text_sql(hstore).as_string(None)
    assert '"t"."c"::text' == text_sql(field_of(column("c"), nullable=True)).as_string(None)


def test_null_has_a_bit_of_the_seed_and_is_no_text() -> None:
    """Pitfall 55: the first seed says which columns are NULL, so that no text can stand for NULL."""
    fields = (Field("a", by_output=False, nullable=False), Field("b", by_output=False, nullable=True))
    expected = (
        'hashtextextended((coalesce("t"."b"::text, \'\')) COLLATE "C", hashtextextended(("t"."a"::text) COLLATE "C", '
        '(CASE WHEN "t"."b" IS NULL THEN 1::int8 ELSE 0 END)))'
    )
    assert expected == row_hash_sql(fields, HashForm.FAST).as_string(None)


def test_more_nullable_columns_than_bits_make_a_second_word() -> None:
    """Each column keeps a bit of its own."""
    fields = tuple(Field(f"c{n}", by_output=False, nullable=True) for n in range(NULL_BITS + 1))
    text = row_hash_sql(fields, HashForm.FAST).as_string(None)
    assert len(fields) == text.count("IS NULL THEN")
    assert 2 == text.count("IS NULL THEN 1::int8")


@pytest.mark.parametrize("form", HashForm)
def test_no_form_asks_for_md5(form: HashForm) -> None:
    """Pitfall 55: a server in FIPS mode refuses md5."""
    fields = (Field("a", by_output=False, nullable=True),)
    assert "md5" not in row_hash_sql(fields, form).as_string(None) + column_hashes_sql(fields, form).as_string(None)
