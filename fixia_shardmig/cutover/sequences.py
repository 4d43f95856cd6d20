"""Decides where each shard's sequences go on, so that no two shards and no old row ever have the same id (pitfall 68).

A sequence that k shards share counts k times as fast on each, from k starts next to one another above everything that
was ever handed out or stored: shard i has top + (i + 1) * increment, and from there every k-th. `plan_sequences`
decides from what `observe_sequences` read; `set_sequences` acts.

The increment is always derived from the source's, so that a second cutover after an undone one plans the same.
Refuses what cannot be kept apart: CYCLE on several shards, no room left, a sequence that a shard lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, LiteralString, Self

from psycopg import sql

from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.mapping.shard_map import ShardMap, Skip
from fixia_shardmig.model.catalog import Catalog, Sequence
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import Connection, scalar

COLUMN_ENDS: Final = {"int2": 2**15 - 1, "int4": 2**31 - 1, "int8": 2**63 - 1}
"""The largest value of the column types whose values are the sequence's own."""

USED_SHARE_MAX: Final = 0.8
"""Beyond it a sequence gets a warning: it is shared by several shards from now on, and each leaves gaps."""

SCAN_PAGES_MAX: Final = 4096
"""A column without an index is read to its end only in a table up to this size (32 MiB), since nobody writes meanwhile;
beyond it the sequence's own value has to do."""

ColumnName = tuple[TableName, str]

_PRESENT: LiteralString = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S'
"""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the databases said.

    Attributes:
        last: Sequence -> (last_value, is_called) on the source; read from the sequence itself, since its view is NULL
            after setval(…, false).
        ends: Column -> the values farthest along the sequence's way, of the source and each shard that has rows.
        present: Shard -> the sequences it has.
        unread: Columns that were too large to read without an index.
    """

    last: Mapping[TableName, tuple[int, bool]]
    ends: Mapping[ColumnName, tuple[int, ...]]
    present: Mapping[str, frozenset[TableName]]
    unread: frozenset[ColumnName] = frozenset()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one database said; a shard's sequences themselves are not asked, they are set."""

    last: Mapping[TableName, tuple[int, bool]]
    ends: Mapping[ColumnName, int]
    present: frozenset[TableName]


@dataclass(frozen=True, slots=True)
class Looking:
    """Reads what the decision needs, each database by itself."""

    shard_map: ShardMap
    catalog: Catalog
    moving: tuple[Sequence, ...]
    readable: Mapping[ColumnName, int]
    unread: frozenset[ColumnName]

    @classmethod
    def of(cls, shard_map: ShardMap, catalog: Catalog) -> Self:
        """Find out what there is to read."""
        moving = moving_sequences(shard_map, catalog)
        readable, unread = _readable_columns(shard_map, catalog, moving)
        return cls(shard_map, catalog, moving, readable, frozenset(unread))

    def on_source(self, connection: Connection) -> Seen:
        """Return the source's sequences and its columns' ends."""
        return Seen(_last_values(connection, self.moving), _ends(connection, self.catalog, self.readable), frozenset())

    def on_shard(self, name: str, connection: Connection) -> Seen:
        """Return a shard's ends, and which sequences it has."""
        here = {column: step for column, step in self.readable.items() if name in self.shard_map.shards_of(column[0])}
        return Seen({}, _ends(connection, self.catalog, here), _present(connection) if self.moving else frozenset())

    def together(self, source: Seen, shards: Mapping[str, Seen]) -> Observed:
        """Return what all of them said."""
        ends = {
            column: tuple(seen.ends[column] for seen in (source, *shards.values()) if column in seen.ends)
            for column in self.readable
        }
        return Observed(source.last, ends, {name: seen.present for name, seen in shards.items()}, self.unread)


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """Where one sequence goes on.

    Attributes:
        former_increment: The source's, which rollback sets again.
        next_values: Shard -> the very next value there; `increment` is the same on all.
        refusals: Why it cannot; then there are no `next_values`.
        warnings: What to know, none of it in the way.
    """

    name: TableName
    former_increment: int
    increment: int
    next_values: Mapping[str, int]
    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Remarks:
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def moving_sequences(shard_map: ShardMap, catalog: Catalog) -> tuple[Sequence, ...]:
    """Return the sequences that shards need: of a moved table's column or default, or of no table at all."""
    return tuple(s for s in catalog.sequences if not _columns(s) or any(_moves(shard_map, t) for t, _ in _columns(s)))


def observe_sequences(sides: Sides, shard_map: ShardMap, catalog: Catalog) -> Observed:
    """Read the sequences on the source, the ends of their columns everywhere, and what the shards have; all at once."""
    looking = Looking.of(shard_map, catalog)
    return looking.together(*sides.source_and_each(looking.on_source, looking.on_shard))


def plan_sequences(shard_map: ShardMap, catalog: Catalog, observed: Observed) -> tuple[SequencePlan, ...]:
    """Decide for every moving sequence, without I/O."""
    return tuple(_plan(shard_map, catalog, s, observed) for s in moving_sequences(shard_map, catalog))


