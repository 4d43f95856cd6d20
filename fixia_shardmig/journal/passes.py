"""How far a pass of verify has come: a watermark for each table that was found equal, for a run that goes on with it.

A pass that finds a difference forgets its watermarks: what follows looks at everything again. So does one that ends.
The tables are made when they are first needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.named_sql import named_sql
from fixia_shardmig.postgres.sessions import scalar

Results = list[dict[str, Any]]
"""What was found of one table, as verify writes it: an object a shard."""


def _query(name: str) -> LiteralString:
    return named_sql("fixia_shardmig.journal", "passes.sql", name)


@dataclass(slots=True)
class Pass:
    """One pass: when it began, and what is known to be equal from earlier runs."""

    journal: Journal
    began_at: datetime
    kept: tuple[Results, ...]

    def keep(self, table: TableName, results: Results) -> None:
        """Remember that a table was found equal, unless the pass has been forgotten meanwhile."""
        self.journal.connection.execute(_query("keep"), (table.schema, table.name, Jsonb(results), self.began_at))
        place("verify.kept")

    def forget(self) -> None:
        """Forget the pass, since it has ended or found a difference."""
        self.journal.connection.execute(_query("forget"))


def open_pass(journal: Journal, what: Mapping[str, Iterable[str] | str], *, resume: bool) -> Pass:
    """Begin a pass, or go on with one over the same things: tables, rules and definitions.

    Args:
        journal: Of this run, which alone verifies.
        what: What is compared with what; a pass over anything else is not gone on with.
        resume: Whether to go on where there is something to go on with.
    """
    connection = journal.connection
    connection.execute(_query("tables"))
    told = repr(sorted((name, value if isinstance(value, str) else sorted(value)) for name, value in what.items()))
    row = connection.execute(_query("current")).fetchone()
    if resume and row and row[1] == told:
        return Pass(journal, row[0], tuple(results for (results,) in connection.execute(_query("kept"))))
    with connection.transaction():
        connection.execute(_query("forget"))
        began_at = scalar(connection, _query("begin"), (told,))
    return Pass(journal, began_at, ())
