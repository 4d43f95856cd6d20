"""The command line: arguments in, one library call, text or JSON and an exit code out."""

from __future__ import annotations

from fixia_shardmig.cli.app import cli


def main() -> None:
    """Run the program."""
    cli()


__all__ = ["cli", "main"]
