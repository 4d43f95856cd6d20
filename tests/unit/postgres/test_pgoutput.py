"""The decoder, message by message, against bytes written here by hand or by the little encoder beside it."""

from __future__ import annotations

import contextlib
import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    Decoder,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    Row,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Unchanged,
    Update,
    time_of,
)
from tests.unit.postgres import pgoutput_bytes as encode

USERS = Relation(16384, "public", "User", "d", ("id", "e-mail", "bio"), (True, False, False), (25, 25, 25), (-1, 24, 5))
TYPES = Relation(1247, "pg_catalog", "pg_type", "f", ("oid",), (True,), (26,), (-1,))

RELATION_BYTES = (
    b"R\x00\x00\x40\x00public\0User\0d\x00\x03"
    b"\x01id\0\x00\x00\x00\x19\xff\xff\xff\xff"
    b"\x00e-mail\0\x00\x00\x00\x19\x00\x00\x00\x18"
    b"\x00bio\0\x00\x00\x00\x19\x00\x00\x00\x05"
)


def decoder_knowing(*relations: Relation, in_stream: bool = False) -> Decoder:
    """Return a decoder that has seen these relations."""
    return Decoder({relation.oid: relation for relation in relations}, in_stream=in_stream)


def test_a_relation_is_read_with_flags_and_modifiers() -> None:
    """Every field of a Relation message arrives, from bytes written out by hand."""
    assert USERS == Decoder().decode(RELATION_BYTES)


def test_an_empty_schema_is_pg_catalog() -> None:
    """The server shortens pg_catalog to nothing."""
    assert TYPES == Decoder().decode(encode.relation(TYPES))


def test_an_insert_is_read_from_bytes_written_by_hand() -> None:
    """Text, NULL and an empty text are three things."""
    payload = b"I\x00\x00\x40\x00N\x00\x03t\x00\x00\x00\x03\xc3\xa9An" + b"t\x00\x00\x00\x00"

    assert Insert(USERS, ("éA", None, "")) == decoder_knowing(USERS).decode(payload)


def test_unchanged_toast_is_neither_null_nor_text() -> None:
    """Pitfall 21: the value is absent, and the one object that says so survives pickling."""
    decoded = decoder_knowing(USERS).decode(encode.update(USERS.oid, ("1", None, UNCHANGED)))

    assert Update(USERS, (), "", ("1", None, UNCHANGED)) == decoded
    assert UNCHANGED is pickle.loads(pickle.dumps(UNCHANGED))  # noqa: S301  our own bytes


def test_a_key_change_carries_the_old_key() -> None:
    """Pitfall 23: the old row of kind K comes before the new row."""
    payload = encode.update(USERS.oid, ("2", "b", UNCHANGED), old=("1", None, None), old_kind="K")

    assert Update(USERS, ("1", None, None), "K", ("2", "b", UNCHANGED)) == decoder_knowing(USERS).decode(payload)


def test_only_the_identity_of_a_key_row_means_anything() -> None:
    """Pitfall 22: `identity` takes the key and leaves what reads NULL."""
    decoded = decoder_knowing(USERS).decode(encode.delete(USERS.oid, ("1", None, None), "K"))

    assert isinstance(decoded, Delete)
    assert ("1",) == decoded.relation.identity(decoded.old)


def test_a_full_old_row_is_of_kind_o() -> None:
    """Under REPLICA IDENTITY FULL the NULLs of the old row are real."""
    decoder = decoder_knowing(USERS)
    old: Row = ("1", None, "x")

    assert Delete(USERS, old, "O") == decoder.decode(encode.delete(USERS.oid, old, "O"))
    payload = encode.update(USERS.oid, ("1", "y", "x"), old=old, old_kind="O")
    assert Update(USERS, old, "O", ("1", "y", "x")) == decoder.decode(payload)


@pytest.mark.parametrize(("flags", "cascade", "restart"), [(0, False, False), (1, True, False), (2, False, True)])
def test_a_truncate_names_all_its_tables_and_flags(flags: int, *, cascade: bool, restart: bool) -> None:
    """Pitfall 25: one message, several relations."""
    payload = encode.truncate((USERS.oid, TYPES.oid), flags)

    assert Truncate((USERS, TYPES), cascade, restart) == decoder_knowing(USERS, TYPES).decode(payload)


