"""Runs tasks in threads, the first of the list first; one failure or a stop ends all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from fixia_shardmig.model.errors import StoppedError

POLL_S = 0.2
"""How long a stop may go unseen."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Workers:
    """`jobs` threads, what asks them to stop, and what makes a server give a waiting thread back."""

    jobs: int
    stop: threading.Event
    cancel: Callable[[], None]

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Return the tasks' results in their order.

        Raises:
            StoppedError: `stop` was set.
            Exception: Whatever the first failing task raised.
        """
        with ThreadPoolExecutor(max(self.jobs, 1), thread_name_prefix="verify") as pool:
            futures = [pool.submit(task) for task in tasks]
            try:
                self._watch(futures)
            except BaseException:
                self._end(futures)
                raise
        return [future.result() for future in futures]

    def check(self) -> None:
        """Raise StoppedError once somebody asked to stop."""
        if self.stop.is_set():
            raise StoppedError("stopped while comparing; nothing was changed", hint="run again: shardmig verify")

    def _watch(self, futures: list[Future[T]]) -> None:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_EXCEPTION)
            self.check()
            for future in done:
                future.result()

    def _end(self, futures: list[Future[T]]) -> None:
        """Cancel until every thread is back: one may have been between two queries when it was asked first."""
        for future in futures:
            future.cancel()
        while any(not future.done() for future in futures):
            self.cancel()
            wait(futures, timeout=POLL_S)
