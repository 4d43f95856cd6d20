"""The peer pgcopydb: found, asked for its version, and run. Debian has it as a package; nothing else here needs it.

Another build is taken from the environment: PGCOPYDB=/path/to/pgcopydb.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Sample
from benchmarks.processes import run_program
from benchmarks.servers import Servers, program
from fixia_shardmig.model.errors import RefusedError

VARIABLE = "PGCOPYDB"
ASK_S_MAX = 10.0


class NoPeerError(RefusedError):
    """A peer is not on this machine, or cannot do what is asked; the others still run."""


def find() -> str:
    """Return pgcopydb's path.

    Raises:
        NoPeerError: It is not installed.
    """
    found = shutil.which(os.environ.get(VARIABLE, "pgcopydb"))
    if found is None:
        raise NoPeerError("pgcopydb is not installed", hint="apt-get install pgcopydb")
    return found


def version_text() -> str:
    """Return its version, or that it is not installed."""
    try:
        return _ask(find(), "--version").stdout.splitlines()[0].removeprefix("pgcopydb version ")
    except NoPeerError as error:
        return str(error.message)


def refuse_without_compare() -> None:
    """Raise NoPeerError where this version has no `compare data` (0.10 has none)."""
    if "usage" not in (answer := _ask(find(), "compare", "data", "--help")).stdout + answer.stderr:
        raise NoPeerError(f"pgcopydb {version_text()} has no `compare data`", hint=f"set {VARIABLE} to a newer one")


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_S_MAX)


def clone(source_url: str, target_url: str, *, servers: Servers) -> Sample:
    """Run `pgcopydb clone`: definitions, data, indexes, constraints, foreign keys, VACUUM ANALYZE."""
    jobs = str(servers.jobs)
    return _run(source_url, target_url, ("clone", "--table-jobs", jobs, "--index-jobs", jobs), servers)


def copy_table_data(source_url: str, target_url: str, *, servers: Servers) -> Sample:
    """Run `pgcopydb copy table-data` into tables that are there."""
    return _run(source_url, target_url, ("copy", "table-data", "--table-jobs", str(servers.jobs)), servers)


def compare_data(source_url: str, target_url: str, *, servers: Servers) -> Sample:
    """Run `pgcopydb compare data`."""
    return _run(source_url, target_url, ("compare", "data", "--jobs", str(servers.jobs)), servers)


def _run(source_url: str, target_url: str, arguments: tuple[str, ...], servers: Servers) -> Sample:
    """Run it with a working directory of its own; the URLs are secrets and go through the environment."""
    found = find()
    with tempfile.TemporaryDirectory(dir=servers.folder, prefix="pgcopydb-") as place:
        environment = os.environ | {
            # its pg_dump and pg_restore are those of the servers' version
            "PATH": f"{program('pg_dump').parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "TMPDIR": place,
            "XDG_DATA_HOME": place,
            "PGCOPYDB_SOURCE_PGURI": source_url,
            "PGCOPYDB_TARGET_PGURI": target_url,
        }
        command = [found, *arguments, "--dir", str(Path(place) / "work")]
        began = time.monotonic()
        _, peak_bytes = run_program(command, environment=environment, cwd=Path(place))
        return Sample(time.monotonic() - began, peak_bytes)
