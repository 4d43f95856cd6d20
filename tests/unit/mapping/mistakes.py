"""Mapping files with their mistakes marked: what stands after `^` is where the message must point to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from fixia_shardmig.mapping.check import check_mapping
from fixia_shardmig.mapping.load import read_mapping
from fixia_shardmig.mapping.problems import MappingProblems, Problem
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog

HEAD = """\
version: 1
name: shop
source: {url: "postgresql://app:hunter2@db/shop"}
shards:
  pros: {url: "postgresql://app:hunter2@db/pros"}
  shared: {url: "postgresql://app:hunter2@db/shared", journal: true}
"""
SECRET = "hunter2"


def whole(text: str) -> str:
    """Return a mapping file: the text itself, or a `tables:` part with a head put before it."""
    text = dedent(text)
    return text if "version" in text else HEAD + text


def write(directory: Path, text: str) -> Path:
    """Write a mapping file without its mark and return where."""
    path = directory / "shop.yaml"
    path.write_text(whole(text).replace("^", ""), "utf-8")
    return path


def place_of_mark(text: str) -> tuple[int, int]:
    """Return the line and column that `^` marks, counted from 1."""
    before = whole(text).partition("^")[0].split("\n")
    return len(before), len(before[-1]) + 1


def load_problems(directory: Path, text: str, env: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    """Read a file that must be refused and return all its mistakes."""
    with pytest.raises(MappingProblems) as caught:
        read_mapping(write(directory, text), env or {})
    assert SECRET not in str(caught.value)
    return caught.value.problems


def check_problems(directory: Path, text: str, source: Catalog) -> tuple[Problem, ...]:
    """Check a well-formed file that must be refused and return all its mistakes."""
    mapping_file = read_mapping(write(directory, text), {})
    with pytest.raises(MappingProblems) as caught:
        check_mapping(mapping_file, source)
    assert SECRET not in str(caught.value)
    return caught.value.problems


def checked(directory: Path, text: str, source: Catalog) -> ShardMap:
    """Read and check a file that must be accepted."""
    return check_mapping(read_mapping(write(directory, text), {}), source)
