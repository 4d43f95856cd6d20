"""Runs a contender in processes of its own, for a bounded time, and watches how much memory they take.

Memory is the resident set of a process and all its descendants, summed and sampled: what processes share is counted in
each, and a peak between two samples is not seen. A worker's own peak is the kernel's `VmHWM`, which misses none.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import psutil
from psycopg import conninfo

from fixia_shardmig.model.errors import ShardmigError

RUN_S_MAX = 3600.0
"""No contender needs an hour for one round; one that does hangs."""

SAMPLE_S = 0.05
END_S = 10.0
WORKER = "--multiprocessing-fork"
"""What multiprocessing gives a worker among its arguments."""

OUTPUT_SHOWN = 2000

T = TypeVar("T")

_VARIABLES = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}


class PeakMemory:
    """Watches a process and its descendants in a thread while its block runs; then its figures are known."""

    def __init__(self, pid: int) -> None:
        """Name the process."""
        self.peak_bytes = 0
        self.worker_peak_bytes: int | None = None
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak memory", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            resident_bytes, worker_bytes = _memory_bytes(self._pid)
            self.peak_bytes = max(self.peak_bytes, resident_bytes)
            self.worker_peak_bytes = max(self.worker_peak_bytes or 0, worker_bytes) or None
            if self._done.wait(SAMPLE_S):
                return


def _memory_bytes(pid: int) -> tuple[int, int]:
    """Return what a process and its descendants have together, and the most that one of its workers ever had."""
    total = worker = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        command = process.cmdline()
        total = process.memory_info().rss
        for member in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                total += member.memory_info().rss
                if (
                    WORKER in (its := member.cmdline()) and its != command
                ):  # as long as that is its parent's it has forked
                    worker = max(worker, _high_water_bytes(member.pid))
    return total, worker


def _high_water_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


@dataclass(frozen=True, slots=True)
class Apart(Generic[T]):
    """What a function returned in a process of its own, how long it took there, and the most memory it had."""

    value: T
    seconds: float
    peak_bytes: int
    worker_peak_bytes: int | None


def run_apart(function: Callable[..., T], *arguments: object) -> Apart[T]:
    """Call a function in a fresh process, so that its memory is its own; the clock runs inside, without start-up.

    Raises:
        ShardmigError: With the function's error, or that it took too long.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        with PeakMemory(process.pid or 0) as memory:
            if not ours.poll(RUN_S_MAX):
                raise ShardmigError(f"{function.__name__} ran for {RUN_S_MAX:.0f} s", hint="see what it waits for")
            failure, value, seconds = ours.recv()
    except EOFError:
        raise ShardmigError(f"the process of {function.__name__} was killed", hint="is there memory enough?") from None
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join(END_S)
    if failure:
        raise ShardmigError(f"{function.__name__} failed: {failure}", hint="see its traceback above")
    return Apart(value, seconds, memory.peak_bytes, memory.worker_peak_bytes)


def _report(pipe: Pipe, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Call the function and send (what it failed with, what it returned, its seconds)."""
    began = time.monotonic()
    try:
        value = function(*arguments)
    except BaseException as error:
        pipe.send((f"{type(error).__name__}: {error}", None, 0.0))
        raise
    pipe.send(("", value, time.monotonic() - began))


def libpq_environment(url: str) -> dict[str, str]:
    """Return our environment with a URL in libpq's variables: a password has no place among arguments."""
    parts = conninfo.conninfo_to_dict(url)
    return os.environ | {_VARIABLES[name]: str(value) for name, value in parts.items()}


def run_program(
    command: Sequence[str | Path], *, environment: dict[str, str], cwd: Path, input_text: str | None = None
) -> tuple[str, int]:
    """Run a program to its end and return its stdout and peak memory; its descendants end with it, whatever happens.

    Raises:
        ShardmigError: With its last words.
    """
    name = Path(command[0]).name
    with subprocess.Popen(
        command,
        env=environment,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            with PeakMemory(process.pid) as memory:
                output, errors = process.communicate(input_text or "", timeout=RUN_S_MAX)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise ShardmigError(f"{name} ran for {RUN_S_MAX:.0f} s", hint="see what it waits for") from None
            raise
    if process.returncode:
        raise ShardmigError(f"{name} failed: {(errors or output).strip()[-OUTPUT_SHOWN:]}", hint=f"try {name} by hand")
    return output, memory.peak_bytes


def run_pipe(writer: Sequence[str | Path], reader: Sequence[str | Path], *, source_url: str, target_url: str) -> None:
    """Run `writer | reader`, the one at the source, the other at the target.

    Raises:
        ShardmigError: With the last words of the one that failed.
    """
    with (
        subprocess.Popen(
            writer, env=libpq_environment(source_url), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as left,
        subprocess.Popen(
            reader,
            env=libpq_environment(target_url),
            stdin=left.stdout,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as right,
    ):
        if left.stdout is not None:
            left.stdout.close()  # else the writer would not learn that the reader has gone
        try:
            _, right_errors = right.communicate(timeout=RUN_S_MAX)
            _, left_errors = left.communicate(timeout=END_S)
        except BaseException:
            left.kill()
            right.kill()
            raise
    if left.returncode or right.returncode:
        said = (left_errors + right_errors).decode(errors="replace").strip()[-OUTPUT_SHOWN:]
        raise ShardmigError(f"{writer[0]} | {reader[0]} failed: {said}", hint="try it by hand")
