"""The two readings of placement, SQL over a snapshot and lookup in the stream, name the same home for every row.

The stream's side is fed with each value as the type's output function writes it, which is what pgoutput sends. Its
lookups run over Python dictionaries of the same rows. Foreign keys are off, so that any reference may dangle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.mapping.shard_map import (
    Endpoint,
    Follows,
    OnShard,
    Path,
    Reference,
    Rule,
    ShardMap,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
)
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.snapshot import extension_path, from_item, home_sql
from fixia_shardmig.placement.stream import Key, Lookups, as_cast_to_text, comparable, home_of
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import Connection, connect, session

Row = dict[str, str | None]
Rows = dict[str, list[Row]]

SHARDS = ("pros", "clients", "it's 100% shared")
SCHEMA = FilePath(__file__).with_name("two_readings.sql")
SPLIT_TABLES = ("User", "order", "line%item", "t")


def name(table: str) -> TableName:
    """Return a table of the schema public."""
    return TableName("public", table)


# --- rows -------------------------------------------------------------------------------------------------------------

TEXTS = ["a", "A", "b ", "", "50%", "O'Neil", "é", "\\"]
TAGS = ["pro", "PRO", "Client", "x"]
PADS = ["a", "B", "a ", "ab"]
NETS = ["10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "::1", "::1/128"]
WEIGHTS = ["0", "-0", "1.5", "1e3", "1000"]
NUMBERS = ["1", "1.0", "1.00", "0.1", "0.10", "10"]
NAMES = ["a", "A", "b "]
VALUES: dict[str, list[str]] = {
    "kind": ["pro", "client", "Odd one"],
    "group": TEXTS,
    "active": ["true", "false"],
    "flag": ["true", "false"],
    "level": ["1", "-2", "007", "10"],
    "code": ["a", "a ", "ab", "abc", ""],
    "address": NETS,
    "50%": TEXTS,
    "tag": TAGS,
}
"""Columns of "User" by which it may be split, with what they are filled with; not all of it gets a home."""


def maybe(values: list[str]) -> st.SearchStrategy[str | None]:
    """Draw one of the values or NULL."""
    return st.sampled_from([*values, None])


def numbers() -> st.SearchStrategy[str]:
    """Draw a small number that others may point to or not."""
    return st.integers(1, 4).map(str)


def users() -> st.SearchStrategy[list[Row]]:
    """Draw owners: every deciding column, NULLs among them, and every kind of key to be followed by."""
    columns: dict[str, st.SearchStrategy[str | None]] = {column: maybe(values) for column, values in VALUES.items()}
    columns |= {"roleNo": maybe(NUMBERS), "tenant": st.just("1"), "No": st.sampled_from(NUMBERS)}
    columns |= {"ready": st.sampled_from(["true", "false"]), "handle": maybe(TAGS), "pad": maybe(PADS)}
    columns |= {"net": maybe(NETS), "weight": maybe(WEIGHTS), "id": numbers()}
    return st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=4, unique_by=lambda row: row["id"])


def orders() -> st.SearchStrategy[list[Row]]:
    """Draw rows with five ways to an owner, each NULL, dangling or found, in another spelling too."""
    columns = {
        "id": numbers(),
        "userId": maybe(["1", "2", "3", "9"]),
        "ownTenant": maybe(["1", "2"]),
        "ownNo": maybe(NUMBERS),
        "ownReady": maybe(["true", "false"]),
        "handle": maybe(TAGS),
        "pad": maybe([*PADS, "a    "]),
        "net": maybe(NETS),
        "weight": maybe(WEIGHTS),
    }
    return st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=4, unique_by=lambda row: row["id"])


def lines() -> st.SearchStrategy[list[Row]]:
    """Draw rows that point to orders and to owners."""
    keys = maybe(["1", "2", "3", "9"])
    columns = {"id": numbers(), "order": keys, "user%": keys, "value": maybe(TEXTS)}
    return st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=4, unique_by=lambda row: row["id"])


def leaves() -> st.SearchStrategy[list[Row]]:
    """Draw rows at the end of the longest chain."""
    keys = maybe(["1", "2", "3", "9"])
    columns = {"id": numbers(), "line": keys, "order": keys, "a": maybe([*TEXTS, *SHARDS])}
    return st.lists(st.fixed_dictionaries(columns), max_size=3, unique_by=lambda row: row["id"])


def roles() -> st.SearchStrategy[list[Row]]:
    """Draw a small table of kinds."""
    columns = {"no": st.sampled_from(NUMBERS), "name": maybe(NAMES), "label": maybe(VALUES["kind"])}
    return st.lists(st.fixed_dictionaries(columns), max_size=4)


def tags() -> st.SearchStrategy[list[Row]]:
    """Draw a small table of kinds whose key has no case."""
    return st.lists(st.fixed_dictionaries({"tag": st.sampled_from(TAGS), "name": maybe(NAMES)}), max_size=3)


ROWS = st.fixed_dictionaries(
    {"Role": roles(), "Tag": tags(), "User": users(), "order": orders(), "line%item": lines(), "t": leaves()}
)

# --- rules ------------------------------------------------------------------------------------------------------------

USER, ORDER, LINE = name("User"), name("order"), name("line%item")
PATHS = {
    "order": [
        Path(("userId",), USER, ("id",), declared=True),
        Path(("ownTenant", "ownNo", "ownReady"), USER, ("tenant", "No", "ready"), declared=True),
        Path(("ownReady", "ownTenant", "ownNo"), USER, ("ready", "tenant", "No"), declared=True),
        Path(("handle",), USER, ("handle",), declared=False),
        Path(("pad",), USER, ("pad",), declared=False),
        Path(("net",), USER, ("net",), declared=False),
        Path(("weight",), USER, ("weight",), declared=False),
    ],
    "line%item": [Path(("order",), ORDER, ("id",), declared=True), Path(("user%",), USER, ("id",), declared=False)],
    "t": [Path(("line",), LINE, ("id",), declared=True), Path(("order",), ORDER, ("id",), declared=False)],
}
EXPRESSIONS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "User": [
        ("case when level % 2 = 0 then 'pros' else 'clients' end", ("level",)),
        ("case when \"group\" like '%a%' then 'it''s 100% shared' end -- the rest has no home", ("group",)),
        ("active and \"50%\" <> '50%'", ("active", "50%")),
        ("tag = 'PRO'", ("tag",)),
        ("octet_length(code || 'x') || $$%s$$", ("code",)),
        ("to_jsonb(\"User\") ->> 'group'", ("id", "group")),
        ('"User".kind::text', ("kind",)),
        ("address", ("address",)),
    ],
    "t": [("a", ("a",)), ("t.a || '%'", ("a",)), ("/* a */ upper(t.a)", ("a",))],
}
RESULTS = ["pros", "clients", "true", "false", "4%s", "2%s", "a", "a%", "A%", "10.0.0.1/32"]
SHARD = st.sampled_from(SHARDS)
OTHERWISE = st.none() | SHARD


@st.composite
def homes(draw: st.DrawFn, values: list[str]) -> dict[str, str]:
    """Draw homes for some of the values, perhaps for none."""
    drawn = draw(st.lists(st.sampled_from([*SHARDS, None]), min_size=len(values), max_size=len(values)))
    return {value: shard for value, shard in zip(values, drawn, strict=True) if shard}


def by_column(column: str) -> st.SearchStrategy[Rule]:
    """Draw a split by a column of "User"."""
    return st.builds(SplitByColumn, st.just(column), homes(VALUES[column]), OTHERWISE)


def by_reference(column: str, references: str, to: str, value: str) -> st.SearchStrategy[Rule]:
    """Draw a split by a small table's value."""
    return st.builds(
        SplitByReference,
        column=st.just(column),
        references=st.just(name(references)),
        referenced_column=st.just(to),
        value=st.just(value),
        homes=homes([*NAMES, *VALUES["kind"]]),
        otherwise=OTHERWISE,
    )


