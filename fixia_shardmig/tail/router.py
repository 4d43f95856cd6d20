"""Routes the changes of one batch in the source's order: to which shards each goes, and what has to move after it.

An INSERT goes to the home of its row. An UPDATE or DELETE goes to where the row is, by key, never by walking references
(pitfall 1). A row whose home changes by an UPDATE stays where it is and is noted; `settle` moves it at the end of the
batch with all that follow it. Before the shards are consistent (`loose`), a change makes its row be in one place only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fixia_shardmig.mapping.shard_map import Follows, Path, SplitByReference, SplitBySql
from fixia_shardmig.model.catalog import Column
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.stream import Key, Lookups, comparable, deciding_path, home_of
from fixia_shardmig.postgres.pgoutput import UNCHANGED, Change, Delete, Insert, Relation, Truncate, Update
from fixia_shardmig.postgres.transactions import Transaction
from fixia_shardmig.tail import kernel
from fixia_shardmig.tail.definitions import Definitions
from fixia_shardmig.tail.emit import emit_delete, emit_insert, emit_truncate, emit_update, plain
from fixia_shardmig.tail.locations import Locations
from fixia_shardmig.tail.pending import PendingInserts
from fixia_shardmig.tail.reads import evaluate_sql, has_equal_row, read_columns, read_types
from fixia_shardmig.tail.record import PUT, REMOVE, REMOVE_ONE, Decisions, Explicit
from fixia_shardmig.tail.refusals import unroutable
from fixia_shardmig.tail.sending import Overflow, Sending
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.tables import Keyspace, RelationPlan, Row, TailTable, TailTables, key_of, rewritten_columns
from fixia_shardmig.tail.unsettled import Unsettled
from fixia_shardmig.tail.windows import windows

WINDOW_CHANGES = 10_000
"""Changes whose keys are looked up together; one query a keyspace and shard for all of them."""

WINDOW_BYTES = 4 * 1024 * 1024
"""How large a window is at most, as its messages came; a single larger row is a window of its own."""

FLUSH_OPERATIONS = 3_000
"""Operations on a shard from which on they are sent between two windows, while the next one is routed."""

FLUSH_BYTES = 4 * 1024 * 1024
"""Of changes that wait on all shards before all of them send, as their messages came; twice as much may be on its way.
Decoded, small values take six times as much, and once more while they are sent."""

PLAIN_WINDOW_CHANGES = 20_000
PLAIN_WINDOW_BYTES = 8 * 1024 * 1024
PLAIN_FLUSH_OPERATIONS = 5_000
PLAIN_FLUSH_BYTES = 8 * 1024 * 1024
"""The same where plain changes go the compiled way: they hold nothing but the bytes that came, and the more are sent at
once, the less each of them costs. What goes the general way among them counts twice."""

HOMES_MAX = 1_000
"""Split values of a table whose home is remembered."""

PLANS_MAX = 10_000
"""Decoded relations that are remembered by their identity; they are kept alive for it."""


class Router:
    """Turns changes into operations on shard sessions, one batch at a time."""

    def __init__(
        self,
        tables: TailTables,
        shards: Sequence[ShardSession],
        *,
        locations: Locations,
        fetch_missing: Callable[[TailTable, Key, tuple[str, ...]], dict[str, str | None] | None],
        skips: Callable[[TailTable, int], bool],
        definitions: Definitions,
        sending: Sending,
        overflow: Overflow,
    ) -> None:
        """Prepare.

        Args:
            tables: What is known of the tables.
            shards: The sessions, in the shards' order.
            locations: Where keys are.
            fetch_missing: (table, key, columns) -> those columns of a row on the source, None when it is gone; only
                asked before the shards are consistent.
            skips: (table, xid) -> whether a table's copy has seen that transaction already.
            definitions: What the source says of a relation's shape.
            sending: How shards are made to send.
            overflow: Where what does not fit into memory goes.
        """
        self.tables = tables
        self.shard_map = tables.shard_map
        self.shards = shards
        self.locations = locations
        self.loose = False
        self.decisions = Decisions()
        self.unsettled = Unsettled(overflow.spool)
        self.missed: dict[TableName, int] = {}
        self._fetch_missing = fetch_missing
        self._skips = skips
        self._definitions = definitions
        self._sending = sending
        self._overflow = overflow
        self._identities = frozenset(table.own for table in tables.by_leaf.values())
        self._plans: dict[Relation, RelationPlan] = {}
        self._plans_by_id: dict[int, tuple[Relation, RelationPlan]] = {}
        self._names = self.shard_map.shard_names
        self._bits = {name: 1 << number for number, name in enumerate(self._names)}
        self._types: dict[int, dict[str, str | None]] = {}
        self._parent_columns: dict[int, tuple[Column, ...]] = {}
        self._evaluated: dict[tuple[int, str], str | None] = {}
        self._pending: PendingInserts | None = None
        self._unsent_bytes = 0
        self.remembers_all = True
        """Whether `locations` has every key that this batch has put somewhere or taken away, so that the shards' last
        commit tells the rest."""

    def begin(self) -> None:
        """Start a batch."""
        self.decisions = Decisions()
        self.unsettled.clear()
        self.missed = {}
        self._unsent_bytes = 0
        self.remembers_all = True

    def forget(self) -> None:
        """Forget what was learnt in a batch that is rolled back."""
        self.locations.forget_all()
        self._types.clear()
        self.begin()

    def route(self, transactions: Sequence[Transaction]) -> None:
        """Route whole transactions of the batch, in one call or several.

        Raises UnroutableError or DriftError; the caller then rolls back.
        """
        if (
            kernel.IS_COMPILED
            and all(shard.merging for shard in self.shards)
            and not self.loose
            and not any(one.changes.streamed for one in transactions)
        ):
            self._route_plain(transactions)
            return
        self.remembers_all = False
        for window, size_bytes in windows(transactions, WINDOW_CHANGES, WINDOW_BYTES):
            if self.locations.is_full:
                self.relieve()
            self._look_up([change for _, change in window])
            self._send(size_bytes, FLUSH_OPERATIONS, FLUSH_BYTES)
            for transaction, change in window:
                self.route_general(transaction, change)
            self._evaluated.clear()
            self.keep_decisions()
        self._pending = None

    def _route_plain(self, transactions: Sequence[Transaction]) -> None:
        """Route as `route` does, plain changes the compiled way."""
        windows = kernel.compiled.Windows(self, transactions, PLAIN_WINDOW_CHANGES, PLAIN_WINDOW_BYTES)
        decider = kernel.compiled.Plain(self)
        while (window := windows.next()) is not None:
            changes, size_bytes, wanted, general = window
            for space, keys in wanted:
                self.locations.fetch(space, keys)
            self._look_up(general)
            self._send(size_bytes, PLAIN_FLUSH_OPERATIONS, PLAIN_FLUSH_BYTES)
            decider.route(changes)
            self._evaluated.clear()
            self.keep_decisions()
            if self.locations.is_full:  # before the next window is read, which looks at what is known
                self.relieve()
        self._pending = None

    def route_general(self, transaction: Transaction, change: Change) -> None:
        """Route one change of a transaction, whatever it is."""
        self.remembers_all = False
        if self._pending is None or self._pending.transaction is not transaction:
            self._pending = PendingInserts(self, transaction)
        self._route(change, transaction.xid)

    def _send(self, coming_bytes: int, operations_max: int, bytes_max: int) -> None:
        """Have shards send what waits, if it is much, while the next window of so many bytes is routed."""
        are_all = self._unsent_bytes >= bytes_max
        for shard in self.shards:
            if shard.pending >= operations_max or (are_all and shard.pending):
                self._sending.start(shard)
        self._unsent_bytes = coming_bytes if are_all else self._unsent_bytes + coming_bytes

    def flush(self) -> None:
        """Send what waits on every shard, to all at once."""
        self._sending.on_all(ShardSession.flush)

    def relieve(self) -> None:
        """Send what waits, after which where rows are can be asked of the shards again, and need not be remembered."""
        self.flush()
        self._unsent_bytes = 0
        self.remembers_all = False
        self.locations.trim(self._identities)

    def keep_decisions(self) -> None:
        """Have the decisions so far kept elsewhere if they are many."""
        if self.decisions.is_full:
            self._overflow.keep_part(self.decisions.part, self.decisions.to_bytes())
            self.decisions = self.decisions.next_part()

    def plan_of(self, relation: Relation) -> RelationPlan:
        """Return where a relation's columns stand; refuses one whose shape the shards do not have.

        A relation that is decoded again is another object, often by the thousand, and hashing it costs: so by id first.
        """
        found = self._plans_by_id.get(id(relation))
        if found is not None:
            return found[1]
        plan = self._plans.get(relation)
        if plan is None:
            self._definitions.refuse_drift(self.tables.of(relation).table, relation)
            plan = self._plans[relation] = RelationPlan(self.tables, relation, self.locations.within)
        if len(self._plans_by_id) >= PLANS_MAX:
            self._plans_by_id.clear()
        self._plans_by_id[id(relation)] = (relation, plan)
        return plan

    # looking up

    def _look_up(self, window: list[Change]) -> None:
        """Ask the shards once for every key that the window's changes will need."""
        wanted: dict[Keyspace, list[Key]] = {}
        expressions: list[tuple[SplitBySql, RelationPlan, Row]] = []
        for change in window:
            if isinstance(change, Truncate):
                continue
            plan = self.plan_of(change.relation)
            if not isinstance(change, Insert) or self.loose:
                key = plan.own_key(_row_with_key(change))
                if key and key not in plan.located and self._is_located(plan.table):
                    wanted.setdefault(plan.table.own, []).append(key)
            if not isinstance(change, Delete):
                self._want_parent(plan, change.new, wanted, expressions)
        for space, keys in wanted.items():
            self.locations.fetch(space, keys)
        for rule, plan, row in expressions:
            self.evaluate(rule, plan, row)

    def _want_parent(
        self,
        plan: RelationPlan,
        row: Row,
        wanted: dict[Keyspace, list[Key]],
        expressions: list[tuple[SplitBySql, RelationPlan, Row]],
    ) -> None:
        rule = plan.table.rule
        plain_parent = plan.parent_of(row)
        if plain_parent is not None:
            parent, parent_key = plain_parent
            if parent_key not in parent.located:
                wanted.setdefault(parent.space, []).append(parent_key)
            return
        if isinstance(rule, SplitBySql):
            expressions.append((rule, plan, row))
        if not isinstance(rule, Follows):
            return
        values = plan.deciding_values(row)
        if values is None:
            return
        path, key = deciding_path(rule, values)
        if path:
            wanted.setdefault(Keyspace(path.references, path.to), []).append(self.parent_key(path, key))

    def parent_key(self, path: Path, key: Key) -> Key:
        """Return a child's values in the form in which the parent's key is known."""
        columns = self._parent_columns.get(id(path))
        if columns is None:
            table = self.tables.catalog.tables[path.references]
            columns = self._parent_columns[id(path)] = rewritten_columns(table, path.to)
        if not columns:
            return key
        return tuple(comparable(column, value) for column, value in zip(columns, key, strict=True))

    def evaluate(self, rule: SplitBySql, plan: RelationPlan, row: Row) -> None:
        """Let a shard evaluate the mapping's expression over a row that is not stored yet."""
        values = plan.deciding_values(row)
        if values is None:
            return
        key = (id(rule), repr(values))
        if key not in self._evaluated:
            self._evaluated[key] = evaluate_sql(self.shards[0], rule, plan.table, values)

    def _lookups(self, values: dict[str, str | None]) -> Lookups:
        return Lookups(
            parent_home=self.parent_home,
            referenced_value=self.referenced_value,
            evaluated=lambda rule: self._evaluated[(id(rule), repr(values))],
        )

    def parent_home(self, path: Path, key: Key) -> str | None:
        """Return the shard on which a parent is, also one that its transaction inserts later; None when nowhere."""
        space, parent = Keyspace(path.references, path.to), self.parent_key(path, key)
        shards = self.locations.of(space, parent)
        if not shards and self._pending is not None:
            shards = self._bits.get(self._pending.home_of(space, parent) or "", 0)
        return self.name_of(shards)

    def name_of(self, shards: int) -> str | None:
        """Return the first shard of a set; None of an empty one."""
        return self._names[(shards & -shards).bit_length() - 1] if shards else None

    def referenced_value(self, rule: SplitByReference, key: str) -> str | None:
        """Return the type's name that stands in a small reference table."""
        column = self.tables.catalog.tables[rule.references].column(rule.referenced_column)
        known = self._types.get(id(rule))
        if known is None:
            self.flush()
            types = read_types(self.shards[0], rule)
            known = self._types[id(rule)] = {comparable(column, own) if column else own: v for own, v in types.items()}
        return known.get(comparable(column, key) if column else key)

    def home_mask(self, plan: RelationPlan, row: Row) -> int | None:
        """Return the shard set of a row's home; 0 when it cannot be decided, None when a deciding value is left out."""
        if found := plan.home_mask(row):
            return found
        values = plan.deciding_values(row)
        if values is None:
            return None
        home = home_of(plan.table.rule, values, shard_map=self.shard_map, lookups=self._lookups(values))
        if home and plan.homes is not None and len(plan.homes) < HOMES_MAX:
            plan.homes[row[plan.deciding[0][1]]] = self._bits[home]
        return self._bits[home] if home else 0

    # routing

    def _route(self, change: Change, xid: int) -> None:
        if isinstance(change, Truncate):
            self._truncate(change, xid)
            return
        plan = self.plan_of(change.relation)
        if self._skips(plan.table, xid):
            self.decisions.masks.append(0)
        elif not plan.table.keyed:
            self._route_keyless(plan, change)
        elif isinstance(change, Insert):
            self._insert(plan, change.new)
        elif isinstance(change, Update):
            self._update(plan, change)
        else:
            self._delete(plan, change)
        if plan.table.names_types:
            self._types_changed(plan, change)

    def _insert(self, plan: RelationPlan, row: Row) -> None:
        home = self.home_mask(plan, row) or 0
        key = plan.own_key(row)
        if not home:
            home = self._without_home(plan, key)
        if self.loose and key:
            self._remove_from(plan, key, self.locations.of(plan.table.own, key) & ~home)
        emit_insert(self.shards, plan, row, home)
        self.decisions.masks.append(home)
        self._is_at(plan, row, home)
        self._came(plan, row)

    def _without_home(self, plan: RelationPlan, key: Key | None) -> int:
        """Park a row whose home cannot be decided yet: at the end of its transaction it may be, else settling refuses.

        A key that changes by ON UPDATE CASCADE over two columns leaves a row for a moment with a parent that is gone.
        """
        if key is None:
            self.unsettled.tables.add(plan.table.root)
        else:
            self.unsettled.add_row(plan.table.leaf, key)
        return plan.table.allowed_mask & -plan.table.allowed_mask

    def _update(self, plan: RelationPlan, change: Update) -> None:
        table = plan.table
        old_key = plan.own_key(change.old if change.old_kind else change.new)
        new_key = plan.own_key(change.new) or old_key
        if old_key is None or new_key is None:
            raise unroutable(plan, change.new)
        at = self._where(plan, old_key)
        if self.loose and new_key != old_key:  # a later snapshot may have brought another row under the old key
            self._remove_from(plan, old_key, at)
            self.locations.put(table.own, old_key, 0)
            at = 0
        if not at or (self.loose and table.fixed_mask not in {None, at}):
            self._update_of_absent(plan, change, new_key)
            return
        if self.loose and table.fixed_mask is None and at & (at - 1):
            self._remove_from(plan, old_key, at & (at - 1))
            at &= -at
        if self.home_mask(plan, change.new) != at:
            self.unsettled.add_row(table.leaf, new_key)
        self._note_followers(plan, change, old_key, at)
        emit_update(self.shards, plan, change, at)
        self.decisions.masks.append(at)
        if new_key != old_key:
            self.locations.put(table.own, old_key, 0)
        self._is_at(plan, change.new, at)

    def _note_followers(self, plan: RelationPlan, change: Update, old_key: Key, at: int) -> None:
        """Have followers without a foreign key looked at again when the key they follow changes."""
        for space, parts in plan.undeclared:
            new = key_of(change.new, parts)
            if new is None:
                continue
            old = self._old_value(plan, change, space, old_key=old_key, at=at)
            if old != new:
                self.unsettled.add_parent(space, new)
                if old is not None:
                    self.unsettled.add_parent(space, old)
                    self.locations.put(space, old, 0)

    def _old_value(self, plan: RelationPlan, change: Update, space: Keyspace, *, old_key: Key, at: int) -> Key | None:
        if space.columns == plan.table.own.columns:
            return old_key
        if change.old_kind == "O":
            return key_of(change.old, dict(plan.undeclared)[space])
        self.flush()
        shard = self.shards[(at & -at).bit_length() - 1]
        return read_columns(shard, plan.table, old_key, space.columns)

    def _update_of_absent(self, plan: RelationPlan, change: Update, key: Key) -> None:
        """Before the shards are consistent a row may have escaped the copy: it is put where it belongs, complete."""
        leaf = plan.table.leaf
        self.decisions.masks.append(0)
        if not self.loose:
            self.missed[leaf] = self.missed.get(leaf, 0) + 1
            return
        left_out = tuple(name for name, value in zip(plan.columns, change.new, strict=True) if value is UNCHANGED)
        filled = self._fetch_missing(plan.table, key, left_out) if left_out else {}
        if filled is None:
            return
        row = tuple(
            filled[name] if value is UNCHANGED else value for name, value in zip(plan.columns, change.new, strict=True)
        )
        home = self.home_mask(plan, row) or self._without_home(plan, key)
        self._remove_from(plan, key, self.locations.of(plan.table.own, key) & ~home)
        self._explicit(home, PUT, plan, plan.columns, plain(row))
        self._is_at(plan, row, home)
        self._came(plan, row)

    def _is_located(self, table: TailTable) -> bool:
        """Whether a table's rows have to be looked for: before consistency also those of a whole table."""
        return table.fixed_mask is None or self.loose

    def _where(self, plan: RelationPlan, key: Key) -> int:
        """Return the shards that have a row."""
        table = plan.table
        if table.fixed_mask is not None and not self.loose:
            return table.fixed_mask
        found = plan.located.get(key)
        return self.locations.of(table.own, key) if found is None else found

    def _delete(self, plan: RelationPlan, change: Delete) -> None:
        table = plan.table
        key = plan.own_key(change.old)
        if key is None:
            raise unroutable(plan, change.old)
        at = self._where(plan, key)
        if not at and not self.loose:
            self.missed[table.leaf] = self.missed.get(table.leaf, 0) + 1
        self._went(plan, change, key, at)
        emit_delete(self.shards, plan, change.old, at)
        self.decisions.masks.append(at)
        if self._is_located(table):
            plan.located[key] = 0

    def _went(self, plan: RelationPlan, change: Delete, key: Key, at: int) -> None:
        table = plan.table
        for space in table.tracked:
            if set(space.columns) == set(table.own.columns):
                ordered = tuple(key[table.own.columns.index(name)] for name in space.columns)
                self.locations.put(space, ordered, 0)
        for space in table.undeclared:
            old = self._deleted_value(plan, change, space, key=key, at=at)
            if old is not None:
                self.unsettled.add_parent(space, old)
                self.locations.put(space, old, 0)

    def _deleted_value(self, plan: RelationPlan, change: Delete, space: Keyspace, *, key: Key, at: int) -> Key | None:
        own = plan.table.own.columns
        if set(space.columns) == set(own):
            return tuple(key[own.index(name)] for name in space.columns)
        if change.old_kind == "O":
            return key_of(change.old, dict(plan.undeclared)[space])
        if not at:
            return None
        self.flush()
        return read_columns(self.shards[(at & -at).bit_length() - 1], plan.table, key, space.columns)

    def _came(self, plan: RelationPlan, row: Row) -> None:
        for space, parts in plan.undeclared:
            key = key_of(row, parts)
            if key is not None:
                self.unsettled.add_parent(space, key)

    def _is_at(self, plan: RelationPlan, row: Row, shards: int) -> None:
        table = plan.table
        if self._is_located(table) and (key := plan.own_key(row)):
            plan.located[key] = shards
        for space, parts in plan.tracked:
            key = key_of(row, parts)
            if key is not None:
                if self.locations.known(space, key) & ~shards:  # a child may have followed the one that had it before
                    self.unsettled.add_parent(space, key)
                self.locations.put(space, key, shards)

    def _remove_from(self, plan: RelationPlan, key: Key, shards: int) -> None:
        """Take a row away from shards where a copy under another snapshot had put it."""
        if shards:
            self._explicit(shards, REMOVE, plan, plan.table.own.columns, key)

    def _explicit(
        self, shards: int, kind: str, plan: RelationPlan, columns: tuple[str, ...], values: tuple[str | None, ...]
    ) -> None:
        for shard in self.shards:
            if shards >> shard.number & 1:
                self.do_explicit(shard, kind, plan.table.leaf, columns, values)

    def do_explicit(
        self, shard: ShardSession, kind: str, leaf: TableName, columns: tuple[str, ...], values: tuple[str | None, ...]
    ) -> None:
        """Queue an operation that is no plain change, and remember it for a replay."""
        explicit = Explicit(self.decisions.changes, shard.number, kind, leaf, columns, values)
        self.decisions.add_explicit(explicit)
        shard.add_explicit(explicit)

    # rare changes

    def _route_keyless(self, plan: RelationPlan, change: Insert | Update | Delete) -> None:
        """Find one of several equal rows by all its values (pitfall 24); it leaves and comes back with new ones."""
        if not isinstance(change, Insert):
            self._remove_keyless(plan, change.old)
        if not isinstance(change, Delete):
            row = change.new
            if isinstance(change, Update):
                row = tuple(o if n is UNCHANGED else n for o, n in zip(change.old, change.new, strict=True))
            home = self.home_mask(plan, row) or self._without_home(plan, None)
            self._explicit(home, PUT, plan, plan.columns, plain(row))
            self._is_at(plan, row, home)
            self._came(plan, row)
            if isinstance(change, Update):
                self._look_at_followers(plan, row)
        self.decisions.masks.append(0)

    def _remove_keyless(self, plan: RelationPlan, row: Row) -> None:
        old = plan.cast_to_text(row)
        shard = self._holder_of(plan, old)
        if shard is None:
            self.missed[plan.table.leaf] = self.missed.get(plan.table.leaf, 0) + 1
        else:
            self._explicit(1 << shard, REMOVE_ONE, plan, plan.columns, old)
        for space, key in self._look_at_followers(plan, row):
            self.locations.put(space, key, 0)

    def _look_at_followers(self, plan: RelationPlan, row: Row) -> list[tuple[Keyspace, Key]]:
        """Have everything that follows a row looked at when the batch is settled; returns by what it is followed."""
        found = [(space, key) for space, parts in plan.tracked if (key := key_of(row, parts)) is not None]
        for space, key in found:
            self.unsettled.add_parent(space, key)
        return found

    def _holder_of(self, plan: RelationPlan, values: tuple[str | None, ...]) -> int | None:
        self.flush()
        for shard in self.shards:
            if plan.table.allowed_mask >> shard.number & 1 and has_equal_row(shard, plan, values):
                return shard.number
        return None

    def truncated(self, change: Truncate, xid: int) -> list[RelationPlan]:
        """Return what a TRUNCATE empties: not what was copied under a snapshot that saw it."""
        return [plan for plan in map(self.plan_of, change.relations) if not self._skips(plan.table, xid)]

    def _truncate(self, change: Truncate, xid: int) -> None:
        plans = self.truncated(change, xid)
        emit_truncate(self.shards, change, [plan.table for plan in plans])
        self.decisions.masks.append((1 << len(self.shards)) - 1)
        for plan in plans:
            table = plan.table
            for space in (table.own, *table.tracked, *table.undeclared):
                self.locations.forget(space)
            if table.undeclared:
                followers = self.tables.followers.get(table.root, ())
                self.unsettled.tables.update(f.root for f in followers if not f.path.declared)
            if table.names_types:
                self._types.clear()

    def _types_changed(self, plan: RelationPlan, change: Insert | Update | Delete) -> None:
        """A row of a small table that names types changed: all that point to it are looked at again (pitfall 11)."""
        self._types.clear()
        space_parts = dict(plan.undeclared)
        for space, parts in space_parts.items():
            row = change.old if isinstance(change, Delete) else change.new
            key = key_of(row, parts)
            if key is not None:
                self.unsettled.add_parent(space, key)


def _row_with_key(change: Insert | Update | Delete) -> Row:
    """Return the tuple that holds the key by which a row is found, the old one where there is one."""
    if isinstance(change, Delete) or (isinstance(change, Update) and change.old_kind):
        return change.old
    return change.new
