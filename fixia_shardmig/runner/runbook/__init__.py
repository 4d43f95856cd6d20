"""The runbook of one migration: a page made from its mapping, its plan, its journal and its gates as they are now.

`look` asks the servers and changes nothing, `figures` says how long things took and where that is known from; `page`
and the sections beside it only compose text. No secret is in it.
"""

from fixia_shardmig.runner.runbook.page import Runbook, make_runbook, write_runbook

__all__ = ["Runbook", "make_runbook", "write_runbook"]