NOON = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
NOON_CLOCK = 825_681_600_000_005


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (encode.begin(7, final_lsn=0x1600000002, microseconds=NOON_CLOCK), Begin(LSN(0x1600000002), NOON_CLOCK, 7)),
        (encode.commit(5, 9, microseconds=NOON_CLOCK), Commit(LSN(5), LSN(9), NOON_CLOCK)),
        (encode.origin("shardmig_back", 3), Origin(LSN(3), "shardmig_back")),
        (encode.type_name(99, "public", "mood"), Type(99, "public", "mood")),
        (encode.message("app", b"\x00\xff", lsn=4), LogicalMessage(False, LSN(4), "app", b"\x00\xff")),  # noqa: FBT003
        (encode.message("", b"", transactional=True), LogicalMessage(True, LSN(0), "", b"")),  # noqa: FBT003
        (encode.stream_start(8), StreamStart(8, first=True)),
        (encode.stream_start(8, first=False), StreamStart(8, first=False)),
        (encode.stream_stop(), StreamStop()),
        (encode.stream_commit(8, 5, 9, microseconds=NOON_CLOCK), StreamCommit(8, LSN(5), LSN(9), NOON_CLOCK)),
        (encode.stream_abort(8, 10), StreamAbort(8, 10)),
    ],
)
def test_a_control_message_is_read(payload: bytes, expected: Message) -> None:
    """Each message without a row gives its fields."""
    assert expected == Decoder().decode(payload)


def test_a_clock_reading_is_a_time() -> None:
    """Messages count microseconds since 2000 in UTC."""
    assert time_of(NOON_CLOCK) == NOON


def test_messages_in_a_streamed_block_carry_their_subtransaction() -> None:
    """Between Stream Start and Stream Stop each message tells its xid, and outside none does."""
    decoder = Decoder()
    decoder.decode(encode.stream_start(8))
    assert USERS == decoder.decode(encode.relation(USERS, xid=9))
    assert Insert(USERS, ("1",), 9) == decoder.decode(encode.insert(USERS.oid, ("1",), xid=9))
    assert Update(USERS, (), "", ("1",), 8) == decoder.decode(encode.update(USERS.oid, ("1",), xid=8))
    assert Delete(USERS, ("1",), "K", 8) == decoder.decode(encode.delete(USERS.oid, ("1",), "K", xid=8))
    assert Truncate((USERS,), False, False, 8) == decoder.decode(encode.truncate((USERS.oid,), 0, xid=8))  # noqa: FBT003
    assert Type(5, "public", "mood", 8) == decoder.decode(encode.type_name(5, "public", "mood", xid=8))
    assert LogicalMessage(True, LSN(0), "a", b"b", 8) == decoder.decode(  # noqa: FBT003
        encode.message("a", b"b", transactional=True, xid=8)
    )
    decoder.decode(encode.stream_stop())
    decoder.decode(encode.stream_commit(8, 1, 2))
    assert Insert(USERS, ("2",)) == decoder.decode(encode.insert(USERS.oid, ("2",)))


def test_a_later_relation_replaces_the_earlier_one() -> None:
    """Pitfall 35: after DDL the same OID has another shape; rows decoded before keep theirs."""
    wider = Relation(USERS.oid, "public", "User", "d", ("id", "name"), (True, False), (25, 25), (-1, -1))
    decoder = decoder_knowing(USERS)
    before = decoder.decode(encode.insert(USERS.oid, ("1", "a", "b")))
    decoder.decode(encode.relation(wider))

    assert Insert(USERS, ("1", "a", "b")) == before
    assert Insert(wider, ("1", "a")) == decoder.decode(encode.insert(USERS.oid, ("1", "a")))


def test_a_relation_of_a_rolled_back_stream_is_forgotten() -> None:
    """Pitfall 28: a shape that an aborted ALTER announced never reaches other transactions."""
    altered = Relation(USERS.oid, "public", "User", "d", ("id",), (True,), (25,), (-1,))
    decoder = decoder_knowing(USERS)
    decoder.decode(encode.stream_start(8))
    decoder.decode(encode.relation(altered, xid=8))
    decoder.decode(encode.stream_stop())
    decoder.decode(encode.stream_abort(8, 8))

    assert Insert(USERS, ("1", "a", "b")) == decoder.decode(encode.insert(USERS.oid, ("1", "a", "b")))


