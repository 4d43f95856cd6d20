"""The command line: arguments in, one library call, text or JSON and an exit code out."""

from __future__ import annotations

import sys

from fixia_shardmig.cli.app import cli
from fixia_shardmig.cli.program import run


def main() -> None:
    """Run the program and end the process."""
    sys.exit(run(sys.argv[1:]))


__all__ = ["cli", "main"]
