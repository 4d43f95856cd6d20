"""A cutover that was killed -9 anywhere: the source opens by itself, and what is found later is decided one way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from fixia_shardmig.cutover.cutover import cutover
from fixia_shardmig.cutover.fence import FenceKind, fence_state, raise_fence
from fixia_shardmig.cutover.recover import Recovery, recover_unfinished, resume_cutover
from fixia_shardmig.cutover.result import CutoverResult
from fixia_shardmig.journal.journal import set_position
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import session
from tests.integration.cutover.conftest import USERS, Arena, options, run

ROOT = Path(__file__).parents[3]
WRITE = "INSERT INTO users (user_type) VALUES ('client') RETURNING id"


def killed_at(arena: Arena, place: str, *, max_pause_s: float = 20.0, expiry_margin_s: float = 5.0) -> float:
    """Start an operator's process, kill it -9 at a place, and return when, by `time.monotonic`."""
    urls = json.dumps({"source": arena.source_url, "shards": arena.shard_urls})
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.integration.cutover.killed_operator",
            place,
            str(max_pause_s),
            str(expiry_margin_s),
            urls,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    errors = process.stderr.read()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    assert "there\n" == said, errors
    _wait_until_its_lock_is_gone(arena)
    return time.monotonic()


def _wait_until_its_lock_is_gone(arena: Arena) -> None:
    with arena.journal() as journal:
        deadline = time.monotonic() + 10
        while journal.holder("operator") is not None:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def recover(arena: Arena) -> Recovery:
    """Do what `status`, `abort` and the next `cutover` begin with."""
    with arena.journal() as journal, session(arena.source_url, "test") as source:
        return recover_unfinished(arena.shard_map, journal, source)


def resume(arena: Arena) -> CutoverResult:
    """Run `cutover --resume`."""
    with arena.journal() as journal:
        return resume_cutover(arena.shard_map, journal, options=options(), hands=arena.hands())


def kind_of(arena: Arena) -> FenceKind:
    """Return how the fence stands."""
    with session(arena.source_url, "test") as source:
        return fence_state(source).kind


def test_the_source_opens_by_itself_when_the_operator_is_killed(arena: Arena) -> None:
    """Pitfall 72: kill -9 behind the fence costs its length at most, with no process of ours alive."""
    killed = killed_at(arena, "drained", max_pause_s=6.0, expiry_margin_s=0.5)
    assert Phase.FENCED is arena.phase()
    refused = 0
    while True:
        try:
            run(arena.source_url, WRITE)
            break
        except psycopg.Error as error:
            assert error.sqlstate == "SM001"  # noqa: PT017  every other error has to be seen
            refused += 1
            assert time.monotonic() - killed < 8
            time.sleep(0.05)
    assert refused
    assert (Phase.FENCED, FenceKind.EXPIRED) == (arena.phase(), kind_of(arena))
    assert Recovery.LIFTED is recover(arena)
    assert (Phase.TAILING, FenceKind.NONE, Recovery.NOTHING) == (arena.phase(), kind_of(arena), recover(arena))


def test_a_dead_owners_fence_is_lifted_before_it_expires(arena: Arena) -> None:
    """The operator's lock tells that nobody works any more; the next cutover begins with it and gets through."""
    killed_at(arena, "drained")
    assert FenceKind.RAISED is kind_of(arena)
    with arena.journal() as journal:
        result = cutover(arena.shard_map, journal, options=options(), hands=arena.hands())
    assert (True, Phase.SWITCHED) == (result.switched, arena.phase())


def test_resume_undoes_a_cutover_that_was_not_sealed(arena: Arena) -> None:
    """The proof of the drain ends with the process that could have let the fence expire."""
    killed_at(arena, "drained")
    result = resume(arena)
    assert (False, "the fence is raised, it was not sealed") == (result.switched, result.unfinished)
    assert (Phase.TAILING, FenceKind.NONE) == (arena.phase(), kind_of(arena))


def test_a_living_owner_is_left_alone(arena: Arena) -> None:
    """Another run holds the operator's lock: its fence is its own business."""
    with arena.journal() as owner, owner.holding("operator"):
        assert Recovery.HELD is recover(arena)


def test_a_cutover_killed_between_seal_and_switch_is_finished_by_resume(arena: Arena) -> None:
    """Pitfall 72: sealed, drained, sequences set: only the switch was missing. Nothing lifts the fence meanwhile."""
    killed_at(arena, "sealed")
    assert (Phase.FENCED, FenceKind.SEALED, Recovery.SEALED) == (arena.phase(), kind_of(arena), recover(arena))
    with arena.journal() as journal, pytest.raises(RefusedError, match="killed at its switch"):
        cutover(arena.shard_map, journal, options=options(), hands=arena.hands())
    result = resume(arena)
    assert (True, "", 1) == (result.switched, result.unfinished, result.routing_epoch)
    assert (Phase.SWITCHED, FenceKind.SEALED) == (arena.phase(), kind_of(arena))
    ids = [run(url, WRITE)[0][0] for url in arena.shard_urls.values()]
    assert [31, 32, 33] == ids


def test_a_sealed_cutover_whose_shard_was_set_back_is_undone(arena: Arena) -> None:
    """A shard restored from a backup meanwhile: what was proven does not hold any more."""
    killed_at(arena, "sealed")
    arena.follower.pause()
    with session(arena.shard_urls["clients"], "test") as shard:
        set_position(shard, LSN(1))
    result = resume(arena)
    assert not result.switched
    assert "a shard stands before" in result.unfinished
    assert (Phase.TAILING, FenceKind.NONE) == (arena.phase(), kind_of(arena))
    run(arena.source_url, WRITE)


def test_a_sealed_cutover_with_a_gap_is_undone(arena: Arena) -> None:
    """A partition that was made meanwhile may have been written to."""
    killed_at(arena, "sealed")
    arena.source("CREATE TABLE visits_2026 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")
    result = resume(arena)
    assert (False, "the fence has gaps: visits_2026") == (result.switched, result.unfinished)


def test_a_cutover_killed_after_the_switch_is_only_finished(arena: Arena) -> None:
    """No way leads back: the source stays fenced, the epoch is not raised again."""
    killed_at(arena, "switched")
    assert (Phase.SWITCHED, Recovery.NOTHING) == (arena.phase(), recover(arena))
    result = resume(arena)
    assert (True, 1, "") == (result.switched, result.routing_epoch, result.unfinished)
    assert (1, FenceKind.SEALED) == (arena.enabled, kind_of(arena))


def test_a_fence_that_the_journal_does_not_know_of_is_lifted(arena: Arena) -> None:
    """Killed between raising it and saying so: the phase never changed."""
    with session(arena.source_url, "test") as source:
        deadline = time.monotonic() + 5
        raise_fence(source, [USERS], migration="arena", owner="gone", expires_in_s=60, deadline=deadline)
    assert Recovery.LIFTED is recover(arena)
    assert (Phase.VERIFIED, FenceKind.NONE) == (arena.phase(), kind_of(arena))


def test_there_is_nothing_to_resume_before_a_cutover(arena: Arena) -> None:
    """The hint leads to the command that begins one."""
    with pytest.raises(RefusedError, match="no cutover is under way in phase verified") as refused:
        resume(arena)
    assert "shardmig cutover" == refused.value.hint
