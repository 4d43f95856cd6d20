"""Compares what a shard should look like with what the target has, object by object. Changes nothing.

Where source and target are different major versions, the bodies of views and rules are not compared, only that they
are there: each version writes them out in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection, scalar, session
from fixia_shardmig.schema.apply import pending
from fixia_shardmig.schema.shard_schema import STAGES, Definition, ShardSchema
from fixia_shardmig.schema.source import definitions

_SPELT_BY_VERSION = frozenset({"view", "materialized view", "rule", "policy", "statistics"})


class Problem(Enum):
    """How a shard differs. `PENDING` is no fault: a later stage has not run yet."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """One object that is not on the shard as it should be; `expected` or `found` is empty where there is none."""

    problem: Problem
    kind: str
    table: TableName
    name: str
    expected: str
    found: str

    def __str__(self) -> str:
        """Return one line: `missing index users.users_email_key`."""
        name = f"{self.table}.{self.name}" if self.name else str(self.table)
        change = f": {self.found} instead of {self.expected}" if self.problem is Problem.DIFFERENT else ""
        return f"{self.problem.value} {self.kind} {name}{change}"


def diff(schema: ShardSchema, target_url: str) -> list[SchemaDifference]:
    """Return how a target differs from what the shard should be, sorted by object."""
    with session(target_url, "schema diff") as connection:
        found = {definition.key: definition for _, definition in definitions(connection)}
        same_major = connection.info.server_version // 10000 == schema.source_major
        waiting = _pending_names(connection)
    expected = {definition.key: definition for definition in schema.definitions}
    return [
        difference
        for key in sorted(expected.keys() | found.keys())
        if (difference := _compare(expected.get(key), found.get(key), waiting=waiting, same_major=same_major))
    ]


def _pending_names(connection: Connection) -> set[tuple[TableName | None, str]]:
    """Return (table, name) of what later stages will still make or change."""
    if scalar(connection, "SELECT to_regclass('shardmig.ddl')") is None:
        return set()
    return {(step.table, step.name) for stage in STAGES for step in pending(connection, stage)}


def _compare(
    expected: Definition | None,
    found: Definition | None,
    *,
    waiting: set[tuple[TableName | None, str]],
    same_major: bool,
) -> SchemaDifference | None:
    shown = expected or found
    if shown is None or (expected and found and _equal(expected, found, same_major=same_major)):
        return None
    table = TableName(shown.schema, shown.relation)
    problem = Problem.DIFFERENT if expected and found else Problem.MISSING if expected else Problem.EXTRA
    if expected and ((table, shown.name) in waiting or _waits_as_whole(shown, table, waiting)):
        problem = Problem.PENDING
    return SchemaDifference(
        problem,
        shown.kind,
        table,
        shown.name,
        expected.definition if expected else "",
        found.definition if found else "",
    )


def _waits_as_whole(shown: Definition, table: TableName, waiting: set[tuple[TableName | None, str]]) -> bool:
    """Whether a pending statement speaks of the table itself: row security, its identity, a view's body."""
    if shown.kind not in {"table", "view", "materialized view"}:
        return False
    return any(step_table == table for step_table, _ in waiting)


def _equal(expected: Definition, found: Definition, *, same_major: bool) -> bool:
    if not same_major and expected.kind in _SPELT_BY_VERSION:
        return True
    return expected.definition == found.definition
