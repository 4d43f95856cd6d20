"""Every error shardmig raises on purpose, each with the hint that says what to do next.

ShardmigError                 exit 1: it failed; the message says what
├── RowNotFoundError          exit 1: no row has the key that was asked for; a KeyError too
├── MappingError              exit 2: the author of the mapping acts next
├── RefusedError              exit 4: the operator removes the reason first
│   ├── DriftError            exit 4: mapping or catalog changed since the plan
│   └── UnroutableError       exit 4: a row has no home under the mapping
├── HeldError                 exit 5: another run holds the migration
├── TemporaryError            exit 75: nobody acts; run it again
└── StoppedError              exit 130 or 143: stopped by a signal with its state saved
"""

from __future__ import annotations

from enum import IntEnum

SAME_COMMAND = "run the same command again"
"""In a hint: the place that knows the command puts its name here."""


class Exit(IntEnum):
    """What a command's exit code says to a script."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DIFFERENCES = 3
    REFUSED = 4
    HELD = 5
    TEMPORARY = 75
    INTERRUPTED = 130
    TERMINATED = 143


class ShardmigError(Exception):
    """The command failed.

    Args:
        message: The cause, lower case, without a full stop.
        hint: What to do next, best as a command.
    """

    exit_code = Exit.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the cause and the hint apart, so that every output can show both."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the cause and, on a line of its own, the hint."""
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class RowNotFoundError(ShardmigError, KeyError):
    """No row has the key that was asked for, on any database that could have it."""


class MappingError(ShardmigError):
    """The mapping file or the command line cannot be understood."""

    exit_code = Exit.USAGE


class RefusedError(ShardmigError):
    """A precondition does not hold, and going on could lose, double or misplace a row."""

    exit_code = Exit.REFUSED


class DriftError(RefusedError):
    """The mapping or a table's definition is not the one that was planned."""


class UnroutableError(RefusedError):
    """A row's home cannot be decided and its rule has no `otherwise`."""


class HeldError(ShardmigError):
    """Another process works on this migration."""

    exit_code = Exit.HELD


class TemporaryError(ShardmigError):
    """A server went away or was busy; the same command goes on from where this one stopped."""

    exit_code = Exit.TEMPORARY


class StoppedError(ShardmigError):
    """A signal asked us to stop; everything done so far is saved."""

    exit_code = Exit.INTERRUPTED

    def __init__(self, message: str, *, hint: str = "", terminated: bool = False) -> None:
        """Remember which signal it was, since the exit code tells."""
        super().__init__(message, hint=hint)
        if terminated:
            self.exit_code = Exit.TERMINATED
