"""The compiled way reads messages and writes rows as the general way does, also where they are awkward or broken."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.postgres.pgoutput import UNCHANGED, Row
from fixia_shardmig.postgres.transactions import Changes
from fixia_shardmig.tail import kernel
from fixia_shardmig.tail.locations import Locations
from fixia_shardmig.tail.tables import RelationPlan, TailTables
from hatch_build import digest
from tests.model.source import CATALOG, RELATIONS, SHARD_MAP
from tests.unit.postgres import pgoutput_bytes as write

if TYPE_CHECKING:  # it may not have been built
    from fixia_shardmig.tail._plain import PlainChange, Window

USERS = RELATIONS["users"]
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
VALUES = st.none() | TEXTS
UNESCAPED = {"t": "\t", "n": "\n", "r": "\r"}


def window_of(*payloads: bytes) -> tuple[Window, list[Any]]:
    """Read messages of one transaction; return the window and what of it goes the general way."""
    tables, locations = TailTables(SHARD_MAP, CATALOG), Locations(lambda _, keys: [0] * len(keys))
    router = SimpleNamespace(
        shards=(0, 1, 2), plan_of=lambda relation: RelationPlan(tables, relation, locations.within)
    )
    changes = Changes({USERS.oid: USERS}, streamed=False, spool=Path("/nowhere"))
    for payload in payloads:
        changes.add(payload, to_disk=False)
    windows = kernel.compiled.Windows(
        cast("Any", router), iter([cast("Any", SimpleNamespace(changes=changes))]), 99, 9999
    )
    found = windows.next()
    assert found is not None
    return found[0], found[3]


def read(line: bytes) -> Row:
    """Read a line of COPY's text format."""
    values = line.decode().removesuffix("\n").split("\t")
    return tuple(
        None if value == r"\N" else re.sub(r"\\(.)", lambda at: UNESCAPED.get(at[1], at[1]), value) for value in values
    )


def test_the_compiled_parts_are_built_and_of_this_source() -> None:
    """A tree in which they were left out, or left behind, would test something else than it says."""
    assert kernel.IS_COMPILED, "python hatch_build.py"
    source = Path(kernel.__file__).with_name("_plain.pyx")
    assert digest(source) == kernel.compiled.SOURCE, "python hatch_build.py"


@given(st.lists(st.tuples(TEXTS, TEXTS, VALUES), min_size=1, max_size=5))
def test_rows_become_lines_of_copys_text_format(rows: list[tuple[str, str, str | None]]) -> None:
    """Pitfall 49: whatever the values are, the lines say the same, one a row."""
    window, _ = window_of(*(write.insert(USERS.oid, row) for row in rows))
    for places in ((0, 1, 2), (2, 0)):
        written = b"".join(kernel.compiled.lines(cast("list[PlainChange]", window), places, 10))
        lines = written.split(b"\n")
        assert lines.pop() == b""
        assert [tuple(row[place] for place in places) for row in rows] == [read(line) for line in lines]


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_keys_become_array_literals(keys: list[tuple[str, ...]]) -> None:
    """The literal of an array of texts is JSON's but for the braces."""
    for place in (0, 1):
        literal = kernel.compiled.array_of(keys, place)
        assert ("{", "}") == (literal[0], literal[-1])
        assert [key[place] for key in keys] == json.loads(f"[{literal[1:-1]}]", strict=False)


@pytest.mark.parametrize(
    "payload",
    [
        write.update(USERS.oid, ("1", "a", UNCHANGED)),
        write.update(USERS.oid, ("2", "a", "x"), old=("1", None, None), old_kind="K"),
        write.delete(USERS.oid, ("1", "a", "x"), "O"),
        write.truncate((USERS.oid,), 0),
    ],
)
def test_what_one_look_does_not_decide_goes_the_general_way(payload: bytes) -> None:
    """A value that was left out, another key, a whole old row, and what is no row at all."""
    window, general = window_of(write.insert(USERS.oid, ("1", "a", None)), payload)
    assert [True, False] == [hasattr(one, "operation") for one in window]
    assert len(general) == 1


def test_a_relation_that_comes_again_within_a_transaction_is_the_one_that_counts() -> None:
    """Pitfall 35: after ALTER TABLE the columns of the next change are others."""
    turned = replace(USERS, columns=("kind", "id", "big"), key_flags=(False, True, False))
    window, general = window_of(
        write.insert(USERS.oid, ("1", "a", "x")), write.relation(turned), write.insert(USERS.oid, ("b", "2", "y"))
    )
    operations = [cast("PlainChange", one).operation() for one in window]
    assert [(USERS.columns, ("1", "a", "x")), (turned.columns, ("b", "2", "y"))] == [one[1:] for one in operations]
    assert general == []


@pytest.mark.parametrize(
    "whole", [write.insert(USERS.oid, ("1", "b", "c")), write.delete(USERS.oid, ("1", None, None), "K")]
)
def test_a_message_that_is_cut_anywhere_is_refused_as_the_decoder_refuses_it(whole: bytes) -> None:
    """Bytes that do not add up end the tail; nothing is read past the message's end."""
    for end in range(1, len(whole)):
        with pytest.raises(ShardmigError):
            window_of(whole[:end])
