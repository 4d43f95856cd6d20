"""The model's source: five tables, their writers, what the slot sends of them, and where each row has to be.

Nothing here is the product's. Foreign keys hold at the end of a transaction and cascade as PostgreSQL's do: the
parent's change is decoded before its children's. A row version lies in a block; an untouched one stays there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from fixia_shardmig.mapping.shard_map import Endpoint, Follows, Path, ShardMap, SplitByColumn
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.pgoutput import UNCHANGED, Relation
from fixia_shardmig.postgres.pgoutput import Row as Tuple
from tests.fixtures.fix_catalogs import catalog, table
from tests.unit.postgres import pgoutput_bytes as write

SHARDS = ("north", "south", "west")
KINDS = {"a": "north", "b": "south", "c": "west"}
COLUMNS = {
    "users": ("id", "kind", "big"),
    "services": ("id", "owner", "title"),
    "reviews": ("id", "service", "author"),
    "notes": ("id", "service"),
    "log": ("owner", "n"),
}
REFERENCES = (
    ("services", "owner", "users"),
    ("reviews", "service", "services"),
    ("reviews", "author", "users"),
    ("log", "owner", "users"),
)
"""Declared foreign keys, with ON DELETE and ON UPDATE CASCADE. A note's service is none: it may be missing."""

KEYLESS = "log"
START = LSN(1000)

Values = dict[str, str | None]
Tables = dict[str, dict[str, "Version"]]
Statement = tuple[str, int, int, int, int]
"""What is done, three numbers of rows or values, and the block into which new row versions go."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a row and the block it lies in."""

    values: Values
    block: int


def _path(column: str, parent: str, *, declared: bool = True) -> Path:
    return Path((column,), TableName.parse(parent), ("id",), declared)


CATALOG = catalog(
    table("users", "id int4!", "kind text!", "big text"),
    table("services", "id int4!", "owner int4!", "title text"),
    table("reviews", "id int4!", "service int4", "author int4!"),
    table("notes", "id int4!", "service int4"),
    replace(table("log", "owner int4!", "n int4", pk=""), replica_identity="f"),
    keys=[f"{child}({column}) -> {parent}(id) c" for child, column, parent in REFERENCES],
)
SHARD_MAP = ShardMap(
    name="model",
    file="",
    source=Endpoint("postgresql:///source"),
    shards={name: Endpoint(f"postgresql:///{name}") for name in SHARDS},
    journal_shard="west",
    tables={
        TableName.parse("users"): SplitByColumn("kind", KINDS),
        TableName.parse("services"): Follows((_path("owner", "users"),)),
        TableName.parse("reviews"): Follows((_path("service", "services"), _path("author", "users"))),
        TableName.parse("notes"): Follows((_path("service", "services", declared=False),), otherwise="west"),
        TableName.parse("log"): Follows((_path("owner", "users"),)),
    },
)
RELATIONS = {
    name: Relation(
        oid=number,
        schema="public",
        name=name,
        replica_identity="f" if name == KEYLESS else "d",
        columns=columns,
        key_flags=tuple(name == KEYLESS or column == "id" for column in columns),
        type_oids=(25,) * len(columns),
        type_modifiers=(-1,) * len(columns),
    )
    for number, (name, columns) in enumerate(COLUMNS.items(), 1)
}


def home(name: str, row: Values, tables: Tables) -> str:
    """Return on which shard a row has to be, given all rows at one time. The test's own reading of the mapping."""
    match name:
        case "users":
            return KINDS[str(row["kind"])]
        case "services" | "log":
            return home("users", tables["users"][str(row["owner"])].values, tables)
        case "reviews" if row["service"] is None:
            return home("users", tables["users"][str(row["author"])].values, tables)
        case "reviews":
            return home("services", tables["services"][str(row["service"])].values, tables)
        case _:
            service = tables["services"].get(str(row["service"]))
            return home("services", service.values, tables) if service else "west"