def by_sql(expression: str, columns: tuple[str, ...]) -> st.SearchStrategy[Rule]:
    """Draw a split by an expression, with homes for what it gives or without, where it gives the shard's name."""
    return st.builds(SplitBySql, st.just(expression), st.just(columns), st.just({}) | homes(RESULTS), OTHERWISE)


SPLITS: dict[str, st.SearchStrategy[Rule]] = {
    **{column: by_column(column) for column in VALUES},
    "Role.name": by_reference("roleNo", "Role", "no", "name"),
    "Role.label": by_reference("roleNo", "Role", "no", "label"),
    "Tag.name": by_reference("tag", "Tag", "tag", "name"),
    **{f"sql: {expression}": by_sql(expression, columns) for expression, columns in EXPRESSIONS["User"]},
}
"""Every way to split "User"."""


def following(table: str) -> st.SearchStrategy[Rule]:
    """Draw an order of some of a table's paths."""
    paths = st.lists(st.sampled_from(PATHS[table]), min_size=1, max_size=4, unique=True).map(tuple)
    return st.builds(Follows, paths, OTHERWISE)


@st.composite
def mappings(
    draw: st.DrawFn, users: st.SearchStrategy[Rule] | None = None, orders: st.SearchStrategy[Rule] | None = None
) -> ShardMap:
    """Draw a mapping: any split, any ways to follow it over up to three hops, other splits and fixed tables between."""
    rules: dict[str, Rule] = {"Role": Reference(), "Tag": Reference()}
    rules["User"] = draw(st.one_of(*SPLITS.values()) if users is None else users)
    rules["order"] = draw(st.one_of(following("order"), st.builds(OnShard, SHARD)) if orders is None else orders)
    by_value = st.builds(SplitByColumn, st.just("value"), homes(TEXTS), OTHERWISE)
    rules["line%item"] = draw(st.one_of(following("line%item"), by_value))
    rules["t"] = draw(st.one_of(following("t"), *(by_sql(*one) for one in EXPRESSIONS["t"])))
    return ShardMap(
        name="two_readings",
        file="",
        source=Endpoint(""),
        shards={shard: Endpoint("") for shard in SHARDS},
        journal_shard=SHARDS[-1],
        tables={name(table): rule for table, rule in rules.items()},
    )


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A database with the tables, and its catalog."""

    connection: Connection
    catalog: Catalog


@pytest.fixture(scope="module")
def source(source_cluster: Cluster) -> Iterator[Source]:
    """Give a session as the copy's readers have it, with foreign keys off."""
    source_cluster.start()
    url = source_cluster.create_database("two_readings")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA.read_bytes())
    connection = connect(url, "test")
    catalog = read_catalog(connection)
    connection.execute(
        "SELECT set_config('session_replication_role', 'replica', false), set_config('search_path', %s, false)",
        (extension_path(catalog),),
    )
    yield Source(connection, catalog)
    connection.close()
    source_cluster.drop_database("two_readings")


