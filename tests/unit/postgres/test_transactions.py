"""The transaction reader, against streams written by the little encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.model.errors import ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres import framing
from fixia_shardmig.postgres.framing import Frame
from fixia_shardmig.postgres.pgoutput import Insert, LogicalMessage, Relation
from fixia_shardmig.postgres.transactions import (
    MESSAGE_BYTES,
    Changes,
    Idle,
    Item,
    Transaction,
    TransactionReader,
)
from hatch_build import digest
from tests.unit.postgres import pgoutput_bytes as encode

USERS = Relation(1, "public", "users", "d", ("id",), (True,), (25,), (-1,))
OURS = frozenset({"shardmig"})


@pytest.fixture(params=[True, False], ids=["compiled", "general"], autouse=True, scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have transactions that are all there cut out the compiled way, and everything read the general one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "IS_COMPILED", framing.IS_COMPILED and request.param)
        yield


def test_the_compiled_part_is_built_and_of_this_source() -> None:
    """A tree in which it was left out, or left behind, would test something else than it says."""
    source = Path(framing.__file__).with_name("_frames.pyx")
    assert digest(source) == framing.compiled.SOURCE, "python hatch_build.py"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[TransactionReader]:
    """Give a reader that knows the users table and holds everything in memory."""
    yield (made := knowing_users(tmp_path))
    made.close()


def knowing_users(spool: Path, *, memory_bytes_max: int = 1_000_000) -> TransactionReader:
    """Return a reader to which the users table was announced."""
    reader = TransactionReader(spool, message_prefixes=OURS, memory_bytes_max=memory_bytes_max)
    reader.feed(frames(encode.relation(USERS)))
    return reader


def frames(*payloads: bytes) -> list[Frame]:
    """Return messages as `Stream.read` does; their positions are of no matter."""
    return [(0, payload) for payload in payloads]


def insert(key: str, *, xid: int | None = None) -> bytes:
    """Return the insert of a user."""
    return encode.insert(USERS.oid, (key,), xid=xid)


def small(xid: int, *keys: str, end_lsn: int) -> list[bytes]:
    """Return a whole transaction of inserts."""
    return [encode.begin(xid), *(insert(key) for key in keys), encode.commit(end_lsn - 1, end_lsn)]


def block(xid: int, *payloads: bytes, first: bool = False) -> list[bytes]:
    """Return a streamed block."""
    return [encode.stream_start(xid, first=first), *payloads, encode.stream_stop()]


def keys(changes: Changes) -> list[str]:
    """Return the keys of inserted users."""
    return [str(change.new[0]) for change in changes if isinstance(change, Insert)]


def seen(items: Iterable[Item]) -> list[object]:
    """Return items in a form that compares: (xid, keys) for a transaction."""
    return [(item.xid, keys(item.changes)) if isinstance(item, Transaction) else item for item in items]


def test_nothing_comes_out_before_the_commit(reader: TransactionReader) -> None:
    """Pitfall 28: half a transaction gives no item, its commit gives all of it."""
    *half, commit = small(7, "a", "b", end_lsn=20)

    assert [] == reader.feed(frames(*half))
    assert 1 == reader.open_transactions
    (transaction,) = reader.feed(frames(commit))
    assert isinstance(transaction, Transaction)
    assert (7, LSN(19), LSN(20), None, []) == (
        transaction.xid,
        transaction.commit_lsn,
        transaction.end_lsn,
        transaction.origin,
        transaction.messages,
    )
    assert ["a", "b"] == keys(transaction.changes)
    assert 2 == len(transaction.changes)
    assert 0 == reader.open_transactions


def test_an_empty_transaction_is_an_item_too(reader: TransactionReader) -> None:
    """Pitfall 36: its position has to advance."""
    assert [(7, [])] == seen(reader.feed(frames(*small(7, end_lsn=20))))


def test_a_keepalive_within_a_transaction_proves_nothing(reader: TransactionReader) -> None:
    """Pitfall 37: no Idle with a transaction half received, one as soon as it is whole."""
    begin, change, commit = small(7, "a", end_lsn=20)

    items = reader.feed([(0, begin), (90, b""), (0, change), (91, b""), (0, commit), (92, b""), (93, b"")])

    assert [(7, ["a"]), Idle(LSN(93))] == seen(items)


def test_a_keepalive_between_transactions_stands_at_its_place(reader: TransactionReader) -> None:
    """Pitfall 37: an owner that goes through the items in order never acknowledges what it has not seen."""
    items = reader.feed([(5, b""), *frames(*small(7, "a", end_lsn=20)), (30, b"")])

    assert [Idle(LSN(5)), (7, ["a"]), Idle(LSN(30))] == seen(items)


def test_transactions_come_in_commit_order(reader: TransactionReader) -> None:
    """Pitfall 38: 8 began to stream before 9 and commits after it; a small one lies between its blocks."""
    stream = [
        *block(8, encode.relation(USERS, xid=8), insert("a", xid=8), first=True),
        *block(9, encode.relation(USERS, xid=9), insert("x", xid=9), first=True),
        *small(10, "s", end_lsn=20),
        *block(8, insert("b", xid=8)),
        encode.stream_commit(9, 29, 30),
        encode.stream_commit(8, 39, 40),
    ]

    assert [(10, ["s"]), (9, ["x"]), (8, ["a", "b"])] == seen(reader.feed(frames(*stream)))


def test_streamed_transactions_do_not_stop_idle(reader: TransactionReader) -> None:
    """Until their commit comes a restart sends them again, so what committed before is safe to acknowledge."""
    reader.feed(frames(*block(8, insert("a", xid=8), first=True)))

    assert [Idle(LSN(50))] == reader.feed([(50, b"")])
    assert 1 == reader.open_transactions


def test_a_keepalive_within_a_block_proves_nothing(reader: TransactionReader) -> None:
    """Pitfall 37: a block is a transaction half received as well."""
    assert [] == reader.feed([(0, encode.stream_start(8)), (50, b""), (0, encode.stream_stop())])


def test_an_aborted_savepoint_takes_its_changes_and_messages_along(reader: TransactionReader) -> None:
    """Pitfall 28: stream aborts name the subtransaction, and the count is right as well."""
    ours = encode.message("shardmig", b"m", transactional=True, xid=9)
    stream = [
        *block(8, insert("a", xid=8), insert("b", xid=9), ours, insert("c", xid=10), first=True),
        encode.stream_abort(8, 9),
        encode.stream_abort(8, 4711),
        *block(8, insert("d", xid=8)),
        encode.stream_commit(8, 1, 2),
    ]

    (transaction,) = reader.feed(frames(*stream))

    assert isinstance(transaction, Transaction)
    assert ["a", "c", "d"] == keys(transaction.changes)
    assert 3 == len(transaction.changes)
    assert [] == transaction.messages


def test_an_aborted_stream_gives_nothing(reader: TransactionReader) -> None:
    """Pitfall 28: a rolled back transaction was never there, and a later abort of it is no error."""
    stream = [*block(8, insert("a", xid=8), first=True), encode.stream_abort(8, 8), encode.stream_abort(8, 8)]

    assert [] == reader.feed(frames(*stream))
    assert 0 == reader.open_transactions


def test_a_marker_comes_at_its_place_and_foreign_messages_not_at_all(reader: TransactionReader) -> None:
    """Pitfalls 36 and 43: what committed before the marker stands before it."""
    stream = [
        *small(7, "a", end_lsn=20),
        encode.message("application", b"?"),
        encode.message("shardmig", b"m", lsn=21),
        *small(8, "b", end_lsn=30),
    ]

    marker = LogicalMessage(False, LSN(21), "shardmig", b"m")  # noqa: FBT003
    assert [(7, ["a"]), marker, (8, ["b"])] == seen(reader.feed(frames(*stream)))


def test_a_transactional_message_comes_with_its_transaction(reader: TransactionReader) -> None:
    """It is no item of its own, since a rolled back one must not show."""
    stream = [
        encode.begin(7),
        encode.message("shardmig", b"m", transactional=True),
        encode.message("application", b"?", transactional=True),
        encode.commit(1, 2),
    ]

    (transaction,) = reader.feed(frames(*stream))

    assert isinstance(transaction, Transaction)
    assert [b"m"] == [message.content for message in transaction.messages]


def test_the_origin_is_kept(reader: TransactionReader) -> None:
    """Pitfall 66: on 15 it is all that tells a replicated transaction from a writer's."""
    (transaction,) = reader.feed(frames(encode.begin(7), encode.origin("other"), encode.commit(1, 2)))

    assert isinstance(transaction, Transaction)
    assert "other" == transaction.origin