def placed(tables: Tables) -> dict[str, dict[str, Counter[Tuple]]]:
    """Return by shard and table the rows that have to be there."""
    found = {shard: {name: Counter[Tuple]() for name in COLUMNS} for shard in SHARDS}
    for name, rows in tables.items():
        for version in rows.values():
            found[home(name, version.values, tables)][name][tuple(version.values.values())] += 1
    return found


def _copied(tables: Tables) -> Tables:
    return {name: dict(rows) for name, rows in tables.items()}


@dataclass(frozen=True, slots=True)
class Committed:
    """One transaction: its place in the WAL, its messages, and all rows after it."""

    xid: int
    commit_lsn: LSN
    end_lsn: LSN
    messages: tuple[bytes, ...]
    tables: Tables

    def frames(self) -> list[tuple[int, bytes]]:
        """Return what the slot sends of it."""
        first, last = write.begin(self.xid), write.commit(self.commit_lsn, self.end_lsn)
        return [(self.end_lsn, payload) for payload in (first, *self.messages, last)]


@dataclass
class Source:
    """The rows of now, and every transaction since the slot was made."""

    tables: Tables = field(default_factory=lambda: {name: {} for name in COLUMNS})
    committed: list[Committed] = field(default_factory=list)
    now: LSN = START

    @property
    def next_xid(self) -> int:
        """Return the xid of the next transaction: a snapshot of now sees all below it."""
        return 100 + len(self.committed)

    def write(self, statements: list[Statement]) -> bool:
        """Run one transaction; False if a foreign key rolls it back, or nothing was done."""
        writing = Writing(_copied(self.tables))
        for statement in statements:
            writing.run(statement)
        if not writing.messages or not writing.holds():
            return False
        commit_lsn = LSN(self.now + 8 * (len(statements) % 2))  # a commit record can follow another at once
        self.now = LSN(commit_lsn + 8)
        self.tables = writing.tables
        self.committed.append(
            Committed(self.next_xid, commit_lsn, self.now, tuple(writing.messages), _copied(self.tables))
        )
        return True

    def begin(self) -> None:
        """Make the slot: what was written so far is in the first snapshot only."""
        self.committed = [Committed(99, LSN(self.now - 8), self.now, (), _copied(self.tables))]

    def at(self, lsn: int) -> Tables:
        """Return all rows as of a position: what committed below it and nothing else."""
        return next(past.tables for past in reversed(self.committed) if past.commit_lsn < lsn)