def fill(source: Source, rows: Rows) -> None:
    """Insert rows; of those that a unique key refuses the first one stays."""
    for table, some in rows.items():
        source.connection.execute(
            sql.SQL(
                "INSERT INTO {0} SELECT * FROM jsonb_populate_recordset(NULL::{0}, {1}) ON CONFLICT DO NOTHING"
            ).format(sql.Identifier("public", table), sql.Literal(json.dumps(some)))
        )


def streamed(source: Source, table: str) -> list[Row]:
    """Return a table's rows as pgoutput would show them: each value as its type's output function writes it."""
    columns = [column.name for column in source.catalog.tables[name(table)].columns]
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    result = source.connection.execute(
        sql.SQL("SELECT {} FROM {}").format(listed, sql.Identifier("public", table))
    ).pgresult
    assert result is not None
    values = [[result.get_value(at, column) for column in range(result.nfields)] for at in range(result.ntuples)]
    return [
        {column: None if value is None else value.decode() for column, value in zip(columns, row, strict=True)}
        for row in values
    ]


# --- the two readings -------------------------------------------------------------------------------------------------


def snapshot_homes(source: Source, shard_map: ShardMap, table: str) -> list[tuple[str, str | None]]:
    """Read homes by SQL over the tables: (id, home) in order."""
    home = home_sql(shard_map, source.catalog, name(table), "t")
    query = sql.SQL("SELECT t.id::text, {} FROM {} AS t{} ORDER BY t.id").format(
        home.expression, from_item(source.catalog, name(table)), home.joins
    )
    return [(row[0], row[1]) for row in source.connection.execute(query).fetchall()]


