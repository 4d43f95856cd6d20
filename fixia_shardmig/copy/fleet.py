"""Has the workers of a Dask cluster copy chunks, so that a copy is not bound by one host.

Refuses workers of another version of shardmig. A worker that dies has its chunks copied by another; a scheduler that is
gone ends the copy, which loses nothing. Passwords travel inside the tasks and are shown nowhere: not in a key, and not
in what Dask logs of a task's arguments.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, cast

from fixia_shardmig import __version__
from fixia_shardmig.copy.worker import RESUME, ChunkResult, ChunkTask, close_sessions, copy_chunk
from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError

DaskClient: TypeAlias = Any
DaskFuture: TypeAlias = Any
"""Dask's own types say less than nothing: what they call untyped, or a coroutine, is neither."""

CONNECT_S_MAX = 10.0
ASK_S_MAX = 20.0
"""How long the workers have to answer a question; one that does not is none to rely on."""

POLL_S = 0.5
NO_WORKER_S_MAX = 60.0
"""A fleet without a worker for this long is not coming back by itself, while the snapshot holds vacuum back."""

LOST_TRIES = 3
"""A result may be lost with the worker that has it; asking again for a chunk costs a look at its checkpoints."""

_one_at_a_time = threading.Lock()


def worker_version() -> str:
    """Return the version of shardmig in this process; asked of every worker."""
    return __version__


def copy_as(version: str, task: ChunkTask) -> ChunkResult:
    """Copy a chunk in a worker, which may have come after the versions were compared, and may have several threads."""
    if version != __version__:
        raise RefusedError(f"a worker has shardmig {__version__}, the copy {version}", hint=_same_version())
    with _one_at_a_time:
        return copy_chunk(task)


def forget_epoch() -> bool:
    """Close a worker's sessions when its epoch has ended; False while it is still at a chunk."""
    free = _one_at_a_time.acquire(blocking=False)
    if free:
        try:
            close_sessions()
        finally:
            _one_at_a_time.release()
    return free


def fleet_size(address: str) -> int:
    """Return how many workers a scheduler has, all of them fit to copy.

    Raises:
        RefusedError: There is none, or one has another version of shardmig or several threads.
        TemporaryError: The scheduler does not answer.
    """
    with _client(address) as client:
        return _fit_workers(client)


