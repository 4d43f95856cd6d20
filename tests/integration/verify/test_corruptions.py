"""Seeded random corruption of a small marketplace: all of it is found and rightly named, and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg import sql

from fixia_shardmig.mapping.shard_map import Follows, OnShard, Path, Reference, Rule, SplitByColumn
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify import layouts
from fixia_shardmig.verify.queries import BUCKETS_MAX
from tests.integration.verify.conftest import SHARDS, World

CORRUPTIONS = 60
BUCKETS = {1: 1, 2: 16, 3: 256, 4: BUCKETS_MAX}
USERS = 120

SCHEMA = """
CREATE TABLE kinds (id text PRIMARY KEY, name text, price numeric);
CREATE TABLE templates (id text PRIMARY KEY, body jsonb);
CREATE TABLE users (id text PRIMARY KEY, user_type text, name text, born date);
CREATE TABLE services (id text PRIMARY KEY, owner text, price numeric, tags text[]);
CREATE TABLE projects (id text PRIMARY KEY, client text, title text, budget float8);
CREATE TABLE jobs (id text PRIMARY KEY, project text, state text, at timestamptz);
CREATE TABLE milestones (job text, position text, note text, PRIMARY KEY (job, position));
CREATE TABLE notes (owner text, body text, seen boolean);
"""
KEYS = {
    **dict.fromkeys(("kinds", "templates", "users", "services", "projects", "jobs"), ("id",)),
    "milestones": ("job", "position"),
    "notes": (),
}
VALUES = {
    "name": ("Ana", "ana", "", None),
    "price": ("1.10", "1.1", "NaN", None),
    "body": ('{"a": 1}', '{"a": 1.0}', "[]", None),
    "born": ("2000-02-29", "infinity", "0001-01-01 BC", None),
    "tags": ("{}", "{NULL}", '{"NULL"}', None),
    "title": ("a", "a ", "\\", None),
    "budget": ("0", "-0", "NaN", None),
    "state": ("open", "done", "", None),
    "at": ("2024-01-01 00:00:00+00", "2024-01-01 00:00:00.000001+00", "-infinity", None),
    "note": ("x", "NULL", "", None),
    "seen": ("true", "false", None),
}
HOMES = {"professional": "professionals", "client": "clients", "admin": "shared"}


def _follows(column: str, parent: str) -> Follows:
    return Follows((Path((column,), TableName.parse(parent), ("id",), declared=False),))


RULES: dict[str, Rule] = {
    "kinds": Reference(),
    "templates": OnShard("shared"),
    "users": SplitByColumn("user_type", HOMES),
    "services": _follows("owner", "users"),
    "projects": _follows("client", "users"),
    "jobs": _follows("project", "projects"),
    "milestones": _follows("job", "jobs"),
    "notes": _follows("owner", "users"),
}

Row = dict[str, str | None]
Named = tuple[str, str, str, tuple[str | None, ...], tuple[str, ...], str]


@dataclass
class Market:
    """Rows by table with the shard on which each lives ('*': all), made without any of the code under test."""

    random: random.Random
    rows: dict[str, list[tuple[str, Row]]] = field(default_factory=dict)

    def add(self, table: str, home: str, **given: str) -> None:
        """Add a row with random values in the columns that are not given."""
        columns = {c: self.random.choice(VALUES[c]) for c in _columns(table) if c not in given}
        self.rows.setdefault(table, []).append((home, {**given, **columns}))

    def fill(self) -> None:
        """Give every user some of everything."""
        for number in range(20):
            self.add("kinds", "*", id=f"k{number}")
            self.add("templates", "shared", id=f"t{number}")
        for number in range(USERS):
            kind = self.random.choice(list(HOMES))
            home, user = HOMES[kind], f"u{number}"
            self.add("users", home, id=user, user_type=kind)
            for part in range(self.random.randrange(4)):
                thing = f"{number}-{part}"
                self.add("services", home, id=f"s{thing}", owner=user)
                self.add("projects", home, id=f"p{thing}", client=user)
                self.add("jobs", home, id=f"j{thing}", project=f"p{thing}")
                self.add("milestones", home, job=f"j{thing}", position=str(part))
                self.add("notes", home, owner=user, body=f"note {thing}")


def _columns(table: str) -> list[str]:
    block = SCHEMA.split(f"CREATE TABLE {table} (")[1].split(");", maxsplit=1)[0]
    return [part.split()[0] for part in block.split(", PRIMARY KEY (")[0].split(", ")]


@dataclass
class Corruptor:
    """Spoils shards and writes down what a comparison has to say about it."""

    random: random.Random
    shards: dict[str, psycopg.Connection]
    expected: set[Named] = field(default_factory=set)
    number: int = 0

    def corrupt(self, table: str, home: str, row: Row) -> None:
        """Spoil one row, or put a new one beside it."""
        self.number += 1
        where = self.random.choice(SHARDS) if home == "*" else home
        other = self.random.choice([shard for shard in SHARDS if shard != where])
        kinds = ["missing", "extra", "differing", *(() if home == "*" else ("misplaced", "duplicated"))]
        match self.random.choice(kinds):
            case "missing":
                self._delete(where, table, row)
                self._expect("missing", where, table, row)
            case "extra":
                new: Row = {**row, **dict.fromkeys(KEYS[table] or ("body",), f"new {self.number}")}
                self._insert(where, table, new)
                self._expect("extra", where, table, new)
            case "differing":
                self._change(where, table, row)
            case "misplaced":
                self._delete(where, table, row)
                self._insert(other, table, row)
                self._expect("misplaced", other, table, row, home=home)
            case _:
                where = self.random.choice([other, where]) if not KEYS[table] else other
                self._insert(where, table, row)
                self._expect("duplicated", where, table, row, home=home)

    def _change(self, shard: str, table: str, row: Row) -> None:
        free = [column for column in row if column in VALUES and not (table == "notes" and column == "body")]
        column = self.random.choice(free)
        changed = {**row, column: self.random.choice([v for v in VALUES[column] if v != row[column]])}
        self._delete(shard, table, row)
        self._insert(shard, table, changed)
        if KEYS[table]:
            self._expect("differing", shard, table, row, columns=(column,))
        else:
            self._expect("missing", shard, table, row)
            self._expect("extra", shard, table, changed)

    def _expect(
        self, kind: str, shard: str, table: str, row: Row, *, columns: tuple[str, ...] = (), home: str = ""
    ) -> None:
        self.expected.add((kind, shard, table, _name(table, row), columns, home))

    def _delete(self, shard: str, table: str, row: Row) -> None:
        terms = [sql.SQL("{}::text = {}").format(sql.Identifier(k), row[k]) for k in KEYS[table] or ("body",)]
        query = sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), sql.SQL(" AND ").join(terms))
        assert 1 == self.shards[shard].execute(query).rowcount

    def _insert(self, shard: str, table: str, row: Row) -> None:
        insert(self.shards[shard], table, row)


def insert(connection: psycopg.Connection, table: str, row: Row) -> None:
    """Insert one row; each value is read by its column's type."""
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(map(sql.Literal, row.values())),
    )
    connection.execute(query)


