"""The queries of a comparison: digests of a table or of its buckets by key hash, and the rows of some buckets.

Both run on the source and on the shards and differ there only in what they read from and in the home's number.
A bucket is a few low bits of a hash over the key's text: no server's collation or order has a say in it (pitfall 51).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from fixia_shardmig.model.catalog import Table
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.canonical import (
    Field,
    HashForm,
    column_hashes_sql,
    row_hash_sql,
    text_sql,
    texts_sql,
)
from fixia_shardmig.verify.homes import HomeSql, relation

BUCKET_ROWS = 500
"""Rows a bucket is meant to hold: what one differing row makes us read again."""

BUCKETS_MAX = 1 << 16
"""Digests a side keeps in memory for one table, times the number of homes: about 30 MB for three shards."""

ROW_BYTES_MIN = 40
"""A row's least size on a page, for a table that was never analyzed."""

SHOWN_TEXT_MAX = 300
"""Characters of a row without a key that a difference shows."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is compared of one table, the same on every side.

    Attributes:
        key: The primary key, else the identity index, else nothing: then rows are compared as a multiset.
        fields: The key first, then all other compared columns by name.
        buckets: A power of two.
    """

    table: TableName
    key: tuple[Field, ...]
    fields: tuple[Field, ...]
    buckets: int
    form: HashForm


@dataclass(frozen=True, slots=True)
class PageRange:
    """Blocks of a table's heap, or of each partition's; without `end` all that follow."""

    first: int
    end: int | None


def buckets_for(table: Table, leaves: tuple[Table, ...]) -> int:
    """Return a power of two of buckets, from the statistics or, without them, from the size."""
    size_bytes = sum(leaf.size_bytes for leaf in leaves)
    known = sum(leaf.rows for leaf in leaves if leaf.rows > 0) or table.rows
    rows = max(known, 0.0) or size_bytes / ROW_BYTES_MIN
    wanted = max(int(rows / BUCKET_ROWS), 1)
    return min(1 << (wanted - 1).bit_length(), BUCKETS_MAX)


def on_shard(table: Table, number: int) -> HomeSql:
    """Return a shard's own table, whose rows all say that they live there."""
    return HomeSql(
        sql.SQL("{} AS t").format(relation(table)), sql.SQL("{}::int4").format(sql.Literal(number)), constant=True
    )


def digest_query(layout: Layout, rows: HomeSql, pages: PageRange | None = None) -> sql.Composed:
    """Return the query for (home, bucket, count, sum, xor, strays) of some blocks or all, a row for each such pair.

    Strays are the rows that are not at home. What is the same for all rows is not grouped by: with one bucket and one
    home there is nothing to group.
    """
    one_bucket = layout.buckets == 1
    inner = [sql.SQL("{} AS hash").format(row_hash_sql(layout.fields, layout.form))]
    if not rows.constant:
        inner.append(sql.SQL("{} AS home").format(rows.number))
    if not one_bucket:
        inner.append(sql.SQL("{} AS bucket").format(_bucket(layout)))
    if rows.at_home is not None:
        inner.append(sql.SQL("{} AS at_home").format(rows.at_home))
    groups = [name for name, same in (("home", rows.constant), ("bucket", one_bucket)) if not same]
    return sql.SQL(
        "SELECT {home}, {bucket}, count(*), sum(hash), bit_xor(hash), {strays}"
        " FROM (SELECT {inner} FROM {source}{within} OFFSET 0) AS hashed GROUP BY {groups} HAVING count(*) > 0"
    ).format(
        home=rows.number if rows.constant else sql.Identifier("home"),
        bucket=sql.SQL("0") if one_bucket else sql.Identifier("bucket"),
        strays=sql.SQL("0" if rows.at_home is None else "count(*) FILTER (WHERE at_home IS NOT TRUE)"),
        inner=sql.SQL(", ").join(inner),
        source=rows.source,
        within=sql.SQL("") if pages is None else _within(pages),
        groups=sql.SQL(", ").join(map(sql.Identifier, groups)) if groups else sql.SQL("()"),
    )


def _within(pages: PageRange) -> sql.Composable:
    begin = sql.SQL(" WHERE t.ctid >= {}::tid").format(sql.Literal(f"({pages.first},0)"))
    if pages.end is None:
        return begin
    return sql.SQL("{} AND t.ctid < {}::tid").format(begin, sql.Literal(f"({pages.end},0)"))


def rows_query(layout: Layout, rows: HomeSql, buckets: Sequence[int]) -> sql.Composed:
    """Return the query for (bucket, home, key texts, column hashes, copies, shown) of some buckets, in their order.

    The key of a table without one is empty; its equal rows come once, counted. Without parameters: a column may be
    called `100%`, and psycopg reads % only in queries that have some.
    """
    # one constant, so that the server looks a bucket up by hash and not along 65,536 numbers for every row
    wanted = sql.SQL("{}::int4[]").format(sql.Literal("{" + ",".join(map(str, buckets)) + "}"))
    return chosen_rows_query(layout, rows, sql.SQL("{} = ANY({})").format(_bucket(layout), wanted))


def chosen_rows_query(layout: Layout, rows: HomeSql, chosen: sql.Composable) -> sql.Composed:
    """Return the query for the same of the rows `t` for which a condition holds."""
    return (_keyed_rows if layout.key else _keyless_rows)(layout, rows, chosen)


def _keyed_rows(layout: Layout, rows: HomeSql, chosen: sql.Composable) -> sql.Composed:
    return sql.SQL(
        "SELECT {bucket} AS bucket, {home} AS home, {key} AS key, {columns} AS columns, 1::int8, ''"
        " FROM {source} WHERE {chosen} ORDER BY 1"
    ).format(
        bucket=_bucket(layout),
        home=rows.number,
        key=texts_sql(layout.key),
        columns=column_hashes_sql(layout.fields, layout.form),
        source=rows.source,
        chosen=chosen,
    )


def _keyless_rows(layout: Layout, rows: HomeSql, chosen: sql.Composable) -> sql.Composed:
    shown = sql.SQL(", ").join(
        sql.SQL("{}, left({}, {})").format(sql.Literal(field.name), text_sql(field), sql.Literal(SHOWN_TEXT_MAX))
        for field in layout.fields
    )
    return sql.SQL(
        'SELECT bucket, home, ARRAY[]::text[], columns, count(*), min(shown COLLATE "C")'
        " FROM (SELECT {bucket} AS bucket, {home} AS home, {columns} AS columns,"
        " left(pg_catalog.json_build_object(VARIADIC ARRAY[{shown}]::text[])::text, {shown_max}) AS shown"
        " FROM {source} WHERE {chosen}) AS named GROUP BY 1, 2, 4 ORDER BY 1"
    ).format(
        bucket=_bucket(layout),
        home=rows.number,
        columns=column_hashes_sql(layout.fields, layout.form),
        shown=shown,
        shown_max=sql.Literal(SHOWN_TEXT_MAX),
        source=rows.source,
        chosen=chosen,
    )


def _bucket(layout: Layout) -> sql.Composable:
    of_key = row_hash_sql(layout.key or layout.fields, layout.form)
    return sql.SQL("({} & {})::int4").format(of_key, sql.Literal(layout.buckets - 1))
