"""What was measured, and the figures made from it: medians, speeds, ratios. Pure; it starts and reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    Attributes:
        seconds: Of the whole.
        peak_bytes: The largest resident memory of the client's processes together, where that was watched.
        parts: Seconds of parts of the whole, by name.
        worker_peak_bytes: The largest that one of its worker processes ever had.
    """

    seconds: float
    peak_bytes: int | None = None
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    worker_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """All measurements of one contender, in the order of the rounds."""

    name: str
    samples: tuple[Sample, ...]

    @property
    def median_s(self) -> float:
        """Return the median of the seconds."""
        return median(sample.seconds for sample in self.samples)

    @property
    def peak_bytes(self) -> int | None:
        """Return the largest peak of all rounds, or None where memory was not watched."""
        return max((sample.peak_bytes for sample in self.samples if sample.peak_bytes is not None), default=None)

    @property
    def worker_peak_bytes(self) -> int | None:
        """Return the largest that a worker process had in any round, or None where there was none."""
        found = (sample.worker_peak_bytes for sample in self.samples)
        return max((peak for peak in found if peak is not None), default=None)

    def part(self, part: str, name: str) -> Series:
        """Return a series of one part alone, under a name of its own; it knows nothing of memory."""
        return Series(name, tuple(Sample(sample.parts[part]) for sample in self.samples))


@dataclass(frozen=True, slots=True)
class Missing:
    """A contender that could not take part, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Contenders for the same work.

    Attributes:
        amount: How many units the work has, for example rows.
        unit: What they are called, in the plural.
        ours: What the others are compared with.
        others: Peers and limits.
    """

    title: str
    amount: int
    unit: str
    ours: Series
    others: tuple[Series | Missing, ...]


def speed_ratio(ours: Series, other: Series) -> float:
    """Return our speed as a multiple of the other's: above 1, we are faster."""
    return other.median_s / ours.median_s


def thousands_per_s(amount: int, seconds: float) -> float:
    """Return a speed in thousand units a second."""
    return amount / seconds / 1000


def part_medians(series: Series) -> dict[str, float]:
    """Return the median of each part, in the parts' order."""
    return {part: median(sample.parts[part] for sample in series.samples) for part in series.samples[0].parts}
