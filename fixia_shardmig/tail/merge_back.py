"""Turns one shard's transactions into operations on the source, leaving out what has become contested.

Every change is held against the source first: one that finds its row otherwise than its stream believes makes the key
contested. Tables without a key cannot be contested: their rows are a multiset, to which the streams' changes add up in
any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from fixia_shardmig.mapping.shard_map import OnShard, Reference
from fixia_shardmig.model.errors import DriftError, RefusedError
from fixia_shardmig.placement.stream import Key, comparable
from fixia_shardmig.postgres.pgoutput import UNCHANGED, Delete, Insert, Relation, Truncate, Update
from fixia_shardmig.postgres.sessions import Connection
from fixia_shardmig.postgres.transactions import Transaction
from fixia_shardmig.tail import statements
from fixia_shardmig.tail.contested import Contested, read_rows
from fixia_shardmig.tail.definitions import Definitions
from fixia_shardmig.tail.emit import emit_delete, emit_insert, emit_update, plain
from fixia_shardmig.tail.operations import DELETE, DELETE_ONE, Operation
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.statements import INSERT
from fixia_shardmig.tail.tables import Keyspace, RelationPlan, Row, TailTable, TailTables
from fixia_shardmig.tail.windows import windows

SOURCE = 1
"""The source as the one member of a set of shards."""

WINDOW_CHANGES = 10_000
WINDOW_BYTES = 4 * 1024 * 1024
"""Of changes that are held against the source together."""

SCAN_ROWS = 5_000
"""Keys read at once to find out which rows a TRUNCATE on one shard has emptied."""

Planned = tuple[RelationPlan, Insert | Update | Delete]


@dataclass(slots=True)
class MergeBack:
    """Applies several shards' streams to one session on the source.

    Attributes:
        tables: The migration's, with the source's catalog.
        source: Applies; its open transaction is the caller's to commit.
        readers: One session on each shard, in autocommit.
        definitions: By shard, what a relation of its stream means.
    """

    tables: TailTables
    source: ShardSession
    readers: Mapping[str, Connection]
    contested: Contested
    definitions: Mapping[str, Definitions]
    _plans: dict[tuple[str, Relation], RelationPlan] = field(default_factory=dict)

    def take(self, shard: str, transactions: Sequence[Transaction]) -> None:
        """Queue and send what a shard's transactions come to.

        Raises DriftError for a definition that the source does not have, RefusedError for a TRUNCATE that cannot be
        told row by row.
        """
        for window, _ in windows(transactions, WINDOW_CHANGES, WINDOW_BYTES):
            segment: list[Planned] = []
            for _, change in window:
                if isinstance(change, Truncate):
                    self._apply(segment)
                    segment = []
                    self._truncate(shard, change)
                else:
                    segment.append((self._plan_of(shard, change.relation), change))
            self._apply(segment)
        self.contested.note()

    def contest(self, shard: str, transaction: Transaction, table: str) -> bool:
        """Make every row contested that a transaction writes to a table; False if there is none that was not yet."""
        before = len(self.contested)
        for change in transaction.changes:
            if not isinstance(change, Truncate) and change.relation.name == table:
                plan = self._plan_of(shard, change.relation)
                for key in _keys(plan, change) if plan.table.keyed else ():
                    self.contested.touch((plan.table.leaf, key))
        self.contested.note()
        return len(self.contested) > before

    def _plan_of(self, shard: str, relation: Relation) -> RelationPlan:
        plan = self._plans.get((shard, relation))
        if plan is None:
            self.definitions[shard].refuse_other_shape(self.tables.of(relation).table, relation, shard)
            plan = self._plans[(shard, relation)] = RelationPlan(self.tables, relation, lambda _: {})
        return plan

    def _apply(self, segment: Sequence[Planned]) -> None:
        self.source.flush()
        self._contest(segment)
        for plan, change in segment:
            if not plan.table.keyed:
                self._keyless(plan, change)
            elif not self._left_out(plan, change):
                self._emit(plan, change)
        self.source.flush()

    def _contest(self, segment: Sequence[Planned]) -> None:
        """Make the keys contested whose first change finds the row otherwise than its stream believes."""
        for space, first in _first_changes(segment).items():
            keys = list(first)
            present = self.source.find(space, keys)
            for at, key in enumerate(keys):
                if (at in present) is not first[key]:
                    self.contested.touch((space.table, key))

    def _left_out(self, plan: RelationPlan, change: Insert | Update | Delete) -> bool:
        """Whether a change speaks of a contested row; the other key of a row that changes its key is drawn in."""
        keys = [(plan.table.leaf, key) for key in _keys(plan, change)]
        if not any(key in self.contested for key in keys):
            return False
        for key in keys:
            self.contested.touch(key)
        return True

    def _emit(self, plan: RelationPlan, change: Insert | Update | Delete) -> None:
        if isinstance(change, Insert):
            emit_insert([self.source], plan, change.new, SOURCE)
        elif isinstance(change, Update):
            emit_update([self.source], plan, change, SOURCE)
        else:
            emit_delete([self.source], plan, change.old, SOURCE)

    def _keyless(self, plan: RelationPlan, change: Insert | Update | Delete) -> None:
        leaf = plan.table.leaf
        if not isinstance(change, Insert):
            self.source.add(leaf, Operation(DELETE_ONE, plan.columns, plan.cast_to_text(change.old)))
        if not isinstance(change, Delete):
            row: Row = change.new
            if isinstance(change, Update):
                row = tuple(o if n is UNCHANGED else n for o, n in zip(change.old, change.new, strict=True))
            self.source.add(leaf, Operation(INSERT, plan.columns, plain(row)))

    # a TRUNCATE on a shard empties the rows of that shard

    def _truncate(self, shard: str, change: Truncate) -> None:
        for relation in change.relations:
            table = self._plan_of(shard, relation).table
            if isinstance(table.rule, OnShard | Reference):
                self.source.connection.execute(sql.SQL("DELETE FROM {}").format(statements.target(table.table)))
            elif table.keyed:
                self._delete_where_only(shard, table)
            else:
                raise RefusedError(
                    f"{table.leaf} has no key and was truncated on {shard}: which of the source's rows were there is"
                    " not known",
                    hint="shardmig status says that the way back is closed; the shards are not touched by it",
                )

    def _delete_where_only(self, shard: str, table: TailTable) -> None:
        """Delete the rows that no other shard has; what they did meanwhile shows when their streams come to it."""
        others = [name for name in self.tables.shard_map.shards_of(table.root) if name != shard]
        for keys in self._all_keys(table):
            elsewhere = {key for name in others for key, _ in read_rows(self.readers[name], table, keys)}
            for key in keys:
                if key not in elsewhere:
                    self.source.add(table.leaf, Operation(DELETE, table.own.columns, key))
            self.source.flush()

    def _all_keys(self, table: TailTable) -> Iterator[list[Key]]:
        columns = [column for name in table.own.columns if (column := table.table.column(name))]
        query = sql.SQL("SELECT {} FROM {}").format(
            statements.as_text(table.own.columns), statements.target(table.table)
        )
        with self.source.connection.cursor("shardmig_truncated") as cursor:
            cursor.execute(query)
            while rows := cursor.fetchmany(SCAN_ROWS):
                yield [tuple(comparable(c, v) for c, v in zip(columns, row, strict=True)) for row in rows]


def _first_changes(segment: Iterable[Planned]) -> dict[Keyspace, dict[Key, bool]]:
    """Return, by table and key, whether its first change believes that the row is there."""
    first: dict[Keyspace, dict[Key, bool]] = {}
    for plan, change in segment:
        if plan.table.keyed:
            before, after = _old_key(plan, change), _new_key(plan, change)
            keys = first.setdefault(plan.table.own, {})
            if before is not None:
                keys.setdefault(before, True)
            if after is not None and after != before:
                keys.setdefault(after, False)
    return first


def _keys(plan: RelationPlan, change: Insert | Update | Delete) -> list[Key]:
    return [key for key in dict.fromkeys((_old_key(plan, change), _new_key(plan, change))) if key is not None]


def _old_key(plan: RelationPlan, change: Insert | Update | Delete) -> Key | None:
    if isinstance(change, Insert):
        return None
    if isinstance(change, Update) and not change.old_kind:
        return _known(plan, plan.own_key(change.new))
    return _known(plan, plan.own_key(change.old))


def _new_key(plan: RelationPlan, change: Insert | Update | Delete) -> Key | None:
    if isinstance(change, Delete):
        return None
    if isinstance(change, Update):
        return plan.own_key(change.new) or _old_key(plan, change)
    return _known(plan, plan.own_key(change.new))


def _known(plan: RelationPlan, key: Key | None) -> Key:
    if key is None:
        raise DriftError(
            f"a change of {plan.table.leaf} came without its key: its replica identity was changed on the shard",
            hint="ALTER TABLE … REPLICA IDENTITY DEFAULT there, then: shardmig tail",
        )
    return key


def changes_of(transactions: Iterable[Transaction]) -> int:
    """Return how many row changes transactions hold."""
    return sum(len(transaction.changes) for transaction in transactions)
