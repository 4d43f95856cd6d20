"""Tables of awkward shape: names, keys, columns, partitions, heirs, row security, no key at all."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fixia_shardmig.mapping.shard_map import Follows, OnShard, Path, Rule, SplitByColumn, SplitBySql
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.verify.snapshots import SnapshotRef
from fixia_shardmig.verify.verification import verify
from tests.integration.verify.conftest import SHARDS, World

HOMES = {"p": "professionals", "c": "clients"}


def test_names_in_camel_case_reserved_and_with_signs(world: World) -> None:
    """Pitfall 52: every identifier is quoted; a % in a name is no placeholder, braces are no format field."""
    world.everywhere(
        'CREATE SCHEMA "Sales.EU"; CREATE TABLE "Sales.EU"."order" ("select" text PRIMARY KEY, "100%" text, "a""b" int,'
        ' "{x}" text, "größe" text, "%s" text);'
        'CREATE TABLE "order" ("Group" int PRIMARY KEY, "user" text REFERENCES "Sales.EU"."order")'
    )
    world.run("source", """INSERT INTO "Sales.EU"."order" VALUES ('p','p',1,'p','p','p'), ('c','c',2,'c','c','%s')""")
    world.run("source", """INSERT INTO "order" VALUES (1,'p'), (2,'c')""")
    world.run("professionals", """INSERT INTO "Sales.EU"."order" VALUES ('p','p',1,'p','p','p')""")
    world.run("professionals", """INSERT INTO "order" VALUES (1,'p')""")
    world.run("clients", """INSERT INTO "Sales.EU"."order" VALUES ('c','c',3,'c','c','%%')""")
    world.run("clients", """INSERT INTO "order" VALUES (2,'c')""")
    parent = TableName("Sales.EU", "order")
    rules: dict[str, Rule] = {
        '"Sales.EU".order': SplitByColumn("100%", HOMES),
        "order": Follows((Path(("user",), parent, ("select",), declared=True),)),
    }
    assert [("differing", "clients", '"Sales.EU".order', ("c",), ("%s", 'a"b'))] == world.differences(rules)


def test_composite_keys_keep_their_border(world: World) -> None:
    """Pitfall 55: ('a', 'bc') and ('ab', 'c') are two keys, and so are the values beside them."""
    world.everywhere("CREATE TABLE k (a text, b text, v text, w text, PRIMARY KEY (b, a))")
    world.run("source", "INSERT INTO k VALUES ('a', 'bc', 'x', 'yz'), ('p', 'q', '', NULL)")
    world.run("clients", "INSERT INTO k VALUES ('ab', 'c', 'x', 'yz'), ('p', 'q', NULL, '')")
    expected = [
        ("differing", "clients", "k", ("q", "p"), ("v", "w")),
        ("extra", "clients", "k", ("c", "ab"), ()),
        ("missing", "clients", "k", ("bc", "a"), ()),
    ]
    assert expected == world.differences({"k": OnShard("clients")})


def test_column_order_and_dropped_columns_do_not_matter(world: World) -> None:
    """Pitfall 52: columns are matched by name, whatever their numbers on each server."""
    world.run("source", "CREATE TABLE t (gone int, id int PRIMARY KEY, a text, b text)")
    world.run("source", "ALTER TABLE t DROP COLUMN gone; INSERT INTO t VALUES (1, 'x', 'y')")
    world.run("clients", "CREATE TABLE t (b text, x int, a text, id int PRIMARY KEY)")
    world.run("clients", "ALTER TABLE t DROP COLUMN x; INSERT INTO t VALUES ('y', 'x', 1)")
    rules: dict[str, Rule] = {"t": OnShard("clients")}
    assert world.compare(rules).equal
    world.run("clients", "UPDATE t SET a = b, b = a")
    assert [("differing", "clients", "t", ("1",), ("a", "b"))] == world.differences(rules)


def test_a_wider_type_on_a_shard_holds_the_same_values(world: World) -> None:
    """int4 and int8, varchar and text read the same; a changed value is still found."""
    world.run("source", "CREATE TABLE t (id int PRIMARY KEY, v varchar(9)); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    world.run("clients", "CREATE TABLE t (id int8 PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b ')")
    assert [("differing", "clients", "t", ("2",), ("v",))] == world.differences({"t": OnShard("clients")})


def test_stored_generated_columns_are_compared_and_virtual_ones_not(world: World) -> None:
    """Pitfall 32: a stored column shows that its expression is the same on both sides."""
    world.everywhere(
        "CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED,"
        " v int GENERATED ALWAYS AS (a + 1) VIRTUAL)"
    )
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO t VALUES (1, 5)")
    rules: dict[str, Rule] = {"t": OnShard("clients")}
    assert world.compare(rules).equal
    world.run("clients", "ALTER TABLE t DROP COLUMN twice, ADD COLUMN twice int GENERATED ALWAYS AS (a * 3) STORED")
    world.run("shared", "DROP TABLE t")
    world.run("professionals", "DROP TABLE t")
    assert [("differing", "clients", "t", ("1",), ("twice",))] == world.differences(rules)


def test_partitions_are_read_through_their_root(world: World) -> None:
    """Pitfall 31: other partition bounds, or none at all, hold the same rows."""
    columns = "id int, at date, kind text, PRIMARY KEY (id, at)"
    world.run("source", f"CREATE TABLE events ({columns}) PARTITION BY RANGE (at)")
    world.run("source", "CREATE TABLE e1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')")
    world.run("source", "CREATE TABLE e2 PARTITION OF events DEFAULT")
    world.run("clients", f"CREATE TABLE events ({columns}) PARTITION BY LIST (at)")
    world.run("clients", "CREATE TABLE e PARTITION OF events DEFAULT")
    world.run("professionals", f"CREATE TABLE events ({columns})")
    world.run("shared", f"CREATE TABLE events ({columns})")
    world.run("source", "INSERT INTO events VALUES (1,'2024-05-05','c'), (2,'2026-01-01','c'), (3,'2024-01-01','p')")
    world.run("clients", "INSERT INTO events VALUES (1,'2024-05-05','c'), (2,'2026-01-01','c')")
    world.run("professionals", "INSERT INTO events VALUES (3,'2024-01-01','p')")
    rules: dict[str, Rule] = {"events": SplitByColumn("kind", HOMES)}
    assert world.compare(rules).equal
    world.run("clients", "DELETE FROM events WHERE id = 2")
    assert [("missing", "clients", "events", ("2", "2026-01-01"), ())] == world.differences(rules)


def test_an_heir_is_compared_by_itself(world: World) -> None:
    """Pitfall 31: a parent by inheritance is read with ONLY, so that its heirs' rows are not counted twice."""
    world.everywhere("CREATE TABLE base (id int PRIMARY KEY); CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (base)")
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO base VALUES (1); INSERT INTO heir VALUES (1), (2)")
    rules: dict[str, Rule] = {"base": OnShard("clients"), "heir": OnShard("clients")}
    assert world.compare(rules).equal
    world.run("clients", "DELETE FROM ONLY base; INSERT INTO heir VALUES (3)")
    expected = [("extra", "clients", "heir", ("3",), ()), ("missing", "clients", "base", ("1",), ())]
    assert expected == world.differences(rules)


