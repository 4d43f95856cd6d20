"""Proposes a mapping for a database: which table to split, and where every other one goes.

The text passes `check_mapping` as it stands; what it proposes is a beginning to be read, with the reasons as comments.
It guesses from names, types and foreign keys alone and reads no rows, so it never claims to know the values of a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fixia_shardmig.mapping.file_model import NAME_PATTERN
from fixia_shardmig.mapping.paths import declared_paths, is_usable, never_null
from fixia_shardmig.mapping.shard_map import Follows, OnShard, Reference, Rule, Skip, SplitByColumn, SplitByReference
from fixia_shardmig.mapping.suggest import BOOKKEEPING, REFERENCE_ROWS_MAX, path_text, rule_text, suggest_rules
from fixia_shardmig.mapping.yaml_tree import scalar_text
from fixia_shardmig.model.catalog import Catalog, Column, Table
from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName

FALLBACK_SHARDS = ("shard_1", "shard_2", "shared")
SHARDS_FROM_LABELS = 2
"""How many kinds get a shard named after them when nobody named the shards; the others go to `shared`."""

_PEOPLE = re.compile(r"^(?:app_?|auth_?)?(?:user|account|customer|member|person|people|profile|tenant|store|shop)e?s?$")
_KIND = re.compile(r"(?:^|_)(?:type|role|kind|category|class|segment|tier|plan)(?:_?id)?$")
_STATE = re.compile(r"(?:^|_)(?:status|state|gender|sex|locale|language|currency|timezone|country)(?:_?id)?$")
_TEXTS = frozenset({"text", "varchar", "bpchar", "citext"})


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A table that could be split, and how; the greater score wins."""

    score: tuple[int, int]
    table: Table
    column: Column
    rule: SplitByColumn | SplitByReference


def propose(catalog: Catalog, *, name: str, shards: Sequence[str] | None = None) -> str:
    """Return a commented mapping file for a source.

    Args:
        catalog: The source.
        name: The migration's name, [a-z0-9_], at most 40 characters.
        shards: Names of the shards; the last one keeps the journal and whatever belongs to nobody. Without them they
            are named after the kinds found.

    Raises:
        MappingError: A name does not fit.
    """
    for given in (name, *(shards or ())):
        if not re.match(NAME_PATTERN, given):
            raise MappingError(f"{given!r} is not a name for this", hint="use a-z, 0-9 and _, at most 40 characters")
    if shards is not None and len(set(shards)) != max(len(shards), 1):
        raise MappingError("the shards need names, each another one", hint="name two or more shards")
    split = max(_candidates(catalog), key=lambda candidate: candidate.score, default=None)
    named = tuple(shards) if shards else _shard_names(split)
    fixed: dict[TableName, Rule] = {}
    if split is not None:
        fixed[split.table.name] = _with_homes(split, named)
        if isinstance(split.rule, SplitByReference):
            fixed[split.rule.references] = Reference()
    rules = {**fixed, **suggest_rules(catalog, fixed, named[-1])}
    return "\n".join([*_head(name, named), *_tables(catalog, rules, split)]) + "\n"


# --- the table to split -----------------------------------------------------------------------------------------------


def _candidates(catalog: Catalog) -> list[_Candidate]:
    referencing: dict[TableName, set[TableName]] = {}
    for table in catalog.roots():
        for path in declared_paths(catalog, table.name):
            referencing.setdefault(path.references, set()).add(table.name)
    return [
        candidate
        for table in sorted(catalog.roots(), key=lambda table: table.name, reverse=True)
        if (candidate := _candidate(catalog, table, len(referencing.get(table.name, set()) - {table.name})))
    ]


def _candidate(catalog: Catalog, table: Table, references: int) -> _Candidate | None:
    people = bool(_PEOPLE.match(_snake(table.name.name)))
    if table.persistence == "u" or table.name.name in BOOKKEEPING or not (people or references):
        return None
    ranked = [
        (rank, column) for column in table.copied_columns if (rank := _rank(catalog, table, column, people=people))
    ]
    if not ranked:
        return None
    rank, column = max(ranked, key=lambda pair: (pair[0], -pair[1].number))
    rule = _rule_by(catalog, table, column)
    return _Candidate((references + (10 if people else 0), rank), table, column, rule)


