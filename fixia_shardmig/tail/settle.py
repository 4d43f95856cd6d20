"""Moves rows to their homes at the end of a batch: those noted while routing, and all that follow them.

Tables are settled parents first, inside the shards' open transactions, so every row read here is complete and as of
the end of the batch (docs/adr/0005). A move is a DELETE that returns the row and an INSERT on the other shard; both are
part of the batch record. However many rows follow somebody, only a step of them is in memory: what decides their homes
is read with a cursor, and the rows go from one shard to the other as they come.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from psycopg import sql

from fixia_shardmig.mapping.shard_map import Follows, Path, SplitByColumn, SplitBySql
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.stream import Key, Lookups, comparable, home_of
from fixia_shardmig.postgres.sessions import quoted
from fixia_shardmig.tail import statements
from fixia_shardmig.tail.reads import leaf_of, read_key, sql_of_mapping
from fixia_shardmig.tail.record import PUT, Explicit
from fixia_shardmig.tail.refusals import no_home
from fixia_shardmig.tail.router import Router
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.tables import Follower, Keyspace, TailTable, deciding_columns

READ_KEYS = 5_000
"""Keys a query asks for; larger sets are asked in parts."""

STEP_ROWS = 5_000
"""Rows whose homes are decided together, and which then move together."""

MOVED_BYTES = 4 * 1024 * 1024
"""Of rows on their way from one shard to another."""

_EVALUATED = "shardmig evaluated"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row whose home is looked at: where it is and the values that decide."""

    leaf: TableName
    ctid: str
    values: dict[str, str | None]


def settle(router: Router) -> int:
    """Move whatever is not at home among the batch's unsettled rows; returns how many rows moved."""
    router.flush()
    if not router.unsettled:
        return 0
    return _Settling(router).run()


def settle_everything(router: Router) -> int:
    """Look at every row of every table once, as is needed when snapshots of several epochs have come together."""
    router.flush()
    router.unsettled.tables.update(root for root in router.tables.order if _can_move(router, root))
    return _Settling(router).run()


def _can_move(router: Router, root: TableName) -> bool:
    return router.tables.by_root[root][0].fixed_mask is None


