"""Where each shard's sequences go on is decided without a server, and no two of them ever give the same value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.cutover.sequences import Observed, SequencePlan, moving_sequences, plan_sequences
from fixia_shardmig.mapping.shard_map import Endpoint, OnShard, Rule, ShardMap, Skip, SplitByColumn
from fixia_shardmig.model.catalog import Catalog, Sequence
from fixia_shardmig.model.names import TableName
from tests.fixtures.fix_catalogs import catalog, table

SHARDS = ("one", "two", "three")
USERS, NOTES, LOGS, OLD = (TableName("public", name) for name in ("users", "notes", "logs", "old"))
SEQUENCE = TableName("public", "users_id_seq")


def sequence(increment: int = 1, *, used_by: tuple[tuple[TableName, str], ...] = ((USERS, "id"),)) -> Sequence:
    """Return a sequence as CREATE SEQUENCE makes it."""
    up = increment > 0
    return Sequence(
        name=SEQUENCE,
        data_type="bigint",
        start=1 if up else -1,
        increment=increment,
        minimum=1 if up else -(2**63),
        maximum=2**63 - 1 if up else -1,
        cycle=False,
        last_value=None,
        owned_by=None,
        identity=False,
        used_by=used_by,
    )


def world(one: Sequence, *, id_type: str = "int8") -> tuple[ShardMap, Catalog]:
    """Return a mapping and a catalog with one sequence: users on all shards, notes and logs on one each."""
    rules: dict[TableName, Rule] = {
        USERS: SplitByColumn("kind", {}),
        NOTES: OnShard("two"),
        LOGS: OnShard("three"),
        OLD: Skip("stays"),
    }
    tables = [table(name.name, f"id {id_type}!", "kind text!") for name in rules]
    shards = {name: Endpoint("") for name in SHARDS}
    mapping = ShardMap("world", "", Endpoint(""), shards, "one", rules)
    return mapping, replace(catalog(*tables), sequences=(one,))


def plan(
    one: Sequence,
    *,
    last: tuple[int, bool] = (1, False),
    ends: Mapping[tuple[TableName, str], tuple[int, ...]] | None = None,
    on: tuple[str, ...] = SHARDS,
    id_type: str = "int8",
) -> SequencePlan:
    """Plan the one sequence."""
    mapping, picture = world(one, id_type=id_type)
    present = {name: frozenset({SEQUENCE} if name in on else ()) for name in SHARDS}
    (planned,) = plan_sequences(mapping, picture, Observed({SEQUENCE: last}, ends or {}, present))
    return planned


def test_shards_start_next_to_one_another_and_count_by_their_number() -> None:
    """Pitfall 68: above everything handed out, shard i has top + i, and then every third."""
    planned = plan(sequence(), last=(100, True))
    assert (3, {"one": 101, "two": 102, "three": 103}) == (planned.increment, planned.next_values)
    assert (1, (), ()) == (planned.former_increment, planned.refusals, planned.warnings)


def test_a_stored_value_past_the_sequence_lifts_all_of_them() -> None:
    """Pitfall 68: a source sequence that is behind max(id) already, by imports with ids, is put right and told."""
    planned = plan(sequence(), last=(10, True), ends={(USERS, "id"): (500, 400, 499)})
    assert {"one": 501, "two": 502, "three": 503} == planned.next_values
    assert ("on the source it stands at 10, behind 500, which is stored already",) == planned.warnings


def test_a_sequence_that_was_never_used_begins_at_its_start() -> None:
    """No value is skipped."""
    assert {"one": 1, "two": 2, "three": 3} == plan(sequence()).next_values


def test_setval_without_is_called_counts_as_not_handed_out() -> None:
    """After setval(…, 40, false) 40 is the next value, which pg_sequences would hide."""
    assert {"one": 40, "two": 41, "three": 42} == plan(sequence(), last=(40, False)).next_values


def test_steps_of_more_than_one_stay_on_their_grid() -> None:
    """INCREMENT BY 10 with three shards becomes 30."""
    planned = plan(sequence(10), last=(21, True))
    assert (30, {"one": 31, "two": 41, "three": 51}) == (planned.increment, planned.next_values)


def test_a_sequence_that_counts_down_goes_on_below() -> None:
    """The smallest stored value is the one to stay below."""
    planned = plan(sequence(-1), last=(-7, True), ends={(USERS, "id"): (-9, -3)})
    assert (-3, {"one": -10, "two": -11, "three": -12}) == (planned.increment, planned.next_values)


def test_a_sequence_of_a_table_on_one_shard_keeps_its_increment() -> None:
    """Nobody else hands out its values."""
    planned = plan(sequence(used_by=((NOTES, "id"),)), last=(5, True))
    assert (1, {"two": 6}) == (planned.increment, planned.next_values)


def test_a_sequence_of_several_columns_is_above_all_of_them_and_on_all_their_shards() -> None:
    """Notes on one shard and logs on another draw from one sequence: they are kept apart."""
    ends = {(NOTES, "id"): (70,), (LOGS, "id"): (90,)}
    planned = plan(sequence(used_by=((NOTES, "id"), (LOGS, "id"))), last=(80, True), ends=ends)
    assert (2, {"two": 91, "three": 92}) == (planned.increment, planned.next_values)


def test_a_sequence_that_no_column_uses_goes_on_wherever_it_is() -> None:
    """The application calls nextval itself; only the sequence's own value is known."""
    planned = plan(sequence(used_by=()), last=(9, True), on=("one", "three"))
    assert (2, {"one": 10, "three": 11}) == (planned.increment, planned.next_values)