def _rank(catalog: Catalog, table: Table, column: Column, *, people: bool) -> int:
    """Return how well a column tells kinds of rows apart; 0 means not at all."""
    name = _snake(column.name)
    if _STATE.search(name) or (len(table.primary_key) == 1 and column.name in table.primary_key):
        return 0
    kind = bool(_KIND.search(name))
    if column.enum_labels:
        return 6 if kind else 3
    if kind and _lookup_of(catalog, table, column):
        return 5
    if kind and column.base_type in _TEXTS and not _is_key(catalog, table, column):
        return 4
    if column.base_type == "bool" and people:
        return 2 if column.not_null else 1
    return 0


def _is_key(catalog: Catalog, table: Table, column: Column) -> bool:
    """Whether a column takes part in a foreign key, and so holds a key rather than a kind."""
    return any(column.name in path.columns for path in declared_paths(catalog, table.name))


def _lookup_of(catalog: Catalog, table: Table, column: Column) -> SplitByReference | None:
    """Return a split by a small table of kinds (`roleId -> Role.name`) that a column points to."""
    paths = [path for path in declared_paths(catalog, table.name) if path.columns == (column.name,)]
    if len(paths) != 1 or paths[0].references == table.name or not is_usable(catalog, table.name, paths[0]):
        return None
    parent = catalog.tables[paths[0].references]
    values = [
        c for c in parent.copied_columns if c.enum_labels or (c.base_type in _TEXTS and c.name not in paths[0].to)
    ]
    if parent.rows > REFERENCE_ROWS_MAX or not values:
        return None
    return SplitByReference(column.name, parent.name, paths[0].to[0], _best_value(values).name, {})


def _best_value(values: Sequence[Column]) -> Column:
    words = ("name", "code", "slug", "key", "type", "role", "kind", "title")
    return min(values, key=lambda c: (words.index(c.name.lower()) if c.name.lower() in words else len(words), c.number))


def _rule_by(catalog: Catalog, table: Table, column: Column) -> SplitByColumn | SplitByReference:
    if column.enum_labels or column.base_type == "bool":
        return SplitByColumn(column.name, {})
    return _lookup_of(catalog, table, column) or SplitByColumn(column.name, {})


def _values(catalog_column: Column) -> tuple[str, ...]:
    return ("true", "false") if catalog_column.base_type == "bool" else catalog_column.enum_labels


def _shard_names(split: _Candidate | None) -> tuple[str, ...]:
    """Name shards after the first kinds, in the plural; the last one is `shared`."""
    labels = _values(split.column) if split else ()
    if split is None or split.column.base_type == "bool":
        return FALLBACK_SHARDS
    names = [re.sub(r"[^a-z0-9]+", "_", _snake(label)).strip("_") for label in labels[:SHARDS_FROM_LABELS]]
    plural = tuple(label if label.endswith("s") else f"{label}s" for label in names)
    fits = len(set(plural) | {"shared"}) == SHARDS_FROM_LABELS + 1 and all(re.match(NAME_PATTERN, n) for n in plural)
    return (*plural, "shared") if fits and all(names) else FALLBACK_SHARDS


def _with_homes(split: _Candidate, shards: Sequence[str]) -> Rule:
    """Give each known kind a shard, in order; kinds beyond the shards, and unknown ones, go to the last."""
    values = _values(split.column)
    homes = {value: shards[min(index, len(shards) - 1)] for index, value in enumerate(values)}
    otherwise = None if values and split.column.not_null else shards[-1]
    if isinstance(split.rule, SplitByReference):
        rule = split.rule
        return SplitByReference(rule.column, rule.references, rule.referenced_column, rule.value, {}, shards[-1])
    return SplitByColumn(split.column.name, homes, otherwise)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# --- the text ---------------------------------------------------------------------------------------------------------


