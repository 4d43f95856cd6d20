# What the compiled `_relay.pyx` offers.
from fixia_shardmig.copy.relay import ReadBlock

SOURCE: str
read_block: ReadBlock
