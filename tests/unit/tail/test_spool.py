"""A spool's files against torn writes, flipped bits and the wrong owner. The streams are the little encoder's."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixia_shardmig.model.errors import HeldError, RefusedError, ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.framing import Frame
from fixia_shardmig.postgres.pgoutput import Insert, Relation
from fixia_shardmig.postgres.transactions import Transaction, TransactionReader
from fixia_shardmig.tail.spool import Spool, SpooledStream, extent_at, refuse_unusable, remove_spool, spool_path
from fixia_shardmig.tail.spool_files import Identity
from tests.unit.postgres import pgoutput_bytes as encode

USERS = Relation(1, "public", "users", "d", ("id",), (True,), (25,), (-1,))
OURS = Identity(system=7_001, timeline=1, slot="shardmig_shop", slot_lsn=LSN(1000))
SEGMENT = 600
"""Bytes: a few transactions a segment."""

RESUMED_EVERY = 11
"""At every so many-th byte the spool is gone on with too, which takes longer than reading it."""

Seen = list[tuple[int, tuple[str, ...]]]


def transaction(number: int) -> list[Frame]:
    """Return a transaction that ends at 1000 + 10 * number, of one row or several."""
    end = 1000 + 10 * number
    rows = [encode.insert(USERS.oid, (f"{number}.{row} {'x' * (number % 7)}",)) for row in range(1 + number % 3)]
    payloads = [encode.begin(number), *rows, encode.commit(end - 5, end)]
    return [(end - 5, payload) for payload in payloads]


def stream(first: int, last: int) -> list[Frame]:
    """Return what a new connection sends of transactions: the table's shape once, and keepalives, some inside."""
    frames: list[Frame] = []
    for number in range(first, last + 1):
        one = transaction(number)
        if number == first:
            one.insert(1, (0, encode.relation(USERS)))
        if number % 3 == 0:
            one.insert(2, (1000 + 10 * number + 3, b""))
        frames += one
        if number % 4 == 0:
            frames.append((1000 + 10 * number + 2, b""))
    return frames


def rows_of(number: int) -> tuple[str, ...]:
    """Return the keys that a transaction inserts."""
    return tuple(f"{number}.{row} {'x' * (number % 7)}" for row in range(1 + number % 3))


def expected(first: int, last: int) -> Seen:
    """Return transactions as `replayed` shows them."""
    return [(number, rows_of(number)) for number in range(first, last + 1)]


def fill(base: Path, first: int, last: int, *, reads: int = 5) -> LSN:
    """Append transactions in several reads, as a run of the spooler does; returns what it may acknowledge."""
    frames = stream(first, last)
    with contextlib.closing(Spool(base, OURS)) as spool:
        writer = spool.writer(OURS.slot_lsn, segment_bytes=SEGMENT)
        for at in range(0, len(frames), reads):
            writer.append(frames[at : at + reads])
        end = writer.sync()
        writer.close()
    return end


def replayed(base: Path, scratch: Path, *, start: LSN = OURS.slot_lsn) -> Seen:
    """Return the transactions that a tail would read from the spool."""
    reader = TransactionReader(scratch, message_prefixes=frozenset())
    with contextlib.closing(Spool(base, OURS)) as spool, contextlib.closing(reader):
        items = reader.feed(spool.frames(start))
    return [
        (item.xid, tuple(str(change.new[0]) for change in item.changes if isinstance(change, Insert)))
        for item in items
        if isinstance(item, Transaction)
    ]


def files(base: Path) -> list[Path]:
    """Return the segments."""
    return sorted(spool_path(base, OURS.slot).glob("*.spool"))


def surviving(base: Path) -> LSN:
    """Return where the spool ends."""
    extent = extent_at(spool_path(base, OURS.slot))
    assert extent is not None
    return extent.end_lsn


