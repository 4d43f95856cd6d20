"""Placement in the stream: the same rule, decided from one row's text values and where its parents are now.

Pure: what it has to look up comes in as functions. It never guesses; undecidable is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Path,
    Rule,
    ShardMap,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
)
from fixia_shardmig.model.catalog import Column

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lookups:
    """What a decision may ask.

    Attributes:
        parent_home: (path, key) -> the shard on which that parent is, None when it is nowhere.
        referenced_value: (rule, key) -> the value in the small reference table, None without a row.
        evaluated: (rule) -> the mapping's SQL expression over the row at hand, as text.
    """

    parent_home: Callable[[Path, Key], str | None]
    referenced_value: Callable[[SplitByReference, str], str | None]
    evaluated: Callable[[SplitBySql], str | None]


def home_of(rule: Rule, row: Mapping[str, str | None], *, shard_map: ShardMap, lookups: Lookups) -> str | None:
    """Return the home shard of a row whose values are given as `::text` would show them; None if undecidable.

    Raises KeyError when a column that decides is not in `row`; callers leave those to the settling of the batch.
    """
    match rule:
        case SplitByColumn():
            return _home_of_value(rule.homes, row[rule.column], rule.otherwise)
        case SplitByReference():
            key = row[rule.column]
            value = None if key is None else lookups.referenced_value(rule, key)
            return _home_of_value(rule.homes, value, rule.otherwise)
        case SplitBySql():
            homes = rule.homes or {shard: shard for shard in shard_map.shard_names}
            return _home_of_value(homes, lookups.evaluated(rule), rule.otherwise)
        case Follows():
            path, values = deciding_path(rule, row)
            home = lookups.parent_home(path, values) if path else None
            return home or rule.otherwise
        case OnShard(shard):
            return shard
        case _:
            return None


def deciding_path(rule: Follows, row: Mapping[str, str | None]) -> tuple[Path | None, Key]:
    """Return the first path whose columns are all set, and their values; (None, ()) when there is none."""
    for path in rule.paths:
        values = [row[column] for column in path.columns]
        key = tuple(value for value in values if value is not None)
        if len(key) == len(values):
            return path, key
    return None, ()


def _home_of_value(homes: Mapping[str, str], value: str | None, otherwise: str | None) -> str | None:
    return otherwise if value is None else homes.get(value, otherwise)


def as_cast_to_text(column: Column, value: str | None) -> str | None:
    """Turn a type's output text into what `::text` gives, where that is another one.

    Booleans are spelt out, the padding of char(n) is dropped, and an inet always shows its mask.
    """
    if value is None:
        return None
    match column.base_type:
        case "bool":
            return "true" if value == "t" else "false"
        case "bpchar":
            return value.rstrip(" ")
        case "inet":
            return value if "/" in value else f"{value}/{_whole_mask(value)}"
        case _:
            return value


def comparable(column: Column, value: str) -> str:
    """Return a text that is equal for two key values exactly if PostgreSQL finds the values equal.

    Takes a type's output text as well as its `::text`. Only types whose equal values have several texts need work:
    numeric (1.0 and 1.00), floats (0 and -0), citext, char(n), booleans and inet.
    """
    text = value
    match column.base_type:
        case "numeric" if "." in value:
            text = value.rstrip("0").rstrip(".")
        case "float4" | "float8":
            text = "0" if value == "-0" else value
        case "citext":
            text = value.lower()
        case "bpchar":
            text = value.rstrip(" ")
        case "bool":
            text = value[:1]
        case "inet":
            text = value.removesuffix(f"/{_whole_mask(value)}")
        case _:
            pass
    return text


def _whole_mask(address: str) -> int:
    """Return the mask that leaves nothing of an inet open, which its output text leaves out."""
    return 128 if ":" in address else 32
