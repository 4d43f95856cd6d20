"""Decides which of a server's errors may be tried again. One function, one short list."""

from __future__ import annotations

import psycopg
from psycopg import errors

from fixia_shardmig.model.errors import ShardmigError, TemporaryError
from fixia_shardmig.postgres.sessions import describe, without_secret

_PASSING = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.TooManyConnections,
    errors.CannotConnectNow,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.QueryCanceled,
    errors.DiskFull,
    errors.OutOfMemory,
    errors.ObjectInUse,
)


def is_passing(error: BaseException) -> bool:
    """Whether the same work may succeed later without anybody changing anything but the server's state."""
    if isinstance(error, (*_PASSING, TemporaryError)):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    # libpq reports a lost connection as a result without SQLSTATE, which psycopg makes a plain DatabaseError.
    lost = type(error) in {psycopg.OperationalError, psycopg.DatabaseError} and error.sqlstate is None
    return lost or (error.sqlstate or "").startswith("08")


def as_shardmig_error(error: psycopg.Error, url: str, *, doing: str, next_command: str) -> ShardmigError:
    """Turn a server's error into ours: temporary (exit 75) or failed (exit 1), with the place and the next command."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = without_secret(lines[0] if lines else type(error).__name__, url)
    message = f"{describe(url)}: {doing}: {cause}"
    if isinstance(error, errors.DiskFull):
        return TemporaryError(message, hint=f"make room on that server's disk, then run: {next_command}")
    if is_passing(error):
        return TemporaryError(message, hint=f"when the server is back, run: {next_command}")
    return ShardmigError(message, hint=f"remove the cause, then run: {next_command}")


def unforeseen(error: psycopg.Error) -> ShardmigError:
    """Turn an error that nobody expected into ours, so that it ends as a line and an exit code, not as a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = f"a server said: {lines[0] if lines else type(error).__name__}"
    if is_passing(error):
        return TemporaryError(cause, hint="when the server is back, run the same command again; what is done is saved")
    return ShardmigError(cause, hint="shardmig status shows where the migration stands; -v logs more")