def _head(name: str, shards: Sequence[str]) -> list[str]:
    lines = [
        "# A proposal, made from names, types and foreign keys. Read every line before `shardmig plan`.",
        "# For completion in an editor: shardmig export mapping-schema > mapping.schema.json, and then as first line",
        "#   # yaml-language-server: $schema=mapping.schema.json",
        "version: 1",
        f"name: {scalar_text(name)} # slot, publication and journal are named after it",
        "source:",
        "  url: ${PRIMARY_DATABASE_URL} # a direct one: replication does not pass a transaction pooler",
        "shards:",
    ]
    for shard in shards:
        journal = ", journal: true" if shard == shards[-1] else ""
        lines.append(f'  {scalar_text(shard)}: {{url: "${{{_variable(shard)}}}"{journal}}}')
    return lines


def _variable(shard: str) -> str:
    """Return an environment variable's name; those must not begin with a digit."""
    return f"{'SHARD_' if shard[0].isdigit() else ''}{shard.upper()}_DB_URL"


def _tables(catalog: Catalog, rules: Mapping[TableName, Rule], split: _Candidate | None) -> list[str]:
    if not rules:
        return ["tables: {} # the source has none"]
    lines = ["tables:"]
    if split is None:
        lines.append(
            "  # No table looks like users of several kinds: give one split_by and homes, and let others follow it."
        )
    else:
        lines += [*_split_lines(split, rules[split.table.name]), ""]
    for title, kind in _GROUPS:
        group = sorted(name for name, rule in rules.items() if isinstance(rule, kind))
        if group:
            lines.append(f"  # {title}")
            lines += [_table_line(catalog, rules, name) for name in group]
    return lines


_GROUPS: tuple[tuple[str, type[Rule]], ...] = (
    ("Rows that live where the row they reference lives.", Follows),
    ("Small and referenced by others, or a migration tool's history: on every shard.", Reference),
    ("Tables that nothing ties to the split: on the shard of the journal, until somebody knows better.", OnShard),
    ("Not moved.", Skip),
)


def _split_lines(split: _Candidate, rule: Rule) -> list[str]:
    lines = [f"  # Split: referenced by others, and {_comment(split.column.name)} tells the kinds apart."]
    if not _values(split.column):
        lines.append("  # Its values are not known here: write a home for each; the rest goes to `otherwise`.")
    lines.append(f"  {scalar_text(str(split.table.name))}:")
    match rule:
        case SplitByReference(column, references, to, value, homes, otherwise):
            parts = {"column": column, "references": str(references), "to": to, "value": value}
            shown = ", ".join(f"{key}: {scalar_text(part)}" for key, part in parts.items())
            lines.append(f"    split_by: {{{shown}}}")
        case SplitByColumn(column, homes, otherwise):
            lines.append(f"    split_by: {scalar_text(column)}")
        case _:
            return lines
    if homes:
        lines.append("    homes:")
        lines += [f"      {scalar_text(value)}: {scalar_text(shard)}" for value, shard in homes.items()]
    if otherwise:
        lines.append(f"    otherwise: {scalar_text(otherwise)} # NULL and values without a home")
    return lines


def _table_line(catalog: Catalog, rules: Mapping[TableName, Rule], name: TableName) -> str:
    rule = rules[name]
    line = f"  {scalar_text(str(name))}: {rule_text(catalog, name, rule)}"
    if not isinstance(rule, Follows):
        return line
    others = [
        path_text(catalog, name, path)
        for path in declared_paths(catalog, name)
        if path not in rule.paths
        and never_null(catalog.tables[name], path)
        and isinstance(rules[path.references], Follows | SplitByColumn | SplitByReference)
        and path.references != name
    ]
    return f"{line} # or {', '.join(map(_comment, others))}" if others else line


def _comment(text: str) -> str:
    """Keep a name from ending its comment."""
    return "".join(char if char.isprintable() else "?" for char in text)
