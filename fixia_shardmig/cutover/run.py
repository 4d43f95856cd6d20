"""One run of a cutover or of a rollback: where it works, who it is, and what it has done. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from fixia_shardmig.cutover.result import CutoverOptions, Hands, Step
from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.mapping.shard_map import ShardMap

EVIDENCE: Final = "cutover"
"""The migration's evidence of the cutover under way: owner, expires_at, fenced_at, drained_lsn, sequences_set."""


@dataclass(slots=True)
class Run:
    """One run of a cutover: where it works, who it is, and what it has done."""

    shard_map: ShardMap
    journal: Journal
    sides: Sides
    options: CutoverOptions
    hands: Hands
    owner: str
    steps: list[Step] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)
    story: str = EVIDENCE
    """`cutover` or `rollback`: what its events and its evidence are called."""
    open_at: float = 0.0
    """When the writers could write again, by `time.monotonic`; 0 before that."""

    def pause_ms(self, began: float) -> float:
        """Return how long writers have been kept waiting, until now if they still are."""
        return ((self.open_at or time.monotonic()) - began) * 1000

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Journal a step before and after (pitfall 64), and time it."""
        self.journal.event(f"{self.story}_step_begun", step=name, owner=self.owner)
        began = time.monotonic()
        yield
        ms = (time.monotonic() - began) * 1000
        self.steps.append(Step(name, ms))
        self.journal.event(f"{self.story}_step_ended", step=name, owner=self.owner, ms=round(ms))

    def keep(self, **facts: object) -> None:
        """Add to its evidence in the journal."""
        self.evidence.update(facts)
        self.journal.add_evidence({self.story: self.evidence})
