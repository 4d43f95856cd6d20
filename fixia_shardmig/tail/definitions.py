"""Holds a table's shape in the stream against the one the shards have, exactly at the change that brings it.

A Relation message has names and type OIDs; what those are called, and what the table looks like by now, the source is
asked. Refuses a shape that is newer than the shards', and an older one whose values would not be what they became.
"""

from __future__ import annotations

from fixia_shardmig.model.catalog import Table
from fixia_shardmig.model.errors import DriftError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.pgoutput import Relation
from fixia_shardmig.postgres.sessions import Connection

Shape = dict[str, str]
"""Column -> its type as `format_type` shows it; generated columns are left out."""

_TYPES = """
SELECT format_type(u.type::oid, u.modifier) FROM unnest(%s::int8[], %s::int4[]) WITH ORDINALITY AS u(type, modifier, n)
ORDER BY n
"""
_NOW = """
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
"""


class Definitions:
    """Asks the stream's server what a relation means."""

    def __init__(self, source: Connection) -> None:
        """Take a session on the server whose stream it is."""
        self._source = source

    def refuse_drift(self, table: Table, relation: Relation) -> None:
        """Raise DriftError before the first change of a shape that the shards do not have.

        The shards may have a column already that the stream is still to bring: what comes before it fills it by its
        default, as it did on the source.
        """
        planned = {column.name: column.type_text for column in table.copied_columns}
        streamed = self._of(relation)
        if streamed == planned:
            return
        is_older = planned == self._now(table.name)
        if is_older and streamed.items() <= planned.items():
            return
        difference = _difference(planned, streamed)
        if is_older:
            raise DriftError(
                f"the shards' definition of {table.name} is ahead of the stream ({difference}); changes from before it"
                " wait in the slot",
                hint="undo that DDL on the shards, run shardmig tail until it stops at the new definition, then do it",
            )
        raise DriftError(
            f"the definition of {table.name} changed on the source ({difference}); its changes wait in the slot",
            hint="run the same DDL on every shard that has the table (shardmig schema diff), then: shardmig tail",
        )

    def refuse_other_shape(self, table: Table, relation: Relation, shard: str) -> None:
        """Raise DriftError before the first change of a shard whose shape the source does not have."""
        there = self._of(relation)
        planned = {column.name: column.type_text for column in table.copied_columns}
        if there != planned:
            raise DriftError(
                f"{table.name} is defined otherwise on {shard} than on the source ({_difference(planned, there)}); its"
                " changes wait in the slot",
                hint="run the same DDL on the source and on every shard that has the table, then: shardmig tail",
            )

    def _of(self, relation: Relation) -> Shape:
        rows = self._source.execute(_TYPES, (list(relation.type_oids), list(relation.type_modifiers))).fetchall()
        return dict(zip(relation.columns, (row[0] for row in rows), strict=True))

    def _now(self, name: TableName) -> Shape:
        return dict(self._source.execute(_NOW, (name.schema, name.name)).fetchall())


def _difference(planned: Shape, streamed: Shape) -> str:
    new = [f"{name} {type_text}" for name, type_text in streamed.items() if planned.get(name) != type_text]
    gone = [f"{name} {type_text}" for name, type_text in planned.items() if streamed.get(name) != type_text]
    parts = (f"new: {', '.join(new)}" if new else "", f"gone: {', '.join(gone)}" if gone else "")
    return "; ".join(part for part in parts if part)