@contextmanager
def fleet_executor(address: str) -> Iterator[Executor]:
    """Give an executor for one snapshot epoch; at its end the workers close the sessions that they kept."""
    with _client(address) as client:
        _fit_workers(client)
        fleet = Fleet(client)
        try:
            yield fleet
        finally:
            fleet.close()
            with suppress(TemporaryError):  # a worker that is gone keeps no session
                _ask(client, forget_epoch)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """Connect to a scheduler. What Dask logs is for its own logs; what matters of it, we say ourselves."""
    try:
        from distributed import Client
    except ImportError:
        raise RefusedError(
            "the executor dask needs the package distributed", hint="pip install 'fixia-shardmig[dask]'"
        ) from None
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = cast("Any", Client)(f"tcp://{address}", timeout=CONNECT_S_MAX, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise TemporaryError(
            f"the Dask scheduler {address} does not answer", hint=f"start it, then run: {RESUME}"
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):  # nothing of the copy depends on how Dask's own session ends
            client.close(timeout=CONNECT_S_MAX)


def _fit_workers(client: DaskClient) -> int:
    """Return the number of workers. Raises RefusedError for one that must not copy."""
    threads = _threads(client)
    if not threads:
        raise RefusedError("the Dask scheduler has no worker", hint=f"start workers, then run: {RESUME}")
    many = sorted(name for name, count in threads.items() if count != 1)
    if many:
        raise RefusedError(f"{many[0]} has several threads", hint="start it with dask worker --nthreads 1")
    answers = _ask(client, worker_version)
    for name, version in sorted(answers.items()):
        if isinstance(version, ImportError):
            raise RefusedError(f"{name} has no such package as this command's", hint=_same_version())
        if version != __version__:
            raise RefusedError(f"{name} has shardmig {version}, this is {__version__}", hint=_same_version())
    return len(answers)


def _threads(client: DaskClient) -> dict[str, int]:
    """Return each worker's number of threads."""
    return _within_limit(client, client.scheduler.ncores)


def _ask(client: DaskClient, question: Callable[[], object]) -> dict[str, Any]:
    """Return each worker's answer, or the exception in its place. `Client.run` would do it, and wait for ever."""
    return _within_limit(client, client._run, question, on_error="return")  # noqa: SLF001


def _within_limit(client: DaskClient, call: Callable[..., Any], *args: object, **kwargs: object) -> dict[str, Any]:
    try:
        return dict(client.sync(call, *args, callback_timeout=ASK_S_MAX, **kwargs))
    except (OSError, TimeoutError, CancelledError) as error:
        raise TemporaryError(
            "the Dask workers do not answer", hint=f"see to the scheduler, then run: {RESUME}"
        ) from error


def _same_version() -> str:
    return f"pip install 'fixia-shardmig[dask]=={__version__}' on every host, then start the workers again"


class Fleet(Executor):
    """The workers as an executor. What was handed out is not taken back: a worker's thread cannot be stopped."""

    def __init__(self, client: DaskClient) -> None:
        """Begin to watch the scheduler."""
        self._client = client
        self._run = secrets.token_hex(4)  # two copies on one cluster must not be given each other's results
        self._numbers = itertools.count(1)
        self._open: dict[Future[Any], DaskFuture] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="fleet watch", daemon=True)
        self._watcher.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401  Executor's
        """Hand a chunk to the fleet. `fn` is `copy_chunk`, which the workers find in their own package."""
        if fn is not copy_chunk or kwargs:
            raise TypeError("a fleet copies chunks and does nothing else")
        task: ChunkTask = args[0]
        carried: Future[ChunkResult] = Future()
        carried.set_running_or_notify_cancel()
        self._hand_out(carried, task, LOST_TRIES)
        return carried

    def _hand_out(self, carried: Future[ChunkResult], task: ChunkTask, tries: int) -> None:
        try:
            remote = self._client.submit(copy_as, __version__, task, key=self._key(task), pure=False)
        except Exception:  # noqa: BLE001  whatever Dask raises here, it has no session to the scheduler
            carried.set_exception(_gone())
            return
        with self._lock:
            self._open[carried] = remote
        remote.add_done_callback(lambda done: self._settle(carried, done, task, tries - 1))

    def close(self) -> None:
        """End the watch; nobody waits for what is still out."""
        self._ended.set()
        self._watcher.join()
        self._fail_open(_gone())

    def _key(self, task: ChunkTask) -> str:
        return f"chunk-{task.chunk_id}-epoch-{task.epoch}-{self._run}-{next(self._numbers)}"

    def _settle(self, carried: Future[ChunkResult], remote: DaskFuture, task: ChunkTask, tries: int) -> None:
        """Hand a task's end on; what was lost on the way is handed out again."""
        try:
            ending: ChunkResult | BaseException | None = _ending(remote)
        except Exception:  # noqa: BLE001  Dask has several for a result that went with its worker
            ending = _gone() if self._client.status != "running" or not tries else None
        with self._lock:
            if self._open.pop(carried, None) is None:
                return
        if ending is None:
            self._hand_out(carried, task, tries)
        elif isinstance(ending, BaseException):
            carried.set_exception(ending)
        else:
            carried.set_result(ending)

    def _watch(self) -> None:
        alive_s = time.monotonic()
        while not self._ended.wait(POLL_S):
            with suppress(TemporaryError):
                if _threads(self._client):
                    alive_s = time.monotonic()
            if time.monotonic() - alive_s > NO_WORKER_S_MAX:
                hint = f"start workers, then run: {RESUME}"
                self._fail_open(TemporaryError("the Dask scheduler shows no worker any more", hint=hint))

    def _fail_open(self, error: ShardmigError) -> None:
        with self._lock:
            open_now, self._open = self._open, {}
        for carried in open_now:
            carried.set_exception(error)


def _gone() -> TemporaryError:
    return TemporaryError("the Dask scheduler is gone", hint=f"start it again, then run: {RESUME}")


def _ending(remote: DaskFuture) -> ChunkResult | BaseException:
    """Return a task's result or its own error. Raises whatever Dask raises for one that is lost."""
    if remote.status == "error":
        error = cast("BaseException", remote.exception(timeout=ASK_S_MAX))
        if type(error).__name__ == "KilledWorker":
            return TemporaryError("several copy workers died at one chunk", hint=RESUME)
        return error
    return cast("ChunkResult", remote.result(timeout=ASK_S_MAX))
