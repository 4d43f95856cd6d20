"""The state machine: what writers, the copy, the tail and crashes can do, in any order that Hypothesis thinks of.

Each step ends with the world's judgement; each history ends with a copy and a catch-up that nothing disturbs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from fixia_shardmig.tail import kernel
from tests.model.source import SHARDS, STATEMENTS, Statement
from tests.model.world import Crash, World

STEPS = 20
EPOCHS_MAX = 3
FIRST_ROWS: list[Statement] = [
    *(("user", number, number, number, number % 2) for number in (1, 2, 3)),
    *(("service", number, 1, number, number % 2) for number in (1, 2, 3)),
    *(("review", number, number - 1, number, 0) for number in (1, 2, 3)),
    *(("note", number, number, 1, 1) for number in (1, 2, 3)),
    *(("log", number, 1, 1, 0) for number in (1, 2)),
]
"""A user on each shard with followers, so that most statements hit a row."""

TWICE_AS_OFTEN = ("user", "kind", "service", "owner", "review")

SUBSETS = [tuple(shard for at, shard in enumerate(SHARDS) if bits >> at & 1) for bits in range(7)]
"""The shards that commit a chunk when the copy dies before the others do."""

_statements = st.tuples(
    st.sampled_from([*STATEMENTS, *TWICE_AS_OFTEN]),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(0, 1),
)
_places = (*SHARDS, *(f"home {shard}" for shard in SHARDS), "journal", "part", "drop", "settled", "acknowledge")
_crashes = st.frozensets(st.tuples(st.sampled_from(_places), st.sampled_from([1, 1, 2, 3]), st.booleans()), max_size=3)

_one_shard_dies = st.builds(
    lambda place, number: frozenset({(place, number, False)}), st.sampled_from(_places[:6]), st.integers(1, 2)
)
"""A torn batch, for certain, if there is a batch."""


class Histories(RuleBasedStateMachine):
    """One history of one migration."""

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()
        self.world = World()
        self._failed = False

    @contextmanager
    def _step(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    @initialize(rows=st.lists(_statements, max_size=6), at_once=st.booleans())
    def begin(self, *, rows: list[Statement], at_once: bool) -> None:
        """Fill the source, make the slot and open its snapshot; perhaps copy everything under it."""
        with self._step():
            self.world.source.write(FIRST_ROWS)
            for statement in rows:
                self.world.source.write([statement])
            self.world.open_snapshot()
            for name, block in list(self.world.open_chunks) if at_once else ():
                self.world.copy(name, block)

    @rule(statements=st.lists(_statements, min_size=1, max_size=4))
    def write(self, statements: list[Statement]) -> None:
        """Commit a transaction on the source."""
        with self._step():
            self.world.source.write(statements)

    @precondition(lambda self: not self.world.tailing and len(self.world.journal.opened) < EPOCHS_MAX)
    @rule()
    def snapshot(self) -> None:
        """Lose the snapshot and open another one."""
        with self._step():
            self.world.open_snapshot()

    @precondition(lambda self: not self.world.tailing)
    @rule(
        which=st.sampled_from([511, *range(1, 511, 2)]) | st.integers(1, 511),
        only=st.sampled_from([SHARDS, SHARDS, SHARDS, *SUBSETS]),
    )
    def copy(self, which: int, only: tuple[str, ...]) -> None:
        """Copy some of the open chunks, perhaps to some of the shards only."""
        with self._step():
            for at, (name, block) in enumerate(list(self.world.open_chunks)):
                if which >> at & 1:
                    self.world.copy(name, block, only=only)

    @precondition(lambda self: self.world.tailing)
    @rule(
        transactions=st.lists(st.lists(_statements, min_size=1, max_size=4), min_size=1, max_size=4),
        back=st.integers(0, 2),
        portions=st.lists(st.integers(1, 4), max_size=4),
        crashes=_crashes | _one_shard_dies,
        merging=st.booleans(),
        compiled=st.sampled_from((False, True) if kernel.IS_COMPILED else (False,)),
        small=st.booleans(),
    )
    def tail(
        self,
        *,
        transactions: list[list[Statement]],
        back: int,
        portions: list[int],
        crashes: frozenset[Crash],
        merging: bool,
        compiled: bool,
        small: bool,
    ) -> None:
        """Write, run a tail up to some transactions before the last one, in batches of any size, and perhaps die."""
        with self._step():
            for statements in transactions:
                self.world.source.write(statements)
            past = self.world.source.committed
            until = past[max(len(past) - 1 - back, 0)].end_lsn
            self.world.tail(until, portions=portions, crashes=crashes, merging=merging, compiled=compiled, small=small)

    def teardown(self) -> None:
        """Copy and catch up undisturbed; then all shards together are the source."""
        try:
            if not self._failed:
                self.world.finish()
        finally:
            self.world.close()


def run_histories(number: int, histories: int, *, shrink: bool = True) -> None:
    """Run so many histories from a seed; a failure is made small and printed as the steps that lead to it."""

    class Seeded(Histories):
        """The same with a seed of its own."""

    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    run_state_machine_as_test(
        seed(number)(Seeded),
        settings=settings(
            max_examples=histories,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=phases,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
            verbosity=Verbosity.normal,
        ),
    )
