"""Makes the plan: checks, counts, cost. All its sessions are read-only; nothing is changed anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import psycopg

from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Rule,
    ShardMap,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
)
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.references import ForeignKeyFate, foreign_key_fates
from fixia_shardmig.plan.checks import run_checks
from fixia_shardmig.plan.findings import Finding, Look, Severity, Target, listed, row
from fixia_shardmig.plan.placing import (
    GLANCE_PAGES,
    SAMPLE_PAGES,
    Counted,
    Counter,
    Homeless,
    R,
    T,
    in_parallel,
    leaves,
    may_lack_home,
    open_counter,
)
from fixia_shardmig.plan.plan import CrossShardReference, Estimate, Plan, ShardShare, TablePlan
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import Connection, connect, session

COPY_BYTES_S = 76_000_000
"""1.75 GB to three shards in 23 s, source and shards on one machine with two cores."""
INDEX_BYTES_S = 83_000_000
"""The keys and indexes of the same 1.75 GB took 21 s."""
VERIFY_ROWS_S = 1_000_000
"""One side digests 2.2 million rows a second; two sides share the machine."""
PAUSE_S = 0.3
"""PAUSE, locks, marker and RESUME on an idle network."""
PAUSE_TABLE_S = 0.002
"""Locking and counting one table within the pause."""
JOBS = 2
"""Sessions that count at once: a plan must not be felt on the source."""

_ACTIONS = {"a": "no action", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}


def make_plan(
    shard_map: ShardMap,
    source_url: str,
    *,
    estimates: bool = False,
    running: bool = False,
    only_blockers: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> Plan:
    """Look at source and shards and return the plan.

    Args:
        shard_map: The checked mapping.
        source_url: The source; a secret.
        estimates: Read samples instead of counting all rows.
        running: Whether this migration is under way, so that its slot and publication are no left-overs.
        only_blockers: Count only what could be a blocker: rows without a home where nothing says what becomes of them.
        on_progress: Takes a line for people before each longer step.

    Raises:
        RefusedError: The source refuses us. What is wrong with a shard is a finding instead.
        TemporaryError: The source cannot be reached now.
    """
    say = on_progress or (lambda _: None)
    with ExitStack() as stack:
        source = stack.enter_context(session(source_url, "plan"))
        _make_read_only(source)
        catalog = read_catalog(source)
        fates = foreign_key_fates(shard_map, catalog)
        say("checking source and shards")
        look = Look(
            shard_map=shard_map,
            catalog=catalog,
            source=source,
            targets={name: _reach(name, shard_map.shards[name].url, stack) for name in shard_map.shard_names},
            slot=f"shardmig_{shard_map.name}",
            running=running,
            fates=fates,
        )
        findings = list(run_checks(look))
        index_bytes = _index_bytes(look)
        if any(finding.code == "source-pooler" for finding in findings):
            numbers = _Numbers({}, {}, {}, [])  # a snapshot cannot be shared through a pooler
        else:
            numbers = _count(source_url, look, estimates=estimates, only_blockers=only_blockers, say=say)
    return _assemble(look, findings, numbers, index_bytes=index_bytes, exact=not estimates)


def _make_read_only(connection: Connection) -> None:
    connection.execute("SET default_transaction_read_only = on")


def _reach(shard: str, url: str, stack: ExitStack) -> Target:
    try:
        connection = connect(url, "plan")
    except ShardmigError as error:
        return Target(shard, error=error)
    stack.callback(connection.close)
    _make_read_only(connection)
    return Target(shard, connection)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What was counted; a table or reference that could not be read is missing."""

    counted: dict[TableName, Counted]
    homeless: dict[TableName, Homeless]
    crossing: dict[CrossShardReference, int]
    failed: list[Finding]


def _count(url: str, look: Look, *, estimates: bool, only_blockers: bool, say: Callable[[str], None]) -> _Numbers:
    failed: list[Finding] = []
    references = [] if only_blockers else list(_references(look.shard_map, look.catalog, look.fates))
    sample_pages = (GLANCE_PAGES if only_blockers else SAMPLE_PAGES) if estimates else None
    with open_counter(url, look.shard_map, look.catalog, sample_pages=sample_pages, jobs=JOBS) as counter:
        rules = look.shard_map.tables
        names = sorted(
            name for name in rules if name in look.catalog.tables and (may_lack_home(rules[name]) or not only_blockers)
        )
        say(f"counting rows of {len(names)} tables")
        counted = _successes(names, in_parallel(counter.count, names, JOBS), failed)
        lost = [name for name, one in counted.items() if one.undecided or one.by_otherwise]
        homeless = _successes(lost, in_parallel(counter.homeless, lost, JOBS), failed)
        if references:
            say(f"counting rows of {len(references)} references across shards")
        crossing = _successes(
            references, in_parallel(lambda reference: _crossing(counter, look, reference), references, JOBS), failed
        )
    return _Numbers(counted, homeless, crossing, failed)