def refusal(base: Path, confirmed: LSN) -> ShardmigError | None:
    """Return why a spool is refused whose slot was told so much."""
    with contextlib.closing(Spool(base, OURS)) as spool:
        try:
            spool.refuse_short(confirmed)
        except RefusedError as error:
            return error
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a spool of thirty transactions in several segments, to be copied."""
    base = tmp_path_factory.mktemp("whole")
    fill(base, 1, 30)
    assert len(files(base)) > 3
    return base


@pytest.fixture
def base(whole: Path, tmp_path: Path) -> Path:
    """Give a copy of it."""
    shutil.copytree(whole, tmp_path / "kept")
    return tmp_path / "kept"


def test_everything_comes_back_in_order(base: Path, tmp_path: Path) -> None:
    """What was appended is read again, each transaction once."""
    assert expected(1, 30) == replayed(base, tmp_path)
    assert LSN(1300) == surviving(base)


def test_a_file_cut_at_any_byte_ends_at_a_commit_and_goes_on_there(base: Path, tmp_path: Path) -> None:
    """Pitfall 37: a kill at any byte of the last segment leaves whole transactions, a prefix, and no gap after it.

    Below what survives nothing is refused, above it the spool is, with file and position; the slot's repeat joins on.
    """
    last = files(base)[-1]
    whole_bytes = last.read_bytes()
    ends = set()
    for size in range(len(whole_bytes) + 1):
        last.write_bytes(whole_bytes[:size])
        found = replayed(base, tmp_path)
        end = surviving(base)
        count = len(found)
        ends.add(count)
        assert expected(1, count) == found
        assert LSN(1000 + 10 * count) <= end < LSN(1000 + 10 * count + 10)
        assert refusal(base, end) is None
        assert str(last) in str(refusal(base, LSN(end + 1)))
        if size % RESUMED_EVERY:
            continue
        resumed = tmp_path / "resumed"
        shutil.copytree(base, resumed)
        fill(resumed, count + 1, 32)
        assert expected(1, 32) == replayed(resumed, tmp_path)
        shutil.rmtree(resumed)
    assert len(ends) > 2


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_never_taken_for_data(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    """In the last segment it is where the spool ends, refused if the slot was told more; elsewhere it is an error.

    The error names the file; never is a transaction changed, left out or doubled.
    """
    spoiled = tmp_path / "spoiled"
    shutil.rmtree(spoiled, ignore_errors=True)
    shutil.copytree(whole, spoiled)
    path = data.draw(st.sampled_from(files(spoiled)))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    if path == files(spoiled)[-1]:
        found = replayed(spoiled, tmp_path)
        assert expected(1, len(found)) == found
        assert len(found) < 30
        assert str(path) in str(refusal(spoiled, LSN(1300)))
    else:
        with pytest.raises(ShardmigError, match="spool") as caught:
            replayed(spoiled, tmp_path)
        assert str(path) in str(caught.value)


def test_a_segment_that_is_missing_or_shortened_is_an_error(base: Path, tmp_path: Path) -> None:
    """A gap between segments is never passed over, also one that ends with a whole record."""
    second = files(base)[1]
    content = second.read_bytes()
    for size in range(len(content)):
        second.write_bytes(content[:size])
        with pytest.raises(ShardmigError):
            replayed(base, tmp_path)
    second.unlink()
    with pytest.raises(ShardmigError, match="is not followed by the next"):
        replayed(base, tmp_path)


def test_a_last_segment_that_is_gone_is_noticed_by_what_the_slot_was_told(base: Path) -> None:
    """Pitfall 39: the slot does not have it any more."""
    files(base)[-1].unlink()

    assert surviving(base) < LSN(1300)
    assert refusal(base, LSN(1300)) is not None


def test_every_segment_can_be_read_without_those_before_it(base: Path, tmp_path: Path) -> None:
    """Pitfall 35: the tables' shapes are repeated in each, since what is applied is deleted."""
    for path in files(base)[1:]:
        start = LSN(int(path.stem.partition("-")[2], 16))
        with contextlib.closing(Spool(base, OURS)) as spool:
            spool.drop_below(start, end=LSN(1300))
        assert files(base)[0] == path
        found = replayed(base, tmp_path, start=start)
        assert expected(31 - len(found), 30) == found


def test_only_what_every_shard_has_is_deleted(base: Path, tmp_path: Path) -> None:
    """A segment goes once all of it is below the position, the last one at the spool's end."""
    for position in range(1000, 1301):
        with contextlib.closing(Spool(base, OURS)) as spool:
            spool.drop_below(LSN(position), end=LSN(1300))
        kept = [number for number, _ in replayed(base, tmp_path, start=LSN(position))]
        needed = [number for number in range(1, 31) if 1000 + 10 * number > position]
        assert needed == [number for number in kept if number in needed]
    assert [] == files(base)


