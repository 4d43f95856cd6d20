"""Hooks: real commands, run as the mapping says, ended at their time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fixia_shardmig.cutover.hooks import hook_program, run_hook
from fixia_shardmig.mapping.shard_map import Endpoint, ShardMap


@pytest.fixture
def shard_map(tmp_path: Path) -> ShardMap:
    """Give a mapping whose file lies beside its hooks."""
    return ShardMap("m", str(tmp_path / "shardmig.yaml"), Endpoint(""), {}, "", {})


def script(directory: Path, text: str, *, name: str = "hook.sh") -> str:
    """Write an executable script and return the command line that runs it."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"./{name}"


def test_a_hook_runs_beside_the_mapping_with_epoch_direction_and_name(tmp_path: Path, shard_map: ShardMap) -> None:
    """The contract's three variables; a relative program and its directory are the mapping file's."""
    lines: list[str] = []
    command = script(tmp_path, 'echo "$SHARDMIG_EPOCH $SHARDMIG_DIRECTION $SHARDMIG_MIGRATION $1" && pwd')
    assert "" == run_hook(shard_map, f"{command} 'two words'", epoch=7, say=lines.append)
    assert ["hook: 7 forward m two words", f"hook: {tmp_path.resolve()}"] == lines


def test_a_failing_hook_is_told_with_its_exit_code(tmp_path: Path, shard_map: ShardMap) -> None:
    """The reason names the command and nothing that it printed."""
    command = script(tmp_path, "echo password=hush >&2; exit 3")
    assert "./hook.sh: exit code 3" == run_hook(shard_map, command, epoch=1, say=lambda _: None)


def test_a_hook_that_hangs_is_killed_with_its_children(tmp_path: Path, shard_map: ShardMap) -> None:
    """The pause does not wait for it for ever."""
    command = script(tmp_path, "(sleep 3; touch survived) & sleep 60")
    began = time.monotonic()
    reason = run_hook(shard_map, command, epoch=1, timeout_s=0.3, say=lambda _: None)
    assert ("./hook.sh: not done after 0.3 s, killed", True) == (reason, time.monotonic() - began < 5)
    time.sleep(3.2)
    assert not (tmp_path / "survived").exists()


def test_what_a_hook_leaves_running_does_not_hold_it_up(tmp_path: Path, shard_map: ShardMap) -> None:
    """A service started in the background keeps the output open; the hook itself is done."""
    command = script(tmp_path, "sleep 5 & exit 0")
    began = time.monotonic()
    assert "" == run_hook(shard_map, command, epoch=1, say=lambda _: None)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("command", ["./missing.sh", "no-such-program-anywhere", "", "'unclosed"])
def test_a_command_that_cannot_run_is_found_before(shard_map: ShardMap, command: str) -> None:
    """The gate asks this; running it says so too."""
    assert None is hook_program(shard_map, command)
    assert "no program" in run_hook(shard_map, command, epoch=1, say=lambda _: None)


def test_a_file_that_is_not_executable_cannot_run(tmp_path: Path, shard_map: ShardMap) -> None:
    """The executable bit is the usual thing to forget."""
    (tmp_path / "plain.sh").write_text("echo")
    assert None is hook_program(shard_map, "./plain.sh")
