"""Says on what machine, with which versions and settings a run was made."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from benchmarks.pgcopydb import version_text
from benchmarks.servers import MAJOR, program, settings_of


def facts(command: list[str], jobs: int) -> Mapping[str, str]:
    """Return what somebody needs who wants to repeat a run or to doubt it."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": f"`{' '.join(command)}`",
        "shardmig": _commit(),
        "machine": f"{_cpu()}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}",
        "load before the run": f"{psutil.getloadavg()[0]:.1f} (1 minute)",
        "PostgreSQL": f"{MAJOR} ({_server_version()}), source and targets on this machine, TCP on loopback",
        "Python": f"{platform.python_version()}, psycopg {psycopg.__version__} ({psycopg.pq.__impl__})",
        "pgcopydb": version_text(),
        "settings of both clusters": ", ".join(f"{name} = {value}" for name, value in settings_of(jobs).items()),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _server_version() -> str:
    answer = subprocess.run([program("postgres"), "-V"], capture_output=True, text=True, check=True, timeout=10)
    return answer.stdout.split()[2]


def _commit() -> str:
    """Return the commit and whether the working tree differs from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=, with changes", "--exclude=*"]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "not under git"
    return answer.stdout.strip()
