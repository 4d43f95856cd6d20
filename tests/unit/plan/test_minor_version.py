"""Minor versions whose decoding is known to be wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from fixia_shardmig.mapping.shard_map import Endpoint, OnShard, ShardMap
from fixia_shardmig.model.names import TableName
from fixia_shardmig.plan.checks.source_server import minor_version
from fixia_shardmig.plan.findings import Look
from fixia_shardmig.postgres.sessions import Connection
from tests.fixtures.fix_catalogs import catalog, table

NO_CONNECTION = cast("Connection", object())


@pytest.mark.parametrize(
    ("version", "identity", "expected"),
    [
        (150005, "f", ["blocker"]),
        (150006, "f", ["warning"]),
        (150012, "d", ["warning"]),
        (150013, "f", []),
        (160001, "f", ["blocker"]),
        (160009, "d", []),
        (170004, "d", ["warning"]),
        (180000, "f", []),
    ],
)
def test_a_minor_version_with_a_known_bug_is_named(version: int, identity: str, expected: list[str]) -> None:
    """Pitfall 34. Wrong old rows block where a table is matched by them; the rest is a warning."""
    items = replace(table("items", "a int", pk=""), replica_identity=identity)
    described = replace(catalog(items), server_version=version)
    shard_map = ShardMap("m", "", Endpoint(""), {"a": Endpoint("")}, "a", {TableName.parse("items"): OnShard("a")})
    look = Look(shard_map, described, NO_CONNECTION, {}, "shardmig_m", running=False)
    assert expected == [finding.severity.value for finding in minor_version(look)]
