"""What a decided change does to the shards: routing and a replay of the batch record queue the very same operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from fixia_shardmig.postgres.pgoutput import UNCHANGED, Truncate, Update
from fixia_shardmig.tail.operations import DELETE, REGENERATE, UPDATE, Operation
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.tables import RelationPlan, Row, TailTable


def emit_insert(shards: Sequence[ShardSession], plan: RelationPlan, row: Row, mask: int) -> None:
    """Queue a complete row on the shards of a set."""
    operation = Operation(plan.put_kind, plan.columns, cast("tuple[str | None, ...]", row))
    for shard in shards:
        if mask >> shard.number & 1:
            shard.add(plan.table.leaf, operation)


def emit_update(shards: Sequence[ShardSession], plan: RelationPlan, change: Update, mask: int) -> None:
    """Queue the values that an UPDATE brought; one that only left values unchanged is nothing (pitfall 21)."""
    source = change.old if change.old_kind else change.new
    key = plain([source[place] for place in plan.own_places])
    if plan.always or UNCHANGED in change.new:
        operations = _partial_updates(plan, change, key)
    else:
        operations = [Operation(UPDATE, plan.columns, cast("tuple[str | None, ...]", change.new) + key)]
    for shard in shards:
        if mask >> shard.number & 1:
            for operation in operations:
                shard.add(plan.table.leaf, operation)


def _partial_updates(plan: RelationPlan, change: Update, key: tuple[str | None, ...]) -> list[Operation]:
    """Return an UPDATE of the values that came, and one of a new identity value, which has a statement of its own."""
    own, always = plan.table.own.columns, plan.always
    new = {name: value for name, value in zip(plan.columns, change.new, strict=True) if value is not UNCHANGED}
    operations: list[Operation] = []
    if columns := tuple(name for name in new if name not in always):
        operations.append(Operation(UPDATE, columns, plain([new[name] for name in columns]) + key))
    if columns := tuple(name for name in new if name in always and (name not in own or change.old_kind)):
        identities = plain([new[name] for name in columns])
        pairs = zip(own, key, strict=True)
        key = plain([value if name in always else new.get(name, value) for name, value in pairs])
        operations.append(Operation(REGENERATE, columns, identities + key + identities))
    return operations


def emit_delete(shards: Sequence[ShardSession], plan: RelationPlan, old: Row, mask: int) -> None:
    """Queue a DELETE by key; of an old tuple only the key means anything (pitfall 22)."""
    own = plan.table.own.columns
    key = plain([old[place] for place in plan.own_places])
    for shard in shards:
        if mask >> shard.number & 1:
            shard.add(plan.table.leaf, Operation(DELETE, own, key))


def emit_truncate(shards: Sequence[ShardSession], change: Truncate, tables: Sequence[TailTable]) -> None:
    """Empty tables on every shard that has them, now."""
    for shard in shards:
        here = [table.leaf for table in tables if table.allowed_mask >> shard.number & 1]
        shard.truncate(here, restart_identity=change.restart_identity)


def plain(values: Sequence[object]) -> tuple[str | None, ...]:
    """Return values as parameters; NULL for whatever is not there."""
    return tuple(value if isinstance(value, str) else None for value in values)
