"""Writes several lines of the audit trail, and facts of the migration, in one journey to the journal and one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from fixia_shardmig.journal.journal import Journal

Line = tuple[str, Mapping[str, object]]
"""An event's name and its detail."""

_TELL: LiteralString = """
WITH told AS (
    INSERT INTO shardmig.event (actor, event, detail)
    SELECT %(actor)s, line ->> 0, line -> 1 FROM jsonb_array_elements(%(lines)s) WITH ORDINALITY AS l(line, n)
    ORDER BY n
)
UPDATE shardmig.migration SET evidence = evidence || %(evidence)s WHERE name = %(name)s AND %(evidence)s <> '{}'
"""


def tell(journal: Journal, lines: Sequence[Line], evidence: Mapping[str, Any] | None = None) -> None:
    """Write events in their order, and merge facts into the migration's evidence; all of it or nothing."""
    if not lines and not evidence:
        return
    journal.connection.execute(
        _TELL,
        {
            "actor": journal.actor,
            "lines": Jsonb([[name, detail] for name, detail in lines]),
            "evidence": Jsonb(evidence or {}),
            "name": journal.name,
        },
        prepare=True,
    )
