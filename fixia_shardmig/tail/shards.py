"""One shard's side of the tail: a session, the operations waiting for it, and the transaction that holds a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Cursor, errors, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from fixia_shardmig.journal.journal import position, set_position
from fixia_shardmig.model.catalog import Catalog, Column, Table
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.places import place
from fixia_shardmig.placement.snapshot import extension_path
from fixia_shardmig.placement.stream import Key
from fixia_shardmig.postgres.sessions import Connection, connect, quoted
from fixia_shardmig.tail import kernel, statements
from fixia_shardmig.tail.bulk import Bulk
from fixia_shardmig.tail.net import NetChange
from fixia_shardmig.tail.operations import DELETE, DELETE_ONE, REGENERATE, UPDATE, Operation
from fixia_shardmig.tail.record import PUT, REMOVE, Explicit
from fixia_shardmig.tail.statements import INSERT, REPLACE, UPSERT, put_kind
from fixia_shardmig.tail.tables import Keyspace

if TYPE_CHECKING:  # it may not have been built
    from fixia_shardmig.tail._plain import PlainNet

PREPARED_MAX = 500
"""Statements kept prepared a session: kinds of change times tables times presence masks that recur."""

MERGED_MIN = 1_000
"""Waiting operations from which on merging pays; fewer are one short pipeline."""

MERGED_TABLE_MIN = 100

SENDINGS_MAX = 2
"""Portions on their way to a shard, one behind the other, before whoever routes more waits for the first of them."""

ASIDE_LOCK_MS = 200
"""How long the session for looking up waits for a lock before the one with the open transaction is asked."""

SETTLED_STREAM = "forward settled"
"""Under this name a shard keeps where all rows were last brought home: that moves no position by which to tell."""


Waiting = dict[TableName, list[Any]]
"""By table, in the source's order, what waits: each an `Operation`, or a compiled `PlainChange` that can become one."""