class Writing:
    """One open transaction."""

    def __init__(self, tables: Tables) -> None:
        """Start from the rows of now."""
        self.tables = tables
        self.messages: list[bytes] = []
        self._told: set[str] = set()
        self._block = 0

    def run(self, statement: Statement) -> None:
        """Run a statement; one that hits no row, or a row that is there, does nothing."""
        what, one, two, three, self._block = statement
        STATEMENTS[what](self, str(one), str(two) if two else None, three)

    def holds(self) -> bool:
        """Whether every foreign key holds at the end of the transaction."""
        return all(
            version.values[column] is None or version.values[column] in self.tables[parent]
            for child, column, parent in REFERENCES
            for version in self.tables[child].values()
        )

    def insert(self, name: str, values: Values) -> None:
        """Insert a row."""
        key = values.get("id") or str(max(map(int, self.tables[name]), default=0) + 1)
        if key in self.tables[name]:
            return
        self.tables[name][key] = Version(values, self._block)
        self._tell(name, write.insert(RELATIONS[name].oid, tuple(values.values())))

    def update(self, name: str, key: str, **new: str | None) -> None:
        """Update a row; another key goes on to those that reference it."""
        version = self.tables[name].get(key)
        changed_key = new.get("id", key)
        if version is None or changed_key is None or (changed_key != key and changed_key in self.tables[name]):
            return
        values = version.values | new
        old, old_kind = self._old(name, version.values, changed=changed_key != key)
        shown = tuple(
            UNCHANGED if column == "big" and value is not None and value == version.values[column] else value
            for column, value in values.items()
        )
        del self.tables[name][key]
        self.tables[name][changed_key] = Version(values, self._block)
        self._tell(name, write.update(RELATIONS[name].oid, shown, old=old, old_kind=old_kind))
        if changed_key != key:
            for child, column, child_key in self._children(name, key):
                self.update(child, child_key, **{column: changed_key})

    def delete(self, name: str, key: str) -> None:
        """Delete a row, and then those that reference it."""
        version = self.tables[name].pop(key, None)
        if version is None:
            return
        old, old_kind = self._old(name, version.values, changed=True)
        self._tell(name, write.delete(RELATIONS[name].oid, old, old_kind))
        for child, _, child_key in self._children(name, key):
            self.delete(child, child_key)

    def truncate(self, name: str) -> None:
        """Empty a table that nothing references."""
        self.tables[name].clear()
        self._tell(name, write.truncate((RELATIONS[name].oid,), 0))

    def _old(self, name: str, values: Values, *, changed: bool) -> tuple[Tuple, str]:
        if name == KEYLESS:
            return tuple(values.values()), "O"
        if not changed:
            return (), ""
        return tuple(value if column == "id" else None for column, value in values.items()), "K"

    def _children(self, name: str, key: str) -> Iterator[tuple[str, str, str]]:
        for child, column, parent in REFERENCES:
            if parent == name:
                for child_key in [k for k, v in self.tables[child].items() if v.values[column] == key]:
                    yield child, column, child_key

    def _tell(self, name: str, message: bytes) -> None:
        if name not in self._told:
            self._told.add(name)
            self.messages.append(write.relation(RELATIONS[name]))
        self.messages.append(message)


Run = Callable[[Writing, str, str | None, int], None]


def _log_key(writing: Writing, owner: str) -> str:
    return next((key for key, version in writing.tables["log"].items() if version.values["owner"] == owner), "")


STATEMENTS: dict[str, Run] = {
    "user": lambda w, a, b, c: w.insert("users", {"id": a, "kind": "abc"[c - 1], "big": b and b * 9}),
    "kind": lambda w, a, _b, c: w.update("users", a, kind="abc"[c - 1]),
    "user key": lambda w, a, _b, c: w.update("users", a, id=str(c)),
    "user big": lambda w, a, b, _c: w.update("users", a, big=b and b * 9),
    "user gone": lambda w, a, _b, _c: w.delete("users", a),
    "service": lambda w, a, b, c: w.insert("services", {"id": a, "owner": str(c), "title": b}),
    "owner": lambda w, a, _b, c: w.update("services", a, owner=str(c)),
    "title": lambda w, a, b, _c: w.update("services", a, title=b),
    "service key": lambda w, a, _b, c: w.update("services", a, id=str(c)),
    "service gone": lambda w, a, _b, _c: w.delete("services", a),
    "review": lambda w, a, b, c: w.insert("reviews", {"id": a, "service": b, "author": str(c)}),
    "review service": lambda w, a, b, _c: w.update("reviews", a, service=b),
    "author": lambda w, a, _b, c: w.update("reviews", a, author=str(c)),
    "review key": lambda w, a, _b, c: w.update("reviews", a, id=str(c)),
    "review gone": lambda w, a, _b, _c: w.delete("reviews", a),
    "note": lambda w, a, b, _c: w.insert("notes", {"id": a, "service": b}),
    "note service": lambda w, a, b, _c: w.update("notes", a, service=b),
    "note gone": lambda w, a, _b, _c: w.delete("notes", a),
    "notes emptied": lambda w, _a, _b, _c: w.truncate("notes"),
    "log": lambda w, a, _b, c: w.insert("log", {"owner": a, "n": str(c % 2)}),
    "log owner": lambda w, a, _b, c: w.update("log", _log_key(w, a), owner=str(c)),
    "log gone": lambda w, a, _b, _c: w.delete("log", _log_key(w, a)),
}
"""What a writer can do, by a word for the history that is printed: (row, another row or NULL, a third number)."""
