"""Tasks in threads: results in order, the first failure and a stop end the rest."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from fixia_shardmig.model.errors import StoppedError
from fixia_shardmig.verify.workers import Workers


def _nothing() -> None:
    """Stand for servers that have nothing to cancel."""


def test_results_come_in_the_order_of_the_tasks() -> None:
    """Whichever thread is done first."""
    workers = Workers(3, threading.Event(), _nothing)
    assert [n * n for n in range(20)] == workers.run([partial(pow, n, 2) for n in range(20)])


def test_the_first_failure_cancels_what_waits_for_a_server() -> None:
    """A task that hangs in a query is given back by `cancel`, and the failure is what is raised."""
    released = threading.Event()

    def fails() -> bool:
        raise ValueError("broken")

    workers = Workers(2, threading.Event(), released.set)
    with pytest.raises(ValueError, match="broken"):
        workers.run([released.wait, fails])
    assert released.is_set()


def test_a_stop_is_seen_while_tasks_run() -> None:
    """Nothing is awaited that a cancel can end."""
    stop, released = threading.Event(), threading.Event()
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    with pytest.raises(StoppedError, match="nothing was changed"):
        Workers(1, stop, released.set).run([released.wait, released.wait])
    timer.join()


def test_no_task_is_no_work() -> None:
    """An empty list is answered at once."""
    assert [] == Workers(2, threading.Event(), _nothing).run([])
