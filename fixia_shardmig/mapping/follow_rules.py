"""Checks the rules by which a table follows another one: each path is resolved, fit to decide, and ends at a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fixia_shardmig.mapping.file_model import FollowForm, TableRule
from fixia_shardmig.mapping.paths import declared_paths, names_one_row, never_null, same_spelling, tells_equal_keys
from fixia_shardmig.mapping.problems import Way
from fixia_shardmig.mapping.scope import Scope
from fixia_shardmig.mapping.shard_map import Follows, OnShard, Path, Reference, Rule, Skip
from fixia_shardmig.mapping.suggest import does_follow, leading_paths, path_text
from fixia_shardmig.model.catalog import Column, Table
from fixia_shardmig.model.names import TableName


@dataclass(frozen=True, slots=True)
class Followed:
    """One path of a rule with its place in the file."""

    table: TableName
    path: Path
    way: Way


def followed_paths(scope: Scope, table: Table, way: Way, entry: TableRule) -> list[Followed]:
    """Return the paths of a table's rule that could be resolved; `way` is that of the table's key."""
    if entry.otherwise is not None:
        scope.check_shard((*way, "otherwise"), entry.otherwise)
    at = (*way, "follows")
    match entry.follows:
        case list(forms):
            placed = [((*at, index), form) for index, form in enumerate(forms)]
        case None:
            placed = []
        case form:
            placed = [(at, form)]
    found: list[Followed] = []
    for place, form in placed:
        path = (
            _by_column(scope, table, place, form) if isinstance(form, str) else _written_out(scope, table, place, form)
        )
        if path is not None:
            _check_twice(scope, found, place, path)
            found.append(Followed(table.name, path, place))
    return found


def _check_twice(scope: Scope, found: list[Followed], way: Way, path: Path) -> None:
    if any(
        set(other.path.columns) == set(path.columns) and other.path.references == path.references for other in found
    ):
        scope.report.at_value(way, f"{', '.join(path.columns)} stands twice", hint="keep the first one")


def _by_column(scope: Scope, table: Table, way: Way, name: str) -> Path | None:
    column = scope.column(way, table, name)
    if column is None:
        return None
    paths = declared_paths(scope.catalog, table.name)
    candidates = [path for path in paths if path.columns == (name,)]
    if len(candidates) == 1:
        return _fit(scope, table, way, candidates[0])
    if candidates:
        targets = ", ".join(str(path.references) for path in candidates)
        first = next((path for path in candidates if path.references != table.name), candidates[0])
        hint = f"write {path_text(scope.catalog, table.name, first)}, or another one of them"
        scope.report.at_value(way, f"{name} has several foreign keys, to {targets}", hint=hint)
        return None
    wider = next((path for path in paths if name in path.columns), None)
    if wider is not None:
        message = f"{name} is part of a foreign key of several columns"
        scope.report.at_value(way, message, hint=f"write {path_text(scope.catalog, table.name, wider)}")
        return None
    message = f"{name} of {table.name} has no foreign key, so what it points to has to be said"
    scope.report.at_value(way, message, hint=f"write {{columns: [{name}], references: TABLE, to: [COLUMN]}}")
    return None


def _written_out(scope: Scope, table: Table, way: Way, form: FollowForm) -> Path | None:
    columns = [scope.column((*way, "columns", index), table, name) for index, name in enumerate(form.columns)]
    parent = scope.parent((*way, "references"), form.references) if form.references is not None else None
    if None in columns or (form.references is not None and parent is None):
        return None
    names = tuple(form.columns)
    declared = [
        path
        for path in declared_paths(scope.catalog, table.name)
        if set(path.columns) == set(names) and (parent is None or path.references == parent.name)
    ]
    if parent is None:
        return _only_declared(scope, table, way, form, declared=declared)
    if form.to is None:
        if len(declared) == 1:
            return _fit(scope, table, way, declared[0])
        to = parent.primary_key
    else:
        found = [scope.column((*way, "to", index), parent, name) for index, name in enumerate(form.to)]
        if None in found:
            return None
        to = tuple(form.to)
    if len(to) != len(names):
        message = f"{len(names)} columns cannot point to {len(to)} of {parent.name}"
        scope.report.at_value((*way, "to"), message, hint="write as many in to: as in columns:")
        return None
    pairs = set(zip(names, to, strict=True))
    is_declared = any(set(zip(path.columns, path.to, strict=True)) == pairs for path in declared)
    return _fit(scope, table, way, Path(names, parent.name, to, declared=is_declared))


def _only_declared(scope: Scope, table: Table, way: Way, form: FollowForm, *, declared: list[Path]) -> Path | None:
    """Return the one foreign key over the written columns, when the table they point to is not written."""
    shown = ", ".join(form.columns)
    if len(declared) == 1 and form.to is None:
        return _fit(scope, table, way, declared[0])
    cause = f"several foreign keys of {table.name} have" if len(declared) > 1 else f"no foreign key of {table.name} has"
    message = "to: without references: points nowhere" if form.to is not None else f"{cause} the columns {shown}"
    scope.report.at_value(way, message, hint="add references: TABLE and to: [COLUMN]")
    return None


def _fit(scope: Scope, table: Table, way: Way, path: Path) -> Path:
    """Note why a path cannot decide, if so; it is returned all the same, for what else there is to say about it."""
    parent = scope.catalog.tables[path.references]
    for index, (name, target) in enumerate(zip(path.columns, path.to, strict=True)):
        own, to = table.column(name), parent.column(target)
        if own is not None and to is not None:
            _check_spelling(scope, (*way, "columns", index), own, to, path=path)
    if not names_one_row(parent, path.to):
        shown = ", ".join(path.to)
        message = f"{shown} is not unique in {parent.name}, so it names no single row to follow"
        scope.report.at_value(
            (*way, "to"), message, hint=f"name a unique column, or add UNIQUE ({shown}) on the source"
        )
    return path


def _check_spelling(scope: Scope, way: Way, own: Column, to: Column, *, path: Path) -> None:
    unclear = next((column for column in (own, to) if not tells_equal_keys(column)), None)
    if unclear is not None:
        message = f"equal values of {unclear.name} ({unclear.type_text}) can read differently, so it cannot be followed"
        scope.report.at_value(way, message, hint="follow another column, or write {shard: SHARD}")
        return
    if same_spelling(own, to):
        return
    message = f"{own.name} is {own.base_type}, but {to.name} of {path.references} is {to.base_type}"
    scope.report.at_value(way, message, hint="follow a column of the same type, or change its type on the source")


# --- where the paths lead ---------------------------------------------------------------------------------------------


def check_ends(scope: Scope, rules: Mapping[TableName, Rule], followed: list[Followed]) -> None:
    """Note each path that does not end at a split, and each circle."""
    for one in followed:
        if one.path.references == one.table:
            _check_self(scope, rules, followed, one)
            continue
        match rules.get(one.path.references):
            case Reference():
                message = f"{one.path.references} lives on every shard and so decides nothing"
                _note_end(scope, rules, one, message, otherwise="write {reference: true} or {shard: SHARD}")
            case Skip():
                message = f"{one.path.references} is skipped, so no shard has the row to follow"
                _note_end(scope, rules, one, message, otherwise="write {skip: REASON} or {shard: SHARD}")
            case _:
                _check_fixed(scope, rules, followed, one)
    _check_circles(scope, rules, followed)


def _note_end(scope: Scope, rules: Mapping[TableName, Rule], one: Followed, message: str, *, otherwise: str) -> None:
    others = leading_paths(scope.catalog, rules, one.table)
    hint = f"follow {path_text(scope.catalog, one.table, others[0])}" if others else otherwise
    scope.report.at_value(one.way, message, hint=hint)


def _check_fixed(scope: Scope, rules: Mapping[TableName, Rule], followed: list[Followed], one: Followed) -> None:
    shard = _fixed_shard(rules, one.path.references, frozenset({one.table}))
    if shard is None:
        return
    alone = sum(other.table == one.table for other in followed) == 1
    hint = (
        f"write {{shard: {shard}}}" if alone else f"leave it out; when it comes last, write otherwise: {shard} for it"
    )
    message = f"{one.path.references} lives on {shard} as a whole, so this ends at no split"
    scope.report.at_value(one.way, message, hint=hint)


def _fixed_shard(rules: Mapping[TableName, Rule], name: TableName, seen: frozenset[TableName]) -> str | None:
    """Return the shard on which all rows of a table live whatever they hold, or None."""
    match rules.get(name):
        case OnShard(shard):
            return shard
        case Follows(paths) if name not in seen:
            others = [path.references for path in paths if path.references != name]
            shards = {_fixed_shard(rules, other, seen | {name}) for other in others}
            return shards.pop() if len(shards) == 1 else None
        case _:
            return None


def _check_self(scope: Scope, rules: Mapping[TableName, Rule], followed: list[Followed], one: Followed) -> None:
    """Refuse a path to the own table: its rows would wait for rows of the same table, without end (pitfall 12)."""
    shown = ", ".join(one.path.columns)
    if any(other.path.references != one.table for other in followed if other.table == one.table):
        message = f"{one.table} follows itself by {shown}, which decides nothing"
        scope.report.at_value(one.way, message, hint=f"leave {shown} out, the other columns decide")
        return
    others = leading_paths(scope.catalog, rules, one.table)
    if not others:
        hint = "write {shard: SHARD}, or {split_by: COLUMN, homes: ...}"
    elif never_null(scope.catalog.tables[one.table], others[0]):
        hint = f"follow {path_text(scope.catalog, one.table, others[0])}, which every row has"
    else:
        hint = f"follow {path_text(scope.catalog, one.table, others[0])}, with otherwise: SHARD for rows without it"
    scope.report.at_value(one.way, f"{one.table} only follows itself by {shown}, which decides nothing", hint=hint)


def _check_circles(scope: Scope, rules: Mapping[TableName, Rule], followed: list[Followed]) -> None:
    """Note each circle once, at the first of its tables in the file."""
    reported: set[TableName] = set()
    for one in followed:
        if one.table in reported or one.path.references == one.table:
            continue
        if not does_follow(rules, one.path.references, one.table):
            continue
        circle = [one.table, *_way_back(rules, one.path.references, one.table)]
        reported |= {name for name in rules if _together(rules, name, one.table)}
        shown = " -> ".join(str(name) for name in circle)
        scope.report.at_value(one.way, f"the rules go in a circle: {shown}", hint=_way_out(scope, rules, circle))


def _together(rules: Mapping[TableName, Rule], name: TableName, other: TableName) -> bool:
    return does_follow(rules, name, other) and does_follow(rules, other, name)


def _way_back(rules: Mapping[TableName, Rule], start: TableName, end: TableName) -> list[TableName]:
    """Return the shortest way of following from one table to another, both included."""
    ways = [[start]]
    seen = {start}
    for way in ways:  # grows while it is read
        if way[-1] == end:
            return way
        rule = rules.get(way[-1])
        for path in rule.paths if isinstance(rule, Follows) else ():
            if path.references not in seen:
                seen.add(path.references)
                ways.append([*way, path.references])
    return []


def _way_out(scope: Scope, rules: Mapping[TableName, Rule], circle: list[TableName]) -> str:
    """Say which column of a table in the circle leads out of it."""
    for name in circle[:-1]:
        outside = [p for p in leading_paths(scope.catalog, rules, name) if not does_follow(rules, p.references, name)]
        if outside:
            return f"write {name}: {{follows: {path_text(scope.catalog, name, outside[0])}}}"
    return f"give one of them split_by or {{shard: SHARD}}, for example {circle[0]}"
