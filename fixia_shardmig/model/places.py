"""Named places before and after each durable step, where a test has the program die as if by `kill -9`.

Nothing happens at them unless the environment names one when the program starts: `SHARDMIG_TEST_PLACE=NAME`, or
`NAME:3` for the third time a process comes by, or `NAME:3:parent` to have its parent die with it. Worker processes
inherit the environment, so a place in a worker ends that worker.
"""

from __future__ import annotations

import itertools
import os
import signal

VARIABLE = "SHARDMIG_TEST_PLACE"

_armed, _nth, _victim = [*os.environ.get(VARIABLE, "").split(":"), "", ""][:3]
_hits = itertools.count(1)


def place(name: str, of: str = "") -> None:
    """Mark a place; `of` tells several that share one line apart, and is named behind a dot."""
    if _armed and _armed == (f"{name}.{of}" if of else name) and next(_hits) == int(_nth or 1):
        if _victim == "parent":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
