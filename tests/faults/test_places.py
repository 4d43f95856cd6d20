"""The program dies at each named place, under live writers; the documented next command ends with every row at home.

A story is one migration that dies at one place after the other. Its places stand in the order in which the program
comes by, so that each run gets further than the one before, from the state that the last death left.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fixia_shardmig.schema.shard_schema import STAGES
from tests.fixtures.fix_places import LiveShop, holding_position, places_in_the_code

COPY = "copy --resume --jobs 2 --chunk-bytes 16KiB"
CUTTING = "copy --resume --jobs 1 --chunk-bytes 48KiB --chunk-time 1ms"
TAIL = "tail --until caught-up"
VERIFY = "verify"

BUILT_WHILE_TAILING = ("indexes", "constraints", "foreign_keys", "finish")
DONE_AFTER_THE_SWITCH = "after_switch"

STORIES: dict[str, list[tuple[str, str]]] = {
    "a copy begins": [
        (COPY, "journal.before_create"),
        (COPY, "journal.created"),
        (COPY, "copy.before_tables_commit"),
        (COPY, "copy.shard_prepared:2"),
        (COPY, "copy.publication_made"),
        (COPY, "copy.slot_made"),
        (COPY, "copy.chunks_listed"),
        (COPY, "journal.before_advance.copying"),
        (COPY, "journal.advanced.copying"),
        (COPY, "copy.first_epoch_open"),
    ],
    "a worker dies": [(COPY, "copy.before_chunk_commit:2"), (COPY, "copy.chunk_committed:2")],
    "a worker dies after its commit": [(COPY, "copy.chunk_committed:3"), (COPY, "copy.before_chunk_commit")],
    "a worker and its driver die": [
        (COPY, "copy.before_chunk_commit:3:parent"),
        (COPY, "copy.chunk_committed:2:parent"),
    ],
    "a driver dies between chunks": [
        (COPY, "copy.before_chunk_done:2"),
        (COPY, "copy.open_keys_built"),
        (COPY, "copy.before_later_epoch"),
        (COPY, "copy.later_epoch_open"),
        (COPY, "copy.chunk_done:3"),
    ],
    "a driver dies while it cuts a chunk": [
        (CUTTING, "copy.before_chunk_cut"),
        (CUTTING, "copy.chunk_cut"),
        (CUTTING, "copy.chunk_cut:2"),
    ],
    "a copy ends": [
        (COPY, "schema.before_commit.primary_keys:2"),
        (COPY, "schema.committed.primary_keys:2"),
        (COPY, "copy.keys_built"),
        (COPY, "copy.before_position_commit"),
        (COPY, "copy.position_set"),
        (COPY, "journal.before_advance.tailing"),
        (COPY, "journal.advanced.tailing"),
    ],
    "rows of two snapshots come home": [
        (COPY, "copy.chunk_done:6"),
        (COPY, "journal.advanced.tailing"),
        (TAIL, "tail.before_settle"),
        (TAIL, "tail.settled"),
        (TAIL, "tail.consistent"),
    ],
    "a tail applies": [
        (COPY, "journal.advanced.tailing"),
        (TAIL, "tail.before_record"),
        (TAIL, "tail.recorded"),
        (TAIL, "tail.before_shard_commit"),
        (TAIL, "tail.before_shard_commit:2"),
        (TAIL, "tail.shard_committed"),
        (TAIL, "tail.shard_committed:2"),
        (TAIL, "tail.before_acknowledge"),
        (TAIL, "tail.acknowledged"),
    ],
    "shards get their indexes and constraints": [
        (COPY, "journal.advanced.tailing"),
        *(
            (TAIL, f"schema.{name}.{stage}")
            for stage in BUILT_WHILE_TAILING
            for name in ("before_commit", "committed", "stage_built", "stage_noted")
        ),
        (TAIL, "schema.all_noted"),
    ],
    "a verify asks for a barrier": [
        (COPY, "journal.advanced.tailing"),
        (VERIFY, "barrier.requested"),
        (VERIFY, "barrier.before_held"),
        (VERIFY, "barrier.held"),
        (VERIFY, "barrier.set"),
        (VERIFY, "barrier.before_reached"),
    ],
    "a verify has its barrier": [
        (COPY, "journal.advanced.tailing"),
        (VERIFY, "barrier.reached"),
        (VERIFY, "barrier.before_release"),
        (VERIFY, "barrier.released"),
        (VERIFY, "verify.kept"),
        ("verify --resume", "verify.kept:2"),
        (VERIFY, "verify.recorded"),
        (VERIFY, "journal.before_advance.verified"),
        (VERIFY, "journal.advanced.verified"),
    ],
}


def _die_at_all(shop: LiveShop, story: list[tuple[str, str]]) -> None:
    for command, place in story:
        shop.dies(command, place)


@pytest.mark.parametrize("story", STORIES)
def test_a_death_at_any_place_loses_nothing_and_doubles_nothing(live_shop: LiveShop, story: str) -> None:
    """Pitfalls 6, 7, 15, 41: whatever is half done at the death is finished or repeated exactly by the next run."""
    _die_at_all(live_shop, STORIES[story])
    live_shop.ends_well()


@pytest.mark.parametrize("place", ["tail.before_replay", "tail.replayed"])
def test_a_death_around_the_replay_of_a_torn_batch_loses_nothing(live_shop: LiveShop, place: str) -> None:
    """Pitfall 7: one shard has the batch, the other has not, and the run that finishes it dies too."""
    live_shop.shop.run("copy").expect(0)
    with holding_position(live_shop.shop, "pros"):
        live_shop.dies(TAIL, "tail.shard_committed")
    live_shop.dies(TAIL, place)
    live_shop.ends_well()
    events = live_shop.shop.one("clients", "select count(*) from shardmig.event where event = 'batch_replayed'")
    assert (1 if place == "tail.before_replay" else 0) == events


SWAP = "update users set kind = case kind when 'pro' then 'client' else 'pro' end"
MANY_ORDERS = "insert into orders select n, 1 + n % 400, repeat('thing ', 100) from generate_series(100001, 103000) n"
"""With them, a swap of all users moves rows that are twice as much as one part of a batch record takes."""


def test_a_death_around_a_part_of_a_large_record_loses_nothing(live_shop: LiveShop) -> None:
    """Pitfalls 3, 7: before its record is there a part means nothing; what is left of the last record does no harm."""
    shop = live_shop.shop
    shop.run("copy").expect(0)
    shop.sql("source", MANY_ORDERS)
    shop.sql("source", SWAP)
    live_shop.dies(TAIL, "tail.before_part")
    live_shop.dies(TAIL, "tail.part_kept")
    assert shop.one("clients", "select count(*) from shardmig.batch_part") == 1
    live_shop.dies(TAIL, "tail.before_parts_dropped")
    assert shop.one("clients", "select count(*) from shardmig.batch_part") > 1
    shop.sql("source", SWAP)
    live_shop.dies(TAIL, "tail.parts_dropped")
    assert shop.one("clients", "select count(*) from shardmig.batch_part") == 0
    shop.sql("source", SWAP)
    with holding_position(shop, "pros"):
        live_shop.dies(TAIL, "tail.shard_committed")
    live_shop.ends_well()
    assert shop.one("clients", "select count(*) from shardmig.event where event = 'batch_replayed'") == 1


def test_a_death_around_new_definitions_loses_nothing(live_shop: LiveShop) -> None:
    """A column comes on the source, then on the shards; the tail dies when it sees the one, and the other."""
    shop = live_shop.shop
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.sql("source", "alter table orders add column gift text default 'none'")
    live_shop.dies(TAIL, "tail.definitions_lacking")
    for shard in ("pros", "clients"):
        shop.sql(shard, "alter table orders add column gift text default 'none'")
    live_shop.dies(TAIL, "tail.definitions_accepted")
    live_shop.ends_well()


def test_a_death_in_a_repair_leaves_only_what_the_next_one_puts_right(live_shop: LiveShop) -> None:
    """Before any shard has its part, between the two, and after both: the source has every row all along."""
    shop = live_shop.shop
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    for shard in ("pros", "clients"):
        shop.sql(shard, "set session_replication_role = replica; delete from orders where id % 3 = 0")
    for place in ("repair.before_commit.pros", "repair.before_commit.clients", "repair.committed"):
        live_shop.dies("verify --repair", place)
    shop.run("verify").expect(0)
    live_shop.ends_well()


def _line(place: str) -> str:
    """Leave out which time a place is met, and what tells apart those that share a line."""
    return ".".join(place.partition(":")[0].split(".")[:2])


def test_every_place_in_the_code_is_one_that_a_test_dies_at() -> None:
    """A place that is added without a test fails here, and so does a story whose place is gone."""
    in_stories = {_line(place) for story in STORIES.values() for _, place in story}
    in_tests = {
        _line(node.value)
        for path in Path(__file__).parents[1].rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set() == places_in_the_code() - in_stories - in_tests
    assert set() == in_stories - places_in_the_code()


def test_every_stage_and_phase_has_its_places() -> None:
    """What shares a line of code is told apart: each stage of the DDL, each phase before the cutover."""
    told = {place.partition(":")[0] for story in STORIES.values() for _, place in story}
    stages = set(STAGES) - {"pre_data", DONE_AFTER_THE_SWITCH}
    assert {"primary_keys", *BUILT_WHILE_TAILING} == stages
    expected = {f"schema.{name}.{stage}" for stage in stages for name in ("before_commit", "committed")}
    expected |= {f"journal.{n}.{p}" for p in ("copying", "tailing", "verified") for n in ("before_advance", "advanced")}
    assert set() == expected - told