def _successes(items: list[T], results: list[R | psycopg.Error], failed: list[Finding]) -> dict[T, R]:
    """Return the results by item, and note each error as a finding."""
    found: dict[T, R] = {}
    for item, result in zip(items, results, strict=True):
        if isinstance(result, psycopg.Error):
            table = item.table if isinstance(item, CrossShardReference) else item
            failed.append(
                Finding(
                    "not-counted",
                    Severity.WARNING,
                    f"its rows could not be counted: {result.diag.message_primary or type(result).__name__}",
                    "remove the cause and run shardmig plan again",
                    table if isinstance(table, TableName) else None,
                )
            )
        else:
            found[item] = result
    return found


def _references(
    shard_map: ShardMap, catalog: Catalog, fates: tuple[ForeignKeyFate, ...]
) -> Iterator[CrossShardReference]:
    """Yield each reference that the shards cannot keep: dropped foreign keys, and paths that nobody declared."""
    for fate in fates:
        key = fate.key
        if not fate.kept and shard_map.shards_of(catalog.tables[key.table].root):
            action = _ACTIONS.get(key.on_delete, key.on_delete)
            yield CrossShardReference(key.table, key.columns, key.references, key.name, None, action, fate.reason)
    for name, rule in sorted(shard_map.tables.items()):
        if isinstance(rule, Follows) and name in catalog.tables:
            for path in rule.paths[1:]:
                if not path.declared:
                    reason = f"no foreign key, and {', '.join(rule.paths[0].columns)} goes first"
                    yield CrossShardReference(name, path.columns, path.references, "", None, "", reason)


def _crossing(counter: Counter, look: Look, reference: CrossShardReference) -> int:
    to = next(
        (
            f.key.referenced_columns
            for f in look.fates
            if f.key.name == reference.constraint and f.key.table == reference.table
        ),
        None,
    )
    if to is None:
        rule = look.shard_map.tables[reference.table]
        paths = rule.paths if isinstance(rule, Follows) else ()
        to = next(p.to for p in paths if (p.columns, p.references) == (reference.columns, reference.references))
    return counter.crossing(reference.table, reference.columns, reference.references, to)


def _index_bytes(look: Look) -> dict[TableName, int]:
    """Return the size of each moved root's indexes."""
    sizes: dict[TableName, int] = {}
    for name in look.shard_map.moved():
        if name in look.catalog.tables:
            oids = [leaf.oid for leaf in leaves(look.catalog, name)]
            sizes[name] = row(look.source, "index_bytes", {"oids": oids}).bytes
    return sizes


def _assemble(
    look: Look, findings: list[Finding], numbers: _Numbers, *, index_bytes: dict[TableName, int], exact: bool
) -> Plan:
    shard_map, catalog = look.shard_map, look.catalog
    tables = tuple(_table_plan(name, rule, catalog, numbers) for name, rule in sorted(shard_map.tables.items()))
    findings = [*findings, *numbers.failed, *_homeless_findings(look, numbers)]
    if not exact:
        message = "rows are estimated from samples: a row without a home may be among those that were not read"
        findings.append(Finding("estimated", Severity.INFO, message, "count every row before the copy: shardmig plan"))
    order = list(Severity)
    return Plan(
        migration=shard_map.name,
        mapping_fingerprint=shard_map.fingerprint(),
        catalog_fingerprint=catalog.fingerprint(shard_map.moved()),
        exact=exact,
        shard_names=shard_map.shard_names,
        tables=tables,
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.severity))),
        cross_shard_references=tuple(
            replace(reference, rows=numbers.crossing.get(reference))
            for reference in _references(shard_map, catalog, look.fates)
        ),
        kept=tuple((fate.key.name, fate.key.table, fate.reason) for fate in look.fates if fate.kept),
        needed_bytes=_needed_bytes(shard_map, tables, index_bytes),
        estimate=_estimate(tables, sum(index_bytes.values())),
    )


