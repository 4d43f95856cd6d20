"""A small source that a plan has nothing to say about, to which each test adds what it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fixia_shardmig.plan import Finding, Plan, make_plan
from tests.fixtures.fix_split import Split

USERS_DDL = """
CREATE TABLE users (id text PRIMARY KEY, kind text NOT NULL);
INSERT INTO users VALUES ('u1', 'client'), ('u2', 'client'), ('u3', 'professional'), ('u4', 'admin');
"""
USERS = "  users: {split_by: kind, homes: {client: clients, professional: professionals, admin: shared}}\n"


@dataclass(frozen=True)
class Planned:
    """A split and the plan for it."""

    split: Split
    plan: Plan

    def found(self, code: str) -> list[Finding]:
        """Return the findings of one code."""
        return [finding for finding in self.plan.findings if finding.code == code]


@pytest.fixture
def planned(split_of: Callable[..., Split], source_url: str, shard_urls: dict[str, str]) -> Callable[..., Planned]:
    """Return a function (more DDL, more tables as YAML) that plans a split of users and these tables."""

    def make(ddl: str = "", tables: str = "", *, estimates: bool = False, users: str = USERS) -> Planned:
        split = split_of(source_url, shard_urls, users + tables, USERS_DDL + ddl)
        return Planned(split, make_plan(split.shard_map, split.url, estimates=estimates))

    return make
