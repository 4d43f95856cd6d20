"""The catalog's picture of a schema with one of everything, on the oldest and the newest server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.catalog import Catalog, Column, OtherObject, Sequence, Table
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import Connection, session

SCHEMA = Path(__file__).with_name("catalog.sql")


@pytest.fixture(scope="module", params=[15, 18])
def connection(request: pytest.FixtureRequest, clusters_by_major: Callable[[int], Cluster]) -> Iterator[Connection]:
    """Give a session on a database with the schema."""
    cluster = clusters_by_major(request.param)
    url = cluster.create_database("catalog")
    with psycopg.connect(url, autocommit=True) as plain:
        plain.execute(SCHEMA.read_bytes())
        with session(url, "test") as opened:
            yield opened
    cluster.drop_database("catalog")


@pytest.fixture(scope="module")
def catalog(connection: Connection) -> Catalog:
    """Give the picture."""
    return read_catalog(connection)


@pytest.fixture
def users(catalog: Catalog) -> Table:
    """Give the table with every kind of column."""
    return catalog.tables[TableName("public", "User")]


def table(catalog: Catalog, name: str) -> Table:
    """Return a table by the name that a mapping writes."""
    return catalog.tables[TableName.parse(name)]


def column(found: Table, name: str) -> Column:
    """Return a column that must be there."""
    one = found.column(name)
    assert one is not None
    return one


def sequence(catalog: Catalog, name: str) -> Sequence:
    """Return a sequence that must be there."""
    (one,) = (one for one in catalog.sequences if str(one.name) == name)
    return one


# --- the database -----------------------------------------------------------------------------------------------------


def test_the_database_is_described(catalog: Catalog, connection: Connection) -> None:
    """Pitfall 33: large objects are counted, since no stream carries them."""
    assert ("catalog", "UTF8", 1) == (catalog.database, catalog.encoding, catalog.large_objects)
    assert connection.info.server_version == catalog.server_version
    assert catalog.server_major in {15, 18}
    assert catalog.system_identifier.isdigit()


def test_extensions_are_listed_with_their_schema(catalog: Catalog) -> None:
    """Pitfall 54: the targets need the same ones in the same place; plpgsql is everywhere."""
    assert [("citext", "sales"), ("pg_freespacemap", "public")] == [
        (name, schema) for name, _, schema in catalog.extensions
    ]
    assert all(version for _, version, _ in catalog.extensions)


def test_foreign_schemas_stay_out_of_the_picture(catalog: Catalog) -> None:
    """PostgreSQL's own tables, ours and temporary ones are not the user's."""
    assert {"public", "sales"} == {name.schema for name in catalog.tables}


def test_an_extensions_table_is_no_root(catalog: Catalog) -> None:
    """Pitfall 54: it comes with the extension, and no mapping speaks of it."""
    assert table(catalog, "an_extensions").extension == "pg_freespacemap"
    assert "an_extensions" not in {str(root.name) for root in catalog.roots()}


# --- columns ----------------------------------------------------------------------------------------------------------


def test_a_dropped_column_is_gone_and_numbers_keep_its_gap(users: Table) -> None:
    """Pitfall 52: columns go by name, since a number may be missing."""
    assert users.column("gone") is None
    assert [1, 3] == [one.number for one in users.columns[:2]]


def test_names_keep_their_case_and_signs(catalog: Catalog) -> None:
    """Pitfall 52: camelCase, reserved words, a percent sign, a dot."""
    assert ["order", "%", "select", "a", "b"] == [one.name for one in table(catalog, 'sales."with.dot"').columns]
    assert column(table(catalog, "User"), "roleId").not_null


def test_a_generated_column_is_told_apart_and_does_not_travel(users: Table) -> None:
    """Pitfall 32: it is computed on each shard; its expression is no default."""
    doubled = column(users, "doubled")
    assert ("s", False) == (doubled.generated, doubled.has_default)
    assert "doubled" not in {one.name for one in users.copied_columns}


def test_a_virtual_generated_column_is_told_apart(
    clusters_by_major: Callable[[int], Cluster], fresh_database: Callable[..., str]
) -> None:
    """Pitfall 32: PostgreSQL 18 has them, and they do not travel either."""
    with session(fresh_database(clusters_by_major(18), "virtual"), "test") as newest:
        newest.execute("CREATE TABLE public.v (a int, b int GENERATED ALWAYS AS (a) VIRTUAL)")
        found = table(read_catalog(newest), "v")
    assert ("v", ["a"]) == (column(found, "b").generated, [one.name for one in found.copied_columns])


def test_both_identities_are_told_apart(users: Table) -> None:
    """Pitfall 32: ALWAYS needs OVERRIDING SYSTEM VALUE; neither has a default of its own, a serial has."""
    found = [(one.identity, one.has_default) for one in (column(users, name) for name in ("id", "by_default"))]
    assert [("a", False), ("d", False)] == found
    assert ("", True) == (column(users, "serial_number").identity, column(users, "serial_number").has_default)


@pytest.mark.parametrize("name", ["kind", "domain_kind", "twice"])
def test_an_enum_is_seen_through_its_domains(users: Table, name: str) -> None:
    """Its labels are the values a split can have, whatever the domain's check says."""
    found = column(users, name)
    assert ("kind", "e", False, ("pro", "client", "it's")) == (
        found.base_type,
        found.type_kind,
        found.type_builtin,
        found.enum_labels,
    )