def test_a_sequence_of_a_table_that_stays_is_left_alone() -> None:
    """Skipped tables' sequences are not on the shards."""
    assert () == moving_sequences(*world(sequence(used_by=((OLD, "id"),))))


def test_a_text_default_is_told() -> None:
    """`'INV-' || nextval(…)`: stored values cannot be compared with the sequence."""
    planned = plan(sequence(), last=(9, True), id_type="text")
    assert {"one": 10, "two": 11, "three": 12} == planned.next_values
    assert ("users.id is of type text: only the sequence's own value is looked at",) == planned.warnings


def test_a_cycle_on_several_shards_is_refused() -> None:
    """After its end all shards would begin at the same value."""
    planned = plan(replace(sequence(), cycle=True))
    assert planned.refusals[0].startswith("it is a CYCLE")
    assert {} == planned.next_values


def test_a_cycle_on_one_shard_goes_on() -> None:
    """There it means what it meant."""
    assert {"two": 6} == plan(replace(sequence(used_by=((NOTES, "id"),)), cycle=True), last=(5, True)).next_values


@pytest.mark.parametrize(("last", "refused"), [(2**15 - 4, False), (2**15 - 3, True)])
def test_a_smallint_column_without_room_is_refused(last: int, refused: bool) -> None:  # noqa: FBT001  a parameter
    """The column's type ends before the bigint sequence does; the last shard's first value has to fit."""
    planned = plan(sequence(), last=(last, True), id_type="int2")
    assert refused == bool(planned.refusals)
    assert refused or planned.warnings


def test_a_sequence_that_is_nearly_used_up_is_told() -> None:
    """Each shard leaves gaps, so the rest is shorter than it looks."""
    planned = plan(sequence(), last=(1_900_000_000, True), id_type="int4")
    assert () == planned.refusals
    assert "values are left" in planned.warnings[0]


def test_a_shard_that_lacks_the_sequence_is_refused() -> None:
    """Its default would fail at the first insert."""
    assert ("it is missing on two",) == plan(sequence(), on=("one", "three")).refusals


def test_planning_after_an_undone_cutover_gives_the_same() -> None:
    """The increment comes from the source, which nobody changes, so it is never multiplied twice."""
    assert plan(sequence(), last=(100, True)) == plan(sequence(), last=(100, True))


@given(
    increment=st.integers(-50, 50).filter(bool),
    last=st.integers(-10_000, 10_000),
    called=st.booleans(),
    ends=st.lists(st.integers(-10_000, 10_000), max_size=4),
)
def test_no_shard_ever_repeats_another_or_a_stored_row(
    increment: int,
    last: int,
    called: bool,  # noqa: FBT001  drawn
    ends: list[int],
) -> None:
    """Pitfall 68: for any step, position and stored values, the shards' values are new and all different."""
    one = replace(sequence(increment), minimum=-(2**63), maximum=2**63 - 1)
    planned = plan(one, last=(last, called), ends={(USERS, "id"): tuple(ends)})
    given_out = [
        value
        for first in planned.next_values.values()
        for value in islice(range(first, first + planned.increment * 40, planned.increment), 40)
    ]
    assert 120 == len(set(given_out))
    behind = [*ends, last if called else last - increment]
    assert all(value > max(behind) if increment > 0 else value < min(behind) for value in given_out)
