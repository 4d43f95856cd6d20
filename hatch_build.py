"""Builds the compiled parts (`_*.pyx`) in place, for a wheel or an editable install; without a compiler, without them.

`python hatch_build.py` builds them again in a source tree, which whoever edits one of them has to do.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
PACKAGE = "fixia_shardmig"


class CompiledParts(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]
    """Adds the compiled parts to what is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  hatchling's signature
        """Build, and say of the wheel that it is for this platform."""
        try:
            built = build()
        except Exception as error:  # noqa: BLE001  whatever a compiler fails with: the general way does the same work
            self.app.display_warning(f"the compiled parts are left out, all works more slowly: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"] += [str(path.relative_to(ROOT)) for path in built]


def build() -> list[Path]:
    """Compile every part next to its source; returns the modules."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extensions = [
        Extension(
            ".".join(source.relative_to(ROOT).with_suffix("").parts),
            [str(source.relative_to(ROOT))],
            define_macros=[("SOURCE_DIGEST", f'"{digest(source)}"')],
        )
        for source in sorted((ROOT / PACKAGE).rglob("_*.pyx"))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        parts = cythonize(extensions, build_dir=scratch, quiet=True)
        command = build_ext(Distribution({"name": PACKAGE, "ext_modules": parts}))
        command.inplace = True
        command.build_temp = scratch
        command.ensure_finalized()
        command.run()
        return [ROOT / command.get_ext_fullpath(extension.name) for extension in extensions]


def digest(source: Path) -> str:
    """Return what a compiled part keeps of its source, so that one that was left behind is noticed."""
    return hashlib.sha256(source.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    for module in build():
        sys.stdout.write(f"{module}\n")
