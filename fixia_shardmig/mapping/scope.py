"""What a rule is checked against: the source's tables and columns, the file's shards. Unknown names get a hint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fixia_shardmig.mapping.file_model import TableRule
from fixia_shardmig.mapping.problems import Report, Way, closest
from fixia_shardmig.model.catalog import Catalog, Column, Table
from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName


@dataclass(frozen=True, slots=True)
class Scope:
    """Looks names up and notes at their place that they are unknown.

    Attributes:
        tables: The file's rules by exact name, each with its key as written.
    """

    catalog: Catalog
    report: Report
    shards: tuple[str, ...]
    tables: Mapping[TableName, tuple[str, TableRule]]

    def check_shard(self, way: Way, name: str) -> None:
        """Note a shard that is not in the file."""
        if name not in self.shards:
            self.report.at_value(way, f"unknown shard {name!r}", hint=closest(name, self.shards))

    def parent(self, way: Way, text: str) -> Table | None:
        """Return the table that a rule refers to, or None after noting why it cannot."""
        try:
            name = TableName.parse(text)
        except MappingError as error:
            self.report.at_value(way, error.message, hint=error.hint)
            return None
        fault, hint = self.table_fault(name)
        if fault:
            self.report.at_value(way, fault, hint=hint)
            return None
        return self.catalog.tables[name]

    def table_fault(self, name: TableName) -> tuple[str, str]:
        """Return why no rule can speak of a table, and a hint; two empty texts when one can."""
        table = self.catalog.tables.get(name)
        if table is None:
            other = next((other for other in self.catalog.others if other.name == name), None)
            if other is not None:
                return f"{name} is a {other.kind}, which holds no rows of its own to move", "leave it out"
            return f"unknown table {str(name)!r}", closest(str(name), (str(root.name) for root in self.catalog.roots()))
        if table.partition_of is not None:
            return f"{name} is a partition and lives where its root says", f"write {table.root}"
        if table.extension:
            return f"{name} belongs to the extension {table.extension}, which brings it itself", "leave it out"
        return "", ""

    def column(self, way: Way, table: Table, name: str) -> Column | None:
        """Return a column that the stream carries, or None after noting that there is none."""
        column = table.column(name)
        if column is None:
            hint = closest(name, (known.name for known in table.columns))
            self.report.at_value(way, f"unknown column {name!r} in {table.name}", hint=hint)
            return None
        if column.generated:
            message = f"{name} in {table.name} is generated, so the stream of changes does not carry it"
            self.report.at_value(way, message, hint="decide by the columns it is computed from")
            return None
        return column
