# What the compiled `_frames.pyx` offers.

from collections.abc import Sequence

SOURCE: str

DRY: int
ENDED: int
FULL: int
ASKED: int
UNKNOWN: int

class Taker:
    def __init__(self, connection: int, get_copy_data: int, freemem: int) -> None: ...
    def take(self, frames: list[tuple[int, bytes]], bytes_max: int) -> tuple[int, int]: ...

def whole(
    frames: Sequence[tuple[int, bytes]], start: int, held_max: int, message_bytes: int
) -> tuple[int, int, int, int, int, list[bytes], int] | None: ...
