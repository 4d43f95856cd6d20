"""Fixia's own mapping file, held against the shape of Fixia's database."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fixia_shardmig.mapping.check import check_mapping
from fixia_shardmig.mapping.load import read_mapping
from fixia_shardmig.mapping.shard_map import Follows, OnShard, Reference, ShardMap, SplitByColumn
from fixia_shardmig.model.names import TableName
from tests.fixtures.fix_catalogs import fixia_catalog

FILE = Path(__file__).parents[3] / "mappings" / "fixia.yaml"
ENV = {
    "PRIMARY_DATABASE_URL": "postgresql://app:x@db:5432/fixia?schema=public&connection_limit=10",
    "PROFESSIONALS_DB_URL": "postgresql://app:x@db:5432/fixia_professionals",
    "CLIENTS_DB_URL": "postgresql://app:x@db:5432/fixia_clients",
    "SHARED_DB_URL": "postgresql://app:x@db:5432/fixia_shared",
}


def fixia() -> ShardMap:
    """Read and check Fixia's mapping."""
    return check_mapping(read_mapping(FILE, ENV), fixia_catalog())


def test_every_table_of_fixia_has_a_rule() -> None:
    """38 tables, each with the kind of rule that the split asks for."""
    kinds = Counter(type(rule) for rule in fixia().tables.values())
    assert {SplitByColumn: 1, Follows: 32, OnShard: 2, Reference: 3} == dict(kinds)


def test_fixias_users_live_by_their_type() -> None:
    """A dual user is a professional's neighbour, an admin lives on shared, and no kind is left to chance."""
    homes = {"admin": "shared", "client": "clients", "dual": "professionals", "professional": "professionals"}
    assert fixia().tables[TableName("public", "users")] == SplitByColumn("user_type", homes)


def test_phone_reveals_have_three_ways_to_a_home() -> None:
    """Pitfall 8: the match, else the service match, else the user."""
    rule = fixia().tables[TableName("public", "phone_reveals")]
    assert isinstance(rule, Follows)
    assert ["match_id", "service_match_id", "user_id"] == [path.columns[0] for path in rule.paths]
