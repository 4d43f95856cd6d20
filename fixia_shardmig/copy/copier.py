"""Drives the chunks of a copy through an executor and records each in the journal as it is done."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import Event

from fixia_shardmig.copy.pacing import GivenBackError
from fixia_shardmig.copy.worker import ChunkResult, ChunkTask, copy_chunk, prepare_worker
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.model.errors import TemporaryError
from fixia_shardmig.model.places import place
from fixia_shardmig.model.throttle import Pace, Verdict

POLL_S = 0.5
QUEUED_PER_JOB = 2
"""Tasks handed over ahead of need; enough to keep a worker busy, few enough to stop soon."""

OpenExecutor = Callable[[], AbstractContextManager[Executor]]
"""Gives the executor of one snapshot epoch. It ends with the epoch, and with it every session under that snapshot."""


@dataclass(slots=True)
class CopyTotals:
    """What this run has copied so far."""

    rows: int = 0
    bytes: int = 0
    chunks: int = 0


@contextmanager
def local_executor(jobs: int) -> Iterator[Executor]:
    """Give worker processes on this host; they start fresh, since a forked libpq session is nobody's."""
    executor = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def copy_chunks(
    tasks: Iterable[ChunkTask],
    *,
    executor: Executor,
    jobs: int,
    journal: Journal,
    stop: Event,
    on_done: Callable[[CopyTotals, ChunkResult], None],
    pace: Callable[[], Pace],
) -> CopyTotals:
    """Run tasks until all are done or `stop` is set; chunks in flight are always finished and recorded.

    `pace` is asked before a chunk is handed out; a chunk that a worker gave back is handed out again.
    Raises the first task's error after the others in flight have ended.
    """
    totals = CopyTotals()
    given_back: list[ChunkTask] = []
    waiting = iter(tasks)

    def next_task() -> ChunkTask | None:
        return given_back.pop() if given_back else next(waiting, None)

    running: dict[Future[ChunkResult], ChunkTask] = {}
    failure: BaseException | None = None
    while True:
        may_begin = failure is None and not stop.is_set()
        more = may_begin and _fill(running, next_task, executor=executor, limit=_in_flight(pace().verdict, jobs))
        if not running and not more:
            break
        for result, task, error in _ended(running):
            if result is not None:
                _record(result, task, journal, totals)
                on_done(totals, result)
            elif isinstance(error, GivenBackError):
                given_back.append(task)
            else:
                failure = failure or error
        if failure is not None or stop.is_set():
            _withdraw(running)
    killed_with_us = stop.is_set() and isinstance(failure, BrokenProcessPool)  # by a signal to the whole group
    if failure is not None and not killed_with_us:
        raise _explained(failure)
    return totals


def _ended(
    running: dict[Future[ChunkResult], ChunkTask],
) -> Iterator[tuple[ChunkResult | None, ChunkTask, BaseException | None]]:
    """Wait a moment and yield (result, task, error) of what has ended, taken off the running ones."""
    if not running:
        time.sleep(POLL_S)
    done, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
    for future in done:
        error = future.exception()
        yield None if error else future.result(), running.pop(future), error


def _in_flight(verdict: Verdict, jobs: int) -> int:
    """Return how many chunks may be handed out: none while held, and with fewer jobs than workers none ahead."""
    if verdict.held:
        return 0
    return verdict.jobs if verdict.jobs is not None and verdict.jobs < jobs else jobs * QUEUED_PER_JOB


def _fill(
    running: dict[Future[ChunkResult], ChunkTask],
    next_task: Callable[[], ChunkTask | None],
    *,
    executor: Executor,
    limit: int,
) -> bool:
    """Hand tasks out up to a limit; False once there are no more."""
    while len(running) < limit:
        task = next_task()
        if task is None:
            return False
        with _interrupts_held():
            running[executor.submit(copy_chunk, task)] = task
    return True


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a worker may be started: it inherits that, and would else die of it while it imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _withdraw(running: dict[Future[ChunkResult], ChunkTask]) -> None:
    for future in list(running):
        if future.cancel():
            del running[future]


def _record(result: ChunkResult, task: ChunkTask, journal: Journal, totals: CopyTotals) -> None:
    place("copy.before_chunk_done")
    journal.chunk_done(result.chunk_id, task.epoch, rows=result.rows, size_bytes=result.size_bytes)
    place("copy.chunk_done")
    totals.rows += result.rows
    totals.bytes += result.size_bytes
    totals.chunks += 1


def _explained(failure: BaseException) -> BaseException:
    if isinstance(failure, BrokenProcessPool):
        return TemporaryError("a copy worker was killed", hint="shardmig copy --resume")
    return failure
