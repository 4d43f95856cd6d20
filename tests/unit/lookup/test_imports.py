"""What an application pays for importing the library."""

from __future__ import annotations

import subprocess
import sys

SHOW = "import fixia_shardmig.lookup, sys; print('\\n'.join(sys.modules))"
UNWANTED = (
    "click",
    "rich_click",
    "rich",
    "structlog",
    *(
        f"fixia_shardmig.{room}"
        for room in ("cli", "copy", "cutover", "demo", "journal", "plan", "runner", "schema", "tail", "verify")
    ),
)


def test_the_library_brings_neither_the_command_line_nor_the_copier() -> None:
    """Importing fixia_shardmig.lookup pulls in no room that moves rows, and nothing that prints."""
    loaded = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True).stdout.split()
    assert "fixia_shardmig.lookup" in loaded
    assert [] == sorted(set(UNWANTED) & set(loaded))
