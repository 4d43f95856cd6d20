"""Applications that keep writing while their database is split, and notice every moment in which they cannot.

Before the cutover every transaction goes to the source; after `move_to` each goes to one shard. A refused or lost
transaction is counted by its SQLSTATE and another one is tried at once, as an application with retries does. Writers
refuse to end by themselves: `stop` does it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.string import TextLoader

from fixia_shardmig.demo.ledger import Counters, Entry, Gap, Ledger
from fixia_shardmig.demo.odd_values import Values
from fixia_shardmig.demo.works import (
    EVERYONE,
    SHARD,
    SHARED_SHARD,
    WHOLE,
    MisroutedError,
    NothingToDoError,
    RollBackError,
    Turn,
    Work,
)

SOURCE = "source"

# Fixia's split as its applications know it: who lives on which shard.
TYPES_ON = {"professionals": ("professional", "dual"), "clients": ("client",), "shared": ("admin",)}

# Of each ten transactions after the split.
_SHARD_WEIGHTS = {"professionals": 5, "clients": 4, "shared": 1}

RETRY_S = 0.01
CONNECT_S_MAX = 5
STOP_S_MAX = 30.0
# A worker that fell behind its rate by more (a fence) starts its schedule anew instead of catching up in a burst.
BEHIND_S_MAX = 1.0

HomeOf = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class _Route:
    """Where transactions go now. Replaced as a whole, so that no worker sees half a move."""

    urls: Mapping[str, str] = field(repr=False)
    home_of: HomeOf | None = None

    def places(self) -> list[str]:
        """Each place as often as it is to be chosen."""
        return [place for place in self.urls for _ in range(_SHARD_WEIGHTS.get(place, 1))]


@dataclass(slots=True)
class _Control:
    """What the workers watch."""

    route: _Route
    interval_s: float
    running: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list[BaseException])


class Writers:
    """Threads that write like Fixia's users do.

    Args:
        source_url: The database that holds everything.
        threads: How many write at once, each over connections of its own.
        seed: Each thread's choices follow from it; what the server answers they do not control.
        transactions_per_s: Of all threads together; as fast as they can without it.
    """

    def __init__(
        self, source_url: str, *, threads: int = 4, seed: int = 1, transactions_per_s: float | None = None
    ) -> None:
        """Prepare the threads; `start` lets them go."""
        interval_s = threads / transactions_per_s if transactions_per_s else 0.0
        self._control = _Control(_Route({SOURCE: source_url}), interval_s)
        self._book = Ledger()
        self._workers = [
            _Worker(self._control, self._book, values=Values(seed * 1000 + number), name=f"writer-{number}")
            for number in range(threads)
        ]

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop and wait."""
        self.stop()

    def start(self) -> None:
        """Let the threads write."""
        self._control.running.set()
        for worker in self._workers:
            worker.start()

    def pause(self) -> None:
        """Return when no transaction is open; nothing is written until `resume`. The pause is no gap."""
        self._control.running.clear()
        for worker in self._workers:
            if not worker.resting.wait(STOP_S_MAX):
                raise TimeoutError(f"{worker.name} is still in a transaction after {STOP_S_MAX:.0f} s")

    def resume(self) -> None:
        """Write on."""
        self._book.rest()
        self._control.running.set()

    def stop(self) -> None:
        """Let each thread finish its transaction, and wait for all; raises what a thread died of. May come twice."""
        self._control.stopping.set()
        self._control.running.set()
        for worker in self._workers:
            if worker.ident is not None:
                worker.join(STOP_S_MAX)
        if self._control.failures:
            raise self._control.failures[0]

    def move_to(self, shard_urls: Mapping[str, str], *, home_of: HomeOf | None = None) -> None:
        """Send each later transaction to the home shard of its user, and begin a new ledger.

        Args:
            shard_urls: By shard; may be aliases that still lead to one database.
            home_of: A user's key to their shard, as the router knows it. A user whom it places elsewhere than they
                were met is counted as the error `misrouted`. Without it the user's own row is believed.
        """
        self._book.open(list(shard_urls))
        self._control.route = _Route(dict(shard_urls), home_of)

    def begin_ledger(self, places: Sequence[str]) -> None:
        """Begin a new ledger of what is written to these places; where transactions go is not changed."""
        self._book.open(places)

    def move_back(self, source_url: str) -> None:
        """Send each later transaction to the one database again; the shards' ledger stays to be judged."""
        self._control.route = _Route({SOURCE: source_url})

    def counters(self) -> Counters:
        """Return what was done and met so far."""
        return self._book.counters()

    def ledger(self) -> list[Entry]:
        """Return each row written to the shards since `move_to`."""
        return self._book.entries()

    def longest_gap(self) -> Gap | None:
        """Return the longest time between two commits since the start or the last `forget_gaps`."""
        return self._book.longest_gap()

    def forget_gaps(self) -> None:
        """Measure anew; call it right before a cutover or a rollback."""
        self._book.forget_gaps()


