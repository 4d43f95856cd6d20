"""What a comparison found, as plain values and as the JSON of `shardmig -o json verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.comparison import Difference


@dataclass(frozen=True, slots=True)
class TableResult:
    """One table on one shard. `source_rows` counts the source's rows whose home that shard is.

    `differences` counts by kind, named or not; `seconds` is the time of all scans of the table, on every side;
    `at_lsn` is the moment that was compared, of which a pass may have several.
    """

    table: TableName
    shard: str
    source_rows: int
    target_rows: int
    equal: bool
    differences: Mapping[str, int]
    seconds: float
    at_lsn: LSN

    def to_json(self) -> dict[str, Any]:
        """Return it as the JSON has it, and as the journal keeps it."""
        return {
            "table": str(self.table),
            "shard": self.shard,
            "source_rows": self.source_rows,
            "target_rows": self.target_rows,
            "equal": self.equal,
            "differences": dict(self.differences),
            "seconds": round(self.seconds, 3),
            "at_lsn": str(self.at_lsn),
        }

    @classmethod
    def from_json(cls, part: Mapping[str, Any]) -> TableResult:
        """Return what `to_json` wrote."""
        names: dict[str, Any] = {"table": TableName.parse(part["table"]), "at_lsn": LSN.parse(part["at_lsn"])}
        return cls(**(dict(part) | names))


@dataclass(frozen=True, slots=True)
class ReferenceResult:
    """How many rows point to a row that is nowhere: on the source, and on all shards taken together.

    Attributes:
        constraint: The foreign key's name, empty for a reference that only the mapping declares.
        implied: Both tables were found equal on every side, so the shards' number is the source's; else it was counted.
    """

    table: TableName
    columns: tuple[str, ...]
    references: TableName
    constraint: str
    source_dangling: int
    shards_dangling: int
    implied: bool

    @property
    def equal(self) -> bool:
        """Whether the split left no reference dangling that was whole, and mended none."""
        return self.source_dangling == self.shards_dangling


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """Where a shard's sequence goes on, against the column it fills on all shards. Informational before the cutover.

    `next_value` is None where the shard has no such sequence, `highest` where the column is empty. `highest` is the
    lowest value for a sequence that counts down. `ready` is whether the next value is past it.
    """

    sequence: TableName
    table: TableName
    column: str
    shard: str
    next_value: int | None
    highest: int | None
    ready: bool


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """Indexes and foreign keys that the source has and a shard has not, by name. Informational: see `schema diff`."""

    table: TableName
    shard: str
    missing_indexes: tuple[str, ...]
    missing_foreign_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """A whole comparison.

    Attributes:
        hash_form: How rows were hashed, `native`, `hashtextextended` or `sha256`.
        differences: The named ones, at most `comparison.NAMED_MAX` a table; `differences_total` counts all.
        objects: Only where something is missing.
        left: Tables that were not begun in time.
        definitions: By shard a line for each definition that is not as planned, which whoever compares rows adds.
    """

    at_lsn: LSN
    hash_form: str
    tables: tuple[TableResult, ...]
    differences: tuple[Difference, ...]
    differences_total: int
    references: tuple[ReferenceResult, ...]
    sequences: tuple[SequenceResult, ...]
    objects: tuple[ObjectResult, ...]
    seconds: float
    left: frozenset[TableName] = frozenset()
    definitions: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @property
    def lsn_range(self) -> tuple[LSN, LSN]:
        """Return the lowest and the highest LSN at which a table was compared."""
        lsns = [self.at_lsn, *(table.at_lsn for table in self.tables)]
        return min(lsns), max(lsns)

    @property
    def equal(self) -> bool:
        """Whether the shards hold exactly the source's rows, each on its home, and dangle where the source does."""
        return self.differences_total == 0 and all(reference.equal for reference in self.references)

    def to_json(self) -> dict[str, object]:
        """Return verify's own part of the JSON; the command adds the part that all commands share."""
        return {
            "at_lsn": str(self.lsn_range[0]),
            "equal": self.equal,
            "hash": self.hash_form,
            "tables": [table.to_json() for table in self.tables],
            "differences": [_difference(difference) for difference in self.differences],
            "differences_total": self.differences_total,
            "references": [_reference(reference) for reference in self.references],
            "sequences": [_sequence(sequence) for sequence in self.sequences],
            "objects": [_objects(entry) for entry in self.objects],
            "definitions": {shard: list(lines) for shard, lines in self.definitions.items()},
            "seconds": round(self.seconds, 3),
        }


def joined(parts: Sequence[VerifyResult]) -> VerifyResult:
    """Return what a pass has found at several moments; each part's tables have those of the parts before."""
    last = parts[-1]
    return replace(
        last,
        at_lsn=min(part.at_lsn for part in parts),
        differences=tuple(difference for part in parts for difference in part.differences),
        differences_total=sum(part.differences_total for part in parts),
        seconds=sum(part.seconds for part in parts),
    )


def _difference(difference: Difference) -> dict[str, object]:
    shown: dict[str, object] = {
        "table": str(difference.table),
        "shard": difference.shard,
        "key": dict(difference.key),
        "kind": difference.kind,
        "copies": difference.copies,
    }
    if difference.columns:
        shown["columns"] = list(difference.columns)
    if difference.home:
        shown["home"] = difference.home
    return shown


def _reference(reference: ReferenceResult) -> dict[str, object]:
    return {
        "table": str(reference.table),
        "columns": list(reference.columns),
        "references": str(reference.references),
        "constraint": reference.constraint,
        "source_dangling": reference.source_dangling,
        "shards_dangling": reference.shards_dangling,
        "implied": reference.implied,
        "equal": reference.equal,
    }


def _sequence(sequence: SequenceResult) -> dict[str, object]:
    return {
        "sequence": str(sequence.sequence),
        "table": str(sequence.table),
        "column": sequence.column,
        "shard": sequence.shard,
        "next_value": sequence.next_value,
        "highest": sequence.highest,
        "ready": sequence.ready,
    }


def _objects(entry: ObjectResult) -> dict[str, object]:
    return {
        "table": str(entry.table),
        "shard": entry.shard,
        "missing_indexes": list(entry.missing_indexes),
        "missing_foreign_keys": list(entry.missing_foreign_keys),
    }
