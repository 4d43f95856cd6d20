"""Checks the rules that split by a row's own value, and makes them into the frozen rules of the shard map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fixia_shardmig.mapping.file_model import SplitByColumnForm, SplitBySqlForm, TableRule
from fixia_shardmig.mapping.paths import declared_paths, names_one_row, same_spelling, tells_equal_keys
from fixia_shardmig.mapping.problems import Way, closest
from fixia_shardmig.mapping.scope import Scope
from fixia_shardmig.mapping.shard_map import Rule, SplitByColumn, SplitByReference, SplitBySql
from fixia_shardmig.model.catalog import Column, Table

_INTEGERS = {"int2": 16, "int4": 32, "int8": 64}
_TOKEN = re.compile(
    r"""
    --[^\n]* | /\*.*?\*/                              # comments
    | (?P<unicode>[Uu]&")                             # an identifier with escapes
    | "(?P<quoted>(?:[^"]|"")*)"
    | [Ee]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*'       # texts
    | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | (?P<plain>[^\W\d][\w$]*)
    | (?P<semicolon>;)
    """,
    re.VERBOSE | re.DOTALL,
)
_OTHER_ROWS = frozenset({"select", "table"})
_CHANGING = frozenset(
    {"current_date", "current_role", "current_time", "current_timestamp", "current_user", "localtime"}
    | {"localtimestamp", "session_user", "user"}
)
_CHANGING_CALLS = frozenset(
    {"clock_timestamp", "current_setting", "gen_random_uuid", "nextval", "now", "random", "statement_timestamp"}
)


def split_rule(scope: Scope, table: Table, way: Way, entry: TableRule) -> Rule | None:
    """Return a table's split, or None after noting why there is none. `way` is that of the table's key."""
    homes = dict(sorted((entry.homes or {}).items()))
    for value, shard in homes.items():
        scope.check_shard((*way, "homes", value), shard)
    if entry.otherwise is not None:
        scope.check_shard((*way, "otherwise"), entry.otherwise)
    match entry.split_by:
        case str(name):
            column = scope.column((*way, "split_by"), table, name)
            if column is None:
                return None
            _check_homes(scope, way, column, entry)
            return SplitByColumn(name, homes, entry.otherwise)
        case SplitByColumnForm() as form:
            return _by_reference(scope, table, way, entry, form=form, homes=homes)
        case SplitBySqlForm(sql=sql):
            columns = _columns_of(scope, table, (*way, "split_by", "sql"), sql)
            return SplitBySql(sql, columns, homes, entry.otherwise) if columns else None
        case None:
            return None


def _check_homes(scope: Scope, way: Way, column: Column, entry: TableRule) -> None:
    """Hold the homes against the values that a column can have, where its type tells them."""
    homes = entry.homes or {}
    values = ("true", "false") if column.base_type == "bool" else column.enum_labels
    if not values:
        _check_integers(scope, way, column, homes)
        return
    for value in homes:
        if value not in values:
            message = f"{column.name} is never {value!r}"
            scope.report.at_key((*way, "homes", value), message, hint=closest(value, values))
    missing = [value for value in values if value not in homes]
    if missing and entry.otherwise is None:
        place = (*way, "homes") if entry.homes else (*way, "split_by")
        hint = f"add {missing[0]}: SHARD to homes, or otherwise: SHARD"
        scope.report.at_key(place, f"no home for {', '.join(missing)}", hint=hint)


def _check_integers(scope: Scope, way: Way, column: Column, homes: Iterable[str]) -> None:
    """Refuse homes that an integer column never shows: `007` is 7 there, and `abc` is nothing."""
    bits = _INTEGERS.get(column.base_type)
    if bits is None:
        return
    limit = 1 << (bits - 1)
    for value in homes:
        number = int(value) if re.fullmatch(r"-?[0-9]{1,19}", value) else None
        if number is None or str(number) != value or not -limit <= number < limit:
            hint = f"write {number}" if number is not None and str(number) != value else "write a number it can hold"
            message = f"{column.name} is never {value!r}, it is of type {column.base_type}"
            scope.report.at_key((*way, "homes", value), message, hint=hint)


def _by_reference(
    scope: Scope, table: Table, way: Way, entry: TableRule, *, form: SplitByColumnForm, homes: Mapping[str, str]
) -> Rule | None:
    at = (*way, "split_by")
    own = scope.column((*at, "column"), table, form.column)
    parent = scope.parent((*at, "references"), form.references)
    if parent is None:
        return None
    _, rule = scope.tables.get(parent.name, ("", None))
    if rule is None or not rule.reference:
        message = f"{parent.name} tells homes, so it has to live on every shard"
        scope.report.at_value((*at, "references"), message, hint=f"write {parent.name}: {{reference: true}}")
    value = scope.column((*at, "value"), parent, form.value)
    if value is not None:
        _check_homes(scope, way, value, entry)
    to = _referenced_column(scope, table, at, form, parent=parent)
    if own is None or to is None or value is None:
        return None
    if not tells_equal_keys(own) or not tells_equal_keys(to):
        message = f"equal values of {own.name} ({own.type_text}) can read differently, so it points nowhere for certain"
        scope.report.at_value((*at, "column"), message, hint="name a column of another type")
        return None
    if not same_spelling(own, to):
        message = f"{own.name} is {own.base_type}, but {to.name} of {parent.name} is {to.base_type}"
        scope.report.at_value((*at, "column"), message, hint="name columns of the same type")
    return SplitByReference(own.name, parent.name, to.name, value.name, dict(homes), entry.otherwise)


def _referenced_column(scope: Scope, table: Table, at: Way, form: SplitByColumnForm, *, parent: Table) -> Column | None:
    """Return the column pointed to: the one written, else the foreign key's, else the primary key."""
    name = form.to
    if name is None:
        paths = declared_paths(scope.catalog, table.name)
        declared = [p.to[0] for p in paths if p.columns == (form.column,) and p.references == parent.name]
        candidates = declared or list(parent.primary_key)
        if len(candidates) != 1:
            message = f"it is not clear which column of {parent.name} {form.column} points to"
            scope.report.at_value((*at, "references"), message, hint="add to: COLUMN")
            return None
        name = candidates[0]
    column = scope.column((*at, "to") if form.to else (*at, "references"), parent, name)
    if column is not None and not names_one_row(parent, (name,)):
        message = f"{name} is not unique in {parent.name}"
        scope.report.at_value((*at, "to") if form.to else (*at, "references"), message, hint=f"add UNIQUE ({name})")
    return column


