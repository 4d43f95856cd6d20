"""An operator's process that stands still at a named place of a cutover, to be killed there.

Arguments: the place (`drained`, `sealed`, `switched`, or `resume` to finish another's cutover), max_pause_s,
expiry_margin_s, then JSON with the URLs and the poolers. Named places of the program itself are in the environment.
"""

from __future__ import annotations

import json
import sys
import time
from unittest import mock

from fixia_shardmig.cutover.cutover import cutover
from fixia_shardmig.cutover.recover import resume_cutover
from fixia_shardmig.cutover.result import CutoverOptions, Hands
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.mapping.shard_map import PgBouncer
from tests.integration.cutover.conftest import shard_map_of


def stand_still(*_: object) -> int:
    """Say that the place is reached, and stay there."""
    sys.stdout.write("there\n")
    sys.stdout.flush()
    time.sleep(600)
    return 0


def main() -> None:
    """Cut over up to the place."""
    place, max_pause_s, expiry_margin_s, urls = sys.argv[1:]
    loaded = json.loads(urls)
    poolers = tuple(PgBouncer(*one) for one in loaded.get("poolers", ()))
    shard_map = shard_map_of(loaded["source"], loaded["shards"], pgbouncers=poolers)
    if place == "sealed":
        mock.patch("fixia_shardmig.cutover.cutover.switch", stand_still).start()
    hands = Hands(
        enable_on_shards=stand_still if place == "switched" else lambda: None,
        on_drained=stand_still if place == "drained" else None,
        conflicts=lambda: 0,
    )
    options = CutoverOptions(max_pause_s=float(max_pause_s), expiry_margin_s=float(expiry_margin_s))
    with Journal(shard_map.shards["shared"].url, shard_map.name) as journal:
        begin = resume_cutover if place == "resume" else cutover
        begin(shard_map, journal, options=options, hands=hands)


if __name__ == "__main__":
    main()