def _name(table: str, row: Row) -> tuple[str | None, ...]:
    if KEYS[table]:
        return tuple(row[column] for column in KEYS[table])
    pairs = ", ".join(f"{json.dumps(column)} : {json.dumps(row[column])}" for column in sorted(row))
    return ("{" + pairs + "}",)


def _connections(world: World) -> Iterator[tuple[str, psycopg.Connection]]:
    for side, url in world.urls.items():
        yield side, psycopg.connect(url, autocommit=True)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_sixty_random_corruptions_are_all_found_and_rightly_named(
    world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfalls 55 and 56: whatever is removed, added, changed, moved or doubled is named once, and nothing else is.

    With one bucket for all rows, with a few, and with one for each.
    """
    monkeypatch.setattr(layouts, "buckets_for", lambda *_: BUCKETS[seed])
    chance = random.Random(seed)
    market = Market(chance)
    market.fill()
    world.everywhere(SCHEMA)
    connections = dict(_connections(world))
    for table, rows in market.rows.items():
        for home, row in rows:
            for side in ("source", *(SHARDS if home == "*" else (home,))):
                insert(connections[side], table, row)
    assert world.compare(RULES).equal
    corruptor = Corruptor(chance, {shard: connections[shard] for shard in SHARDS})
    everything = [(table, home, row) for table, rows in market.rows.items() for home, row in rows]
    tables = list(market.rows)
    chance.shuffle(everything)
    everything.sort(key=lambda entry: chance.random() + (tables.index(entry[0]) < 2) * -0.3)
    for table, home, row in everything[:CORRUPTIONS]:
        corruptor.corrupt(table, home, row)
    for connection in connections.values():
        connection.close()
    result = world.compare(RULES, jobs=1 + seed)
    found = {(d.kind, d.shard, str(d.table), tuple(d.key.values()), d.columns, d.home) for d in result.differences}
    assert corruptor.expected == found
    assert len(corruptor.expected) == result.differences_total
    spoiled = {(table, shard) for _, shard, table, *_ in corruptor.expected}
    spoiled |= {(table, home) for kind, _, table, _, _, home in corruptor.expected if kind == "misplaced"}
    assert spoiled == {(str(entry.table), entry.shard) for entry in result.tables if not entry.equal}