def _table_plan(name: TableName, rule: Rule, catalog: Catalog, numbers: _Numbers) -> TablePlan:
    size = sum(leaf.size_bytes for leaf in leaves(catalog, name)) if name in catalog.tables else 0
    counted = numbers.counted.get(name)
    homes: dict[str, ShardShare] = {}
    for shard, rows in (counted.homes if counted else {}).items():
        total = counted.total if counted else 0
        homes[shard] = ShardShare(rows, round(size * rows / total) if total else 0)
    follows = tuple(path.references for path in rule.paths) if isinstance(rule, Follows) else ()
    total_rows = counted.total if counted else None
    return TablePlan(name, rule_text(rule), follows, total_rows, size, homes, counted.undecided if counted else 0)


def rule_text(rule: Rule) -> str:
    """Return a rule in the words of a mapping file."""
    match rule:
        case SplitByColumn(column):
            text = f"split by {column}"
        case SplitByReference():
            text = f"split by {rule.column} -> {rule.references}.{rule.value}"
        case SplitBySql():
            text = "split by sql"
        case Follows(paths):
            text = "follows " + ", else ".join("+".join(path.columns) for path in paths)
        case OnShard(shard):
            text = f"on {shard}"
        case _:
            text = type(rule).__name__.lower()
    return text


def _homeless_findings(look: Look, numbers: _Numbers) -> Iterator[Finding]:
    for name, homeless in sorted(numbers.homeless.items()):
        rule = look.shard_map.tables[name]
        otherwise = getattr(rule, "otherwise", None)
        if not homeless.own:
            continue  # its parents have no home: one finding there
        why = "; ".join(_reasons(homeless))
        shown = f" (rows {listed(homeless.keys)})" if homeless.keys else ""
        if otherwise is None:
            yield Finding("no-home", Severity.BLOCKER, f"{why}{shown}", _line_to_add(look, name, homeless), name)
        elif homeless.dangling:
            yield Finding(
                "dangling-reference",
                Severity.WARNING,
                f"{why}, and go to {otherwise} by `otherwise`{shown}",
                "correct these references, or leave them there",
                name,
            )
        else:
            yield Finding("by-otherwise", Severity.INFO, f"{why}, and go to {otherwise} by `otherwise`", "", name)


def _reasons(homeless: Homeless) -> Iterator[str]:
    for value, rows in homeless.values:
        yield f"{rows} rows have {'NULL' if value is None else repr(value)}, which has no home"
    if homeless.others:
        yield f"the rule gives {homeless.others} rows no home"
    if homeless.nulls:
        yield f"{homeless.nulls} rows reference nothing"
    if homeless.dangling:
        yield f"{homeless.dangling} rows reference a row that does not exist"


def _line_to_add(look: Look, name: TableName, homeless: Homeless) -> str:
    rule, shard = look.shard_map.tables[name], look.shard_map.journal_shard
    value = next((value for value, _ in homeless.values if value is not None), None)
    if isinstance(rule, SplitByColumn) and value is not None:
        return f"in the mapping, under {name}: homes: {{…, {value}: {shard}}}, or otherwise: {shard}"
    return f"in the mapping, under {name}: otherwise: {shard}"


def _needed_bytes(
    shard_map: ShardMap, tables: tuple[TablePlan, ...], index_bytes: dict[TableName, int]
) -> dict[str, int]:
    needed = dict.fromkeys(shard_map.shard_names, 0)
    for table in tables:
        for shard, share in table.homes.items():
            part = share.rows / table.rows if table.rows else 0
            needed[shard] += share.size_bytes + round(index_bytes.get(table.table, 0) * part)
    return needed


def _estimate(tables: tuple[TablePlan, ...], index_bytes: int) -> Estimate:
    moved = [table for table in tables if table.rule != "skip"]
    table_bytes = sum(table.size_bytes for table in moved)
    rows = sum(table.rows or 0 for table in moved)
    return Estimate(
        copy_s=round(table_bytes / COPY_BYTES_S + index_bytes / INDEX_BYTES_S, 1),
        verify_s=round(rows / VERIFY_ROWS_S, 1),
        pause_s=round(PAUSE_S + PAUSE_TABLE_S * len(moved), 2),
    )
