"""The phases of a migration, which of them may follow which, and who may write in each."""

from __future__ import annotations

from enum import Enum


class Writer(Enum):
    """The side that may accept writes."""

    SOURCE = "source"
    NOBODY = "nobody"
    SHARDS = "shards"


class Phase(Enum):
    """Where a migration stands."""

    PLANNED = "planned"
    COPYING = "copying"
    TAILING = "tailing"
    VERIFIED = "verified"
    FENCED = "fenced"
    SWITCHED = "switched"
    FINALIZED = "finalized"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


EDGES: dict[Phase, frozenset[Phase]] = {
    Phase.PLANNED: frozenset({Phase.COPYING, Phase.ABORTED}),
    Phase.COPYING: frozenset({Phase.TAILING, Phase.ABORTED}),
    Phase.TAILING: frozenset({Phase.VERIFIED, Phase.FENCED, Phase.ABORTED}),
    Phase.VERIFIED: frozenset({Phase.TAILING, Phase.FENCED, Phase.ABORTED}),
    Phase.FENCED: frozenset({Phase.TAILING, Phase.SWITCHED}),
    Phase.SWITCHED: frozenset({Phase.FINALIZED, Phase.ROLLING_BACK}),
    Phase.ROLLING_BACK: frozenset({Phase.SWITCHED, Phase.ROLLED_BACK}),
    Phase.ROLLED_BACK: frozenset({Phase.ABORTED}),
    Phase.FINALIZED: frozenset(),
    Phase.ABORTED: frozenset(),
}

_WRITERS = {
    Phase.FENCED: Writer.NOBODY,
    Phase.ROLLING_BACK: Writer.NOBODY,
    Phase.SWITCHED: Writer.SHARDS,
    Phase.FINALIZED: Writer.SHARDS,
}


def writer_in(phase: Phase) -> Writer:
    """Return who may write in a phase. No edge joins a source phase to a shard phase directly."""
    return _WRITERS.get(phase, Writer.SOURCE)