def test_a_unique_identity_index_names_rows_without_a_primary_key(world: World) -> None:
    """The key is the identity index, as in the stream."""
    world.everywhere("CREATE TABLE t (code text NOT NULL, v int); CREATE UNIQUE INDEX t_code ON t (code)")
    world.everywhere("ALTER TABLE t REPLICA IDENTITY USING INDEX t_code")
    world.run("source", "INSERT INTO t VALUES ('a', 1), ('b', 2)")
    world.run("clients", "INSERT INTO t VALUES ('a', 1), ('b', 3)")
    assert [("differing", "clients", "t", ("b",), ("v",))] == world.differences({"t": OnShard("clients")})


def test_tables_without_a_key_are_compared_as_multisets(world: World) -> None:
    """Pitfalls 24 and 55: equal rows count, two too many do not cancel in the xor, and a row is named by its text."""
    world.everywhere("CREATE TABLE log (kind text, j json, x point)")
    one, two, three = ("('c','{}','(0,0)')", "('c',NULL,NULL)", "('p','{}','(1,1)')")
    world.run("source", f"INSERT INTO log VALUES {one},{one},{one},{two},{three}")
    world.run("clients", f"INSERT INTO log VALUES {one},{one},{one},{two}")
    world.run("professionals", f"INSERT INTO log VALUES {three}")
    rules: dict[str, Rule] = {"log": SplitByColumn("kind", HOMES)}
    assert world.compare(rules).equal
    world.run("clients", f"INSERT INTO log VALUES {one},{one},{three}")
    world.run("professionals", "DELETE FROM log")
    world.run("clients", "DELETE FROM log WHERE j IS NULL; INSERT INTO log VALUES ('c','{ }',NULL)")
    found = {(d.kind, d.shard, d.home, d.copies, d.key["row"]) for d in world.compare(rules).differences}
    shown = '{"j" : "{}", "kind" : "c", "x" : "(0,0)"}'
    expected = {
        ("duplicated", "clients", "clients", 2, shown),
        ("misplaced", "clients", "professionals", 1, '{"j" : "{}", "kind" : "p", "x" : "(1,1)"}'),
        ("missing", "clients", "", 1, '{"j" : null, "kind" : "c", "x" : null}'),
        ("extra", "clients", "", 1, '{"j" : "{ }", "kind" : "c", "x" : null}'),
    }
    assert expected == found