def test_a_large_transaction_is_spilled_and_read_back(tmp_path: Path) -> None:
    """Above the limit messages go to disk, in order, and can be iterated twice; nothing stays in the directory."""
    reader = knowing_users(tmp_path, memory_bytes_max=100)
    many = [f"{number:0200}" for number in range(20_000)]

    (transaction,) = reader.feed(frames(*small(7, *many, end_lsn=20)))

    assert isinstance(transaction, Transaction)
    assert transaction.changes.spilled
    assert many == keys(transaction.changes)
    assert many == keys(transaction.changes)
    assert [] == list(tmp_path.iterdir())
    transaction.close()


def test_a_spilled_transaction_keeps_the_shapes_of_its_time(tmp_path: Path) -> None:
    """Pitfall 35: a relation announced within is replayed within, and one announced later does not reach back."""
    wider = Relation(USERS.oid, "public", "users", "d", ("id", "name"), (True, False), (25, 25), (-1, -1))
    reader = knowing_users(tmp_path, memory_bytes_max=0)
    stream = [
        encode.begin(7),
        insert("a"),
        encode.relation(wider),
        encode.insert(USERS.oid, ("b", "B")),
        encode.commit(1, 2),
        encode.begin(8),
        encode.relation(USERS),
        encode.commit(3, 4),
    ]

    first, second = reader.feed(frames(*stream))

    assert isinstance(first, Transaction)
    assert isinstance(second, Transaction)
    assert [Insert(USERS, ("a",)), Insert(wider, ("b", "B"))] == list(first.changes)
    first.close()
    second.close()


