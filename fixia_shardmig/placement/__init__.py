"""The one rule "on which shard does this row live", read as SQL over a snapshot and as a lookup in the stream."""
