"""Whether a compiled part is there and wanted. See docs/adr/0013."""

from __future__ import annotations

import os
from importlib.util import find_spec


def is_built(module: str) -> bool:
    """Return whether a compiled module can be imported; SHARDMIG_COMPILED=0 leaves all of them out."""
    return os.environ.get("SHARDMIG_COMPILED") != "0" and find_spec(module) is not None
