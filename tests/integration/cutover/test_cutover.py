"""The whole cutover under live writers; and whatever fails before the switch leaves the source as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fixia_shardmig.cutover.cutover import cutover
from fixia_shardmig.cutover.fence import FenceKind, fence_state
from fixia_shardmig.cutover.fence_locks import FenceBlockedError
from fixia_shardmig.cutover.recover import resume_cutover
from fixia_shardmig.cutover.result import CutoverResult
from fixia_shardmig.model.errors import DriftError, HeldError, RefusedError, ShardmigError, StoppedError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import session
from tests.integration.cutover.conftest import HOMES, Arena, count, options, run

BEFORE = ["gates", "slots", "prepare", "fence", "drain", "check", "sequences", "way_back", "seal", "switch"]
AFTER = ["enable", "references"]
LAST = ["subscriptions", "slot"]
STEPS = [*BEFORE, *AFTER, *LAST]


def cut(arena: Arena, hands: dict[str, Any] | None = None, **more: Any) -> CutoverResult:
    """Cut over with a journal session of its own."""
    with arena.journal() as journal:
        return cutover(arena.shard_map, journal, options=options(**more), hands=arena.hands(**(hands or {})))


def assert_as_before(arena: Arena) -> None:
    """Hold that writes pass, nothing of ours is on the source, and the phase is TAILING."""
    assert Phase.TAILING is arena.phase()
    arena.source("UPDATE users SET name = 'still here' WHERE id = 1")
    assert [(None,)] == arena.source("SELECT to_regnamespace('shardmig')::text")


class Clients(threading.Thread):
    """An application: inserts users, on the source until it is refused for good, then on their home shards."""

    def __init__(self, arena: Arena, number: int) -> None:
        """Take turns with the three kinds of users."""
        super().__init__(daemon=True)
        self._arena = arena
        self._number = number
        self.stopping = threading.Event()
        self.committed: list[tuple[int, str, str]] = []
        self.on_shards = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Write until told to stop."""
        try:
            turn = self._number
            while not self.stopping.is_set():
                turn += 1
                self._write(("professional", "client", "admin")[turn % 3], f"{self._number}-{turn}")
        except BaseException as error:  # noqa: BLE001  the test looks at it
            self.failure = error

    def _write(self, kind: str, name: str) -> None:
        statement = "INSERT INTO users (user_type, name) VALUES (%s, %s) RETURNING id"
        while not self.stopping.is_set():
            try:
                (row,) = run(self._arena.source_url, statement, kind, name)
            except psycopg.Error as error:
                if error.sqlstate == "SM002" and self._arena.phase() is Phase.SWITCHED:
                    (row,) = run(self._arena.shard_urls[HOMES[kind]], statement, kind, name)
                    self.on_shards += 1
                elif error.sqlstate in {"SM001", "SM002"}:
                    time.sleep(0.01)
                    continue
                else:
                    raise
            self.committed.append((row[0], kind, name))
            return