@pytest.mark.parametrize(
    ("name", "text", "base", "element", "builtin"),
    [
        ("kinds", "public.kind[]", "_kind", "kind", False),
        ("numbers", "numeric(10,2)[]", "_numeric", "numeric", True),
        ("pairs", "public.pair[]", "_pair", "pair", False),
        ("pair", "public.pair", "pair", "", False),
        ("email", "sales.citext", "citext", "", False),
        ("code", "character(3)", "bpchar", "", True),
        ("price", "numeric(10,2)", "numeric", "", True),
        ("roleId", "bigint", "int8", "", True),
        ("domain_kind", "public.kind_domain", "kind", "", False),
    ],
)
def test_a_type_is_described(users: Table, name: str, text: str, base: str, element: str, builtin: bool) -> None:  # noqa: FBT001  a table's column
    """Pitfall 47: whether binary can be used hangs on the type behind domains and arrays; names are qualified."""
    found = column(users, name)
    assert (text, base, element, builtin) == (
        found.type_text,
        found.base_type,
        found.element_type,
        found.type_builtin,
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def test_partitions_of_any_level_know_their_root(catalog: Catalog) -> None:
    """Pitfall 31: the mapping speaks of the root, the rows lie in the leaves, in another schema too."""
    root = TableName("public", "events")
    found = {str(one.name): (one.kind, str(one.partition_of), one.root) for one in catalog.tables.values()}
    assert ("p", "None", root) == found["events"]
    assert ("p", "events", root) == found["events_2024"]
    assert ("r", "events_2024", root) == found["events_2024_one"]
    assert ("r", "events_2024", root) == found["sales.events_2024_rest"]
    assert ["events_2024_one", "events_2025", "sales.events_2024_rest"] == [
        str(leaf.name) for leaf in catalog.leaves(root)
    ]
    assert [("at", "id")] * 5 == [one.primary_key for one in catalog.tables.values() if one.root == root]


def test_inheritance_is_no_partitioning(catalog: Catalog) -> None:
    """Pitfall 31: a child by INHERITS is a root of its own, with its parents in order."""
    dogs = table(catalog, "dogs")
    assert (None, dogs.name) == (dogs.partition_of, dogs.root)
    assert ["animals", "pets"] == [str(parent) for parent in dogs.inherits]
    assert ["id", "name", "owner", "bark"] == [one.name for one in dogs.columns]


@pytest.mark.parametrize(
    ("name", "letter", "columns", "publishes"),
    [
        ("User", "d", ("id",), True),
        ("identity_full", "f", ("id",), True),
        ("identity_nothing", "n", ("id",), False),
        ("identity_index", "i", ("code",), True),
        ("identity_none", "d", (), False),
        ("deferred", "d", ("id",), True),
    ],
)
def test_replica_identity_says_what_names_a_row(
    catalog: Catalog,
    name: str,
    letter: str,
    columns: tuple[str, ...],
    publishes: bool,  # noqa: FBT001  a table's column
) -> None:
    """Pitfalls 13 and 24: without an identity the application's UPDATE would fail once the table is published."""
    found = table(catalog, name)
    assert (letter, columns, publishes) == (
        found.replica_identity,
        found.identity_columns,
        found.publishes_identity,
    )


def test_an_unlogged_table_is_told_apart(catalog: Catalog) -> None:
    """Pitfall 33: its changes are not in the WAL."""
    assert ("u", "p") == (table(catalog, "scratch").persistence, table(catalog, "User").persistence)


def test_row_security_triggers_and_rules_are_seen(catalog: Catalog, users: Table) -> None:
    """Pitfalls 26 and 53: what hides rows, and what fires while changes are applied."""
    assert (True, True) == (users.row_security, users.force_row_security)
    assert (("first", "O"), ("second", "A")) == users.triggers
    assert ("quiet",) == table(catalog, "animals").rules


# --- indexes and references -------------------------------------------------------------------------------------------


def test_indexes_tell_what_makes_a_row_unique(users: Table) -> None:
    """An expression has no columns, INCLUDE adds none, a partial index makes nothing unique."""
    found = {one.name: one for one in users.indexes}
    assert ((), False) == (found["users_lower"].columns, found["users_lower"].unique)
    assert found["users_partial"].partial
    assert ("code", "roleId") == found["users_including"].columns
    assert found["users_nulls"].nulls_not_distinct
    assert ("User_pkey", True, True) == (
        found["User_pkey"].constraint,
        found["User_pkey"].primary,
        found["User_pkey"].immediate,
    )
    assert "" == found["users_including"].constraint
    assert [True, False, True, True] == [
        users.unique_on(columns) for columns in (("id",), ("code",), ("roleId", "code"), ("email",))
    ]


def test_a_deferrable_key_is_not_immediate(catalog: Catalog) -> None:
    """ON CONFLICT refuses it."""
    assert [False] == [one.immediate for one in table(catalog, "deferred").indexes]


def test_foreign_keys_keep_the_order_of_their_columns(catalog: Catalog) -> None:
    """Pairs are (x, b) and (y, a), whatever the order in the tables; actions are the letters of pg_constraint."""
    found = {(str(key.table), key.columns): key for key in catalog.foreign_keys}
    pair = found["sales.child", ("x", "y")]
    assert (TableName("sales", "with.dot"), ("b", "a"), "n", "a") == (
        pair.references,
        pair.referenced_columns,
        pair.on_delete,
        pair.on_update,
    )
    single = found['sales."with.dot"', ("order",)]
    assert ("c", "n", True, True) == (single.on_delete, single.on_update, single.deferrable, single.validated)
    assert not found["sales.child", ("x",)].validated
    assert len(catalog.foreign_keys) == 3


# --- sequences and views ----------------------------------------------------------------------------------------------


def test_a_shared_sequence_knows_who_draws_from_it(catalog: Catalog) -> None:
    """Pitfall 68: owned by nobody, used by a default; its numbers are those of its definition."""
    found = sequence(catalog, "shared_ids")
    assert ("integer", 10, 5, 5, 1000, True, 15) == (
        found.data_type,
        found.start,
        found.increment,
        found.minimum,
        found.maximum,
        found.cycle,
        found.last_value,
    )
    users = TableName("public", "User")
    assert (None, False, ((users, "roleId"),)) == (found.owned_by, found.identity, found.used_by)


def test_owned_sequences_know_their_column(catalog: Catalog) -> None:
    """Pitfall 68: a serial's is used by a default, an identity's is its own; one that was never used has no value."""
    users = TableName("public", "User")
    serial = sequence(catalog, "User_serial_number_seq")
    assert ((users, "serial_number"), False, ((users, "serial_number"),), None) == (
        serial.owned_by,
        serial.identity,
        serial.used_by,
        serial.last_value,
    )
    for name in ("id", "by_default"):
        identity = sequence(catalog, f"User_{name}_seq")
        assert ((users, name), True, ()) == (identity.owned_by, identity.identity, identity.used_by)
    assert sequence(catalog, "User_by_default_seq").start == 100


def test_views_know_what_they_read(catalog: Catalog) -> None:
    """Pitfall 33: of a view over a view the one beneath it; each once."""
    found = {str(one.name): one for one in catalog.others}
    assert {"base_view": "view", "over_view": "materialized view"} == {name: one.kind for name, one in found.items()}
    assert ["User", 'sales."with.dot"'] == reads(found["base_view"])
    assert ["base_view", "events"] == reads(found["over_view"])
    assert "JOIN" in found["base_view"].definition


def reads(view: OtherObject) -> list[str]:
    """Return the relations under a view, by name."""
    return sorted(map(str, view.depends_on))


# --- the fingerprint --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drifting(connection: Connection, clusters_by_major: Callable[[int], Cluster]) -> Iterator[Connection]:
    """Give a session on a database whose definitions change from test to test."""
    cluster = clusters_by_major(connection.info.server_version // 10000)
    url = cluster.create_database("drifting")
    with psycopg.connect(url, autocommit=True) as plain:
        plain.execute(SCHEMA.read_bytes())
    with session(url, "test") as opened:
        yield opened
    cluster.drop_database("drifting")


def fingerprint(connection: Connection) -> str:
    """Return the fingerprint of all tables that a mapping can speak of."""
    found = read_catalog(connection)
    return found.fingerprint(frozenset(root.name for root in found.roots()))


CHANGES = [
    "ALTER TABLE public.animals ADD COLUMN age int",
    "ALTER TABLE public.identity_index ALTER COLUMN code TYPE varchar(20)",
    "ALTER TABLE public.pets ALTER COLUMN name SET NOT NULL",
    "ALTER TABLE public.pets RENAME COLUMN owner TO keeper",
    "ALTER TABLE public.identity_none ADD PRIMARY KEY (id)",
    "ALTER TABLE public.identity_full REPLICA IDENTITY DEFAULT",
    "ALTER TABLE sales.child DROP COLUMN y",
    "ALTER TYPE public.kind ADD VALUE 'new'",
    "ALTER TABLE public.events DETACH PARTITION public.events_2025",
    "ALTER TABLE public.scratch RENAME TO scratched",
    'ALTER TABLE public."User" ALTER COLUMN by_default SET GENERATED ALWAYS',
    'ALTER TABLE public."User" ALTER COLUMN doubled DROP EXPRESSION',
    "CREATE TABLE public.brand_new (id int)",
]
SAME = [
    "INSERT INTO public.animals (id) SELECT generate_series(1, 1000)",
    "ANALYZE",
    "VACUUM FULL public.animals",
    'CREATE INDEX another ON public."User" (price)',
    "ALTER TABLE public.pets ALTER COLUMN id SET DEFAULT 7",
    "ALTER TABLE public.deferred ADD CHECK (id > 0)",
    'ALTER TABLE public."User" DISABLE ROW LEVEL SECURITY',
    "SELECT nextval('public.shared_ids')",
    "CREATE VIEW public.more AS SELECT 1 AS one",
    "CREATE TABLE shardmig.chunk (id int)",
    "ALTER TABLE public.an_extensions ADD COLUMN more int",
]


@pytest.mark.parametrize("statement", CHANGES)
def test_a_changed_definition_changes_the_fingerprint(drifting: Connection, statement: LiteralString) -> None:
    """Pitfall 30: also what sends no row and no Relation message, such as a new enum value."""
    before = fingerprint(drifting)
    drifting.execute(statement)
    assert before != fingerprint(drifting)


@pytest.mark.parametrize("statement", SAME)
def test_what_is_no_definition_leaves_the_fingerprint(drifting: Connection, statement: LiteralString) -> None:
    """Rows, statistics, a new file under a table, indexes, defaults: the tail does not stop for them."""
    before = fingerprint(drifting)
    drifting.execute(statement)
    assert before == fingerprint(drifting)


def test_a_table_outside_the_mapping_does_not_change_the_fingerprint(drifting: Connection) -> None:
    """Only the given roots and their partitions count."""
    some = frozenset({TableName("public", "identity_index"), TableName("public", "events")})
    before = read_catalog(drifting).fingerprint(some)
    drifting.execute("CREATE TABLE public.beside (id int)")
    assert before == read_catalog(drifting).fingerprint(some)
    drifting.execute("CREATE TABLE public.events_2030 PARTITION OF public.events DEFAULT")
    assert before != read_catalog(drifting).fingerprint(some)


def test_the_same_schema_elsewhere_has_the_same_fingerprint(
    catalog: Catalog, connection: Connection, clusters_by_major: Callable[[int], Cluster]
) -> None:
    """OIDs, sizes and the database's name are left out."""
    cluster = clusters_by_major(connection.info.server_version // 10000)
    url = cluster.create_database("elsewhere")
    with psycopg.connect(url, autocommit=True) as plain:
        plain.execute("CREATE TABLE moves_the_oids (id int)")
        plain.execute(SCHEMA.read_bytes())
    with session(url, "test") as opened:
        found = read_catalog(opened)
    cluster.drop_database("elsewhere")
    roots = frozenset(root.name for root in catalog.roots())
    assert catalog.fingerprint(roots) == found.fingerprint(roots)
