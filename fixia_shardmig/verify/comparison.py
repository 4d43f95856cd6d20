"""Decides what differs, from digests and rows that others have read. No I/O.

Count, sum and xor are looked at together: two equal rows too many cancel in the xor, a pair of changes can cancel in
the sum, one missing and one extra in the count (pitfalls 55 and 56). Each shard is held against the rows whose home
it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.homes import EVERY_SHARD

Kind = Literal["missing", "extra", "differing", "misplaced", "duplicated"]

NAMED_MAX = 2_000
"""Differences named for one table; the rest is counted by kind. Enough for a repair's round, and 2 MB at most."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a bucket of rows amounts to. Two equal ones mean equal rows, but for a chance of about 2^-128."""

    count: int
    sum: Decimal
    xor: int


Digests = Mapping[tuple[int, int], Digest]
"""(home, bucket) -> digest. On a shard the home is the shard's own number."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row, or `copies` equal ones of a table without a key, whose `key` is empty and which is told by `columns`.

    `columns` is the text of an int8 array, one hash for each of the layout's fields.
    """

    home: int
    key: tuple[str | None, ...]
    columns: str
    copies: int
    shown: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not as it should be on one shard.

    Attributes:
        shard: Where it is wrong: where the row is missing, differs, is too many, or stands without belonging there.
        key: Key column -> text; for a table without a key `{"row": …}`, shortened.
        columns: What differs, for `differing` and for a misplaced row that was also changed.
        home: Where the row belongs, for `misplaced` and `duplicated`.
        copies: How many equal rows, more than one only in a table without a key.
        identity: The row's key texts; in a table without a key the text of its columns' hashes.
    """

    table: TableName
    shard: str
    key: Mapping[str, str | None]
    kind: Kind
    columns: tuple[str, ...] = ()
    home: str = ""
    copies: int = 1
    identity: tuple[str | None, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Names:
    """What turns numbers into names: the table, its key, its compared columns, and the shards in their order."""

    table: TableName
    key: tuple[str, ...]
    columns: tuple[str, ...]
    shards: tuple[str, ...]


@dataclass(slots=True)
class Differences:
    """The differences of one table: the first ones named, all of them counted by shard and kind."""

    named: list[Difference] = field(default_factory=list)
    counts: dict[tuple[str, Kind], int] = field(default_factory=lambda: defaultdict(int))

    def add(self, difference: Difference) -> None:
        """Count one, and name it while there is room."""
        self.counts[difference.shard, difference.kind] += difference.copies
        if len(self.named) < NAMED_MAX:
            self.named.append(difference)

    @property
    def total(self) -> int:
        """Return how many rows differ."""
        return sum(self.counts.values())


def key_text(key: Mapping[str, str | None]) -> str:
    """Return what names a row, for people: `id=4, part=NULL`."""
    return ", ".join(f"{name}={'NULL' if text is None else text}" for name, text in key.items())


def combined(left: Digests, right: Digests) -> Digests:
    """Return the digests of two parts of a table taken together."""
    whole = dict(left)
    for place, other in right.items():
        known = whole.get(place)
        whole[place] = other if known is None else _sum(known, other)
    return whole


def _sum(one: Digest, other: Digest) -> Digest:
    return Digest(one.count + other.count, one.sum + other.sum, one.xor ^ other.xor)


def expected_on(shard: int, source: Digests) -> dict[int, Digest]:
    """Return the source's digests by bucket as one shard should show them."""
    return {bucket: digest for (home, bucket), digest in source.items() if home in (shard, EVERY_SHARD)}


def differing_buckets(source: Digests, shards: Mapping[int, Digests]) -> frozenset[int]:
    """Return the buckets in which some shard does not hold what the source says it should."""
    found: set[int] = set()
    for shard, digests in shards.items():
        expected = expected_on(shard, source)
        actual = {bucket: digest for (_, bucket), digest in digests.items()}
        found |= {bucket for bucket in expected.keys() | actual.keys() if expected.get(bucket) != actual.get(bucket)}
    return frozenset(found)


def compare_rows(names: Names, source: Iterable[Row], shards: Mapping[int, Iterable[Row]]) -> Iterator[Difference]:
    """Yield every difference among all rows of one bucket."""
    expected: dict[tuple[str | None, ...], list[Row]] = defaultdict(list)
    actual: dict[tuple[str | None, ...], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in source:
        expected[_identity(row)].append(row)
    for shard, rows in shards.items():
        for row in rows:
            actual[_identity(row)][shard].append(row)
    for identity in sorted(expected.keys() | actual.keys(), key=repr):
        yield from _one(names, expected.get(identity, []), actual.get(identity, {}))


def _identity(row: Row) -> tuple[str | None, ...]:
    return row.key or (row.columns,)


def _one(names: Names, expected: list[Row], actual: Mapping[int, list[Row]]) -> Iterator[Difference]:
    """Compare all rows of one identity. A source never has two with one key, nor two homes for equal rows."""
    if not expected:
        for shard, rows in sorted(actual.items()):
            yield _named(names, rows[0], shard, "extra", copies=_copies(rows))
        return
    row, copies = expected[0], _copies(expected)
    if row.home == EVERY_SHARD:
        for shard in range(len(names.shards)):
            yield from _at_home(names, row, shard, copies, actual.get(shard, []))
        return
    at_home = actual.get(row.home, [])
    elsewhere = [(shard, found) for shard, rows in sorted(actual.items()) if shard != row.home for found in rows]
    lacking = max(copies - _copies(at_home), 0)
    for shard, found in elsewhere:
        moved = min(lacking, found.copies)
        lacking -= moved
        copies -= moved
        if moved:
            changed = _changed(names, row, found)
            yield _named(names, row, shard, "misplaced", copies=moved, columns=changed, home=row.home)
        if found.copies > moved:
            yield _named(names, row, shard, "duplicated", copies=found.copies - moved, home=row.home)
    yield from _at_home(names, row, row.home, copies, at_home)


def _at_home(names: Names, row: Row, shard: int, copies: int, found: list[Row]) -> Iterator[Difference]:
    """Compare the rows on the shard where `copies` of them belong."""
    surplus = _copies(found) - copies
    if surplus < 0:
        yield _named(names, row, shard, "missing", copies=-surplus)
    if surplus > 0:
        yield _named(names, row, shard, "duplicated", copies=surplus, home=shard)
    if found and all(other.columns != row.columns for other in found):
        yield _named(names, row, shard, "differing", columns=_changed(names, row, found[0]))


def _copies(rows: list[Row]) -> int:
    return sum(row.copies for row in rows)


def _changed(names: Names, row: Row, other: Row) -> tuple[str, ...]:
    pairs = zip(names.columns, _hashes(row), _hashes(other), strict=True)
    return tuple(name for name, left, right in pairs if left != right)


def _hashes(row: Row) -> list[str]:
    return row.columns.strip("{}").split(",")


def _named(
    names: Names,
    row: Row,
    shard: int,
    kind: Kind,
    *,
    copies: int = 1,
    columns: tuple[str, ...] = (),
    home: int | None = None,
) -> Difference:
    key = dict(zip(names.key, row.key, strict=True)) if names.key else {"row": row.shown}
    belongs = "" if home is None else names.shards[home]
    return Difference(
        names.table,
        names.shards[shard],
        key,
        kind,
        columns=columns,
        home=belongs,
        copies=copies,
        identity=_identity(row),
    )
