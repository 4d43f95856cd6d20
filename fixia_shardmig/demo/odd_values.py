"""Values for the marketplace, drawn from one seeded generator: plain ones mostly, and those that break migrations.

Everything is given as PostgreSQL's text form or a plain number, since some of it (BC dates, array lower bounds,
1e400 in jsonb) has no Python value. Refuses nothing; the same seed gives the same values.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TypeVar

T = TypeVar("T")

BEGINNING = datetime(2024, 8, 1)  # noqa: DTZ001 - Fixia's columns are timestamp(3) without time zone
SECONDS = 300 * 86_400
ODD_SHARE = 0.05
TOAST_SHARE = 0.02
TOAST_BYTES = (2_600, 7_000)

ODD_TEXTS = (
    "",
    " ",
    "\\N",
    "\\.",
    "NULL",
    "null",
    "it's a \"quote\", a 'quote' and a `tick`",
    "back\\slash \\t \\n \\x41 \\\\",
    "tab\there\nnewline\r\ncarriage\rvertical\vform\f",
    "Muñoz & Müller — «señal» ¿qué? ¡sí!",
    "emoji 🛠️👩🏽‍🔧🇦🇷",
    "汉字 かな 한글 עברית العربية",
    "combining e\u0301 is not \u00e9; zero\u200bwidth; \u00a0nbsp; \ufeffbom; \u2028line",
    "control \x01\x02\x1b[31m\x7f",
    "$$dollar$$ $1 %s %(name)s {0} {{}}",
    '{"looks": "like json"}',
    '{looks,like,"an array"}',
    "'; drop table users; --",
    "trailing space ",
    "ﬀ ligature, İ dotted, ß sharp, ς final",
    "\U0010ffff highest",
)

ODD_ARRAYS = (
    "{}",
    "{NULL}",
    '{a,NULL,"NULL",""}',
    "[0:2]={zero,one,two}",
    "[-1:1]={minus,NULL,plus}",
    '{"with,comma","with\\"quote","with\\\\backslash","with{brace}"," space "}',
    "{{a,b},{c,d}}",
    '{"línea\nnueva","tab\tulador",🛠️}',
)

ODD_JSON = (
    "null",
    "{}",
    "[]",
    '""',
    "1e400",
    "-0.0",
    "1.10",
    "123456789012345678901234567890.123456789",
    '{"b": 1, "a": 2, "a": 3}',
    '{"": {"": [null, true, false, [], {}]}}',
    '"\\u00e9 \\"quoted\\" \\\\ \\n \\t 🛠️"',
    '{"key with \'quote\'": "\\\\N"}',
)

ODD_TIMES = (
    "infinity",
    "-infinity",
    "0044-03-15 12:00:00.001 BC",
    "4713-01-01 00:00:00 BC",
    "0001-01-01 00:00:00",
    "1582-10-10 10:10:10.1",
    "1969-12-31 23:59:59.999",
    "2000-01-01 00:00:00",
    "2024-02-29 23:59:59.999",
    "294276-12-31 23:59:59.999",
)

ODD_FLOATS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "-0",
    "0.1",
    "0.30000000000000004",
    "5e-324",
    "1.7976931348623157e308",
    "123456789.12345679",
)

ODD_MONEY = ("NaN", "0.00", "-0.01", "9999999999.99", "-9999999999.99", "0.10", "1")

_WORDS = (
    *("plomería", "electricidad", "pintura", "techo", "cocina", "baño", "jardín", "urgente", "presupuesto"),
    *("visita", "garantía", "material", "equipo", "trabajo", "casa", "oficina", "local", "barrio", "semana"),
    *("detalle", "calidad", "precio", "oferta", "cliente", "servicio", "proyecto", "muestra", "entrega", "plazo"),
)

FIRST_NAMES = (
    "Ana",
    "Bruno",
    "Carla",
    "Diego",
    "Elena",
    "Facundo",
    "Inés",
    "Joaquín",
    "Lucía",
    "Martín",
    "Ñusta",
    "Zoë",
)
LAST_NAMES = ("García", "Fernández", "López", "O'Brien", "Núñez", "Acosta", "D'Angelo", "Sosa", "Quiroga", "Müller")
CITIES = ("Resistencia", "Corrientes", "Buenos Aires", "Córdoba", "Rosario", "Posadas", "Formosa", "San Martín (Chaco)")


class Values:
    """The one source of chance of a marketplace. Each method draws; call order is part of the seed's meaning."""

    def __init__(self, seed: int) -> None:
        """Begin the sequence of a seed."""
        self.random = random.Random(seed)  # noqa: S311 - test data, not secrets
        self._odd_turns: dict[tuple[str, ...], Iterator[str]] = {}
        self._sentences = [self._sentence() for _ in range(500)]

    def key(self) -> str:
        """Return a new key in the form of a version 4 uuid."""
        digits = f"{self.random.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{digits[16:20]}-{digits[20:]}"

    def chance(self, probability: float) -> bool:
        """Return true with a probability."""
        return self.random.random() < probability

    def integer(self, low: int, high: int) -> int:
        """Return a whole number, both ends included; faster than randint."""
        return low + int(self.random.random() * (high - low + 1))

    def one_of(self, values: list[T] | tuple[T, ...]) -> T:
        """Return any of the values, all alike; faster than choice."""
        return values[int(self.random.random() * len(values))]

    def popular(self, values: list[T]) -> T:
        """Return one of the values, the first ones far more often: half of all draws hit an eighth of them."""
        return values[int(self.random.random() ** 3 * len(values))]

    def text(self) -> str:
        """Return a sentence, now and then an odd one."""
        return self._odd(ODD_TEXTS) if self.chance(ODD_SHARE) else self.one_of(self._sentences)

    def long_text(self) -> str:
        """Return a sentence, in TOAST_SHARE of the calls one that is stored out of line."""
        return f"{self.text()} {self.bulk()}" if self.chance(TOAST_SHARE) else self.text()

    def maybe(self, value: str, probability: float = 0.5) -> str | None:
        """Return the value or, otherwise, NULL."""
        return value if self.random.random() < probability else None

    def bulk(self) -> str:
        """Return text that pglz cannot shorten, long enough for TOAST."""
        return base64.b64encode(self.random.randbytes(self.integer(*TOAST_BYTES) * 3 // 4)).decode()

    def time(self) -> str:
        """Return a moment within the marketplace's life, in milliseconds."""
        moment = BEGINNING + timedelta(milliseconds=int(self.random.random() * SECONDS * 1000))
        return moment.isoformat(" ", "milliseconds")

    def odd_time(self) -> str:
        """Return a moment, now and then one no calendar of Python's can hold."""
        return self._odd(ODD_TIMES) if self.chance(ODD_SHARE) else self.time()

    def money(self) -> str:
        """Return an amount for numeric(12,2), now and then an odd one."""
        return self._odd(ODD_MONEY) if self.chance(ODD_SHARE) else f"{self.integer(500, 5_000_000) / 100:.2f}"

    def number(self, high: float = 5.0) -> str:
        """Return a double between 0 and `high`, now and then an odd one."""
        return self._odd(ODD_FLOATS) if self.chance(ODD_SHARE) else repr(self.random.random() * high)

    def array(self) -> str:
        """Return a text[] literal of up to four words, now and then an odd one."""
        if self.chance(ODD_SHARE):
            return self._odd(ODD_ARRAYS)
        return "{" + ",".join(self.one_of(_WORDS) for _ in range(self.integer(0, 4))) + "}"

    def gallery(self) -> str:
        """Return a text[] literal of image URLs, in TOAST_SHARE of the calls one that is stored out of line."""
        if self.chance(TOAST_SHARE):
            return "{" + ",".join(f"https://img.fixia.test/{self.random.randbytes(40).hex()}" for _ in range(40)) + "}"
        return (
            "{" + ",".join(f"https://img.fixia.test/{self.integer(0, 10**9)}" for _ in range(self.integer(0, 3))) + "}"
        )

    def json(self) -> str:
        """Return a jsonb literal, now and then odd, in TOAST_SHARE of the calls stored out of line."""
        if self.chance(ODD_SHARE):
            return self._odd(ODD_JSON)
        document: dict[str, object] = {
            "source": self.one_of(_WORDS),
            "n": self.integer(0, 1000),
            "ok": self.chance(0.5),
        }
        if self.chance(TOAST_SHARE):
            document["blob"] = self.bulk()
        return json.dumps(document, ensure_ascii=False)

    def address(self) -> str:
        """Return an IP address."""
        return f"10.{self.integer(0, 255)}.{self.integer(0, 255)}.{self.integer(0, 255)}"

    def token(self) -> str:
        """Return a secret-looking text that is unique for all practical purposes."""
        return f"{self.random.getrandbits(160):040x}"

    def _odd(self, pool: tuple[str, ...]) -> str:
        """Return a pool's values in turn, so that even a small marketplace has them all."""
        return next(self._odd_turns.setdefault(pool, itertools.cycle(pool)))

    def _sentence(self) -> str:
        return " ".join(self.random.choice(_WORDS) for _ in range(self.random.randint(3, 14)))
