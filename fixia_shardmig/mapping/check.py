"""Holds a mapping file against the source's catalog and makes it into the frozen ShardMap.

It refuses whatever leaves a row without exactly one home as far as definitions tell; what only the data can tell (a
NULL, a value without a home in a column of any text) is the plan's to find. All mistakes are reported at once.
"""

from __future__ import annotations

from fixia_shardmig.mapping.file_model import TableRule
from fixia_shardmig.mapping.follow_rules import Followed, check_ends, followed_paths
from fixia_shardmig.mapping.load import MappingFile
from fixia_shardmig.mapping.problems import Report, Way, closest
from fixia_shardmig.mapping.scope import Scope
from fixia_shardmig.mapping.shard_map import Follows, OnShard, Reference, Rule, ShardMap, Skip, SplitByColumn
from fixia_shardmig.mapping.split_rules import split_rule
from fixia_shardmig.mapping.suggest import rule_text, suggest_rules
from fixia_shardmig.mapping.urls import database_of
from fixia_shardmig.model.catalog import Catalog, Table
from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName


def check_mapping(mapping_file: MappingFile, catalog: Catalog) -> ShardMap:
    """Return the shard map of a file for a source; raises MappingProblems with every mistake."""
    report = Report(mapping_file.report.file, mapping_file.report.keys, mapping_file.report.values)
    scope = Scope(catalog, report, tuple(mapping_file.shards), mapping_file.tables)
    rules = _rules(scope)
    _check_missing(scope, rules, mapping_file.journal_shard)
    _check_urls(scope, mapping_file)
    _check_cache(scope, mapping_file)
    report.raise_if_any()
    document = mapping_file.document
    return ShardMap(
        name=document.name,
        file=mapping_file.file,
        source=mapping_file.source,
        shards=dict(mapping_file.shards),
        journal_shard=mapping_file.journal_shard,
        tables=rules,
        pgbouncers=mapping_file.pgbouncers,
        on_switch=tuple(document.hooks.on_switch) if document.hooks else (),
        cache_url=mapping_file.cache_url,
        cache_ttl=dict(document.cache.ttl) if document.cache else {},
    )


def _rules(scope: Scope) -> dict[TableName, Rule]:
    rules: dict[TableName, Rule] = {}
    followed: list[Followed] = []
    for name, (key, entry) in scope.tables.items():
        way: Way = ("tables", key)
        fault, hint = scope.table_fault(name)
        if fault:
            scope.report.at_key(way, fault, hint=hint)
            continue
        table = scope.catalog.tables[name]
        if entry.follows is not None:
            paths = followed_paths(scope, table, way, entry)
            followed.extend(paths)
            rules[name] = Follows(tuple(one.path for one in paths), entry.otherwise)
            continue
        # A split that was refused is still one to the tables that follow it: one mistake, one message.
        rules[name] = _other_rule(scope, table, way, entry) or SplitByColumn("", {})
    check_ends(scope, rules, followed)
    return rules


def _other_rule(scope: Scope, table: Table, way: Way, entry: TableRule) -> Rule | None:
    if entry.shard is not None:
        scope.check_shard((*way, "shard"), entry.shard)
        return OnShard(entry.shard)
    if entry.reference:
        return Reference()
    if entry.skip is not None:
        return Skip(entry.skip.strip())
    return split_rule(scope, table, way, entry)


def _check_missing(scope: Scope, rules: dict[TableName, Rule], journal_shard: str) -> None:
    """Note each table without a rule, with the rule that the foreign keys suggest."""
    missing = [table.name for table in scope.catalog.roots() if table.name not in scope.tables]
    suggested = suggest_rules(scope.catalog, rules, journal_shard) if missing else {}
    for name in sorted(missing):
        hint = f"add {name}: {rule_text(scope.catalog, name, suggested[name])}"
        scope.report.at_key(("tables",), f"no rule for the table {name}", hint=hint)


def _check_urls(scope: Scope, mapping_file: MappingFile) -> None:
    """Note two shards in one database, or a shard in the source, as far as the URLs' text tells."""
    seen: dict[tuple[str, ...], str] = {_identity(mapping_file.source.url): "the source"}
    for name, endpoint in mapping_file.shards.items():
        identity = _identity(endpoint.url)
        if identity in seen:
            message = f"{name} is the same database as {seen[identity]}"
            scope.report.at_value(("shards", name, "url"), message, hint="give each shard a database of its own")
        seen.setdefault(identity, f"the shard {name}")


def _identity(url: str) -> tuple[str, ...]:
    return (url,) if "${" in url or url.startswith("file:") else database_of(url)


def _check_cache(scope: Scope, mapping_file: MappingFile) -> None:
    cache = mapping_file.document.cache
    names = [str(table.name) for table in scope.catalog.roots()]
    for key in cache.ttl if cache else ():
        try:
            known = str(TableName.parse(key)) in names
        except MappingError:
            known = False
        if not known:
            scope.report.at_key(("cache", "ttl", key), f"unknown table {key!r}", hint=closest(key, names))
