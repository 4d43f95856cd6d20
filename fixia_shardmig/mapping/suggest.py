"""Which rules the foreign keys suggest for tables that have none yet. Used by `init`, and as a hint in `check`.

A suggestion is one that `check_mapping` accepts: it follows only references that can decide, and never in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fixia_shardmig.mapping.paths import declared_paths, is_usable, never_null
from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Path,
    Reference,
    Rule,
    Skip,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
)
from fixia_shardmig.mapping.yaml_tree import scalar_text
from fixia_shardmig.model.catalog import Catalog, Table
from fixia_shardmig.model.names import TableName

REFERENCE_ROWS_MAX = 10_000
"""A table on every shard is written on every shard; above this many rows somebody should want that on purpose."""

BOOKKEEPING = frozenset(
    {"_prisma_migrations", "__drizzle_migrations", "alembic_version", "ar_internal_metadata", "databasechangelog"}
    | {"databasechangeloglock", "django_migrations", "flyway_schema_history", "goose_db_version", "knex_migrations"}
    | {"knex_migrations_lock", "migrations", "schema_migrations", "typeorm_metadata"}
)
"""Where migration tools note what they have done; each shard needs its history."""

Split = SplitByColumn | SplitByReference | SplitBySql


def suggest_rules(catalog: Catalog, rules: Mapping[TableName, Rule], journal_shard: str) -> dict[TableName, Rule]:
    """Return a rule for each table that has none, given the rules that stand."""
    known = dict(rules)
    for table in catalog.roots():
        if table.name not in known and table.name.name in BOOKKEEPING:
            known[table.name] = Reference()
        elif table.name not in known and table.persistence == "u":
            known[table.name] = Skip("unlogged: its changes are not in the WAL")
    _add_followers(catalog, known, journal_shard)
    for name, rule in known.items():
        if name not in rules and isinstance(rule, Follows):
            known[name] = _beside_owner(catalog, known, name, rule)
    missing = [table for table in catalog.roots() if table.name not in known]
    referenced = {path.references for name in known for path in declared_paths(catalog, name)}
    referenced |= {path.references for table in missing for path in declared_paths(catalog, table.name)}
    for table in missing:
        small = table.name in referenced and table.rows <= REFERENCE_ROWS_MAX
        known[table.name] = Reference() if small else OnShard(_fixed_shard(catalog, known, table) or journal_shard)
    return {name: rule for name, rule in sorted(known.items()) if name not in rules}


def leading_paths(catalog: Catalog, rules: Mapping[TableName, Rule], name: TableName) -> tuple[Path, ...]:
    """Return a table's declared references to other tables that lead to a split, those that are never NULL first."""
    table = catalog.tables[name]
    paths = [
        path
        for path in declared_paths(catalog, name)
        if path.references != name
        and isinstance(rules.get(path.references), Split | Follows)
        and is_usable(catalog, name, path)
        and not does_follow(rules, path.references, name)
    ]
    return tuple(
        sorted(paths, key=lambda path: (not never_null(table, path), *_preference(catalog, rules, name, path)))
    )


def does_follow(rules: Mapping[TableName, Rule], name: TableName, other: TableName) -> bool:
    """Whether a table follows another one, over any number of hops; each follows itself."""
    seen: set[TableName] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current == other:
            return True
        rule = rules.get(current)
        if current not in seen and isinstance(rule, Follows):
            waiting.extend(path.references for path in rule.paths)
        seen.add(current)
    return False


def rule_text(catalog: Catalog, name: TableName, rule: Rule) -> str:
    """Return a rule as a mapping file writes it in one line; homes of a split are left to be written."""
    match rule:
        case OnShard(shard):
            return f"{{shard: {scalar_text(shard)}}}"
        case Reference():
            return "{reference: true}"
        case Skip(reason):
            return f"{{skip: {scalar_text(reason)}}}"
        case Follows(paths, otherwise):
            texts = [path_text(catalog, name, path) for path in paths]
            shown = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
            rest = f", otherwise: {scalar_text(otherwise)}" if otherwise else ""
            return f"{{follows: {shown}{rest}}}"
        case SplitByColumn(column):
            return f"{{split_by: {scalar_text(column)}, homes: {{VALUE: SHARD}}}}"
        case SplitByReference() | SplitBySql():
            return "{split_by: ..., homes: {VALUE: SHARD}}"


def path_text(catalog: Catalog, name: TableName, path: Path) -> str:
    """Return a reference as a mapping file writes it: its column, or the long form where that is not clear."""
    same = [other for other in declared_paths(catalog, name) if other.columns == path.columns]
    if len(path.columns) == 1 and same == [path]:
        return scalar_text(path.columns[0])
    columns, to = (", ".join(map(scalar_text, part)) for part in (path.columns, path.to))
    return f"{{columns: [{columns}], references: {scalar_text(str(path.references))}, to: [{to}]}}"


def _add_followers(catalog: Catalog, known: dict[TableName, Rule], journal_shard: str) -> None:
    """Let tables follow in rings around the split: a ring follows only rings inside it, so no circle can close.

    References that are never NULL come first; only when they reach no further table, nullable ones are used, as
    alternatives, and rows with none of them go to the journal's shard.
    """
    for _ in range(len(catalog.tables)):
        open_tables = [table for table in catalog.roots() if table.name not in known]
        paths = {table.name: leading_paths(catalog, known, table.name) for table in open_tables}
        sure = {t.name: paths[t.name][:1] for t in open_tables if paths[t.name] and never_null(t, paths[t.name][0])}
        known.update({name: Follows(one) for name, one in sure.items()})
        if not sure:
            known.update({name: Follows(some, journal_shard) for name, some in paths.items() if some})


def _beside_owner(catalog: Catalog, rules: Mapping[TableName, Rule], name: TableName, rule: Follows) -> Rule:
    """Let a row live with the thing it is a part of (`review_id`), rather than with the person beside it."""
    table = catalog.tables[name]
    for path in leading_paths(catalog, rules, name):
        owner = never_null(table, path) and _cascades(catalog, name, path) and _named_after(path)
        if owner and isinstance(rules[path.references], Follows):
            return Follows((path,))
    return rule


def _preference(
    catalog: Catalog, rules: Mapping[TableName, Rule], name: TableName, path: Path
) -> tuple[bool, bool, tuple[str, ...]]:
    direct = isinstance(rules.get(path.references), Split)
    return (not direct, not _cascades(catalog, name, path), path.columns)


def _cascades(catalog: Catalog, name: TableName, path: Path) -> bool:
    """Whether rows go with their parent: they are a part of it."""
    return any(key.columns == path.columns and key.on_delete == "c" for key in catalog.foreign_keys_of(name))


def _named_after(path: Path) -> bool:
    """Whether the column is called like the table it points to: review_id, reviewId -> reviews."""
    stem = path.columns[0].replace("_", "").lower().removesuffix("id").rstrip("y")
    parent = path.references.name.replace("_", "").lower()
    return bool(stem) and parent.startswith(stem) and len(parent) - len(stem) <= len("ies")


def _fixed_shard(catalog: Catalog, rules: Mapping[TableName, Rule], table: Table) -> str | None:
    """Return the shard on which the tables it needs live, if they live on one."""
    needed: Iterable[Path] = (p for p in declared_paths(catalog, table.name) if never_null(table, p))
    shards = [rule.shard for path in needed if isinstance(rule := rules.get(path.references), OnShard)]
    return shards[0] if shards else None
