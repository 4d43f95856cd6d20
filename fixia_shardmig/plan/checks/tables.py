"""What in the tables' definitions makes trouble for decoding, copying or applying. Looks at the catalog alone."""

from __future__ import annotations

from collections.abc import Iterator

from fixia_shardmig.model.catalog import Index, Table
from fixia_shardmig.plan.findings import Finding, Look, Severity, ident, listed, quoted

_NO_EQUALITY = frozenset({"json", "xml", "point", "box", "lseg", "path", "polygon", "line", "circle"})


def identity(look: Look) -> Iterator[Finding]:
    """Find tables whose rows the stream could not name: published, the application's own UPDATEs fail (pitfall 13)."""
    for table in look.with_rows():
        if table.replica_identity == "n":
            yield Finding(
                "identity-nothing",
                Severity.BLOCKER,
                "REPLICA IDENTITY NOTHING: changed rows would have no name in the stream",
                f"ALTER TABLE {quoted(table.name)} REPLICA IDENTITY {_possible_identity(table)}",
                table.name,
            )
        elif not table.publishes_identity:
            yield Finding(
                "no-identity",
                Severity.BLOCKER,
                "no primary key: once published, the application's UPDATE, DELETE and ON CONFLICT DO UPDATE would fail",
                f"ALTER TABLE {quoted(table.name)} REPLICA IDENTITY {_possible_identity(table)}",
                table.name,
            )


def _possible_identity(table: Table) -> str:
    key = next((index for index in table.indexes if _may_identify(table, index)), None)
    if key is None:
        return "FULL;  -- better: add a primary key"
    return "DEFAULT" if key.primary else f"USING INDEX {ident(key.name)}"


def _may_identify(table: Table, index: Index) -> bool:
    never_null = all((column := table.column(name)) and column.not_null for name in index.columns)
    plain = index.unique and index.valid and index.immediate and not index.partial
    return plain and bool(index.columns) and never_null


def deferrable_key(look: Look) -> Iterator[Finding]:
    """Find deferrable primary keys, which are no replica identity although they are keys."""
    for table in look.with_rows():
        key = next((index for index in table.indexes if index.primary), None)
        if key is not None and not key.immediate and table.replica_identity == "d":
            yield Finding(
                "deferrable-key",
                Severity.BLOCKER,
                "the primary key is deferrable, so that it names no rows in the stream",
                f"ALTER TABLE {quoted(table.name)} REPLICA IDENTITY FULL, or make the key NOT DEFERRABLE",
                table.name,
            )


def generated_key(look: Look) -> Iterator[Finding]:
    """Find keys with a generated column, whose value the stream does not carry (pitfall 32)."""
    for table in look.with_rows():
        generated = [name for name in table.identity_columns if (c := table.column(name)) and c.generated]
        if generated:
            yield Finding(
                "generated-key",
                Severity.BLOCKER,
                f"the key holds {listed(generated)}, which is generated and so in no stream: rows would have no name",
                f"ALTER TABLE {quoted(table.name)} REPLICA IDENTITY USING INDEX a unique one over plain columns"
                " that are NOT NULL",
                table.name,
            )


def full_identity(look: Look) -> Iterator[Finding]:
    """Find tables matched row by whole row (pitfall 24)."""
    for table in look.with_rows():
        if table.replica_identity == "f" and not table.primary_key:
            yield Finding(
                "full-identity",
                Severity.WARNING,
                "REPLICA IDENTITY FULL and no primary key: each changed row is looked for by all its columns, slowly",
                f"ALTER TABLE {quoted(table.name)} ADD PRIMARY KEY (…) if its rows have a key",
                table.name,
            )


def values_without_equality(look: Look) -> Iterator[Finding]:
    """Find columns without an `=` in tables that are matched by whole rows (pitfall 24)."""
    for table in look.with_rows():
        if table.replica_identity == "f" and not table.primary_key:
            columns = [c.name for c in table.columns if {c.base_type, c.element_type} & _NO_EQUALITY]
            if columns:
                yield Finding(
                    "no-equality",
                    Severity.WARNING,
                    f"{listed(columns)} cannot be compared with `=`; rows are matched by their text",
                    f"ALTER TABLE {quoted(table.name)} ADD PRIMARY KEY (…), so that the other columns do not matter",
                    table.name,
                )


