"""What a router refuses before it connects to anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixia_shardmig.lookup import ShardRouter, Writer
from fixia_shardmig.model.errors import MappingError

MAPPING = """\
version: 1
name: shop
source: {url: "${SOURCE_URL}"}
shards: {one: {url: "${ONE_URL}", journal: true}}
tables: {users: {shard: one}, old: {skip: frozen}}
"""
ENV = {"SOURCE_URL": "postgresql://app:hush@127.0.0.1:9/shop", "ONE_URL": "postgresql://app:hush@127.0.0.1:9/one"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a mapping file of a small shop."""
    path = tmp_path / "shop.yaml"
    path.write_text(MAPPING)
    return path


def test_a_router_connects_to_nothing_by_itself(file: Path) -> None:
    """No server runs there; a home that stands in the mapping is known even so."""
    with ShardRouter.from_mapping(file, ENV) as router:
        assert "one" == router.shard_for("users", 1)


def test_the_environment_is_read_where_it_is_told(file: Path) -> None:
    """A variable that is not set is a mistake with its place in the file."""
    with pytest.raises(MappingError, match="the environment has no ONE_URL"):
        ShardRouter.from_mapping(file, {"SOURCE_URL": ENV["SOURCE_URL"]})


def test_a_table_that_stays_has_no_home(file: Path) -> None:
    """The mapping's reason is told."""
    with ShardRouter.from_mapping(file, ENV) as router, pytest.raises(MappingError, match="old is not moved: frozen"):
        router.shard_for("old", 1)


def test_nobody_is_no_side_to_go_to(file: Path) -> None:
    """A router that may go nowhere is a mistake of its maker."""
    with pytest.raises(MappingError, match="needs a side"):
        ShardRouter.from_mapping(file, ENV, writer=Writer.NOBODY)