class _Settling:
    def __init__(self, router: Router) -> None:
        self.router = router
        self.tables = router.tables
        self.moved = 0

    def run(self) -> int:
        for root in self.tables.order:
            if not _can_move(self.router, root):
                continue
            for shard in self.router.shards:
                self.router.flush()  # what came here from another shard is looked at too, and found at home
                with closing(self._candidates(root, shard)) as steps:
                    for candidates in steps:
                        self._settle_on(root, shard, candidates)
                        self.router.relieve()
            self.router.flush()
        return self.moved

    # finding

    def _candidates(self, root: TableName, shard: ShardSession) -> Generator[list[Candidate], None, None]:
        """Yield the rows of a shard to look at, a step of them at a time; a row may come again."""
        unsettled = self.router.unsettled
        if root in unsettled.tables:
            yield from self._read(root, shard, sql.SQL(""), *self._not_at_home(root, shard))
            return
        for table in self.tables.by_root[root]:
            for keys in unsettled.rows(table.leaf, READ_KEYS):
                yield from self._read_by(root, shard, table.own, keys)
        for path in _paths(self.tables.followers, root):
            for keys in unsettled.parents(Keyspace(path.references, path.to), READ_KEYS):
                yield from self._read_by(root, shard, Keyspace(root, path.columns), keys)

    def _read_by(
        self, root: TableName, shard: ShardSession, space: Keyspace, keys: list[Key]
    ) -> Iterator[list[Candidate]]:
        table = self.tables.catalog.tables[space.table]
        columns = tuple(column for name in space.columns if (column := table.column(name)))
        arrays = [list(part) for part in zip(*keys, strict=True)]
        join = sql.SQL("JOIN {} ON {}").format(statements.wanted_keys(columns), statements.matches_wanted("t", columns))
        return self._read(root, shard, join, sql.SQL("true"), arrays, source=space.table)

    def _read(
        self,
        root: TableName,
        shard: ShardSession,
        joins: sql.Composable,
        condition: sql.Composable,
        parameters: Sequence[object],
        *,
        source: TableName | None = None,
    ) -> Iterator[list[Candidate]]:
        table = self.tables.catalog.tables[source or root]
        rule = self.router.shard_map.tables[root]
        columns = deciding_columns(rule)
        item = quoted(table.name.schema, table.name.name) if table.kind == "p" else statements.target(table)
        selected = [sql.SQL("t.tableoid::int8, t.ctid::text")]
        selected += [statements.as_text(columns, "t")] if columns else []  # type: ignore[list-item]
        if isinstance(rule, SplitBySql):
            selected.append(_evaluation(rule, root))  # type: ignore[arg-type]
        query = sql.SQL("SELECT DISTINCT {} FROM {} AS t {} WHERE {}").format(
            sql.SQL(", ").join(selected), item, joins, condition
        )
        names = (*columns, _EVALUATED) if isinstance(rule, SplitBySql) else columns
        shard.plan_freely()
        leaves: dict[int, TableName] = {}
        with shard.connection.cursor("shardmig_settle") as cursor:
            cursor.execute(query, parameters)
            while rows := cursor.fetchmany(STEP_ROWS):
                leaves |= {oid: leaf_of(shard, oid) for oid in {row[0] for row in rows} - leaves.keys()}
                yield [
                    Candidate(leaves[oid], ctid, dict(zip(names, values, strict=True))) for oid, ctid, *values in rows
                ]

    def _not_at_home(self, root: TableName, shard: ShardSession) -> tuple[sql.Composable, Sequence[object]]:
        """Return a condition, with its parameters, that cheaply leaves out rows that are at home for certain."""
        rule = self.router.shard_map.tables[root]
        if isinstance(rule, SplitByColumn):
            here = [value for value, home in rule.homes.items() if home == shard.name]
            return sql.SQL("(t.{}::text = ANY(%s)) IS NOT TRUE").format(quoted(rule.column)), (here,)
        if isinstance(rule, Follows) and rule.paths:
            arms = [self._parent_is_here(path) for path in rule.paths]
            return sql.SQL("(CASE {} END) IS NOT TRUE").format(sql.SQL(" ").join(arms)), ()
        return sql.SQL("true"), ()

    def _parent_is_here(self, path: Path) -> sql.Composed:
        parent = self.tables.catalog.tables[path.references]
        source = quoted(parent.name.schema, parent.name.name)
        item = source if parent.kind == "p" else statements.target(parent)
        present = sql.SQL(" AND ").join(sql.SQL("t.{} IS NOT NULL").format(quoted(c)) for c in path.columns)
        same = sql.SQL(" AND ").join(
            sql.SQL("p.{} = t.{}").format(quoted(there), quoted(here))
            for here, there in zip(path.columns, path.to, strict=True)
        )
        return sql.SQL("WHEN {} THEN EXISTS (SELECT FROM {} AS p WHERE {})").format(present, item, same)

    # moving

    def _settle_on(self, root: TableName, shard: ShardSession, candidates: list[Candidate]) -> None:
        self._look_up_parents(root, candidates)
        moves: dict[tuple[TableName, int], list[str]] = {}
        for candidate in candidates:
            home = self._home(root, candidate, shard)
            if home != shard.number:
                moves.setdefault((candidate.leaf, home), []).append(candidate.ctid)
        for (leaf, home), ctids in moves.items():
            self._move(self.tables.by_leaf[leaf], ctids, start=shard, end=self.router.shards[home])

    def _look_up_parents(self, root: TableName, candidates: Iterable[Candidate]) -> None:
        rule = self.router.shard_map.tables[root]
        if not isinstance(rule, Follows):
            return
        wanted: dict[Keyspace, list[Key]] = {}
        for candidate in candidates:
            for path in rule.paths:
                values = [candidate.values[column] for column in path.columns]
                key = tuple(value for value in values if value is not None)
                if len(key) == len(values):
                    wanted.setdefault(Keyspace(path.references, path.to), []).append(self.router.parent_key(path, key))
                    break
        for space, keys in wanted.items():
            self.router.locations.fetch(space, keys)

    def _home(self, root: TableName, candidate: Candidate, shard: ShardSession) -> int:
        """Return the home's number; before the shards are consistent, a row whose parent is yet to come stays."""
        rule = self.router.shard_map.tables[root]
        lookups = Lookups(
            parent_home=self.router.parent_home,
            referenced_value=self.router.referenced_value,
            evaluated=lambda _: candidate.values[_EVALUATED],
        )
        home = home_of(rule, candidate.values, shard_map=self.router.shard_map, lookups=lookups)
        if home is None and self.router.loose:
            return shard.number
        if home is None:
            table = self.tables.by_leaf[candidate.leaf]
            values = {name: value for name, value in candidate.values.items() if name != _EVALUATED}
            raise no_home(table, read_key(shard, table, candidate.ctid), values)
        return self.router.shard_map.shard_names.index(home)

    def _move(self, table: TailTable, ctids: list[str], *, start: ShardSession, end: ShardSession) -> None:
        columns = tuple(column.name for column in table.table.copied_columns)
        query = sql.SQL("DELETE FROM {} WHERE ctid = ANY(%s::tid[]) RETURNING {}").format(
            statements.target(table.table), statements.whole_row(table.table)
        )
        kind, keyed = ("remove", table.own.columns) if table.keyed else ("remove_one", columns)
        places = [columns.index(name) for name in keyed]
        waiting_bytes = 0
        with start.connection.cursor() as cursor:
            for row in cursor.stream(query, (ctids,)):
                removed = tuple(row[place] for place in places)
                decisions = self.router.decisions
                decisions.add_explicit(Explicit(decisions.changes, start.number, kind, table.leaf, keyed, removed))
                self.router.do_explicit(end, PUT, table.leaf, columns, row)
                self._is_now_at(table, dict(zip(columns, row, strict=True)), 1 << end.number)
                self.router.keep_decisions()
                self.moved += 1
                waiting_bytes += sum(len(value) for value in row if value)
                if waiting_bytes >= MOVED_BYTES:
                    end.flush()
                    waiting_bytes = 0

    def _is_now_at(self, table: TailTable, row: dict[str, str | None], shards: int) -> None:
        for space in (table.own, *table.tracked):
            key = self._key(table, space, row)
            if key:
                self.router.locations.put(space, key, shards)
        for follower in self.tables.followers.get(table.root, ()):
            space = Keyspace(table.root, follower.path.to)
            key = self._key(table, space, row)
            if key:
                self.router.unsettled.add_parent(space, key)

    @staticmethod
    def _key(table: TailTable, space: Keyspace, row: dict[str, str | None]) -> Key | None:
        key = []
        for name in space.columns:
            value, column = row[name], table.table.column(name)
            if value is None or column is None:
                return None
            key.append(comparable(column, value))
        return tuple(key)


def _paths(followers: dict[TableName, list[Follower]], root: TableName) -> list[Path]:
    """Return the paths over which a table follows others, the reference that names its type included."""
    return [follower.path for listed in followers.values() for follower in listed if follower.root == root]


def _evaluation(rule: SplitBySql, root: TableName) -> sql.Composed:
    columns = sql.SQL(", ").join(sql.SQL("t.{0} AS {0}").format(quoted(column)) for column in rule.columns)
    return sql.SQL("(SELECT ({})::text FROM (SELECT {}) AS {})").format(
        sql_of_mapping(rule), columns, quoted(root.name)
    )
