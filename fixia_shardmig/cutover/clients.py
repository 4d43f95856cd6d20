"""The clients of a cutover and of a rollback: they wait at the poolers, go on where they were, or are led elsewhere.

The journal says that clients wait before the first of them does, and that they do not once all have been resumed; so
whoever finds what a killed run left behind knows. Clients of a run that is undone are resumed where they were: no alias
is re-pointed before the switch.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

from fixia_shardmig.cutover.hooks import run_hook
from fixia_shardmig.cutover.pooler import SETTLE_S, Identity, Poolers, identity_of
from fixia_shardmig.cutover.pooler_files import Direction
from fixia_shardmig.cutover.run import Run
from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.places import place

WAITING: Final = "clients_waiting"
"""The migration's evidence that clients of the poolers are made to wait: by whom, since when."""

PAUSE_SHARE: Final = 0.3
"""How much of `max_pause` open transactions may take to end before the PAUSE is given up."""


def pause_clients(run: Run) -> None:
    """Make the clients of all poolers wait, before the fence, so that they meet a pause and no error.

    Raises:
        PauseBlockedError, TemporaryError, RefusedError: Nobody waits.
    """
    if not run.sides.poolers:
        return
    since = datetime.now(UTC).isoformat()
    with run.journal.connection.transaction():
        run.journal.connection.execute("SET LOCAL synchronous_commit = on")
        run.journal.add_evidence({WAITING: {"story": run.story, "owner": run.owner, "since": since}})
    place("pooler.noted")
    with run.step("pause"):
        run.sides.poolers.pause(run.began + run.options.max_pause_s * PAUSE_SHARE)
        place("pooler.paused")


def move_clients(run: Run, direction: Direction, epoch: int) -> str:
    """Lead the clients to the new writer, by the poolers and by the hooks; again is harmless.

    Hooks come after the poolers, and before them where one has no databases file, so that a hook re-points it.

    Returns:
        What is still to do, or nothing.
    """
    if run.sides.poolers.by_hook:
        return _run_hooks(run, direction, epoch) or _repoint(run, direction)
    return _repoint(run, direction) or _run_hooks(run, direction, epoch)


def _repoint(run: Run, direction: Direction) -> str:
    """Re-point the aliases, let the clients go on, and prove it by queries.

    A pooler that could not be re-pointed keeps its clients waiting: they would meet the fence.
    """
    poolers = run.sides.poolers
    if poolers:
        with run.step("repoint"):
            failures = poolers.repoint(direction)
        run.open_at = time.monotonic()
        place("pooler.resumed")
        with run.step("probe"):
            time.sleep(SETTLE_S)
            failures += poolers.probe(identities(run.sides, direction), direction)
            failures += poolers.settle()
        if failures:
            return "; ".join(failures)
        run.journal.add_evidence({WAITING: None})
    return ""


def _run_hooks(run: Run, direction: Direction, epoch: int) -> str:
    failures: list[str] = []
    if run.shard_map.on_switch:
        with run.step("hook"):
            for command in run.shard_map.on_switch:
                failures += _hook(run, command, direction, epoch)
    if run.shard_map.on_switch or not run.open_at:
        run.open_at = time.monotonic()
    return f"hook {'; '.join(failures)}" if failures else ""


def _hook(run: Run, command: str, direction: Direction, epoch: int) -> list[str]:
    timeout_s, say = run.options.hook_timeout_s, run.hands.say
    failure = run_hook(run.shard_map, command, epoch=epoch, direction=direction, timeout_s=timeout_s, say=say)
    return [failure] if failure else []


def resume_clients(shard_map: ShardMap, journal: Journal, *, story: str) -> str:
    """Let clients that a run has left waiting go on where they were; returns why some still wait, or nothing.

    Only for a run of this story that is undone: nothing is re-pointed.
    """
    waiting = journal.get().evidence.get(WAITING) or {}
    if not shard_map.pgbouncers or waiting.get("story") != story:
        return ""
    poolers = Poolers(shard_map)
    try:
        failures = poolers.undo()
    finally:
        poolers.close()
    journal.add_evidence({WAITING: None})
    journal.event("clients_resumed", failures=failures)
    return "; ".join(failures)


def identities(sides: Sides, direction: Direction) -> dict[str, Identity]:
    """Return, by shard, the database that its alias leads to: its own one, or the source when it leads back."""
    if direction == "forward":
        return sides.each_shard(lambda _, connection: identity_of(connection))
    return dict.fromkeys(sides.shards, identity_of(sides.source))
