"""The program that `watchdog` starts: waits for its owner's end, and undoes what a dead owner has left behind.

It is no command of its own. It ends when it has been told that all is well, when everything is undone, or when that
could not be done in time; then the next `shardmig` command does it.
"""

from __future__ import annotations

import pickle
import sys
import time
from typing import Final

import psycopg

from fixia_shardmig.cutover.recover import Recovery, recover_unfinished
from fixia_shardmig.cutover.rollback import EVIDENCE as ROLLBACK
from fixia_shardmig.cutover.rollback import recover_rollback
from fixia_shardmig.cutover.sides import open_sides
from fixia_shardmig.cutover.watchdog import ALL_IS_WELL, READY
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.errors import ShardmigError

TRIES_S: Final = 60.0
POLL_S: Final = 0.1
"""The dead owner's lock in the journal goes when that server sees its connection closed."""


def main() -> None:
    """Read what to do, say so, and wait for the pipe's end."""
    told = pickle.load(sys.stdin.buffer)  # noqa: S301  written by our own parent, through a pipe nobody else has
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    if sys.stdin.buffer.read() == ALL_IS_WELL:
        return
    shard_map, journal_url, name, story = told
    deadline = time.monotonic() + TRIES_S
    while time.monotonic() < deadline and not _undone(shard_map, journal_url, name, story=story):
        time.sleep(POLL_S)


def _undone(shard_map: ShardMap, journal_url: str, name: str, *, story: str) -> bool:
    """Try once; False while the dead one's lock is still held, or a server cannot be reached."""
    try:
        with Journal(journal_url, name, actor="watchdog") as journal, open_sides(shard_map) as sides:
            if story == ROLLBACK:
                with journal.holding("operator"):
                    recover_rollback(shard_map, journal, sides)
                return True
            return recover_unfinished(shard_map, journal, sides.source) is not Recovery.HELD
    except (ShardmigError, psycopg.Error):  # HeldError too: the dead one's lock
        return False


if __name__ == "__main__":
    main()