def _columns_of(scope: Scope, table: Table, way: Way, expression: str) -> tuple[str, ...]:
    """Return the columns an expression may read, noting what cannot be computed from the row alone.

    A name in the expression that happens to be a column's counts, so this is a superset; the table's own name stands
    for the whole row.
    """
    names: set[str] = set()
    whole_row = False
    for match in _TOKEN.finditer(expression):
        rest = expression[match.end() :].lstrip()
        called = rest.startswith("(")
        fault = _token_fault(match, called=called)
        if fault:
            scope.report.at_value(way, fault[0], hint=fault[1])
        name = match["plain"].lower() if match["plain"] else (match["quoted"] or "").replace('""', '"')
        column = table.column(name)
        if column is not None and column.generated and not called:
            scope.column(way, table, name)
        names.add(name)
        whole_row |= name == table.name.name and not re.match(r"\.\s*[^*\s]", rest)
    columns = tuple(c.name for c in table.copied_columns if whole_row or c.name in names)
    if not columns:
        message = f"the expression reads no column of {table.name}"
        scope.report.at_value(way, message, hint="write {shard: SHARD} when all rows live together")
    return columns


def _token_fault(match: re.Match[str], *, called: bool) -> tuple[str, str] | None:
    """Return why a token has no place in an immutable expression over one row, and a hint."""
    word = (match["plain"] or "").lower()
    if match["semicolon"]:
        return "the expression holds a semicolon", "write one expression, not statements"
    if match["unicode"]:
        return 'identifiers with escapes (U&"...") are not read', 'write the name itself in "quotes"'
    if word in _OTHER_ROWS:
        return f"the expression reads other rows ({word})", "use the row's own columns, or {column, references, value}"
    if word in _CHANGING or (called and word in _CHANGING_CALLS):
        return f"{word} changes over time, and a home must not", "use the row's own columns only"
    return None