def test_awkward_text_survives_in_keys_and_values(world: World) -> None:
    """Quotes, commas, braces, backslashes, line breaks, emoji and 'NULL' are text like any other."""
    world.everywhere("CREATE TABLE t (id text PRIMARY KEY, v text)")
    awkward = ["", "NULL", "null", "a,b", '"', "'", "\\", "{}", "(,)", "\n", "\t", " ", "%s", "😀", "é", "e\u0301"]
    with psycopg.connect(world.urls["source"]) as source, psycopg.connect(world.urls["clients"]) as clients:
        for text in awkward:
            source.execute("INSERT INTO t VALUES (%s, %s)", (text, text))
            clients.execute("INSERT INTO t VALUES (%s, %s)", (text, text + "!"))
    expected = sorted(("differing", "clients", "t", (text,), ("v",)) for text in awkward)
    assert expected == world.differences({"t": OnShard("clients")})


def test_a_table_of_a_thousand_columns_is_compared(world: World) -> None:
    """Neither our SQL nor the server's parser is at its end, and each of the last columns counts."""
    names = [f"c{number}" for number in range(1, 1000)]
    world.everywhere(f"CREATE TABLE t (id int PRIMARY KEY, {', '.join(f'{name} int' for name in names)})")
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO t (id, c1) VALUES (1, 1), (2, 2)")
    rules: dict[str, Rule] = {"t": OnShard("clients")}
    assert world.compare(rules).equal
    world.run("clients", "UPDATE t SET c999 = 0 WHERE id = 2")
    assert [("differing", "clients", "t", ("2",), ("c999",))] == world.differences(rules)


def test_followed_citext_keys_meet_as_the_type_says(world: World) -> None:
    """Pitfall 50: 'A' references 'a' by citext's own `=`, although the search path is pg_catalog."""
    world.everywhere(
        "CREATE EXTENSION citext; CREATE TABLE u (id citext PRIMARY KEY, kind text);"
        "CREATE TABLE s (id int PRIMARY KEY, owner citext)"
    )
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO u VALUES ('Ann', 'c'); INSERT INTO s VALUES (1, 'aNN')")
    path = Path(("owner",), TableName.parse("u"), ("id",), declared=False)
    result = world.compare({"u": SplitByColumn("kind", HOMES), "s": Follows((path,))})
    assert result.equal
    assert [0] == [reference.source_dangling for reference in result.references]


def test_an_expression_compares_an_extensions_type_as_the_application_does(world: World) -> None:
    """Pitfall 50: `=` in the mapping's own SQL is citext's, also where the extension is not in public."""
    world.everywhere(
        'CREATE SCHEMA "Ext"; CREATE EXTENSION citext SCHEMA "Ext";'
        'CREATE TABLE u (id int PRIMARY KEY, mail "Ext".citext); CREATE TABLE s (id int PRIMARY KEY, owner int)'
    )
    for side, rows in {"professionals": ("BOSS@x", 1), "clients": ("ann@x", 2)}.items():
        for place in ("source", side):
            world.run(place, "INSERT INTO u VALUES ({1}, '{0}'); INSERT INTO s VALUES ({1}, {1})".format(*rows))
    expression = "CASE WHEN mail = 'boss@X' THEN 'professionals' ELSE 'clients' END"
    path = Path(("owner",), TableName.parse("u"), ("id",), declared=False)
    rules: dict[str, Rule] = {"u": SplitBySql(expression, ("mail",), {}), "s": Follows((path,))}
    assert [] == world.differences(rules)


def test_a_domain_over_an_extensions_type_meets_as_that_type_says(world: World) -> None:
    """Pitfall 50: whatever a domain is called, its keys are compared as the type under it."""
    world.everywhere(
        "CREATE EXTENSION citext; CREATE DOMAIN mail AS citext; CREATE TABLE u (id mail PRIMARY KEY, kind text);"
        "CREATE TABLE s (id int PRIMARY KEY, owner mail)"
    )
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO u VALUES ('Ann', 'c'); INSERT INTO s VALUES (1, 'aNN')")
    path = Path(("owner",), TableName.parse("u"), ("id",), declared=False)
    assert [] == world.differences({"u": SplitByColumn("kind", HOMES), "s": Follows((path,))})