class ShardSession:
    """Applies operations to one shard inside one open transaction a batch."""

    def __init__(self, number: int, name: str, *, url: str, catalog: Catalog) -> None:
        """Connect under `session_replication_role = replica`: triggers and foreign keys do not fire (pitfall 26)."""
        self.number = number
        self.name = name
        self.url = url
        self.catalog = catalog
        self.missed: dict[TableName, int] = {}
        self.pending = 0
        self._waiting: Waiting = {}
        self._sending: deque[Future[None]] = deque()
        self._statements: dict[tuple[TableName, str, tuple[str, ...]], bytes] = {}
        self._connection = connect(url, f"tail {name}", autocommit=True)
        self._connection.execute("SELECT set_config('session_replication_role', 'replica', false)")
        _look_by_index(self._connection, catalog)
        self._plans_freely = False
        self._connection.prepared_max = PREPARED_MAX
        self.merging = False
        self._bulk = Bulk(self._connection)
        self._aside: Connection | None = None
        self.position = position(self._connection)
        self.settled = position(self._connection, SETTLED_STREAM)
        self._connection.autocommit = False

    def open_aside(self) -> None:
        """Open a second session, which sees what is committed while the first one is busy."""
        self._aside = connect(self.url, f"tail {self.name} lookup")
        self._aside.execute("SELECT set_config('lock_timeout', %s, false)", (f"{ASIDE_LOCK_MS}ms",))
        _look_by_index(self._aside, self.catalog)

    @property
    def connection(self) -> Connection:
        """Return the session, when nothing is being sent on it any more."""
        self.finish()
        return self._connection

    def plan_freely(self) -> None:
        """Let the server choose how it joins until the batch ends, for what may have no index.

        Else many keys are found by the index on them, however small their table is: a scan of it would cost more with
        every row that it gets, and more at once than all keys do.
        """
        if not self._plans_freely:
            self.connection.execute(
                "SELECT set_config('enable_hashjoin', 'on', true), set_config('enable_mergejoin', 'on', true)"
            )
            self._plans_freely = True

    @property
    def has_failed(self) -> bool:
        """Whether a session of this shard is lost, or its open transaction has met an error."""
        status = self._connection.info.transaction_status
        lost = self._connection.broken or (self._aside is not None and self._aside.broken)
        return lost or status is TransactionStatus.INERROR

    def close(self) -> None:
        """Close the session; an open transaction is rolled back by the server."""
        with suppress(psycopg.Error):
            self.finish()
        if self._aside is not None:
            self._aside.close()
        self._connection.close()

    def add(self, leaf: TableName, operation: Operation) -> None:
        """Queue an operation behind the earlier ones on the same table; tables do not wait for each other."""
        self.queue_of(leaf).append(operation)
        self.pending += 1

    def queue_of(self, leaf: TableName) -> list[Any]:
        """Return what waits for a table until the next flush; whoever appends to it counts it in `pending`."""
        return self._waiting.setdefault(leaf, [])

    def add_explicit(self, explicit: Explicit) -> None:
        """Queue an operation of a batch record."""
        table = self.catalog.tables[explicit.leaf]
        kind = {PUT: put_kind(table), REMOVE: DELETE}.get(explicit.kind, DELETE_ONE)
        self.add(explicit.leaf, Operation(kind, explicit.columns, explicit.values))

    def flush(self) -> None:
        """Send what waits, and return when the server has it. Counts operations that hit no row."""
        self.finish()
        if self.pending:
            self._send_all(self._take())

    def start_flush(self, thread: Executor) -> None:
        """Send what waits in this shard's thread; whoever needs the session next waits for that, and gets its error."""
        while len(self._sending) >= SENDINGS_MAX:
            self._sending.popleft().result()
        self._sending.append(thread.submit(self._send_all, self._take()))

    def finish(self) -> None:
        """Wait for what is being sent. Raises what failed first: the rest met a transaction that was over."""
        sending, self._sending = self._sending, deque()
        failures = [failure for one in sending if (failure := one.exception()) is not None]
        if failures:
            raise failures[0]

    def _take(self) -> Waiting:
        waiting, self._waiting, self.pending = self._waiting, {}, 0
        return waiting

    def _send_all(self, waiting: Waiting) -> None:
        """Send operations merged by key where they are many, in order else."""
        many = self.merging and sum(map(len, waiting.values())) >= MERGED_MIN
        merged = self._merge(waiting) if many else []
        self._send_in_order(waiting)
        for leaf, net in merged:
            missed = self._bulk.apply(net) if isinstance(net, NetChange) else self._bulk.apply_plain(net)
            if missed:
                self.missed[leaf] = self.missed.get(leaf, 0) + missed

    def _merge(self, waiting: Waiting) -> list[tuple[TableName, NetChange | PlainNet]]:
        """Take the tables with many operations out of the queue as net changes, where these can be told."""
        nets: list[tuple[TableName, NetChange | PlainNet]] = []
        for leaf, operations in list(waiting.items()):
            if len(operations) >= MERGED_TABLE_MIN:
                net: NetChange | PlainNet | None
                net = kernel.compiled.merge(operations) if kernel.IS_COMPILED else None
                if net is None:
                    net = merge(self.catalog.tables[leaf], _as_operations(operations))
                if net is not None:
                    nets.append((leaf, net))
                    del waiting[leaf]
        return nets

    def _send_in_order(self, waiting: Waiting) -> None:
        """Send operations one after the other, in one pipeline."""
        sent: list[tuple[TableName, Cursor[TupleRow], int]] = []
        with self._connection.pipeline():
            for leaf, operations in waiting.items():
                for kind, columns, values in _runs(_as_operations(operations)):
                    self._send(leaf, kind, columns, values, sent)
        for leaf, cursor, expected in sent:
            if cursor.rowcount != expected:
                self.missed[leaf] = self.missed.get(leaf, 0) + abs(expected - cursor.rowcount)
            cursor.close()

    def _send(
        self,
        leaf: TableName,
        kind: str,
        columns: tuple[str, ...],
        values: list[tuple[str | None, ...]],
        sent: list[tuple[TableName, Cursor[TupleRow], int]],
    ) -> None:
        if kind == REPLACE:
            table = self.catalog.tables[leaf]
            places = [columns.index(column) for column in table.identity_columns]
            self._execute(leaf, DELETE, table.identity_columns, [tuple(v[p] for p in places) for v in values])
            kind = INSERT
        cursor = self._execute(leaf, kind, columns, values)
        if kind in {UPDATE, DELETE, DELETE_ONE}:
            sent.append((leaf, cursor, len(values)))

    def _execute(
        self, leaf: TableName, kind: str, columns: tuple[str, ...], values: Sequence[tuple[str | None, ...]]
    ) -> Cursor[TupleRow]:
        cursor = self._connection.cursor()
        cursor.executemany(self._statement(leaf, kind, columns), values)
        return cursor

    def _statement(self, leaf: TableName, kind: str, columns: tuple[str, ...]) -> bytes:
        key = (leaf, kind, columns)
        found = self._statements.get(key)
        if found is None:
            composed = _BUILDERS[kind](self.catalog.tables[leaf], columns)
            found = self._statements[key] = composed.as_bytes(self._connection)
        return found

    def truncate(self, tables: Sequence[TableName], *, restart_identity: bool) -> None:
        """Empty tables in one statement, as the source did (pitfall 25).

        A partitioned table of which all leaves are emptied is named too: else a reference to it, or from it to another
        one of them, would forbid it.
        """
        self.flush()
        if not tables:
            return
        names = [sql.SQL("ONLY {}").format(sql.Identifier(t.schema, t.name)) for t in tables]
        names += [sql.Composed([sql.Identifier(t.schema, t.name)]) for t in self._emptied_with(frozenset(tables))]
        listed = sql.SQL(", ").join(names)
        restart = sql.SQL(" RESTART IDENTITY") if restart_identity else sql.SQL("")
        self.connection.execute(sql.SQL("TRUNCATE {}{}").format(listed, restart))

    def _emptied_with(self, leaves: frozenset[TableName]) -> list[TableName]:
        """Return the partitioned tables that have no leaf but these."""
        above: dict[TableName, set[TableName]] = {}
        for table in self.catalog.tables.values():
            parent = table.partition_of
            while parent is not None and table.kind != "p":
                above.setdefault(parent, set()).add(table.name)
                parent = self.catalog.tables[parent].partition_of
        return sorted(parent for parent, its in above.items() if its <= leaves)

    def find(self, space: Keyspace, keys: Sequence[Key], *, committed: bool = False) -> set[int]:
        """Return which of the keys (by their place) this shard has, as of the open transaction.

        With `committed`, as of the last batch if a second session is open, which does not wait for what is being sent.
        Whoever waits there for a lock may wait for somebody who waits for our open transaction, and no server sees
        that: so it waits shortly.
        """
        if space.table not in self.catalog.tables:
            return set()
        table = self.catalog.tables[space.table]
        columns = tuple(column for name in space.columns if (column := table.column(name)))
        has_index = set(space.columns) == set(table.identity_columns)
        if committed and has_index and self._aside is not None:
            with suppress(errors.LockNotAvailable):
                return self._find_on(self._aside, table, columns, keys)
        if not has_index:
            self.plan_freely()
        return self._find_on(self.connection, table, columns, keys)

    @staticmethod
    def _find_on(connection: Connection, table: Table, columns: tuple[Column, ...], keys: Sequence[Key]) -> set[int]:
        source = quoted(table.name.schema, table.name.name) if table.kind == "p" else statements.target(table)
        query = sql.SQL("SELECT u.n FROM {} WHERE EXISTS (SELECT FROM {} AS t WHERE {})").format(
            statements.wanted_keys(columns), source, statements.matches_wanted("t", columns)
        )
        rows = connection.execute(query, kernel.arrays(keys, len(columns)), prepare=False).fetchall()
        return {row[0] - 1 for row in rows}

    def commit(self, lsn: LSN, *, settled: bool = False) -> None:
        """Commit the batch together with its position; `settled` if it brought all rows home."""
        set_position(self.connection, lsn)
        if settled:
            set_position(self.connection, lsn, SETTLED_STREAM)
        place("tail.before_shard_commit")
        self._connection.commit()
        place("tail.shard_committed")
        self._ended()
        self.position = lsn
        self.settled = lsn if settled else self.settled

    def commit_streams(self, positions: Mapping[str, LSN]) -> None:
        """Commit what several streams brought, together with the positions of all of them."""
        for stream, lsn in positions.items():
            set_position(self.connection, lsn, stream)
        place("back.before_commit")
        self._connection.commit()
        place("back.committed")
        self._ended()

    def _ended(self) -> None:
        self._plans_freely = False
        self._bulk.committed()

    def rollback(self) -> None:
        """Forget the batch."""
        with suppress(psycopg.Error):
            self.finish()
        self._take()
        self.missed.clear()
        self._plans_freely = False
        self._bulk.forget_uncommitted()
        if not self._connection.closed:
            self._connection.rollback()


