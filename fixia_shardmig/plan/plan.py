"""The plan as data, and as the JSON that scripts read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fixia_shardmig.model.names import TableName
from fixia_shardmig.plan.findings import Finding, Severity

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ShardShare:
    """What of a table goes to one shard. Bytes are the table's, shared out by rows."""

    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TablePlan:
    """Where a table's rows go.

    Attributes:
        rule: The rule as a mapping file writes it.
        follows: The tables that decide the home, in the rule's order.
        rows: Rows on the source; None when they could not be counted.
        undecided: Rows without a home.
    """

    table: TableName
    rule: str
    follows: tuple[TableName, ...]
    rows: int | None
    size_bytes: int
    homes: dict[str, ShardShare]
    undecided: int = 0


@dataclass(frozen=True, slots=True)
class CrossShardReference:
    """A reference that the shards cannot keep.

    Attributes:
        constraint: The foreign key's name, empty for a reference that is only in the mapping.
        rows: Rows whose parent lives on another shard or does not move; None when they could not be counted.
        on_delete: What the server did so far: cascade, set null, …
    """

    table: TableName
    columns: tuple[str, ...]
    references: TableName
    constraint: str
    rows: int | None
    on_delete: str
    reason: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What it will take, by the rates in `make`: seconds."""

    copy_s: float
    verify_s: float
    pause_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration would do, and what stands in its way.

    Attributes:
        exact: Whether rows were counted; else they are estimated from samples.
        needed_bytes: Shard -> room that its tables and indexes will take.
        kept: (constraint, table, reason) of the foreign keys that the shards keep.
    """

    migration: str
    mapping_fingerprint: str
    catalog_fingerprint: str
    exact: bool
    shard_names: tuple[str, ...]
    tables: tuple[TablePlan, ...]
    findings: tuple[Finding, ...]
    cross_shard_references: tuple[CrossShardReference, ...]
    kept: tuple[tuple[str, TableName, str], ...]
    needed_bytes: dict[str, int]
    estimate: Estimate

    @property
    def has_blockers(self) -> bool:
        """Whether something must be removed before the copy may begin."""
        return any(finding.severity is Severity.BLOCKER for finding in self.findings)

    @property
    def fingerprint(self) -> str:
        """Return what a later phase compares with: mapping and definitions, not sizes."""
        return f"{self.mapping_fingerprint}-{self.catalog_fingerprint}"

    @property
    def next_steps(self) -> tuple[str, ...]:
        """Return the commands to run next."""
        return ("shardmig plan",) if self.has_blockers else ("shardmig copy",)

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity is severity)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `shardmig -o json plan` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "migration": self.migration,
            "status": "blocked" if self.has_blockers else "ready",
            "next_steps": list(self.next_steps),
            "fingerprint": self.fingerprint,
            "exact": self.exact,
            "tables": [_table_json(table) for table in self.tables],
            "findings": [_finding_json(finding) for finding in self.findings],
            "cross_shard_references": [_reference_json(reference) for reference in self.cross_shard_references],
            "kept_references": [
                {"table": str(table), "constraint": constraint, "reason": reason}
                for constraint, table, reason in self.kept
            ],
            "needed_bytes": self.needed_bytes,
            "estimate": {
                "copy_s": self.estimate.copy_s,
                "verify_s": self.estimate.verify_s,
                "pause_s": self.estimate.pause_s,
            },
        }


def _table_json(table: TablePlan) -> dict[str, Any]:
    return {
        "table": str(table.table),
        "rule": table.rule,
        "follows": [str(name) for name in table.follows],
        "rows": table.rows,
        "bytes": table.size_bytes,
        "undecided": table.undecided,
        "homes": {shard: {"rows": share.rows, "bytes": share.size_bytes} for shard, share in table.homes.items()},
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "table": str(finding.table) if finding.table else None,
        "message": finding.message,
        "hint": finding.hint,
    }


def _reference_json(reference: CrossShardReference) -> dict[str, Any]:
    return {
        "table": str(reference.table),
        "columns": list(reference.columns),
        "references": str(reference.references),
        "constraint": reference.constraint or None,
        "rows": reference.rows,
        "on_delete": reference.on_delete,
        "reason": reference.reason,
    }