def test_every_acknowledged_write_is_on_its_home_shard_exactly_once(arena: Arena) -> None:
    """The law: under live writers, through the switch, nothing lost, doubled or misplaced, and no id given twice."""
    clients = [Clients(arena, number) for number in range(4)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    result = cut(arena)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not all(client.on_shards >= 3 for client in clients):
        time.sleep(0.05)
    for client in clients:
        client.stopping.set()
        client.join()
    assert [None] * 4 == [client.failure for client in clients]
    assert all(client.on_shards >= 3 for client in clients)
    expected = sorted(row for client in clients for row in client.committed)
    found = sorted(
        row
        for name, url in arena.shard_urls.items()
        for row in run(url, "SELECT id, user_type, name FROM users WHERE id > 30")
        if HOMES[row[1]] == name
    )
    assert expected == found
    assert len(found) + 30 == sum(count(url, "users") for url in arena.shard_urls.values())
    assert result.switched


def test_a_cutover_tells_its_steps_pause_marker_and_counts(arena: Arena) -> None:
    """The contract's JSON; every step is in the journal twice, before and after (pitfall 64)."""
    result = cut(arena)
    shown = result.to_json()
    assert STEPS == [step["step"] for step in shown["steps"]]
    assert (True, 1, "", []) == (shown["switched"], shown["routing_epoch"], shown["unfinished"], shown["uncounted"])
    assert {"users", "orders", "visits"} == set(shown["counted"])
    not_in_the_pause = {"gates", "slots", "prepare", *LAST}
    assert shown["pause_ms"] >= sum(s["ms"] for s in shown["steps"] if s["step"] not in not_in_the_pause) * 0.9
    assert shown["marker_lsn"].startswith("0/")
    with arena.journal() as journal:
        events = [event for event in journal.events() if event.event.startswith("cutover_step")]
        migration = journal.get()
    told = [(event.event.removeprefix("cutover_step_"), event.detail["step"]) for event in events]
    assert [(when, step) for step in STEPS for when in ("begun", "ended")] == told
    assert (Phase.SWITCHED, 1) == (migration.phase, migration.routing_epoch)
    assert 1 == arena.enabled


def test_the_way_back_begins_behind_all_that_the_way_there_has_brought(arena: Arena) -> None:
    """Pitfall 65: slots are made while the tail still applies; each stream begins where its shard stood still."""
    stood: dict[str, str] = {}

    def note() -> None:
        for name, url in arena.shard_urls.items():
            ((stood[name],),) = run(url, "SELECT pg_current_wal_insert_lsn()::text")

    cut(arena, {"on_drained": note})
    begun = dict(arena.source("SELECT stream, applied_lsn::text FROM shardmig.position"))
    assert set(stood) == set(begun)
    assert [] == [name for name, lsn in stood.items() if LSN.parse(begun[name]) < LSN.parse(lsn)]


def test_the_source_stays_fenced_after_the_switch(arena: Arena) -> None:
    """Pitfall 63: whoever holds the old URL gets a clear error, with no end."""
    cut(arena)
    with session(arena.source_url, "test") as source:
        assert FenceKind.SEALED is fence_state(source).kind
    with pytest.raises(psycopg.Error, match="have moved to the shards"):
        arena.source("DELETE FROM users")


def test_snapshots_for_a_later_proof_are_opened_behind_the_fence(arena: Arena) -> None:
    """`on_drained` is called when all sides stand still and hold the same."""
    seen: list[tuple[int, int]] = []

    def look() -> None:
        shards = sum(count(url, "users") for url in arena.shard_urls.values())
        seen.append((count(arena.source_url, "users"), shards))
        with pytest.raises(psycopg.Error, match="are paused"):
            arena.source("DELETE FROM users")

    cut(arena, {"on_drained": look})
    assert [(30, 30)] == seen


def test_without_the_tails_own_word_its_published_state_is_waited_for(arena: Arena) -> None:
    """A tail in another process: the count of conflicts has to be as of the drain."""
    assert cut(arena, {"conflicts": None}).switched


def test_a_drain_over_its_deadline_lifts_the_fence_and_writers_go_on(arena: Arena) -> None:
    """Pitfall 72: the tail hangs from the fence on; when the pause is over the source takes writes again."""
    writer = Clients(arena, 1)
    writer.start()
    arena.follower.stops_at_fence = True
    began = time.monotonic()
    with pytest.raises(RefusedError, match=r"not applied in time: .*; the fence is lifted, the source takes writes"):
        cut(arena, max_pause_s=3.0)
    assert time.monotonic() - began < 10
    before = len(writer.committed)
    time.sleep(0.5)
    writer.stopping.set()
    writer.join()
    assert (None, True) == (writer.failure, len(writer.committed) > before)
    assert_as_before(arena)


def test_rows_that_do_not_add_up_are_undone(arena: Arena) -> None:
    """A shard that has lost a row behind the tail's back is found by the counts."""
    run(arena.shard_urls["clients"], "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders)")
    with pytest.raises(RefusedError, match=r"orders: source 60, professionals 20, clients 19, shared 20"):
        cut(arena)
    assert_as_before(arena)


def test_conflicts_that_show_behind_the_fence_are_undone(arena: Arena) -> None:
    """What the gate saw may have changed since."""
    with pytest.raises(RefusedError, match="3 conflicts; the fence is lifted"):
        cut(arena, {"conflicts": lambda: 3})
    assert_as_before(arena)


def test_ddl_behind_the_gates_is_undone(arena: Arena) -> None:
    """The fence holds writes, not ALTER TABLE: the shards would lack what the source has."""
    with pytest.raises(DriftError, match="the source takes writes"):
        cut(arena, {"on_drained": lambda: arena.source("ALTER TABLE users ADD later int")})
    assert_as_before(arena)


def test_an_error_of_the_caller_is_undone_and_raised_as_it_was(arena: Arena) -> None:
    """Whatever `on_drained` raises, also a signal's KeyboardInterrupt."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut(arena, {"on_drained": interrupt})
    assert_as_before(arena)


def test_a_signal_before_the_switch_is_undone(arena: Arena) -> None:
    """A stop that is asked for behind the fence ends in the way back."""
    stop = threading.Event()
    with pytest.raises(StoppedError, match="the source takes writes"):
        cut(arena, {"stop": stop, "on_drained": stop.set})
    assert_as_before(arena)


def test_a_pause_that_is_over_is_undone(arena: Arena) -> None:
    """Pitfall 72: slow steps do not go on anyway."""
    with pytest.raises(RefusedError, match="pause of 2 s was over"):
        cut(arena, {"on_drained": lambda: time.sleep(2.1)}, max_pause_s=2.0)
    assert_as_before(arena)


def test_a_long_writer_is_named_and_nothing_has_changed(arena: Arena) -> None:
    """Pitfall 60: it began after the gates' limit, so the fence meets it."""
    with psycopg.connect(arena.source_url, application_name="nightly job") as blocker:
        blocker.execute("UPDATE users SET name = 'busy' WHERE id = 2")
        began = time.monotonic()
        with pytest.raises(FenceBlockedError, match="nightly job"):
            cut(arena, max_pause_s=2.0)
        assert time.monotonic() - began < 4
    assert Phase.VERIFIED is arena.phase()
    arena.source("UPDATE users SET name = 'x' WHERE id = 1")


@pytest.mark.parametrize("place", ["source", "journal"])
def test_a_lost_session_is_undone_by_a_new_one(arena: Arena, place: str) -> None:
    """The server ends our session behind the fence; the way back opens others."""
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND datname ="
    application, url = {
        "source": ("shardmig cutover", arena.source_url),
        "journal": ("shardmig journal", arena.shard_urls["shared"]),
    }[place]

    def cut_the_line() -> None:
        if place == "journal":
            arena.follower.stop()
        run(url, f"{terminate} current_database()", application)

    with pytest.raises(ShardmigError, match="the fence is lifted"):
        cut(arena, {"on_drained": cut_the_line})
    assert_as_before(arena)


def test_an_undone_cutover_can_be_tried_again(arena: Arena) -> None:
    """Pitfall 64: nothing of the first try is in the way of the second, sequences least of all."""
    with pytest.raises(RefusedError):
        cut(arena, {"conflicts": lambda: 1})
    assert cut(arena).switched
    ids = [
        run(url, "INSERT INTO users (user_type) VALUES ('x') RETURNING id")[0][0] for url in arena.shard_urls.values()
    ]
    assert [31, 32, 33] == ids


def test_two_operators_cannot_cut_over_at_once(arena: Arena) -> None:
    """The second is told who is at work."""
    with arena.journal() as first, first.holding("operator"), pytest.raises(HeldError):
        cut(arena)


def hook(directory: Path, text: str) -> dict[str, Any]:
    """Return the mapping's part for a hook script."""
    path = directory / "repoint.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return {"on_switch": (str(path),)}


def test_the_hook_runs_last_with_the_new_epoch(make_arena: Callable[..., Arena], tmp_path: Path) -> None:
    """After the shards are ready; its time is part of the pause that clients see."""
    told = tmp_path / "told"
    arena = make_arena(**hook(tmp_path, f'echo "$SHARDMIG_EPOCH $SHARDMIG_DIRECTION $SHARDMIG_MIGRATION" > {told}'))
    arena.follower.start()
    result = cut(arena)
    assert [*BEFORE, *AFTER, "hook", *LAST] == [step.name for step in result.steps]
    assert "1 forward arena\n" == told.read_text()


def test_a_failing_hook_is_told_never_undone_and_run_again_by_resume(
    make_arena: Callable[..., Arena], tmp_path: Path
) -> None:
    """After the switch everything is only finished."""
    flag = tmp_path / "mended"
    arena = make_arena(**hook(tmp_path, f"test -e {flag}"))
    arena.follower.start()
    result = cut(arena)
    assert (True, Phase.SWITCHED) == (result.switched, arena.phase())
    assert result.unfinished.endswith("repoint.sh: exit code 1")
    flag.touch()
    with arena.journal() as journal:
        again = resume_cutover(arena.shard_map, journal, options=options(), hands=arena.hands())
        assert 1 == journal.get().routing_epoch
    steps = [step.name for step in again.steps]
    assert (True, "", [*AFTER, "hook", *LAST]) == (again.switched, again.unfinished, steps)


def test_shards_that_are_not_ready_keep_the_hook_back(make_arena: Callable[..., Arena], tmp_path: Path) -> None:
    """No writer is led to a shard whose triggers are not enabled; the switch stands."""
    told = tmp_path / "told"
    arena = make_arena(**hook(tmp_path, f"touch {told}"))
    arena.follower.start()

    def fail() -> None:
        raise ShardmigError("a lock was in the way")

    result = cut(arena, {"enable_on_shards": fail})
    assert (True, False) == (result.switched, told.exists())
    assert "enabling triggers on the shards: a lock was in the way" == result.unfinished
