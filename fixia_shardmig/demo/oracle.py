"""An independent judge: is each row of the source on exactly one shard, the right one, unchanged?

It knows Fixia's split by itself and shares no code with placement, copy, tail, verify or mapping, so that a mistake of
theirs cannot hide here. Rows are read whole, as text, and compared by hash; homes are found by walking dictionaries.
It must be called while nobody writes. After the writers moved to the shards their ledger says which rows may differ.
Refuses a table it does not know, rather than passing over it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import NamedTuple

import psycopg
from psycopg import sql

from fixia_shardmig.demo.ledger import Entry
from fixia_shardmig.model.errors import RefusedError

PINNED = (
    "-c client_encoding=UTF8 -c datestyle=ISO -c timezone=UTC -c intervalstyle=postgres "
    "-c extra_float_digits=3 -c bytea_output=hex -c row_security=off"
)

SOURCE = "source"

_SHARD_OF_TYPE = {b"professional": "professionals", b"dual": "professionals", b"client": "clients", b"admin": "shared"}

_ON_EVERY_SHARD = frozenset({"categories", "subcategories", "_prisma_migrations"})
_ON_SHARED = frozenset({"review_templates", "contact_messages"})

_WITH_THE_USER_IN = {
    "user_id": (
        "professional_profiles portfolio_items payments payment_preferences notifications user_sessions user_activity "
        "password_history password_reset_tokens email_verification_tokens trust_scores role_trust_scores "
        "verification_requests favorites"
    ),
    "professional_id": "services proposals reviews",
    "client_id": "projects matches service_requests contact_interactions",
    "reviewer_id": "match_reviews",
    "to_user_id": "feedbacks",
}

# Table -> the references that may decide its home; the first that is not NULL does.
_LEADS: dict[str, tuple[tuple[str, str], ...]] = {
    **{table: ((column, "users"),) for column, tables in _WITH_THE_USER_IN.items() for table in tables.split()},
    "service_views": (("service_id", "services"),),
    "service_matches": (("service_request_id", "service_requests"),),
    "conversations": (("project_id", "projects"),),
    "jobs": (("project_id", "projects"),),
    "job_milestones": (("job_id", "jobs"),),
    "job_status_updates": (("job_id", "jobs"),),
    "review_helpful_votes": (("review_id", "reviews"),),
    "review_flags": (("review_id", "reviews"),),
    "phone_reveals": (("match_id", "matches"), ("service_match_id", "service_matches"), ("user_id", "users")),
}
_PARENTS = frozenset({"users"} | {parent for leads in _LEADS.values() for _, parent in leads})
_KNOWN = _ON_EVERY_SHARD | _ON_SHARED | {"users"} | set(_LEADS)

_NULL = rb"\N"  # COPY's text form; a text value that looks the same comes as \\N

_TABLES = "select tablename from pg_tables where schemaname = 'public'"
_COLUMNS = (
    "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped "
    'order by attname collate "C"'
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that is not as it must be; `where` lists the shards it was found on."""

    table: str
    key: str
    where: tuple[str, ...]
    expected: str


