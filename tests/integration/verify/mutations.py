"""Spoils split databases in many places at once and says, in its own words, what a comparison has to find.

Shares nothing with the code under test: keys, columns and texts are read from the servers' own catalogs. Rules of the
shards that would refuse a spoilt row are dropped first.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

KINDS = ("missing", "extra", "differing", "misplaced", "duplicated")
SHOWN_MAX = 300
"""Characters of a row without a key by which it is named."""

OPTIONS = (
    "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex"
    " -c lc_monetary=C -c session_replication_role=replica -c search_path=pg_catalog"
)

Found = tuple[str, str, str, tuple[str | None, ...], tuple[str, ...], str]
"""(kind, shard, table, key or shown row, columns, home) of one difference."""

_TABLES = """
SELECT n.nspname, c.relname, c.relkind = 'p',
    (SELECT array_agg(attname::text ORDER BY attname COLLATE "C") FROM pg_attribute
     WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v'),
    (SELECT coalesce(array_agg(attname::text), '{}') FROM pg_attribute WHERE attrelid = c.oid AND attgenerated <> ''),
    (SELECT coalesce(array_agg(attname::text), '{}') FROM pg_attribute
     WHERE attrelid = c.oid AND atttypid = ANY ('{inet,cidr,bool}'::regtype[])),
    (SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum)) FROM pg_index i
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
     WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)
     GROUP BY i.indexrelid, i.indisprimary ORDER BY i.indisprimary DESC LIMIT 1)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, 2
"""

_PATH = """
SELECT set_config('search_path', concat_ws(', ', 'pg_catalog', string_agg(DISTINCT quote_ident(nspname), ', ')), false)
FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname <> 'plpgsql'
"""
"""A regclass is shown with its schema unless that is one of an extension's."""

_WITHOUT_RULES = """
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT conrelid::regclass AS t, conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
        WHERE contype IN ('f', 'c', 'p', 'u', 'x') AND conparentid = 0 AND coninhcount = 0
        AND t.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
        ORDER BY contype IN ('p', 'u')
    LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I CASCADE', r.t, r.conname); END LOOP;
    FOR r IN SELECT i.indexrelid::regclass AS i FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indisunique AND NOT c.relispartition AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = c.oid)
        AND c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
    LOOP EXECUTE format('DROP INDEX IF EXISTS %s', r.i); END LOOP;
    FOR r IN SELECT attrelid::regclass AS t, attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
        WHERE attidentity <> '' AND NOT c.relispartition
    LOOP EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP IDENTITY', r.t, r.attname); END LOOP;
    FOR r IN SELECT attrelid::regclass AS t, attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
        WHERE attnotnull AND attnum > 0 AND NOT attisdropped AND attinhcount = 0
        AND c.relkind IN ('r', 'p') AND c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
    LOOP EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', r.t, r.attname); END LOOP;
END $$
"""

NEW_KEY: dict[str, LiteralString] = {
    "N": "{0} + 100000 + {1}",
    "S": "{0} || '~{1}'",
    "U": "gen_random_uuid()",
    "D": "{0} + interval '{1} years'",
}
"""By the category of a type: SQL for a key that is not there yet."""


@dataclass(frozen=True)
class Table:
    """One table as the catalog has it. `key` is empty where nothing names a row."""

    schema: str
    name: str
    partitioned: bool
    columns: tuple[str, ...]
    generated: tuple[str, ...]
    cast: tuple[str, ...]
    """Those whose text by a cast is not their output's: `10.0.0.1/32` and `10.0.0.1`, `true` and `t`."""
    key: tuple[str, ...]

    @property
    def relation(self) -> sql.Composable:
        """Return it for FROM, with its partitions but without heirs."""
        return sql.SQL("" if self.partitioned else "ONLY ") + sql.Identifier(self.schema, self.name)

    @property
    def copied(self) -> sql.Composable:
        """Return the columns that can be written."""
        return sql.SQL(", ").join(sql.Identifier(c) for c in self.columns if c not in self.generated)


@dataclass(frozen=True)
class Row:
    """One row on one shard: its place there and the texts of its columns."""

    shard: str
    place: tuple[int, str]
    texts: Mapping[str, str | None]


