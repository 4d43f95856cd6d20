"""The SQL of a row's home, as text; what it means on a server is in tests/integration/verify."""

from __future__ import annotations

import ast
import pkgutil
from pathlib import Path as FilePath

import pytest
from psycopg import sql

import fixia_shardmig.verify as room
from fixia_shardmig.mapping.shard_map import Follows, OnShard, Path, Reference, Rule, Skip, SplitByColumn, SplitBySql
from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.homes import equal, home_sql
from tests.unit.verify.catalogs import catalog, column, shard_map, table

USERS = TableName.parse("users")
SPLIT = SplitByColumn("kind", {"pro": "professionals"}, otherwise="shared")


def _text(part: sql.Composable) -> str:
    return part.as_string(None)


def _home(name: str, rules: dict[str, Rule]) -> tuple[str, str]:
    source = catalog(table("users", "kind"), table("posts", "owner", "second"), table("roots", kind="p"))
    home = home_sql(shard_map(rules), source, TableName.parse(name))
    return _text(home.source), _text(home.number)


def _path(*columns: str, references: TableName = USERS, to: tuple[str, ...] = ("id",)) -> Path:
    return Path(columns, references, to, declared=True)


def test_a_split_value_is_compared_as_bytes() -> None:
    """No collation of the column may make two values one home."""
    source, number = _home("users", {"users": SPLIT})
    assert 'ONLY "public"."users" AS t' == source
    expected = """coalesce(CASE (t."kind")::text COLLATE "C" WHEN 'pro' THEN 0::int4 END, 2::int4)"""
    assert expected == number


def test_a_follower_joins_its_parent_with_the_parents_home_inside_the_join() -> None:
    """A parent that is gone gives NULL, and not the parent's own `otherwise`."""
    source, number = _home("posts", {"users": SPLIT, "posts": Follows((_path("owner"),), otherwise="clients")})
    assert 'LEFT JOIN (SELECT t."id" AS "k1", coalesce(CASE' in source
    assert source.endswith('AS "p1" ON "p1"."k1" = "t"."owner"')
    assert 'coalesce(CASE WHEN "t"."owner" IS NOT NULL THEN "p1"."home" END, 1::int4)' == number


def test_paths_decide_in_their_order() -> None:
    """The second path is asked only where the first is NULL."""
    _, number = _home("posts", {"users": SPLIT, "posts": Follows((_path("second"), _path("owner")))})
    expected = 'CASE WHEN "t"."second" IS NOT NULL THEN "p1"."home" WHEN "t"."owner" IS NOT NULL THEN "p2"."home" END'
    assert expected == number


def test_a_partitioned_root_is_read_with_its_partitions() -> None:
    """Pitfall 31: ONLY on a partitioned root would read nothing."""
    assert ('"public"."roots" AS t', "1::int4") == _home("roots", {"roots": OnShard("clients")})


def test_a_reference_table_has_no_single_home() -> None:
    """Its number says every shard."""
    assert "-1::int4" == _home("users", {"users": Reference()})[1].strip()


def test_an_expression_sees_nothing_but_its_table() -> None:
    """Its bare names cannot be mistaken for those of a joined parent."""
    source, number = _home("users", {"users": SplitBySql("lower(kind)", ("kind",), {})})
    assert '(SELECT *, ctid, (lower(kind)\n) AS "shardmig split value" FROM ONLY "public"."users") AS t' == source
    assert "WHEN 'clients' THEN 1::int4" in number


def test_rules_in_a_circle_are_refused_with_the_circle() -> None:
    """Pitfall 12: the tables are named in the order in which they follow each other."""
    rules: dict[str, Rule] = {
        "users": Follows((_path("kind", references=TableName.parse("posts")),)),
        "posts": Follows((_path("owner"),)),
    }
    with pytest.raises(MappingError, match="posts -> users -> posts"):
        _home("posts", rules)


def test_a_path_to_columns_that_are_not_unique_is_refused() -> None:
    """Two parents would double the row in the join."""
    with pytest.raises(MappingError, match=r"posts follows users \(kind\), which is not unique"):
        _home("posts", {"users": SPLIT, "posts": Follows((_path("owner", to=("kind",)),))})


def test_a_path_to_a_skipped_table_is_refused() -> None:
    """What is not moved has no home to follow."""
    with pytest.raises(MappingError, match="posts follows users, which is not moved"):
        _home("posts", {"users": Skip("old"), "posts": Follows((_path("owner"),))})


def test_an_extensions_type_is_compared_by_its_own_operator() -> None:
    """Pitfall 50: with pg_catalog as search path `=` on citext would be that of text."""
    citext = column("id", type_text="ext.citext", base_type="citext", type_builtin=False)
    source = catalog(table("users"), extensions=(("citext", "1.6", "ext"),))
    left, right = sql.Identifier("a"), sql.Identifier("b")
    assert '"a" OPERATOR("ext".=) "b"' == _text(equal(source, citext, left, right))
    assert '"a" = "b"' == _text(equal(source, column("id"), left, right))


def test_the_room_imports_no_room_that_moves_rows() -> None:
    """Pitfall 57: verify shares no code with placement, copy or tail."""
    allowed = {"journal", "mapping", "model", "postgres", "verify"}
    for module in pkgutil.iter_modules(room.__path__):
        tree = ast.parse((FilePath(room.__path__[0]) / f"{module.name}.py").read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fixia_shardmig."):
                assert str(node.module).split(".")[1] in allowed
