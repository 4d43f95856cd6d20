"""`python -m benchmarks [PART …]`: measures and prints Markdown; with --out into a page, too.

Parts are copy, tail, converge, verify and cutover.

Exit code 0 when every contender took part, 1 when one could not, since then the table has a hole; the rest is measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks import converge, copy, cutover, machine, markdown, pgcopydb, tail, verify
from benchmarks.market import USERS, market
from benchmarks.race import say
from benchmarks.servers import Servers, servers
from fixia_shardmig.model.errors import Exit, ShardmigError

LARGE = "large"
COPY_LARGE = "copy large"
SIZES = ("small", "full", LARGE)
PARTS = ("copy", "tail", "converge", "verify", "cutover")
JOBS_MAX = 4
"""Of tables at a time; more than the machine has cores would only measure its scheduler."""


def main() -> int:
    """Run what the arguments ask for; return the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.TERMINATED))  # unwinds the servers, as Ctrl-C does
    try:
        page = _page(options.out, [COPY_LARGE] if options.size == LARGE else options.parts)
        complete = _peers_are_here()
        facts = machine.facts(["python", "-m", "benchmarks", *sys.argv[1:]], options.jobs)
        with closing(_sections(options)) as sections:
            for name, section in sections:
                text = f"{section}\n{markdown.facts(facts)}"
                print(f"### {name}\n\n{text}", flush=True)
                page = _written(options.out, page, name, text)
    except ShardmigError as error:
        say(f"error: {error}")
        return error.exit_code
    return Exit.OK if complete else Exit.FAILED


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="copy|tail|converge|verify|cutover", help="what to measure; all of it without"
    )
    parser.add_argument(
        "--size", choices=SIZES, default="full", help="small: to see that it runs; large: 6 GB, copy without the others"
    )
    parser.add_argument("--users", type=int, metavar="N", help="of the marketplace, instead of the size's number")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; the median counts")
    parser.add_argument(
        "--jobs", type=int, default=min(os.cpu_count() or 1, JOBS_MAX), metavar="N", help="of everybody"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the servers there, and take what is kept there")
    parser.add_argument("--rounds", type=Path, metavar="FILE", help="of copy and verify: add to earlier runs' rounds")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="put each section between its markers in this page")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    if options.repeat < 1 or options.jobs < 1:
        parser.error("--repeat and --jobs are at least 1")
    if options.size == LARGE and set(options.parts) != {"copy"}:
        parser.error(f"only copy has the size {LARGE}")
    options.parts = [part for part in PARTS if part in (options.parts or PARTS)]
    return options


def _peers_are_here() -> bool:
    try:
        pgcopydb.find()
    except pgcopydb.NoPeerError as error:
        say(f"error: {error}\nthe others are measured")
        return False
    return True


def _sections(options: argparse.Namespace) -> Generator[tuple[str, str], None, None]:
    """Measure part after part on the same two servers; copy and verify share the marketplace."""
    with servers(options.jobs, keep=options.keep) as both, ExitStack() as stack:
        if "tail" in options.parts:
            yield "tail", tail.measure(both, options.repeat, options.size)
        if "converge" in options.parts:
            yield "converge", converge.measure(both, options.size)
        if "cutover" in options.parts:
            yield "cutover", cutover.measure(both, options.repeat, options.size)
        if {"copy", "verify"} & set(options.parts):
            yield from _market_sections(both, options, stack)


def _market_sections(
    both: Servers, options: argparse.Namespace, stack: ExitStack
) -> Generator[tuple[str, str], None, None]:
    made = stack.enter_context(market(both, users=options.users or USERS[options.size]))
    if options.size == LARGE:
        yield COPY_LARGE, copy.measure_alone(made, options.repeat)
    elif "copy" in options.parts:
        yield "copy", copy.measure(made, options.repeat, kept=options.rounds)
    if "verify" in options.parts:
        yield "verify", verify.measure(made, options.repeat, kept=options.rounds)


def _page(path: Path | None, names: list[str]) -> str:
    """Return the page to write into, or an empty one; refuse now, and not after an hour, what cannot be written."""
    if path is None or not path.exists():
        return "\n\n".join(markdown.empty_section(name) for name in names) + "\n"
    page = path.read_text("utf-8")
    for name in names:
        markdown.placed(page, name, "")
    return page


def _written(path: Path | None, page: str, name: str, text: str) -> str:
    page = markdown.placed(page, name, text)
    if path is not None:
        path.write_text(page, "utf-8")
    return page


if __name__ == "__main__":
    sys.exit(main())