def root_without_key(look: Look) -> Iterator[Finding]:
    """Find partitioned tables whose next partition would have no identity (pitfall 31)."""
    for table in look.moved():
        if table.kind == "p" and table.partition_of is None and not table.primary_key:
            yield Finding(
                "root-without-key",
                Severity.WARNING,
                "the partitioned table has no primary key: a partition added during the migration has no identity",
                "add no partition before the cutover, or give each its own primary key when it is made",
                table.name,
            )


def unlogged(look: Look) -> Iterator[Finding]:
    """Find tables whose changes are not in the WAL (pitfall 33)."""
    for table in look.moved():
        if table.persistence == "u":
            yield Finding(
                "unlogged",
                Severity.BLOCKER,
                "unlogged: its changes are not in the WAL and would be lost",
                f"ALTER TABLE {quoted(table.name)} SET LOGGED, or skip it in the mapping: "
                f'{table.root}: {{skip: "unlogged"}}',
                table.name,
            )


def inheritance(look: Look) -> Iterator[Finding]:
    """Find tables that inherit from one that lives on fewer shards (pitfall 31)."""
    for table in look.moved():
        for parent in table.inherits:
            parent_shards = look.shard_map.shards_of(look.catalog.tables[parent].root)
            missing = [s for s in look.shard_map.shards_of(table.root) if s not in parent_shards]
            if missing:
                yield Finding(
                    "inherits-from-elsewhere",
                    Severity.BLOCKER,
                    f"it inherits from {parent}, which does not live on {listed(missing)}",
                    f"give both the same rule, or: ALTER TABLE {quoted(table.name)} NO INHERIT {quoted(parent)}",
                    table.name,
                )


def key_collation(look: Look) -> Iterator[Finding]:
    """Find keys in which different texts are equal (pitfall 50)."""
    for table in look.with_rows():
        columns = [c for name in table.identity_columns if (c := table.column(name))]
        soft = [c.name for c in columns if not c.collation_deterministic or c.base_type == "citext"]
        if soft:
            yield Finding(
                "key-collation",
                Severity.WARNING,
                f"{listed(soft)} in the key takes different texts for equal (`A` = `a`)",
                "keep the spelling of keys as it is during the migration",
                table.name,
            )


def triggers_that_always_fire(look: Look) -> Iterator[Finding]:
    """Find triggers that would fire for applied changes (pitfall 26)."""
    for table in look.moved():
        names = [name for name, state in table.triggers if state in "AR"]
        if names:
            yield Finding(
                "trigger-fires-always",
                Severity.WARNING,
                f"{listed(names)}: ENABLE ALWAYS or REPLICA fires for replicated changes too; "
                "on the shards it does so only after the switch",
                "no action, if that is what the trigger is meant to do after the cutover",
                table.name,
            )


def rules(look: Look) -> Iterator[Finding]:
    """Find tables whose writes are rewritten."""
    found = [f"{table.name} ({listed(table.rules)})" for table in look.moved() if table.rules]
    if found:
        yield Finding(
            "rules",
            Severity.INFO,
            f"rules rewrite writes to {listed(found)}; they come to the shards in the last stage",
        )


def generated_columns(look: Look) -> Iterator[Finding]:
    """Find columns that each shard computes for itself (pitfall 32)."""
    found = [f"{t.name}.{c.name}" for t in look.moved() for c in t.columns if c.generated]
    if found:
        yield Finding(
            "generated-columns", Severity.INFO, f"each shard computes for itself, and nothing copies: {listed(found)}"
        )


def row_security(look: Look) -> Iterator[Finding]:
    """Find tables with policies: they come along, in the last stage (pitfall 53)."""
    found = [table.name for table in look.moved() if table.row_security]
    if found:
        yield Finding(
            "row-security",
            Severity.INFO,
            f"row level security of {listed(found)} comes to the shards in the last stage",
        )


def no_binary_form(look: Look) -> Iterator[Finding]:
    """Find types that only have a text form (pitfall 47)."""
    found = [f"{t.name}.{c.name}" for t in look.with_rows() for c in t.copied_columns if not c.binary_io]
    if found:
        yield Finding(
            "no-binary-form", Severity.INFO, f"copied as text, since the type has no binary form: {listed(found)}"
        )