def set_sequences(name: str, connection: Connection, plans: Iterable[SequencePlan]) -> None:
    """Set a shard's sequences in one transaction; nobody writes there yet, so again is harmless."""
    statements = [_alter(plan, plan.next_values[name]) for plan in plans if name in plan.next_values]
    if statements:
        with connection.transaction():
            connection.execute(sql.SQL("; ").join(statements), prepare=False)


Given = dict[TableName, tuple[int, bool]]
"""By sequence, (last_value, is_called)."""


def given_on_shard(connection: Connection, shard_map: ShardMap, catalog: Catalog) -> Given:
    """Return how far the moving sequences are that a shard has."""
    moving = moving_sequences(shard_map, catalog)
    present = _present(connection) if moving else frozenset()
    return _last_values(connection, tuple(s for s in moving if s.name in present))


def plan_back(sides: Sides, shard_map: ShardMap, catalog: Catalog, given: Iterable[Given]) -> dict[TableName, int]:
    """Return the next value of each of the source's sequences: past what any shard gave out and any row has (68).

    The source's own increment was never changed. To be called when every row is back on the source.

    Args:
        sides: Of these the source is read.
        shard_map: The mapping.
        catalog: The source's.
        given: What `given_on_shard` returned of every shard, read when nobody wrote there any more.

    Raises:
        RefusedError: A sequence has no value left.
    """
    moving = moving_sequences(shard_map, catalog)
    readable, _ = _readable_columns(shard_map, catalog, moving)
    ends = _ends(sides.source, catalog, readable)
    seen = [_last_values(sides.source, moving), *given]
    return {s.name: _next_back(s, seen, ends) for s in moving}


def _next_back(
    sequence: Sequence, seen: Iterable[Mapping[TableName, tuple[int, bool]]], ends: Mapping[ColumnName, int]
) -> int:
    given = [one[sequence.name] for one in seen if sequence.name in one]
    values = [last for last, called in given if called]
    values += [ends[column] for column in _columns(sequence) if column in ends]
    farthest = (max if sequence.increment > 0 else min)(values, default=sequence.start - sequence.increment)
    following = farthest + sequence.increment
    if not sequence.minimum <= following <= sequence.maximum:
        if sequence.cycle:
            return sequence.minimum if sequence.increment > 0 else sequence.maximum
        raise RefusedError(
            f"sequence {sequence.name} has no value left on the source: it would go on at {following}",
            hint="ALTER SEQUENCE … AS bigint, or MAXVALUE, on the source",
        )
    return following


def apply_back(source: Connection, following: Mapping[TableName, int]) -> None:
    """Set the source's sequences in one transaction."""
    statements = [
        sql.SQL("ALTER SEQUENCE {} RESTART WITH {}").format(sql.Identifier(name.schema, name.name), sql.Literal(value))
        for name, value in following.items()
    ]
    if statements:
        with source.transaction():
            source.execute(sql.SQL("; ").join(statements), prepare=False)


def record_increments(journal: Journal, plans: Iterable[SequencePlan]) -> None:
    """Keep in the migration's evidence what rollback needs: the source's increments, and where each sequence went on.

    To be committed before the first shard's sequence is changed.
    """
    journal.add_evidence(
        {
            "sequences": {
                str(plan.name): {
                    "former_increment": plan.former_increment,
                    "increment": plan.increment,
                    "next_values": dict(plan.next_values),
                }
                for plan in plans
            }
        }
    )


def _plan(shard_map: ShardMap, catalog: Catalog, sequence: Sequence, observed: Observed) -> SequencePlan:
    remarks = _Remarks()
    shards = _sharing(shard_map, sequence, observed, remarks)
    count = max(1, len(shards))
    increment = sequence.increment * count
    top = _top(sequence, observed, remarks)
    next_values = {name: top + place * sequence.increment for place, name in enumerate(shards, start=1)}
    if sequence.cycle and count > 1:
        remarks.refusals.append("it is a CYCLE: after its end all shards would hand out the same values")
    _look_at_room(catalog, sequence, next_values, remarks)
    for column in _columns(sequence):
        if column in observed.unread:
            remarks.warnings.append(
                f"{_shown(column)} has no index and is too large to read: its values are not looked at"
            )
    return SequencePlan(
        sequence.name,
        former_increment=sequence.increment,
        increment=increment,
        next_values={} if remarks.refusals else next_values,
        refusals=tuple(remarks.refusals),
        warnings=tuple(remarks.warnings),
    )


def _sharing(shard_map: ShardMap, sequence: Sequence, observed: Observed, remarks: _Remarks) -> list[str]:
    """Return the shards that hand out its values, in the mapping's order; one that should and lacks it is refused."""
    columns = _columns(sequence)
    if not columns:
        return [name for name in shard_map.shard_names if sequence.name in observed.present.get(name, ())]
    needed = {name for table, _ in columns if _moves(shard_map, table) for name in shard_map.shards_of(table)}
    sharing = [name for name in shard_map.shard_names if name in needed]
    lacking = [name for name in sharing if sequence.name not in observed.present.get(name, ())]
    if lacking:
        remarks.refusals.append(f"it is missing on {', '.join(lacking)}")
    return sharing