def _look_by_index(connection: Connection, catalog: Catalog) -> None:
    """Have a session find many keys by the index on them: see `ShardSession.plan_freely`."""
    connection.execute(
        "SELECT set_config('search_path', %s, false), set_config('enable_hashjoin', 'off', false),"
        " set_config('enable_mergejoin', 'off', false)",
        (extension_path(catalog),),
    )


_BUILDERS = {
    UPSERT: statements.upsert,
    INSERT: statements.insert,
    UPDATE: statements.update,
    REGENERATE: statements.regenerate,
    DELETE: statements.delete,
    DELETE_ONE: statements.delete_one,
}


def merge(table: Table, operations: Sequence[Operation]) -> NetChange | None:
    """Return what operations come to, or None when they have to be sent one after the other."""
    net = NetChange(table, certain=True)
    for operation in operations:
        kind = operation.kind
        if kind == UPSERT:
            merged = net.put(operation.columns, operation.values)
        elif kind == UPDATE:
            merged = net.update(operation.columns, operation.values)
        elif kind == DELETE and operation.columns == table.identity_columns:
            net.delete(operation.values)
            merged = True
        else:
            merged = False
        if not merged:
            return None
    return net


def _as_operations(waiting: list[Any]) -> list[Operation]:
    return [one if isinstance(one, Operation) else one.operation() for one in waiting]


def _runs(operations: list[Operation]) -> list[tuple[str, tuple[str, ...], list[tuple[str | None, ...]]]]:
    """Group neighbours that share a statement; the order within a table is the source's."""
    runs: list[tuple[str, tuple[str, ...], list[tuple[str | None, ...]]]] = []
    for operation in operations:
        if runs and runs[-1][0] == operation.kind and runs[-1][1] == operation.columns:
            runs[-1][2].append(operation.values)
        else:
            runs.append((operation.kind, operation.columns, [operation.values]))
    return runs
