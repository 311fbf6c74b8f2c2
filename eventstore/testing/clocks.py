"""Clocks that a test sets, and clocks that jump."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from hypothesis import strategies as st

__all__ = ["MICROSECOND", "START", "ManualClock", "clocks", "jumps"]

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""Where the kit's clocks begin."""

MICROSECOND = timedelta(microseconds=1)
"""The finest step that a history can tell apart."""


class ManualClock:
    """A clock that stands still until it is moved; give it to `EventStore(clock=...)`.

    Args:
        now: the time to begin at, an aware datetime.
        jumps: steps to take of itself, one at each reading before the time is read; none after the last.
    """

    def __init__(self, now: datetime = START, *, jumps: Sequence[timedelta] = ()) -> None:
        self.now = now
        self._start = now
        self._jumps = list(jumps)
        self._read = 0

    def __call__(self) -> datetime:
        """The time."""
        if self._read < len(self._jumps):
            self.now += self._jumps[self._read]
            self._read += 1
        return self.now

    def move(self, **step: float) -> datetime:
        """Move by a timedelta's arguments, `move(seconds=-1)`; return the new time."""
        self.now += timedelta(**step)
        return self.now

    def __repr__(self) -> str:
        # As it was made, so that it can be pasted into a test.
        jumps = f", jumps={self._jumps!r}" if self._jumps else ""
        return f"ManualClock({self._start!r}{jumps})"


def jumps() -> st.SearchStrategy[timedelta]:
    """Steps of a clock that is not to be trusted: none, one microsecond, hours and days, forward and back."""
    return st.sampled_from(
        [
            timedelta(0),
            MICROSECOND,
            timedelta(seconds=1),
            timedelta(days=1),
            -MICROSECOND,
            timedelta(hours=-1),
            timedelta(days=-3),
        ]
    )


def clocks(*, max_jumps: int = 10) -> st.SearchStrategy[ManualClock]:
    """Clocks that jump forward and back, or stand still, as they are read."""
    return st.lists(jumps(), max_size=max_jumps).map(lambda steps: ManualClock(jumps=steps))