def test_a_position_before_the_spool_is_refused(base: Path, tmp_path: Path) -> None:
    """A shard that stands further back than anything kept has lost what lies between."""
    files(base)[0].unlink()

    with pytest.raises(RefusedError, match="begins at"):
        replayed(base, tmp_path)


class NoStream:
    """Stands where the slot's stream begins, and says so."""

    def __init__(self, opened_at: list[LSN], start: LSN) -> None:
        """Note where it was opened."""
        opened_at.append(start)
        self.server_lsn = start

    def read(self, max_bytes: int, wait_s: float) -> list[Frame]:
        """Give nothing."""
        del max_bytes, wait_s
        return []

    def acknowledge(self, flushed_lsn: LSN) -> None:
        """Remember it."""
        self.server_lsn = flushed_lsn

    def send_status(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def read_all(source: SpooledStream, opened_at: list[LSN]) -> Iterator[Frame]:
    """Yield what comes until the stream is opened."""
    while not opened_at:
        yield from source.read(100, 0.0)


@pytest.mark.parametrize("position", [1000, 1007, 1290, 1300, 1305])
def test_the_stream_is_opened_where_the_spool_ends(base: Path, position: int) -> None:
    """Also by shards that are past it; what they acknowledge is deleted, all of it in the end."""
    opened_at: list[LSN] = []
    source = SpooledStream(Spool(base, OURS), LSN(position), open_stream=lambda start: NoStream(opened_at, start))
    frames = list(read_all(source, opened_at))
    source.acknowledge(LSN(1299))
    left = len(files(base))
    source.acknowledge(LSN(1300))
    source.close()

    assert [max(position, 1300)] == opened_at
    assert [] == files(base)
    assert (left == 1) == (position < 1300) == bool(frames)


@pytest.mark.parametrize(
    "other",
    [
        Identity(7_002, 1, OURS.slot, OURS.slot_lsn),
        Identity(7_001, 2, OURS.slot, OURS.slot_lsn),
        Identity(7_001, 1, OURS.slot, LSN(1001)),
    ],
    ids=["system", "timeline", "slot made again"],
)
def test_the_spool_of_another_slot_is_refused(base: Path, other: Identity) -> None:
    """Pitfall 45: another server, another timeline, or a slot of the same name that was made anew."""
    with pytest.raises(RefusedError, match="this migration's is") as caught:
        Spool(base, other)

    assert f"system {other.system}, timeline {other.timeline}" in caught.value.message


def test_a_renamed_spool_of_another_migration_is_refused(base: Path) -> None:
    """The slot's name stands in the files."""
    spool_path(base, OURS.slot).rename(spool_path(base, "shardmig_other"))

    with pytest.raises(RefusedError, match="is of slot shardmig_shop"):
        Spool(base, Identity(OURS.system, OURS.timeline, "shardmig_other", OURS.slot_lsn))


def test_a_second_holder_is_refused(base: Path) -> None:
    """Two processes never write to one spool; the one that has it is named."""
    with contextlib.closing(Spool(base, OURS)):
        with pytest.raises(HeldError, match="in use by process"):
            Spool(base, OURS)
        with pytest.raises(HeldError, match="in use by process"):
            remove_spool(base, OURS.slot)
    Spool(base, OURS).close()


def test_nobody_else_can_read_it(base: Path) -> None:
    """Directory 0700, files 0600; a directory that others can look into is refused."""
    directory = spool_path(base, OURS.slot)
    fill(base, 31, 40)

    assert 0o700 == directory.stat().st_mode & 0o777
    assert {0o600} == {path.stat().st_mode & 0o777 for path in directory.iterdir()}
    directory.chmod(0o755)
    with pytest.raises(RefusedError, match="others than its owner") as caught:
        Spool(base, OURS)
    assert f"chmod 700 {directory}" == caught.value.hint


def test_a_migration_does_not_begin_with_an_earlier_ones_spool(base: Path) -> None:
    """Before there is a slot the place has to be empty; afterwards the files say whose they are."""
    refuse_unusable(base, OURS.slot, empty=False)
    with pytest.raises(RefusedError, match="earlier migration"):
        refuse_unusable(base, OURS.slot, empty=True)
    assert remove_spool(base, OURS.slot)
    refuse_unusable(base, OURS.slot, empty=True)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Said before anything of the copy is done."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError, match="cannot be used"):
        refuse_unusable(tmp_path / "file", OURS.slot, empty=True)