@dataclass
class Stream:
    """Reads homes row by row as the tail does, with lookups over dictionaries."""

    source: Source
    shard_map: ShardMap
    rows: Rows = field(init=False)

    def __post_init__(self) -> None:
        """Take the rows as the stream shows them."""
        self.rows = {table: streamed(self.source, table) for table in ("Role", "Tag", *SPLIT_TABLES)}

    def homes(self, table: str) -> list[tuple[str, str | None]]:
        """Return (id, home) in order."""
        return sorted(
            ((str(row["id"]), self.home(name(table), row)) for row in self.rows[table]), key=lambda one: int(one[0])
        )

    def home(self, table: TableName, row: Row) -> str | None:
        """Decide one row's home."""
        columns = {column.name: column for column in self.source.catalog.tables[table].columns}
        values = {column: as_cast_to_text(columns[column], value) for column, value in row.items()}
        lookups = Lookups(
            parent_home=self.parent_home,
            referenced_value=self.referenced_value,
            evaluated=lambda rule: self.evaluated(rule, table, values),
        )
        return home_of(self.shard_map.tables[table], values, shard_map=self.shard_map, lookups=lookups)

    def find(self, table: TableName, columns: tuple[str, ...], key: Key) -> Row | None:
        """Return the row whose key is equal, by the parent's types."""
        types = [column for name in columns if (column := self.source.catalog.tables[table].column(name))]
        wanted = [comparable(column, value) for column, value in zip(types, key, strict=True)]
        for row in self.rows[table.name]:
            own = [None if (value := row[column.name]) is None else comparable(column, value) for column in types]
            if own == wanted:
                return row
        return None

    def parent_home(self, path: Path, key: Key) -> str | None:
        """Return where a parent is: a row without a home is nowhere."""
        parent = self.find(path.references, path.to, key)
        return self.home(path.references, parent) if parent else None

    def referenced_value(self, rule: SplitByReference, key: str) -> str | None:
        """Return the value in the small table."""
        row = self.find(rule.references, (rule.referenced_column,), (key,))
        return row[rule.value] if row else None

    def evaluated(self, rule: SplitBySql, table: TableName, values: Row) -> str | None:
        """Evaluate the expression over a row that is not stored."""
        own = {column: values[column] for column in rule.columns}
        query = sql.SQL("SELECT ({}\n)::text FROM jsonb_populate_record(NULL::{}, {}) AS {}").format(
            sql.SQL(rule.expression),  # pyright: ignore[reportArgumentType]  # as a mapping brings it
            sql.Identifier(table.schema, table.name),
            sql.Literal(json.dumps(own)),
            sql.Identifier(table.name),
        )
        row = self.source.connection.execute(query).fetchone()
        assert row is not None
        return None if row[0] is None else str(row[0])


def hold_against_each_other(source: Source, rows: Rows, shard_map: ShardMap) -> None:
    """Read all homes both ways, in a transaction that is rolled back."""
    with source.connection.transaction(force_rollback=True):
        fill(source, rows)
        stream = Stream(source, shard_map)
        for table in SPLIT_TABLES:
            assert stream.homes(table) == snapshot_homes(source, shard_map, table), table


def examples(number: int) -> settings:
    """Run so many examples; a server's answers take their time."""
    return settings(
        max_examples=number,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


@pytest.mark.parametrize("split", SPLITS)
@examples(60)
@given(data=st.data())
def test_both_readings_agree_on_each_split(source: Source, data: st.DataObject, split: str) -> None:
    """Pitfalls 9, 11, 49 and 50: enum, text, boolean, domain, integer, char(n), inet, citext, references, SQL."""
    hold_against_each_other(source, data.draw(ROWS), data.draw(mappings(users=SPLITS[split])))


@pytest.mark.parametrize("path", PATHS["order"], ids=lambda path: "-".join(path.columns))
@examples(50)
@given(data=st.data())
def test_both_readings_agree_on_each_way_to_follow(source: Source, data: st.DataObject, path: Path) -> None:
    """Pitfalls 49 and 50: integer, composite, numeric, boolean, citext, char(n), inet and float keys."""
    split = SplitByColumn("kind", dict(zip(VALUES["kind"], SHARDS, strict=True)), "pros")
    orders = st.builds(Follows, st.just((path,)), OTHERWISE)
    hold_against_each_other(source, data.draw(ROWS), data.draw(mappings(users=st.just(split), orders=orders)))


@examples(200)
@given(rows=ROWS, shard_map=mappings())
def test_both_readings_name_the_same_home_for_every_row(source: Source, rows: Rows, shard_map: ShardMap) -> None:
    """Pitfalls 8, 49, 50 and 52: whatever the rules, the order of paths and the dangling references, they agree."""
    hold_against_each_other(source, rows, shard_map)


def test_no_collation_makes_two_values_one(
    clusters_by_major: Callable[[int], Cluster], fresh_database: Callable[..., str]
) -> None:
    """Pitfall 51: a collation that ignores case would send `PRO` where the stream, byte by byte, knows no home."""
    with session(fresh_database(clusters_by_major(15), "collation"), "test") as connection:
        connection.execute(
            "CREATE COLLATION public.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        connection.execute('CREATE TABLE public."User" (id int, kind text COLLATE public.nocase)')
        connection.execute("""INSERT INTO public."User" VALUES (1, 'pro'), (2, 'PRO')""")
        rules: dict[TableName, Rule] = {USER: SplitByColumn("kind", {"pro": "pros"})}
        shard_map = ShardMap("x", "", Endpoint(""), {"pros": Endpoint("")}, "pros", rules)
        found = snapshot_homes(Source(connection, read_catalog(connection)), shard_map, "User")
    assert [("1", "pros"), ("2", None)] == found
