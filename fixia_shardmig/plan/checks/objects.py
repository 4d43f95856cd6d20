"""What is in the database beside tables, and what becomes of it (pitfall 33)."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from fixia_shardmig.model.catalog import Sequence
from fixia_shardmig.model.names import TableName
from fixia_shardmig.plan.findings import Finding, Look, Severity, listed, quoted, rows
from fixia_shardmig.postgres.sessions import scalar

_INTEGERS = frozenset({"int2", "int4", "int8"})


def sequences(look: Look) -> Iterator[Finding]:
    """Say what becomes of the sequences (pitfall 68)."""
    if look.catalog.sequences:
        count = len(look.shard_map.shard_names)
        yield Finding(
            "sequences",
            Severity.INFO,
            f"{len(look.catalog.sequences)} sequences are in no stream: at the cutover each shard continues above the "
            f"maximum of all, in steps of {count} where several shards share one",
        )


def sequences_behind(look: Look) -> Iterator[Finding]:
    """Find sequences that would give a number which is taken already (pitfall 68)."""
    for sequence in look.catalog.sequences:
        for table, column in _users(look, sequence):
            highest = scalar(
                look.source,
                sql.SQL("SELECT max({})::int8 FROM {}").format(
                    sql.Identifier(column), sql.Identifier(table.schema, table.name)
                ),
            )
            given = sequence.last_value if sequence.last_value is not None else sequence.start - sequence.increment
            if highest is not None and sequence.increment > 0 and highest > given:
                yield Finding(
                    "sequence-behind",
                    Severity.WARNING,
                    f"the sequence {sequence.name} stands at {given}, and {column} already holds {highest}",
                    f"SELECT setval('{quoted(sequence.name)}', (SELECT max({column}) FROM {quoted(table)}))",
                    table,
                )


def _users(look: Look, sequence: Sequence) -> Iterator[tuple[TableName, str]]:
    owned = {sequence.owned_by} if sequence.owned_by else set[tuple[TableName, str]]()
    for name, column_name in sorted(owned | set(sequence.used_by)):
        table = look.catalog.tables.get(name)
        column = table.column(column_name) if table and table.root in look.shard_map.moved() else None
        if column and column.base_type in _INTEGERS:
            yield name, column_name


def large_objects(look: Look) -> Iterator[Finding]:
    """Find large objects, which neither COPY nor decoding carries."""
    if look.catalog.large_objects:
        yield Finding(
            "large-objects",
            Severity.WARNING,
            f"{look.catalog.large_objects} large objects are not moved",
            "move them into bytea columns or an object store; those that nothing points to: vacuumlo",
        )


def views(look: Look) -> Iterator[Finding]:
    """Say which views a shard does not get."""
    for other in look.catalog.others:
        if other.kind in {"view", "materialized view"}:
            missing = {s: t for s in look.shard_map.shard_names if (t := _absent_table(look, other.name, s))}
            if missing:
                used = sorted({str(table) for table in missing.values()})
                yield Finding(
                    "view-not-moved",
                    Severity.INFO,
                    f"the {other.kind} {other.name} is not made on {listed(missing)}: it uses {listed(used)}",
                    "read from each shard in the application, and put together there what the view did",
                )


def _absent_table(look: Look, view: TableName, shard: str) -> TableName | None:
    """Return a table under a view, also under other views, that a shard does not have."""
    depends_on = {other.name: other.depends_on for other in look.catalog.others}
    seen: set[TableName] = set()
    waiting = [view]
    while waiting:
        name = waiting.pop()
        seen.add(name)
        table = look.catalog.tables.get(name)
        if table is not None:
            rule = look.shard_map.tables.get(table.root)
            if not table.extension and (rule is None or shard not in look.shard_map.shards_of(table.root)):
                return name
        waiting += [used for used in depends_on.get(name, ()) if used not in seen]
    return None


def materialized_views(look: Look) -> Iterator[Finding]:
    """Say what becomes of materialized views."""
    found = [other.name for other in look.catalog.others if other.kind == "materialized view"]
    if found:
        yield Finding(
            "materialized-views",
            Severity.INFO,
            f"each shard computes from its own rows: {listed(found)}",
            "REFRESH MATERIALIZED VIEW on each shard after the cutover",
        )


def foreign_tables(look: Look) -> Iterator[Finding]:
    """Find foreign tables, which stay behind with their servers and users."""
    found = [other.name for other in look.catalog.others if other.kind == "foreign table"]
    if found:
        yield Finding(
            "foreign-tables",
            Severity.WARNING,
            f"foreign tables and their servers are not moved: {listed(found)}",
            "make them on the shards that need them, by hand",
        )


def event_triggers(look: Look) -> Iterator[Finding]:
    """Find event triggers, which stay behind."""
    found = [one.name for one in rows(look.source, "event_triggers")]
    if found:
        yield Finding(
            "event-triggers",
            Severity.WARNING,
            f"event triggers are not moved: {listed(found)}",
            "make them on the shards after `shardmig schema apply`, by hand",
        )


def database_settings(look: Look) -> Iterator[Finding]:
    """Find settings kept with the database, which pg_dump of its tables leaves out."""
    found = rows(look.source, "database_settings")
    if found:
        shown = listed(f"{one.setting}{f' (for {one.role})' if one.role else ''}" for one in found)
        yield Finding(
            "database-settings",
            Severity.WARNING,
            f"settings of the database are not moved: {shown}",
            "ALTER DATABASE … SET them on each shard that needs them",
        )


def extension_data(look: Look) -> Iterator[Finding]:
    """Find data that the user keeps in tables of extensions (pitfall 54)."""
    found = [f"{one.extension}: {one.name}" for one in rows(look.source, "extension_tables")]
    if found:
        yield Finding(
            "extension-data",
            Severity.WARNING,
            f"rows in tables of extensions are not moved: {listed(found)}",
            "copy them by hand to the shards that need them",
        )