@dataclass
class Spoiler:
    """Spoils the shards of one source, and remembers what it did."""

    urls: Mapping[str, str] = field(repr=False)
    seed: int
    expected: Counter[Found] = field(default_factory=Counter)
    _number: int = 0

    def __post_init__(self) -> None:
        """Open every side and drop the rules of the shards."""
        self.random = random.Random(self.seed)
        self.sides = {
            side: psycopg.connect(url, autocommit=True, options=OPTIONS, client_encoding="utf-8")
            for side, url in self.urls.items()
        }
        for connection in self.sides.values():
            connection.execute(_PATH)
        self.shards = tuple(side for side in self.urls if side != "source")

    def close(self) -> None:
        """Close every side."""
        for connection in self.sides.values():
            connection.close()

    def spoil(self, moved: Mapping[str, str]) -> None:
        """Do every kind of damage to every table, as far as its rows last. `moved` has a name for `schema.table`."""
        tables = [
            Table(*row[:3], *map(tuple, (row[3] or (), *row[4:6], row[6] or ())))
            for row in self.sides["source"].execute(_TABLES)
        ]
        for shard in self.shards:
            self.sides[shard].execute(_WITHOUT_RULES.encode())
        for table in tables:
            if table.columns and (name := moved.get(f"{table.schema}.{table.name}")):
                self._table(table, name)

    def _table(self, table: Table, name: str) -> None:
        rows = [row for shard in self.shards for row in self._rows(shard, table)]
        times = Counter(self._identity(table, row) for row in rows)
        everywhere = {identity for identity, count in times.items() if count == len(self.shards)}
        single = [row for row in rows if times[self._identity(table, row)] == 1]
        self.random.shuffle(single)
        for kind in self.random.sample(KINDS, len(KINDS)):
            if single:
                self._damage(kind, table, name, single.pop(), reference=False)
        for identity in sorted(everywhere, key=repr)[:3] if not single and everywhere == set(times) else ():
            row = self.random.choice([row for row in rows if self._identity(table, row) == identity])
            self._damage(self.random.choice(KINDS[:3]), table, name, row, reference=True)

    def _identity(self, table: Table, row: Row) -> tuple[str | None, ...]:
        return tuple(row.texts[column] for column in table.key or table.columns)

    def _rows(self, shard: str, table: Table) -> Iterator[Row]:
        if self.sides[shard].execute("SELECT to_regclass(%s)", (f'"{table.schema}"."{table.name}"',)).fetchone() == (
            None,
        ):
            return
        query = sql.SQL("SELECT t.tableoid, t.ctid::text, {} FROM {} AS t").format(_texts(table), table.relation)
        for oid, ctid, *texts in self.sides[shard].execute(query):
            yield Row(shard, (oid, ctid), dict(zip(table.columns, texts, strict=True)))

    def _damage(self, kind: str, table: Table, name: str, row: Row, *, reference: bool) -> None:
        self._number += 1
        other = self.random.choice([shard for shard in self.shards if shard != row.shard])
        match kind:
            case "missing":
                self._delete(table, row)
                self._expect(kind, row.shard, table, name, row.texts)
            case "extra":
                self._extra(table, name, row)
            case "differing":
                self._differing(table, name, row)
            case _ if not reference:
                self._copy(table, row, other)
                if kind == "misplaced":
                    self._delete(table, row)
                self._expect(kind, other, table, name, row.texts, home=row.shard)
            case _:
                pass

    def _delete(self, table: Table, row: Row) -> None:
        query = sql.SQL("DELETE FROM {} AS t WHERE {}").format(table.relation, _here(row))
        assert 1 == self.sides[row.shard].execute(query).rowcount

    def _copy(self, table: Table, row: Row, other: str) -> None:
        read = sql.SQL("COPY (SELECT {} FROM {} AS t WHERE {}) TO STDOUT").format(
            table.copied, table.relation, _here(row)
        )
        write = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.schema, table.name), table.copied)
        with (
            self.sides[row.shard].cursor().copy(read) as reading,
            self.sides[other].cursor().copy(write) as writing,
        ):
            for block in reading:
                writing.write(block)

    def _extra(self, table: Table, name: str, row: Row) -> None:
        """Put a row beside another that differs from it in its key, or in any column that takes a new value."""
        connection = self.sides[row.shard]
        for column in self.random.sample(table.key or table.columns, len(table.key or table.columns)):
            new = self._new_value(connection, table, column)
            if new is None or column in table.generated:
                continue
            values = sql.SQL(", ").join(
                new if c == column else sql.Identifier("t", c) for c in table.columns if c not in table.generated
            )
            query = sql.SQL(
                "INSERT INTO {} AS t ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS t WHERE {} RETURNING {}"
            )
            where = sql.Identifier(table.schema, table.name)
            try:
                texts = connection.execute(
                    query.format(where, table.copied, values, table.relation, _here(row), _texts(table))
                ).fetchone()
            except psycopg.Error:
                continue
            assert texts is not None
            self._expect("extra", row.shard, table, name, dict(zip(table.columns, texts, strict=True)))
            return

    def _new_value(self, connection: psycopg.Connection[Any], table: Table, column: str) -> sql.Composable | None:
        query = (
            "SELECT t.typcategory, a.atttypid::regtype::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
            " WHERE attrelid = %s::regclass AND attname = %s"
        )
        found = connection.execute(query, (f'"{table.schema}"."{table.name}"', column)).fetchone()
        form = NEW_KEY.get("U" if found and found[1] == "uuid" else found[0] if found else "")
        if form is None or found is None:
            return None
        value = sql.SQL(form).format(sql.Identifier("t", column), sql.Literal(self._number))
        return sql.SQL("({})::{}").format(value, sql.SQL(found[1]))  # pyright: ignore[reportArgumentType]  # a regtype's text

    def _differing(self, table: Table, name: str, row: Row) -> None:
        """Give one column another row's value, or none."""
        connection = self.sides[row.shard]
        free = [c for c in table.columns if c not in table.key and c not in table.generated]
        for column in self.random.sample(free, len(free)):
            other = sql.SQL(
                "(SELECT o.{c} FROM {t} AS o WHERE concat(o.{c}) <> {v} AND o.{c} IS NOT NULL LIMIT 1)"
            ).format(c=sql.Identifier(column), t=table.relation, v=sql.Literal(row.texts[column] or ""))
            query = sql.SQL("UPDATE {} AS t SET {} = {} WHERE {} RETURNING {}").format(
                table.relation, sql.Identifier(column), other, _here(row), _texts(table)
            )
            try:
                texts = connection.execute(query).fetchone()
            except psycopg.errors.NotNullViolation:
                continue
            assert texts is not None
            now = dict(zip(table.columns, texts, strict=True))
            changed = tuple(
                c for c in (*table.key, *sorted(set(table.columns) - set(table.key))) if now[c] != row.texts[c]
            )
            if changed and table.key:
                self._expect("differing", row.shard, table, name, row.texts, columns=changed)
            elif changed:
                self._expect("missing", row.shard, table, name, row.texts)
                self._expect("extra", row.shard, table, name, now)
            if changed:
                return
            row = next(
                r for r in self._rows(row.shard, table) if self._identity(table, r) == self._identity(table, row)
            )

    def _expect(
        self,
        kind: str,
        shard: str,
        table: Table,
        name: str,
        texts: Mapping[str, str | None],
        *,
        columns: tuple[str, ...] = (),
        home: str = "",
    ) -> None:
        key = tuple(texts[column] for column in table.key) or (shown(texts),)
        self.expected[kind, shard, name, key, columns, home] += 1


def shown(texts: Mapping[str, str | None]) -> str:
    """Return how a row without a key is named."""
    pairs = (
        f"{json.dumps(column, ensure_ascii=False)} : {json.dumps(text and text[:SHOWN_MAX], ensure_ascii=False)}"
        for column, text in sorted(texts.items())
    )
    return ("{" + ", ".join(pairs) + "}")[:SHOWN_MAX]


def _texts(table: Table) -> sql.Composable:
    """Return each column's text, NULL for NULL."""
    output = "CASE WHEN {0} IS DISTINCT FROM NULL THEN concat({0}) END"
    return sql.SQL(", ").join(
        sql.SQL("{}::text" if column in table.cast else output).format(sql.Identifier("t", column))
        for column in table.columns
    )


def _here(row: Row) -> sql.Composable:
    return sql.SQL("t.tableoid = {} AND t.ctid = {}::tid").format(*map(sql.Literal, row.place))
