"""Says of a row without a home which one it is, why it has none, and which line the mapping lacks."""

from __future__ import annotations

from collections.abc import Mapping

from fixia_shardmig.mapping.shard_map import Follows
from fixia_shardmig.model.errors import UnroutableError
from fixia_shardmig.tail.tables import RelationPlan, Row, TailTable


def unroutable(plan: RelationPlan, row: Row) -> UnroutableError:
    """Return the error that names a row without a home; see `no_home`."""
    own = plan.table.own.columns
    key = {name: value for name, value in zip(plan.columns, row, strict=True) if name in own}
    return no_home(plan.table, key, plan.deciding_values(row) or {})


def no_home(table: TailTable, key: Mapping[str, object], values: Mapping[str, str | None]) -> UnroutableError:
    """Return the error that names a row without a home, the reason, and the line for the mapping."""
    shown = ", ".join(f"{name} = {_shorten(value)}" for name, value in key.items()) or "without a key"
    why = ", ".join(f"{name} = {_shorten(value)}" for name, value in values.items())
    if isinstance(table.rule, Follows):
        line = f"otherwise: <shard> under `{table.root}:`"
        reason = f"it follows {why}, and no such parent is on any shard"
    else:
        line = f"a home for this value, or otherwise: <shard>, under `{table.root}:`"
        reason = f"the mapping has no home for {why}"
    return UnroutableError(
        f"row ({shown}) of {table.leaf} has no home: {reason}; nothing of its transaction was applied, the"
        f" slot keeps it",
        hint=f"add {line} in the mapping, then: shardmig tail",
    )


def _shorten(value: object) -> str:
    text = "NULL" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "…"  # noqa: PLR2004  a line's worth
