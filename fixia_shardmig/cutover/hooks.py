"""Runs the commands that re-point the application once the shards are the writer.

A hook is a command line of the mapping, split as a shell would, run without one, in the mapping's directory. It must be
safe to run twice. What it prints goes to the progress on stderr and never into the journal: it may hold secrets.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fixia_shardmig.mapping.shard_map import ShardMap

HOOK_TIMEOUT_S: Final = 60.0
FORWARD: Final = "forward"

OUTPUT_BYTES_MAX: Final = 64 * 1024
"""So much of what a hook prints is shown; one that runs wild fills a file of ours, not our memory."""


def hook_program(shard_map: ShardMap, command: str) -> Path | None:
    """Return the program that a command line runs, or None where there is none that can be executed."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if not words:
        return None
    program = words[0] if os.sep not in words[0] else str(_directory(shard_map) / words[0])
    found = shutil.which(program)
    return Path(found) if found else None


def run_hook(
    shard_map: ShardMap,
    command: str,
    *,
    epoch: int,
    direction: str = FORWARD,
    timeout_s: float = HOOK_TIMEOUT_S,
    say: Callable[[str], None],
) -> str:
    """Run one command with its process group ended at the timeout; returns why it failed, or nothing.

    Args:
        shard_map: Whose hook it is.
        command: One of `hooks.on_switch`.
        epoch: SHARDMIG_EPOCH, a number that only grows, by which a hook knows a call that is late.
        direction: SHARDMIG_DIRECTION.
        timeout_s: After so long it is killed with all that it started and that has stayed in its group.
        say: Takes the lines it prints.
    """
    program = hook_program(shard_map, command)
    if program is None:
        return f"{command}: no program that can be executed"
    environment = {
        **os.environ,
        "SHARDMIG_EPOCH": str(epoch),
        "SHARDMIG_DIRECTION": direction,
        "SHARDMIG_MIGRATION": shard_map.name,
    }
    # A file and no pipe: something that the hook leaves running in the background would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [str(program), *shlex.split(command)[1:]],
                cwd=_directory(shard_map),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return f"{command}: {error.strerror or error}"
        reason = _wait(process, timeout_s)
        output.seek(0)
        for line in output.read(OUTPUT_BYTES_MAX).decode(errors="replace").splitlines():
            say(f"hook: {line}")
    return f"{command}: {reason}" if reason else ""


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"not done after {timeout_s:g} s, killed"
    return f"exit code {code}" if code else ""


def _directory(shard_map: ShardMap) -> Path:
    return Path(shard_map.file).resolve().parent if shard_map.file else Path.cwd()