@dataclass(slots=True)
class Judgement:
    """What the oracle found.

    Attributes:
        rows: Rows of the source, with those that the ledger adds.
        lost: On no shard (a reference table's row: not on each).
        doubled: On more than one shard, or more than once on one.
        misplaced: On one shard that is not its home.
        differing: At home with other contents than on the source.
        extra: On a shard although neither source nor ledger has it, or although the ledger deleted it.
        undecided: Rows whose home nothing decides, since what they refer to is gone; their place is not judged.
    """

    rows: int = 0
    lost: list[Finding] = field(default_factory=list[Finding])
    doubled: list[Finding] = field(default_factory=list[Finding])
    misplaced: list[Finding] = field(default_factory=list[Finding])
    differing: list[Finding] = field(default_factory=list[Finding])
    extra: list[Finding] = field(default_factory=list[Finding])
    undecided: int = 0

    @property
    def faultless(self) -> bool:
        """Whether every row is where and what it must be."""
        return not (self.lost or self.doubled or self.misplaced or self.differing or self.extra)

    def add(self, other: Judgement) -> None:
        """Add what another judgement found."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))


def judge(
    source_url: str,
    shard_urls: Mapping[str, str],
    *,
    ledger: Iterable[Entry] = (),
    snapshots: Mapping[str, str] | None = None,
) -> Judgement:
    """Compare every row of the source with the shards.

    Args:
        source_url: The database that was split; after the cutover: as it stood at the switch.
        shard_urls: By shard: professionals, clients, shared.
        ledger: What the writers committed to the shards since. Those rows are held only to be there exactly once, on
            their home, or to be gone; all others must still equal the source.
        snapshots: The moments to read at, by shard and `source`, as exported there; now where there is none.
    """
    judgement = Judgement()
    sides = {SOURCE: source_url, **shard_urls}
    connections: dict[str, psycopg.Connection] = {}
    try:
        for side, url in sides.items():
            connections[side] = psycopg.connect(url, options=PINNED)
            connections[side].execute("set transaction isolation level repeatable read read only")
            if snapshots and side in snapshots:
                connections[side].execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshots[side])))
        source = connections.pop(SOURCE)
        try:
            _judge_all(source, connections, _Since(ledger), judgement)
        finally:
            source.close()
    finally:
        for connection in connections.values():
            connection.close()
    return judgement


class _Since:
    """The ledger by table and key."""

    def __init__(self, ledger: Iterable[Entry]) -> None:
        self.balance: dict[str, Counter[bytes]] = defaultdict(Counter)
        self.uncertain: dict[str, set[bytes]] = defaultdict(set)
        for entry in ledger:
            key = entry.touch.key.encode()
            step = {"insert": 1, "update": 0, "delete": -1}[entry.touch.kind] if entry.certain else 0
            self.balance[entry.touch.table][key] += step
            if not entry.certain:
                self.uncertain[entry.touch.table].add(key)


class _Row(NamedTuple):
    """A row as it was read: its key, what its home is found by, and a hash of all its text."""

    key: bytes
    leads: tuple[bytes, ...]
    digest: int


def _judge_all(
    source: psycopg.Connection, shards: Mapping[str, psycopg.Connection], since: _Since, judgement: Judgement
) -> None:
    tables = {row[0] for row in source.execute(_TABLES).fetchall()}
    if unknown := sorted(tables - _KNOWN):
        raise RefusedError(f"the oracle does not know {', '.join(unknown)}", hint="add the table to demo/oracle.py")
    homes: dict[str, dict[bytes, str | None]] = {table: {} for table in _PARENTS}
    for table in sorted(tables, key=_depth):
        _Inquest(table, homes, since, judgement).hold(source, shards)


def _depth(table: str) -> tuple[int, str]:
    """Sort parents before children."""
    return (1 + max((_depth(parent)[0] for _, parent in _LEADS.get(table, ())), default=0), table)


class _Inquest:
    """The judgement of one table."""

    def __init__(
        self, table: str, homes: dict[str, dict[bytes, str | None]], since: _Since, judgement: Judgement
    ) -> None:
        self._table = table
        self._homes = homes
        self._touched = since.balance[table]
        self._uncertain = since.uncertain[table]
        self._judgement = judgement
        self._digests: dict[bytes, int] = {}
        self._own_homes: dict[bytes, str | None] = homes.get(table, {})
        self._found: dict[bytes, list[str]] = defaultdict(list)
        self._differs: set[bytes] = set()

    @cached_property
    def _lead_columns(self) -> tuple[str, ...]:
        return ("user_type",) if self._table == "users" else tuple(column for column, _ in _LEADS.get(self._table, ()))

    def hold(self, source: psycopg.Connection, shards: Mapping[str, psycopg.Connection]) -> None:
        """Read the table everywhere and add what is wrong to the judgement."""
        columns = _columns(source, self._table)
        for row in _read(source, self._table, self._lead_columns, columns):
            self._digests[row.key] = row.digest
            self._own_homes[row.key] = self._home(row)
        for shard, connection in shards.items():
            if _columns(connection, self._table):
                for row in _read(connection, self._table, self._lead_columns, columns):
                    self._meet(row, shard)
        self._conclude(tuple(shards))

    def _home(self, row: _Row) -> str | None:
        if self._table == "users":
            return _SHARD_OF_TYPE.get(row.leads[0])
        if self._table in _ON_SHARED:
            return "shared"
        for value, (_, parent) in zip(row.leads, _LEADS.get(self._table, ()), strict=True):
            if value != _NULL:
                return self._homes[parent].get(value)
        return None

    def _meet(self, row: _Row, shard: str) -> None:
        self._found[row.key].append(shard)
        if row.key in self._touched or row.key not in self._digests:
            self._own_homes[row.key] = self._home(row)
        elif row.digest != self._digests[row.key]:
            self._differs.add(row.key)

    def _conclude(self, shards: tuple[str, ...]) -> None:
        keys = self._digests.keys() | self._found.keys() | self._touched.keys()
        for key in keys:
            count = (key in self._digests) + self._touched[key] if key in self._touched else key in self._digests
            self._judgement.rows += bool(count)
            if self._table in _ON_EVERY_SHARD:
                self._judge_copies(key, bool(count), shards)
            else:
                self._judge_row(key, bool(count))

    def _judge_copies(self, key: bytes, expected: bool, shards: tuple[str, ...]) -> None:  # noqa: FBT001
        found = self._found.get(key, [])
        if not expected and found:
            self._add("extra", key, "nowhere")
        elif expected and set(found) != set(shards):
            self._add("lost", key, "every shard")
        elif len(found) > len(set(found)):
            self._add("doubled", key, "every shard once")
        elif key in self._differs:
            self._add("differing", key, "every shard")

    def _judge_row(self, key: bytes, expected: bool) -> None:  # noqa: FBT001 - the two readings of one ledger
        found = self._found.get(key, [])
        home = self._own_homes.get(key)
        if len(found) > 1:
            self._add("doubled", key, str(home))
        elif found and not expected and key not in self._uncertain:
            self._add("extra", key, "nowhere")
        elif not found and expected and key not in self._uncertain:
            self._add("lost", key, str(home))
        elif found and home is None:
            self._judgement.undecided += 1
        elif found and found != [home]:
            self._add("misplaced", key, str(home))
        elif key in self._differs:
            self._add("differing", key, str(home))

    def _add(self, verdict: str, key: bytes, expected: str) -> None:
        finding = Finding(self._table, key.decode(errors="replace"), tuple(self._found.get(key, [])), expected)
        findings: list[Finding] = getattr(self._judgement, verdict)
        findings.append(finding)


def _columns(connection: psycopg.Connection, table: str) -> tuple[str, ...]:
    """Return a table's columns by name, since their order may differ between the sides; nothing without the table."""
    qualified = sql.Identifier("public", table).as_string(connection)
    return tuple(row[0] for row in connection.execute(_COLUMNS, (qualified,)).fetchall())


def _read(
    connection: psycopg.Connection, table: str, leads: tuple[str, ...], columns: tuple[str, ...]
) -> Iterator[_Row]:
    """Yield a table's rows. COPY's text form escapes tabs and newlines, so that a tab is always a border."""
    listed = sql.SQL(", ").join(map(sql.Identifier, ("id", *leads, *columns)))
    query = sql.SQL("copy (select {} from {}) to stdout").format(listed, sql.Identifier("public", table))
    fields = 1 + len(leads)
    with connection.cursor().copy(query) as copy:
        for line in copy:
            key, *values = bytes(line).split(b"\t", fields)
            yield _Row(key, tuple(values[:-1]), hash(values[-1]))
