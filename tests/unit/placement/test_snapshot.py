"""The snapshot's reading of placement as text: what can be said of its SQL without a server."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fixia_shardmig.mapping.shard_map import Endpoint, Follows, Path, Reference, Rule, ShardMap, Skip, SplitByColumn
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.snapshot import extension_path, from_item, home_sql
from tests.fixtures.fix_catalogs import catalog, table

CATALOG = catalog(
    table("users", "id text!", "kind text"),
    table("parts", "id text!", kind="p"),
    *(table(f"t{number}", "id text!", "up text") for number in range(40)),
)


def shard_map(rules: dict[str, Rule]) -> ShardMap:
    """Return a map with these rules."""
    tables = {TableName.parse(name): rule for name, rule in rules.items()}
    return ShardMap("shop", "", Endpoint(""), {"pros": Endpoint(""), "shared": Endpoint("")}, "shared", tables)


@pytest.mark.parametrize("rule", [Reference(), Skip("old")])
def test_a_table_that_is_everywhere_or_nowhere_has_no_home(rule: Rule) -> None:
    """Asking for it is a mistake of the program."""
    with pytest.raises(ShardmigError, match="users has no single home shard"):
        home_sql(shard_map({"users": rule}), CATALOG, TableName.parse("users"), "t")


def test_inheritance_children_are_left_out_and_partitions_are_not() -> None:
    """Pitfall 31: ONLY everywhere but at a partitioned root, which has no rows of its own."""
    assert 'ONLY "public"."users"' == from_item(CATALOG, TableName.parse("users")).as_string()
    assert '"public"."parts"' == from_item(CATALOG, TableName.parse("parts")).as_string()


def test_no_alias_outgrows_a_name_however_long_the_chain() -> None:
    """A name beyond 63 bytes would be cut, and two aliases could become one."""
    rules: dict[str, Rule] = {"users": SplitByColumn("kind", {"a": "pros"})}
    for number in range(40):
        parent = f"t{number - 1}" if number else "users"
        rules[f"t{number}"] = Follows((Path(("up",), TableName.parse(parent), ("id",), declared=True),))
    joins = home_sql(shard_map(rules), CATALOG, TableName.parse("t39"), "t").joins.as_string()
    aliases = re.findall(r' AS "(t_\d+)"', joins)
    assert (80, 80, len("t_79")) == (len(aliases), len(set(aliases)), max(map(len, aliases)))


def test_a_home_is_told_by_its_name_or_by_its_place() -> None:
    """A copy's rows carry two bytes and not a name; who reads the one and writes the other counts shards alike."""
    split = shard_map({"users": SplitByColumn("kind", {"a": "pros"}, otherwise="shared")})
    by_name, by_place = (
        home_sql(split, CATALOG, TableName.parse("users"), "t", as_places=places).expression.as_string()
        for places in (False, True)
    )
    assert "WHEN 'a' THEN 'pros'::text ELSE 'shared'::text END" in by_name
    assert "WHEN 'a' THEN 0::int2 ELSE 1::int2 END" in by_place


def test_the_path_finds_extensions_after_the_catalog() -> None:
    """Pitfall 50: each schema once, quoted, pg_catalog first so that nothing of theirs hides a function."""
    described = replace(
        CATALOG, extensions=(("citext", "1.6", 'Odd"one'), ("hstore", "1.8", "public"), ("x", "1", "public"))
    )
    assert '"pg_catalog", "Odd""one", "public"' == extension_path(described)
