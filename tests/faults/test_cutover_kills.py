"""Cutover, tail of the way back, rollback and finalize die at each named place, under writers who follow the truth.

As in `test_places`, a story is one migration that dies at one place after the other, each run going further than the
one before, from the state that the last death left. What is run next is what the program says: the command again, or
its `--resume`. In between nothing is repaired by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixia_shardmig.model.phase import Writer
from tests.fixtures.fix_followers import FollowedShop
from tests.fixtures.fix_program import SHOP_MAPPING

CUTOVER, RESUME = "cutover", "cutover --resume"
TAIL = "tail --until caught-up"
ROLLBACK, RESUME_BACK = "rollback", "rollback --resume"
FINALIZE = "finalize --despite-clients"
ABORT = "abort"
REFUSED = 4

BEFORE_THE_SWITCH = [
    (CUTOVER, "cutover.back_slot_made"),
    (CUTOVER, "cutover.slots_made"),
    (CUTOVER, "cutover.fence_prepared"),
    (CUTOVER, "cutover.fenced"),
    (CUTOVER, "journal.advanced.fenced"),
    (RESUME, "cutover.before_undo_commit"),
    (RESUME, "cutover.undo_committed"),
    (CUTOVER, "cutover.drained"),
    (RESUME, "cutover.fence_lifted"),
    (CUTOVER, "cutover.sequences_set"),
    (CUTOVER, "cutover.sequences_kept"),
    (CUTOVER, "cutover.reference_slots_advanced"),
    (CUTOVER, "cutover.way_back_begun"),
    (RESUME, "cutover.books_forgotten"),
    (RESUME, "cutover.back_slot_forgotten"),
    (CUTOVER, "cutover.way_back_kept"),
]
AT_THE_SWITCH = [
    (CUTOVER, "cutover.sealed"),
    (RESUME, "switch.before_commit.switched"),
    (RESUME, "switch.committed.switched"),
    (RESUME, "cutover.enabled"),
    (RESUME, "cutover.references_guarded"),
    (RESUME, "cutover.clients_moved"),
    (RESUME, "cutover.subscribed"),
    (RESUME, "cutover.references_subscribed"),
    (RESUME, "cutover.slot_dropped"),
    (RESUME, "cutover.finished"),
]
BRINGING_BACK = [
    (TAIL, "back.before_commit"),
    (TAIL, "back.committed"),
    (TAIL, "back.before_settled"),
    (TAIL, "back.settled"),
]
BEFORE_THE_SWITCH_BACK = [
    (ROLLBACK, "rollback.fence_prepared"),
    (ROLLBACK, "rollback.shard_fenced"),
    (ROLLBACK, "rollback.fenced"),
    (ROLLBACK, "journal.advanced.rolling_back"),
    (RESUME_BACK, "rollback.shard_opened"),
    (RESUME_BACK, "rollback.before_undo_commit"),
    (RESUME_BACK, "rollback.undo_committed"),
    (ROLLBACK, "rollback.drained"),
    (RESUME_BACK, "rollback.fences_lifted"),
    (ROLLBACK, "rollback.sequences_set"),
    (ROLLBACK, "rollback.shard_sealed"),
    (ROLLBACK, "rollback.sealed"),
]
AT_THE_SWITCH_BACK = [
    (ROLLBACK, "switch.before_commit.rolled_back"),
    (ROLLBACK, "switch.committed.rolled_back"),
    (RESUME_BACK, "rollback.source_open"),
    (RESUME_BACK, "rollback.clients_moved"),
    (RESUME_BACK, "rollback.source_lifted"),
    (RESUME_BACK, "way_back.subscription_dropped"),
    (RESUME_BACK, "way_back.slot_dropped"),
    (RESUME_BACK, "way_back.reference_slots_dropped"),
    (RESUME_BACK, "rollback.way_back_dropped"),
    (RESUME_BACK, "rollback.finished"),
]
FINALIZING = [
    (FINALIZE, "journal.advanced.finalized"),
    (FINALIZE, "way_back.slot_dropped:2"),
    (FINALIZE, "ending.source_opened"),
    (FINALIZE, "ending.source_publication_dropped"),
    (FINALIZE, "ending.books_dropped"),
    (FINALIZE, "ending.shard_cleared"),
]
JOURNAL_FIRST = SHOP_MAPPING.replace('"${PROS_URL}"', '"${PROS_URL}", journal: true').replace(
    '"${CLIENTS_URL}", journal: true', '"${CLIENTS_URL}"'
)
NOTHING: dict[str, list[str]] = {"source": [], "pros": [], "clients": []}
WAY_THERE = {
    "source": ["publication shardmig_shop", "slot shardmig_shop"],
    "pros": ["schema shardmig"],
    "clients": ["schema shardmig"],
}


def _die_at_all(shop: FollowedShop, story: list[tuple[str, str]]) -> None:
    for command, place in story:
        shop.dies(command, place)


@pytest.mark.timeout(240)
def test_deaths_there_and_back_lose_nothing_and_leave_no_fence(followed: Callable[..., FollowedShop]) -> None:
    """Pitfalls 19, 63, 64, 65, 72. Undone before a switch, finished after it; the source has all that was promised."""
    shop = followed()
    _die_at_all(shop, BEFORE_THE_SWITCH)
    shop.run(RESUME, REFUSED)
    shop.is_written(Writer.SOURCE)
    assert WAY_THERE == shop.ours()
    _die_at_all(shop, AT_THE_SWITCH)
    shop.run(RESUME)
    shop.is_written(Writer.SHARDS)
    assert "slot shardmig_shop" not in shop.ours()["source"]
    _die_at_all(shop, BEFORE_THE_SWITCH_BACK)
    shop.run(RESUME_BACK, REFUSED)
    shop.is_written(Writer.SHARDS)
    _die_at_all(shop, AT_THE_SWITCH_BACK)
    shop.run(RESUME_BACK)
    shop.is_written(Writer.SOURCE)
    assert ["forward 1", "back 2"] == sorted(set(shop.led()), key=shop.led().index)
    shop.dies(FINALIZE, "ending.shard_opened")
    shop.run(FINALIZE)
    assert NOTHING == shop.ours()
    shop.stop()
    shop.source_is_the_truth()


@pytest.mark.timeout(120)
def test_deaths_in_the_tail_back_and_in_finalize_leave_the_shards_the_truth(
    followed: Callable[..., FollowedShop],
) -> None:
    """Pitfalls 19, 37, 67. The journal goes last, wherever its shard stands in the mapping."""
    shop = followed(JOURNAL_FIRST)
    shop.run(CUTOVER)
    shop.is_written(Writer.SHARDS)
    for shard in ("pros", "clients"):
        shop.shop.sql(shard, "insert into users values (1000, 'pro', 'on two shards')")
    _die_at_all(shop, BRINGING_BACK)
    for shard in ("pros", "clients"):
        shop.shop.sql(shard, "delete from users where id = 1000")
    shop.run(TAIL)
    _die_at_all(shop, FINALIZING)
    shop.dies(FINALIZE, "ending.shard_cleared:2")
    assert NOTHING == shop.ours()
    shop.is_written(Writer.SHARDS)
    shop.stop()
    shop.shards_are_the_truth()


def test_an_abort_after_an_undo_that_died_leaves_nothing(followed: Callable[..., FollowedShop]) -> None:
    """Pitfall 19. What the cutover had made on the shards goes with the abort; the abort dies in between too."""
    shop = followed()
    shop.dies(CUTOVER, "cutover.way_back_kept")
    shop.dies(RESUME, "cutover.fence_lifted")
    shop.dies(ABORT, "ending.source_slot_dropped")
    shop.run(ABORT)
    assert NOTHING == shop.ours()
    shop.is_written(Writer.SOURCE)
    shop.stop()
    shop.source_is_the_truth()