def test_the_memory_limit_holds_for_all_open_transactions_together(tmp_path: Path) -> None:
    """What one holds counts against the others, and is given back at commit and at abort."""
    reader = knowing_users(tmp_path, memory_bytes_max=40 + MESSAGE_BYTES)
    reader.feed(frames(*block(8, insert("a" * 20, xid=8), first=True), *block(9, insert("b" * 20, xid=9), first=True)))

    (second,) = reader.feed(frames(encode.stream_commit(9, 1, 2)))
    (first,) = reader.feed(frames(encode.stream_commit(8, 3, 4)))
    (third,) = reader.feed(frames(*small(10, "c", end_lsn=9)))

    spilled = [item.changes.spilled for item in (first, second, third) if isinstance(item, Transaction)]
    assert [False, True, False] == spilled
    for item in (first, second, third):
        assert isinstance(item, Transaction)
        item.close()
    reader.feed(frames(*block(11, insert("d" * 20, xid=11), first=True), encode.stream_abort(11, 11)))
    assert 0 == reader._memory_bytes


def test_a_spool_that_cannot_be_written_is_temporary(tmp_path: Path) -> None:
    """A missing or full directory is named, and the slot keeps everything."""
    reader = knowing_users(tmp_path / "missing", memory_bytes_max=0)

    with pytest.raises(TemporaryError, match="missing: no such file"):
        reader.feed(frames(*small(7, "a", end_lsn=9)))


@pytest.mark.parametrize(
    "payload", [insert("a"), encode.commit(1, 2), encode.stream_stop(), encode.stream_commit(8, 1, 2)]
)
def test_a_message_out_of_place_is_refused(reader: TransactionReader, payload: bytes) -> None:
    """A stream that does not make sense is an error, never half a transaction."""
    with pytest.raises(ShardmigError, match="out of order"):
        reader.feed(frames(payload))


def test_closing_gives_up_what_is_open(tmp_path: Path) -> None:
    """A reader that is closed in the middle of things holds no file open."""
    reader = knowing_users(tmp_path, memory_bytes_max=0)
    reader.feed(frames(*block(8, insert("a", xid=8), first=True), encode.begin(9), insert("b")))
    reader.close()

    assert 0 == reader.open_transactions


@given(
    st.lists(st.tuples(st.sampled_from([8, 20, 30]), st.integers(0, 3)), max_size=60),
    st.sets(st.tuples(st.sampled_from([8, 20, 30]), st.integers(1, 3))),
    st.permutations([8, 20, 30]),
    st.integers(0, 300),
)
def test_interleaved_streams_come_out_as_if_alone(
    tmp_path_factory: pytest.TempPathFactory,
    writes: list[tuple[int, int]],
    aborts: set[tuple[int, int]],
    commits: list[int],
    memory_bytes_max: int,
) -> None:
    """Whatever the interleaving, the aborted subtransactions and the limit: each commit gives its own changes."""
    reader = knowing_users(tmp_path_factory.getbasetemp(), memory_bytes_max=memory_bytes_max)
    stream: list[bytes] = []
    for number, (top, sub) in enumerate(writes):
        announced = encode.relation(USERS, xid=top)
        stream += block(top, announced, insert(str(number), xid=top + sub))
    stream += [encode.stream_abort(top, top + sub) for top, sub in sorted(aborts)]
    written = [top for top in commits if any(top == other for other, _ in writes)]
    stream += [encode.stream_commit(top, 1, 2) for top in written]

    items = reader.feed(frames(*stream))

    expected = [
        (top, [str(n) for n, write in enumerate(writes) if write[0] == top and write not in aborts]) for top in written
    ]
    assert expected == seen(items)
    for item in items:
        assert isinstance(item, Transaction)
        item.close()