class _Worker(threading.Thread):
    """One thread, with one connection to each place it writes to."""

    def __init__(self, control: _Control, book: Ledger, *, values: Values, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.resting = threading.Event()
        self._control = control
        self._book = book
        self._values = values
        self._route = control.route
        self._connections: dict[str, psycopg.Connection[DictRow]] = {}
        self._next_at = time.monotonic()

    def run(self) -> None:
        """Write until told to stop; an error that is no database's is kept for `Writers.stop`."""
        control = self._control
        try:
            while not control.stopping.is_set():
                if not control.running.is_set():
                    self.resting.set()
                    control.running.wait()
                    self.resting.clear()
                    continue
                self._keep_pace()
                self._follow()
                self._take_turn(self._values.one_of(self._route.places()))
        except Exception as error:  # noqa: BLE001 - a dead writer must not look like a quiet one
            control.failures.append(error)
        finally:
            self._disconnect()
            self.resting.set()

    def _keep_pace(self) -> None:
        now = time.monotonic()
        self._next_at = max(self._next_at, now - BEHIND_S_MAX) + self._control.interval_s
        if self._next_at - self._control.interval_s > now:
            self._control.stopping.wait(self._next_at - self._control.interval_s - now)

    def _follow(self) -> None:
        """Leave the old databases when the writers were moved."""
        if self._route is not self._control.route:
            self._disconnect()
            self._route = self._control.route

    def _take_turn(self, place: str) -> None:
        work = self._values.one_of(_works_at(place))
        turn: Turn | None = None
        committing = False
        try:
            turn = Turn(self._connection(place), self._values, types=TYPES_ON.get(place, EVERYONE))
            turn.expect_home(self._route.home_of, place)
            work(turn)
            committing = True
            turn.connection.commit()
        except NothingToDoError:
            self._give_up(place, idle_turns=1)
        except RollBackError:
            self._give_up(place, rolled_back=1)
        except MisroutedError:
            self._give_up(place, error="misrouted")
        except psycopg.Error as error:
            if committing and turn is not None and turn.connection.closed:
                self._book.uncertain(place, turn.touches)
            self._give_up(place, error=error.sqlstate or type(error).__name__)
            self._control.stopping.wait(RETRY_S)
        else:
            self._book.committed(place, turn.touches, work=work.__name__)

    def _give_up(self, place: str, *, error: str = "", rolled_back: int = 0, idle_turns: int = 0) -> None:
        self._book.count(error=error, rolled_back=rolled_back, idle_turns=idle_turns)
        connection = self._connections.get(place)
        if connection is None:
            return
        try:
            connection.rollback()
        except psycopg.Error:
            connection.close()
            del self._connections[place]

    def _connection(self, place: str) -> psycopg.Connection[DictRow]:
        """Return the connection to a place, a new one if the last was lost."""
        known = self._connections.get(place)
        if known is not None and not known.closed:
            return known
        connection = connect(self._route.urls[place])
        self._connections[place] = connection
        return connection

    def _disconnect(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections = {}


def connect(url: str) -> psycopg.Connection[DictRow]:
    """Connect as one of Fixia's applications does; rows are dictionaries."""
    connection = psycopg.Connection[DictRow].connect(
        url,
        row_factory=dict_row,
        connect_timeout=CONNECT_S_MAX,
        application_name="fixia",
        prepare_threshold=None,  # as behind a transaction pooler
    )
    connection.adapters.register_loader("timestamp", TextLoader)  # there are moments beyond Python's calendar
    return connection


def _works_at(place: str) -> tuple[Work, ...]:
    match place:
        case "source":
            return WHOLE
        case "shared":
            return SHARED_SHARD
        case _:
            return SHARD
