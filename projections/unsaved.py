"""When an index that catches up writes a checkpoint on its way: where that pays, or where memory would run out."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Unsaved"]

# Work that is worth saving. Writing a checkpoint takes as long as taking half its events does, or longer.
EVENTS = 100_000
SECONDS = 30.0
# And however soon: so much more may be in memory than vectors that files hold may take there.
BYTES = 256 * 2**20


class Unsaved:
    """What an index has taken since `position`, where it last wrote or tried to write a checkpoint, in `seconds`."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.seconds = 0.0

    def due(self, position: int, event_bytes: int, past_memory: Callable[[], int]) -> bool:
        """Whether to write a checkpoint now.

        `event_bytes` is what an event can take at most, and `past_memory` tells by how much vectors in memory exceed
        what they may take there once they are in files.
        """
        events = position - self.position
        if events >= EVENTS and self.seconds >= SECONDS:
            return True
        return events * event_bytes >= BYTES and past_memory() >= BYTES