def test_a_text_meets_a_padded_key_as_its_foreign_key_does(world: World) -> None:
    """Pitfall 50: 'ab  ' references the char(4) 'ab', though as texts they are two."""
    world.everywhere(
        "CREATE TABLE u (id char(4) PRIMARY KEY, kind text);"
        "CREATE TABLE s (id int PRIMARY KEY, owner text REFERENCES u, other varchar REFERENCES u)"
    )
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO u VALUES ('ab', 'c'); INSERT INTO s VALUES (1, 'ab  ', NULL), (2, NULL, 'ab ')")
    paths = tuple(Path((column,), TableName.parse("u"), ("id",), declared=True) for column in ("owner", "other"))
    result = world.compare({"u": SplitByColumn("kind", HOMES), "s": Follows(paths)})
    assert result.equal
    assert [0, 0] == [reference.source_dangling for reference in result.references]


def test_a_key_that_is_looked_for_on_another_shard_is_neither_cut_nor_out_of_range(world: World) -> None:
    """Pitfall 50: 'abc' is not the char(2) 'ab', and no int4 is as large as an int8."""
    world.everywhere(
        "CREATE TABLE u (id char(2) PRIMARY KEY, number int UNIQUE NOT NULL);"
        "CREATE TABLE s (id int PRIMARY KEY, owner text, number int8)"
    )
    for side in ("source", "shared"):
        world.run(side, "INSERT INTO u VALUES ('ab', 1)")
    rows = "INSERT INTO s VALUES (1, 'ab ', 1), (2, 'abc', 5000000000)"
    for side in ("source", "clients"):
        world.run(side, rows)
    world.run("clients", "INSERT INTO s VALUES (3, 'ab', 1)")  # tables that differ are counted, not implied
    users = TableName.parse("u")
    owner, number = (
        Path((column,), users, (to,), declared=False) for column, to in (("owner", "id"), ("number", "number"))
    )
    result = world.compare({"u": OnShard("shared"), "s": Follows((owner, number), otherwise="clients")})
    found = {
        reference.columns: (reference.source_dangling, reference.shards_dangling) for reference in result.references
    }
    assert {("owner",): (1, 1), ("number",): (1, 1)} == found


def test_row_security_is_an_error_and_not_a_subset(world: World) -> None:
    """Pitfall 53: a role that would see only some rows gets a refusal with what to grant."""
    world.everywhere("CREATE TABLE t (id int PRIMARY KEY, who text)")
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO t VALUES (1, 'x'), (2, 'y')")
    world.run(
        "clients",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY one_row ON t USING (id = 1);"
        "DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN PASSWORD 'l'; GRANT SELECT ON t TO limited;"
        "DELETE FROM t WHERE id = 2",
    )
    rules: dict[str, Rule] = {"t": OnShard("clients")}
    limited = make_conninfo(world.urls["clients"], user="limited", password="l")
    with pytest.raises(RefusedError, match="row-level security") as refused:
        World({**world.urls, "clients": limited}).compare(rules)
    assert "BYPASSRLS" in refused.value.hint
    world.run("clients", "DROP OWNED BY limited; DROP ROLE limited")
    assert [("missing", "clients", "t", ("2",), ())] == world.differences(rules)


def test_what_is_written_after_the_snapshot_is_not_seen(world: World) -> None:
    """Every session of a side looks at the snapshot it was given, so writers may go on."""
    world.everywhere("CREATE TABLE t (id int PRIMARY KEY)")
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO t SELECT generate_series(1, 1000)")
    exporters = {side: psycopg.connect(url) for side, url in world.urls.items()}
    refs = {}
    for side, connection in exporters.items():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        refs[side] = SnapshotRef(world.urls[side], row[0])
    world.run("source", "DELETE FROM t WHERE id < 10")
    world.run("clients", "INSERT INTO t VALUES (5000)")
    with session(world.urls["source"], "test") as connection:
        catalog = read_catalog(connection)
    shard_map = world.shard_map({"t": OnShard("clients")})
    shards = {shard: refs[shard] for shard in SHARDS}

    def compare() -> bool:
        return verify(shard_map, catalog, source=refs["source"], shards=shards, at_lsn=LSN(1), jobs=4).equal

    assert compare()
    for connection in exporters.values():
        connection.close()
    with pytest.raises(RefusedError, match="the snapshot to compare at is gone"):
        compare()


def test_no_session_is_left_open(world: World) -> None:
    """After a comparison, and after a failed one, the servers have none of our sessions."""
    world.everywhere("CREATE TABLE t (id int PRIMARY KEY)")
    rules: dict[str, Rule] = {"t": OnShard("clients")}
    assert world.compare(rules, jobs=4).equal
    world.run("clients", "DROP TABLE t")
    with pytest.raises(RefusedError):
        world.compare(rules)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shardmig verify' AND datname = %s"
    for side, url in world.urls.items():
        name = conninfo_to_dict(url)["dbname"]
        with psycopg.connect(world.urls[side]) as connection:
            assert (0,) == connection.execute(query, (name,)).fetchone()
