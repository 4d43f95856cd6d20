"""The command line: arguments in, one library call, text or JSON and an exit code out."""

from __future__ import annotations

import os
import sys
import threading

from fixia_shardmig.cli.app import cli
from fixia_shardmig.cli.program import run


def main() -> None:
    """Run the program and end the process, also under a thread that still waits for a server."""
    code = run(sys.argv[1:])
    if threading.active_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


__all__ = ["cli", "main"]
