"""Values that people write with units: sizes, rates, durations, LSNs."""

from __future__ import annotations

import re
from typing import ClassVar

import click

from fixia_shardmig.model.lsn import LSN

PORT_MAX = 65535

_SCHEDULER = re.compile(r"^dask:(?P<address>(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5}))$", re.ASCII)
_NUMBER = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z/]*)\s*$")


class _Quantity(click.ParamType[float]):
    units: ClassVar[dict[str, float]]
    example: ClassVar[str]

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = _NUMBER.match(str(value))
        factor = self.units.get(match.group(2).lower()) if match else None
        if match is None or factor is None:
            self.fail(f"{value!r} is not understood; write it like {self.example}", param, ctx)
        return float(match.group(1)) * factor


class Size(_Quantity):
    """Bytes: `256MiB`, `50MB`, `1GiB`; per second where `/s` follows."""

    name = "size"
    example = "256MiB"
    units: ClassVar[dict[str, float]] = {
        unit + per: factor
        for per in ("", "/s")
        for unit, factor in {
            "": 1.0,
            "b": 1.0,
            "kb": 1e3,
            "mb": 1e6,
            "gb": 1e9,
            "kib": 2.0**10,
            "mib": 2.0**20,
            "gib": 2.0**30,
        }.items()
    }


class Duration(_Quantity):
    """Seconds: `500ms`, `5s`, `10m`, `2h`."""

    name = "duration"
    example = "2h"
    units: ClassVar[dict[str, float]] = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class ExecutorAddress(click.ParamType["str | None"]):
    """`local`, or `dask:HOST:PORT`; a scheduler's HOST:PORT, or None for this host."""

    name = "local|dask:HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str | None:
        """Return HOST:PORT, or None."""
        if value == "local":
            return None
        found = _SCHEDULER.match(str(value))
        if found is None or not 0 < int(found.group("port")) <= PORT_MAX:
            self.fail(f"{value!r} is neither local nor a scheduler's address like dask:10.0.0.5:8786", param, ctx)
        return found.group("address")


class Until(click.ParamType["LSN | str"]):
    """`caught-up` or an LSN."""

    name = "caught-up|LSN"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> LSN | str:
        """Return an LSN, or the word."""
        if value == "caught-up":
            return "caught-up"
        try:
            return LSN.parse(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither caught-up nor an LSN like 16/B374D848", param, ctx)
