"""Rows of which a child has come, and that the same transaction inserts later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from fixia_shardmig.mapping.shard_map import SplitBySql
from fixia_shardmig.placement.stream import Key
from fixia_shardmig.postgres.pgoutput import Insert, Relation
from fixia_shardmig.postgres.transactions import Transaction
from fixia_shardmig.tail.tables import Keyspace, RelationPlan, Row, key_of


class Decides(Protocol):
    """What is asked of the router."""

    def plan_of(self, relation: Relation) -> RelationPlan:
        """Return where a relation's columns stand."""
        ...

    def evaluate(self, rule: SplitBySql, plan: RelationPlan, row: Row) -> None:
        """Have the mapping's expression evaluated over a row."""
        ...

    def home_mask(self, plan: RelationPlan, row: Row) -> int | None:
        """Return a row's home as a shard set."""
        ...

    def name_of(self, shards: int) -> str | None:
        """Return the first shard of a set."""
        ...


class PendingInserts:
    """Rows that the same transaction inserts later: with deferred constraints a child may come first (pitfall 10)."""

    def __init__(self, router: Decides, transaction: Transaction) -> None:
        """Look at nothing yet: few transactions need it."""
        self._router = router
        self.transaction = transaction
        self._rows: dict[tuple[Keyspace, Key], tuple[RelationPlan, Row]] | None = None
        self._visiting: set[tuple[Keyspace, Key]] = set()

    def home_of(self, space: Keyspace, key: Key) -> str | None:
        """Return the home that a row will have which is inserted under a key; None without one."""
        if self._rows is None:
            self._rows = dict(self._index())
        found = self._rows.get((space, key))
        if found is None or (space, key) in self._visiting:
            return None
        self._visiting.add((space, key))
        try:
            plan, row = found
            if isinstance(plan.table.rule, SplitBySql):
                self._router.evaluate(plan.table.rule, plan, row)
            mask = self._router.home_mask(plan, row)
            return self._router.name_of(mask or 0)
        finally:
            self._visiting.discard((space, key))

    def _index(self) -> Iterator[tuple[tuple[Keyspace, Key], tuple[RelationPlan, Row]]]:
        for change in self.transaction.changes:
            if isinstance(change, Insert):
                plan = self._router.plan_of(change.relation)
                spaces = [*plan.tracked]
                if plan.table.own.columns:
                    spaces.append((plan.table.own, plan.identity))
                for space, parts in spaces:
                    key = key_of(change.new, parts)
                    if key is not None:
                        yield (space, key), (plan, change.new)