def _top(sequence: Sequence, observed: Observed, remarks: _Remarks) -> int:
    """Return the value behind which everything is free: past the source's sequence and every stored value."""
    up = sequence.increment > 0
    last = observed.last.get(sequence.name)
    if last is None:
        given = sequence.start - sequence.increment
    else:
        given = last[0] if last[1] else last[0] - sequence.increment
    stored = [value for column in _columns(sequence) for value in observed.ends.get(column, ())]
    farthest = (max if up else min)([given, *stored])
    if farthest != given:
        remarks.warnings.append(f"on the source it stands at {given}, behind {farthest}, which is stored already")
    return farthest


def _look_at_room(catalog: Catalog, sequence: Sequence, next_values: Mapping[str, int], remarks: _Remarks) -> None:
    up = sequence.increment > 0
    end, begin = (sequence.maximum, sequence.minimum) if up else (sequence.minimum, sequence.maximum)
    for column in _columns(sequence):
        base = _base_type(catalog, column)
        if base not in COLUMN_ENDS:
            remarks.warnings.append(f"{_shown(column)} is of type {base}: only the sequence's own value is looked at")
            continue
        limit = COLUMN_ENDS[base] if up else -COLUMN_ENDS[base] - 1
        end = min(end, limit) if up else max(end, limit)
    farthest = (max if up else min)(next_values.values(), default=begin)
    if (farthest > end) if up else (farthest < end):
        remarks.refusals.append(f"no value is left: it would go on at {farthest}, its end is {end}")
    elif abs(farthest - begin) > USED_SHARE_MAX * abs(end - begin):
        remarks.warnings.append(f"{abs(end - farthest)} values are left of {abs(end - begin)}, for all shards together")


def _columns(sequence: Sequence) -> tuple[ColumnName, ...]:
    owned = [sequence.owned_by] if sequence.owned_by else []
    return tuple(sorted({*owned, *sequence.used_by}))


def _moves(shard_map: ShardMap, table: TableName) -> bool:
    rule = shard_map.tables.get(table)
    return rule is not None and not isinstance(rule, Skip)


def _shown(column: ColumnName) -> str:
    return f"{column[0]}.{column[1]}"


def _base_type(catalog: Catalog, column: ColumnName) -> str:
    table = catalog.tables.get(column[0])
    found = table.column(column[1]) if table else None
    return found.base_type if found else ""


def _readable_columns(
    shard_map: ShardMap, catalog: Catalog, sequences: Iterable[Sequence]
) -> tuple[dict[ColumnName, int], list[ColumnName]]:
    """Return the columns to read to their end, each with its sequence's increment, and those too large for it."""
    readable: dict[ColumnName, int] = {}
    unread: list[ColumnName] = []
    for sequence in sequences:
        for column in _columns(sequence):
            if not _moves(shard_map, column[0]) or _base_type(catalog, column) not in COLUMN_ENDS:
                continue
            if _cheap(catalog, column):
                readable[column] = sequence.increment
            else:
                unread.append(column)
    return readable, unread


def _cheap(catalog: Catalog, column: ColumnName) -> bool:
    leaves = catalog.leaves(column[0])
    indexed = all(any(i.columns[:1] == (column[1],) and i.valid for i in leaf.indexes) for leaf in leaves)
    return indexed or sum(leaf.pages for leaf in leaves) <= SCAN_PAGES_MAX


def _present(connection: Connection) -> frozenset[TableName]:
    return frozenset(TableName(*row) for row in connection.execute(_PRESENT, prepare=True).fetchall())


def _last_values(connection: Connection, sequences: tuple[Sequence, ...]) -> dict[TableName, tuple[int, bool]]:
    if not sequences:
        return {}
    each = [
        sql.SQL("SELECT {}::text, {}::text, last_value, is_called FROM {}").format(
            sql.Literal(s.name.schema), sql.Literal(s.name.name), sql.Identifier(s.name.schema, s.name.name)
        )
        for s in sequences
    ]
    rows = connection.execute(sql.SQL(" UNION ALL ").join(each)).fetchall()
    return {TableName(schema, name): (last, called) for schema, name, last, called in rows}


def _ends(connection: Connection, catalog: Catalog, columns: Mapping[ColumnName, int]) -> dict[ColumnName, int]:
    ends: dict[ColumnName, int] = {}
    for (table, name), step in columns.items():
        only = sql.SQL("" if catalog.tables[table].kind == "p" else "ONLY ")
        query = sql.SQL("SELECT {}({}) FROM {}{}").format(
            sql.SQL("max" if step > 0 else "min"), sql.Identifier(name), only, sql.Identifier(table.schema, table.name)
        )
        value = scalar(connection, query)
        if value is not None:
            ends[(table, name)] = int(value)
    return ends


def _alter(plan: SequencePlan, next_value: int) -> sql.Composed:
    """RESTART in one statement with the increment: unlike setval it is undone with its transaction."""
    return sql.SQL("ALTER SEQUENCE {} INCREMENT BY {} RESTART WITH {}").format(
        sql.Identifier(plan.name.schema, plan.name.name), sql.Literal(plan.increment), sql.Literal(next_value)
    )
