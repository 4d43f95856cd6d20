"""Has clients that wait at a pooler go on when our own process dies, with nobody at hand.

The database's fence expires by itself; a PAUSE does not. So before the first client waits, a process of its own is
started that holds the other end of a pipe. When the pipe closes without a word, it does what `recover` would: it lifts
the fence, takes the phase back and resumes the clients. What is sealed or switched it leaves to `--resume`, as
`recover` does. It refuses nothing, and it cannot help when it is killed with us.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from fixia_shardmig.cutover.run import Run
from fixia_shardmig.model.errors import TemporaryError

PROGRAM: Final = "fixia_shardmig.cutover.orphaned"
READY: Final = b"ready\n"
ALL_IS_WELL: Final = b"end"
END_S_MAX: Final = 10.0


@contextmanager
def watched(run: Run) -> Iterator[Callable[[], None]]:
    """Have somebody who can watch over us while clients wait; nobody without a pooler, or for a rehearsal.

    It starts while the gates are asked.

    Yields:
        A function that has it watch from then on; it raises TemporaryError where the process could not be started.
    """
    if not run.sides.poolers or run.options.dry_run:
        yield _nobody
        return
    process = subprocess.Popen(
        [sys.executable, "-m", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    watches: list[bool] = []

    def watch() -> None:
        watches.append(True)
        _hand_over(process, run)

    try:
        yield watch
    finally:
        if not watches:
            process.kill()
        _dismiss(process)


def _nobody() -> None:
    """Watch over nothing: no client is made to wait at a pooler."""


def _hand_over(process: subprocess.Popen[bytes], run: Run) -> None:
    """Tell it through the pipe what to do without us: the URLs are secrets, so they stand on no command line."""
    told = (run.shard_map, run.journal.url, run.journal.name, run.story)
    answer = b""
    with suppress(OSError):
        if process.stdin is not None and process.stdout is not None:
            pickle.dump(told, process.stdin)
            process.stdin.flush()
            answer = process.stdout.readline()
    if answer != READY:
        raise TemporaryError(
            "the process that resumes the poolers' clients should this one die could not be started",
            hint=f"shardmig {run.story}",
        )


def _dismiss(process: subprocess.Popen[bytes]) -> None:
    try:
        with suppress(BrokenPipeError):
            process.communicate(ALL_IS_WELL, timeout=END_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
