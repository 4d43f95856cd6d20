"""What a check can say: a finding, and the context it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, LiteralString

from psycopg.rows import namedtuple_row

from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog, Table
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.references import ForeignKeyFate
from fixia_shardmig.postgres.named_sql import named_sql
from fixia_shardmig.postgres.sessions import Connection

_THOUSAND = 1000
NAMES_SHOWN_MAX = 8
"""A finding about more tables than this names the first ones and counts the rest."""


class Severity(Enum):
    """How much a finding matters: a blocker stops `copy`, a warning wants a decision, an info wants to be read."""

    BLOCKER = "blocker"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the operator should know before the migration.

    Attributes:
        code: Stable, in kebab case; the name of what was checked.
        message: The fact, lower case, without a full stop.
        hint: What to do, best as a command.
        table: The table it is about, if it is about one.
    """

    code: str
    severity: Severity
    message: str
    hint: str = ""
    table: TableName | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One shard's server. Without a `connection`, `error` says why."""

    shard: str
    connection: Connection | None = None
    error: ShardmigError | None = None


@dataclass(frozen=True)
class Look:
    """All that checks look at. Sessions are read-only.

    Attributes:
        source: A session on the source.
        slot: The name of our slot and publication.
        running: Whether a migration of this name is under way, so that slot and publication are no left-overs.
        fates: What becomes of each foreign key.
    """

    shard_map: ShardMap
    catalog: Catalog
    source: Connection
    targets: Mapping[str, Target]
    slot: str
    running: bool
    fates: tuple[ForeignKeyFate, ...] = field(default=())

    def moved(self) -> Iterator[Table]:
        """Yield every table whose rows reach a shard, partitions and their roots included."""
        roots = self.shard_map.moved()
        return (table for _, table in sorted(self.catalog.tables.items()) if table.root in roots)

    def with_rows(self) -> Iterator[Table]:
        """Yield the moved tables that hold rows themselves: no partitioned roots."""
        return (table for table in self.moved() if table.kind != "p")

    def reached(self) -> Iterator[tuple[str, Connection]]:
        """Yield each shard that answered, with its session."""
        for target in self.targets.values():
            if target.connection is not None:
                yield target.shard, target.connection


Check = Callable[[Look], Iterable[Finding]]
"""One check. It looks at one thing, changes nothing, and yields what it finds."""


def _query(name: str) -> LiteralString:
    return named_sql("fixia_shardmig.plan", "queries.sql", name)


def rows(connection: Connection, name: str, parameters: Mapping[str, object] | None = None) -> list[Any]:
    """Run a query of `queries.sql` and return its rows, whose columns are attributes."""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(_query(name), parameters).fetchall()


def row(connection: Connection, name: str, parameters: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401  its columns are attributes
    """Run a query of `queries.sql` that returns exactly one row."""
    return rows(connection, name, parameters)[0]


def listed(names: Iterable[object]) -> str:
    """Return names in one line, the first few of many."""
    texts = [str(name) for name in names]
    shown = ", ".join(texts[:NAMES_SHOWN_MAX])
    return f"{shown} and {len(texts) - NAMES_SHOWN_MAX} more" if len(texts) > NAMES_SHOWN_MAX else shown


def size_text(size_bytes: float) -> str:
    """Return a size for people: 512 B, 3.4 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < _THOUSAND:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= _THOUSAND
    return f"{size_bytes:.1f} TB"


def quoted(name: TableName) -> str:
    """Return a table as SQL for a hint: always qualified, quoted where it must be."""
    return ".".join(ident(part) for part in (name.schema, name.name))


def ident(name: str) -> str:
    """Return an identifier as SQL for a hint."""
    plain = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower() and not name[0].isdigit()
    return name if plain else '"' + name.replace('"', '""') + '"'
