"""Lets contenders do the same work in turn, round after round, so that a busy minute of the machine hits all of them.

A contender that is not on the machine is reported and left out; any other failure ends the run, since a comparison
with a hole, or with a wrong result, is worse than none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figures import Missing, Sample, Series
from benchmarks.markdown import seconds
from benchmarks.pgcopydb import NoPeerError


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who does the work.

    Attributes:
        run: Does it once and says how long it took; gets the round's number, from 0 on.
    """

    name: str
    run: Callable[[int], Sample]


def race(contenders: Sequence[Contender], rounds: int, *, kept: Path | None = None) -> list[Series | Missing]:
    """Return each contender's measurements, in the contenders' order.

    With `kept`, a file of earlier runs' rounds, those count too, and each round is added to it when it has ended.
    """
    earlier = json.loads(kept.read_text("utf-8")) if kept and kept.exists() else {}
    samples = {contender.name: [Sample(**one) for one in earlier.get(contender.name, [])] for contender in contenders}
    missing: dict[str, Missing] = {}
    for number in range(rounds):
        for contender in contenders:
            if contender.name in missing:
                continue
            try:
                sample = contender.run(number)
            except NoPeerError as error:
                missing[contender.name] = Missing(contender.name, f"{error.message}; hint: {error.hint}")
                say(f"  {contender.name}: {error}")
            else:
                samples[contender.name].append(sample)
                say(f"  round {number + 1}: {contender.name}: {seconds(sample.seconds)} s")
        if kept is not None:
            kept.write_text(json.dumps({name: list(map(asdict, found)) for name, found in samples.items()}), "utf-8")
    return [missing.get(name) or Series(name, tuple(found)) for name, found in samples.items()]


def present(entry: Series | Missing) -> Series:
    """Return a series that cannot be missing: our own, and the server's."""
    if isinstance(entry, Missing):
        raise TypeError(entry.reason)
    return entry


def say(line: str) -> None:
    """Tell a person how far the run is; what it found goes to stdout."""
    print(line, file=sys.stderr, flush=True)