def test_a_relation_of_a_stream_is_known_in_its_next_block() -> None:
    """The server announces a relation once a streamed transaction, not once a block."""
    decoder = Decoder()
    decoder.decode(encode.stream_start(8))
    decoder.decode(encode.relation(USERS, xid=8))
    decoder.decode(encode.stream_stop())
    assert {} == decoder.relations
    decoder.decode(encode.stream_start(8, first=False))

    assert Insert(USERS, ("1",), 8) == decoder.decode(encode.insert(USERS.oid, ("1",), xid=8))


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        (b"", "empty"),
        (b"Z", "unknown message kind"),
        (b"P123", "unknown message kind"),
        (b"I\x00\x00\x40\x00N\x00\x01b\x00\x00\x00\x01x", "only text"),
        (b"I\x00\x00\x40\x00K\x00\x00", "belongs"),
        (b"D\x00\x00\x40\x00N\x00\x00", "without an old row"),
        (b"I\x00\x00\x40\x00N\x00\x01t\x00\x00\x00\x01\xff", "utf-8"),
        (encode.insert(4711, ("1",)), "4711 was never announced"),
        (encode.insert(USERS.oid, ("1",)) + b"x", "announced"),
        (encode.message("app", b"12345")[:-1], "announced"),
        (b"O\0\0\0\0\0\0\0\0name without an end", "kind 'O'"),
    ],
)
def test_bytes_that_do_not_add_up_are_refused(payload: bytes, cause: str) -> None:
    """A broken message is an error that says what is wrong, never a guess."""
    with pytest.raises(ShardmigError, match=cause):
        decoder_knowing(USERS).decode(payload)


values = st.none() | st.just(UNCHANGED) | st.text()
rows = st.lists(values, max_size=8).map(tuple)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63)
oids = st.integers(0, 2**32 - 1)


@st.composite
def relations(draw: st.DrawFn) -> Relation:
    """Draw any relation."""
    columns = draw(st.lists(st.tuples(names, st.booleans(), oids, st.integers(-1, 2**31 - 1)), max_size=6))
    return Relation(
        oid=draw(oids),
        schema=draw(names),
        name=draw(names),
        replica_identity=draw(st.sampled_from("difn")),
        columns=tuple(name for name, _, _, _ in columns),
        key_flags=tuple(flag for _, flag, _, _ in columns),
        type_oids=tuple(oid for _, _, oid, _ in columns),
        type_modifiers=tuple(modifier for _, _, _, modifier in columns),
    )


@given(relations())
def test_any_relation_survives_the_round_trip(relation: Relation) -> None:
    """Names of any characters, any flags, any width."""
    assert relation == Decoder().decode(encode.relation(relation))


@given(rows, rows, st.sampled_from(["", "K", "O"]), st.none() | st.integers(1, 2**32 - 1))
def test_any_row_survives_the_round_trip(new: Row, old: Row, old_kind: str, xid: int | None) -> None:
    """Any text, NULL and unchanged values, in and out of streamed blocks."""
    decoder = decoder_knowing(USERS, in_stream=xid is not None)
    expected = Update(USERS, old if old_kind else (), old_kind, new, xid or 0)

    assert expected == decoder.decode(encode.update(USERS.oid, new, old=old, old_kind=old_kind, xid=xid))
    assert Insert(USERS, new, xid or 0) == decoder.decode(encode.insert(USERS.oid, new, xid=xid))
    assert Delete(USERS, new, "O", xid or 0) == decoder.decode(encode.delete(USERS.oid, new, "O", xid=xid))


@given(rows, st.data())
def test_a_truncated_message_is_always_noticed(new: Row, data: st.DataObject) -> None:
    """No prefix of a message passes for a message."""
    payload = encode.update(USERS.oid, new, old=new, old_kind="K")
    cut = data.draw(st.integers(0, len(payload) - 1))

    with pytest.raises(ShardmigError, match="cannot decode"):
        decoder_knowing(USERS).decode(payload[:cut])


@given(st.binary(max_size=60))
def test_random_bytes_give_a_message_or_our_error(payload: bytes) -> None:
    """Nothing but ShardmigError escapes, whatever comes."""
    with contextlib.suppress(ShardmigError):
        decoder_knowing(USERS).decode(payload)


def test_the_unchanged_value_has_one_type() -> None:
    """Type checkers narrow by identity because it is an enum with one member."""
    assert [UNCHANGED] == list(Unchanged)
