"""Reads across the shards: order, one query a database, odd keys and odd values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fixia_shardmig.lookup import CrossShard, RowNotFoundError, ShardRouter, Writer
from fixia_shardmig.model.errors import MappingError, RefusedError
from tests.integration.lookup.conftest import Marketplace

SHARDS = ("professionals", "clients", "shared")

ODD = """
create domain code as text check (value <> 'never');
create table "Weird%s" ("Id" int, "b%b" char(3), note text, primary key ("b%b", "Id"));
create table codes (id code primary key, happened timestamp, many numeric);
create table plain (id int);
create table visits (id int, at date, primary key (id, at)) partition by range (at);
create table visits_2024 partition of visits for values from ('2024-01-01') to ('2025-01-01');
create table parents (id int primary key);
create table children (more text) inherits (parents);
"""
ODD_ROWS = {
    "professionals": """insert into "Weird%s" values (1, 'ab', 'x'); insert into children values (7, 'y')""",
    "clients": "insert into codes values ('k', 'infinity', 1.10); insert into visits values (1, '2024-05-05')",
    "shared": """insert into "Weird%s" values (2, 'abc', null); insert into parents values (8)""",
}
ODD_MAPPING = """\
version: 1
name: odd
source: {url: "postgresql://nowhere/source"}
shards:
  professionals: {url: "${PROFESSIONALS}"}
  clients: {url: "${CLIENTS}"}
  shared: {url: "${SHARED}", journal: true}
tables:
  Weird%s: {split_by: Id, otherwise: shared}
  codes: {split_by: id, otherwise: shared}
  plain: {split_by: id, otherwise: shared}
  visits: {split_by: id, otherwise: shared}
  parents: {split_by: id, otherwise: shared}
  children: {shard: professionals}
  old: {skip: frozen}
"""


@pytest.fixture
def odd(shard_urls: Mapping[str, str], tmp_path: Path) -> Any:
    """Give reads across shards with composite, quoted, domain and partitioned keys."""
    for shard, url in shard_urls.items():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(ODD.encode())
            connection.execute(ODD_ROWS[shard].encode())
    file = tmp_path / "odd.yaml"
    file.write_text(ODD_MAPPING)
    env = {shard.upper(): url for shard, url in shard_urls.items()}
    with ShardRouter.from_mapping(file, env, writer=Writer.SHARDS) as router:
        yield CrossShard(router)


def test_many_rows_come_in_the_order_of_their_keys_by_one_query_a_shard(
    switched: Marketplace, count_queries: Callable[[], Any]
) -> None:
    """Keys of all shards, mixed, one of them twice and one nowhere."""
    cross = CrossShard(switched.router())
    one, two, three = (switched.a_user(shard) for shard in SHARDS)
    cross.get("users", one)
    keys = [three, one, "nobody", two, one]
    with count_queries() as counts:
        rows = cross.get_many("users", keys)
    assert {"professionals": 1, "clients": 1, "shared": 1} == counts
    assert [three, one, None, two, one] == [row["id"] if row else None for row in rows]
    assert switched.one("clients", "select email from users where id = %s", two) == (rows[3] or {})["email"]


def test_no_keys_are_no_question(switched: Marketplace, count_queries: Callable[[], Any]) -> None:
    """An empty list is answered at once."""
    with count_queries() as counts:
        assert [] == CrossShard(switched.router(Writer.SHARDS)).get_many("users", [])
    assert {} == counts


def test_before_the_switch_rows_come_from_the_source(marketplace: Marketplace) -> None:
    """The shards are not asked while the source is the writer."""
    marketplace.begin()
    user = marketplace.a_user("clients")
    marketplace.market.run("clients", "update users set bio = 'behind' where id = %s", user)
    row = CrossShard(marketplace.router()).get("users", user)
    assert marketplace.one("source", "select bio from users where id = %s", user) == (row or {})["bio"]


def test_a_reference_table_is_read_from_the_shard_with_the_journal(
    switched: Marketplace, count_queries: Callable[[], Any]
) -> None:
    """Every shard has the row; one is asked, and it is no double."""
    key = switched.one("shared", "select min(id) from categories")
    cross = CrossShard(switched.router())
    cross.get("categories", key)
    with count_queries() as counts:
        assert key == (cross.get("categories", key) or {})["id"]
    assert {"shared": 1} == counts


def test_a_row_on_two_shards_is_refused(switched: Marketplace) -> None:
    """Also among many others, and by its key."""
    user = switched.a_user("clients")
    switched.copy_user(user, "clients", "shared")
    with pytest.raises(RefusedError, match=f"users {user} is on 2 shards: clients, shared"):
        CrossShard(switched.router()).get_many("users", ["nobody", user])


def test_keys_of_several_columns_are_tuples_in_the_keys_order(odd: CrossShard) -> None:
    """Pitfall 52: quoted names, a percent sign in them, a key whose columns are in another order than the table's."""
    rows = odd.get_many("Weird%s", [("abc", 2), ("ab", "1"), ("ab", 2)])
    assert [{"Id": 2, "b%b": "abc", "note": None}, {"Id": 1, "b%b": "ab ", "note": "x"}, None] == rows


def test_a_key_that_is_too_long_is_not_cut_to_fit(odd: CrossShard) -> None:
    """A cast to char(3) would find another row."""
    assert odd.get("Weird%s", ("abcd", 2)) is None


def test_a_wrong_number_of_parts_names_the_keys_columns(odd: CrossShard) -> None:
    """The hint says what to give."""
    with pytest.raises(MappingError, match="1 of 2 parts") as caught:
        odd.get("Weird%s", 1)
    assert "give b%b, Id, in this order" == caught.value.hint


@pytest.mark.parametrize(("table", "key"), [("Weird%s", ("ab", "one")), ("codes", "never"), ("visits", (1, "May"))])
def test_a_text_that_is_no_value_of_the_keys_type_is_the_callers_mistake(
    odd: CrossShard, table: str, key: object
) -> None:
    """Not an integer, not of the domain, not a date."""
    with pytest.raises(MappingError, match="this can be no key"):
        odd.get(table, key)


def test_partitions_are_found_by_their_root_and_children_are_not_found_by_their_parent(odd: CrossShard) -> None:
    """Pitfall 31: a partitioned table is one table, inheritance children are tables of their own."""
    assert odd.get("visits", (1, "2024-05-05")) is not None
    assert [{"id": 8}, None] == odd.get_many("parents", [8, 7])


def test_tables_without_a_key_and_tables_that_stayed_are_refused(odd: CrossShard) -> None:
    """Both are told from a row that is not there."""
    with pytest.raises(MappingError, match="plain has no primary key"):
        odd.get("plain", 1)
    with pytest.raises(MappingError, match="old is not moved: frozen"):
        odd.get("old", 1)


def test_a_located_row_keeps_what_python_cannot_hold(odd: CrossShard) -> None:
    """Pitfall 49: infinity and the scale of a number pass through as the server writes them."""
    found = odd.locate("codes", "k")
    assert ("clients", "clients") == (found.shard, found.read_from)
    assert {"id": "k", "happened": "infinity", "many": "1.10"} == found.row


def test_a_located_row_has_its_home_before_the_switch(marketplace: Marketplace) -> None:
    """The row is read from the source, the home is the shard it will be on."""
    marketplace.begin()
    found = CrossShard(marketplace.router()).locate("users", marketplace.a_user("clients"))
    assert ("clients", "the source") == (found.shard, found.read_from)
    with pytest.raises(RowNotFoundError):
        CrossShard(marketplace.router()).locate("contact_messages", "nobody")
