"""Rebuild: a projection is thrown away and made again from the history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Progress", "Rebuildable", "rebuild"]

Progress = Callable[[int, int], None]
"""Is called with what is done and what there is to do in all."""


class Rebuildable(Protocol):
    """A projection that can start from nothing, such as `VectorIndex`."""

    @property
    def position(self) -> int:
        """The position of the last event that the projection has taken."""

    def rebuild(self, *, progress: Progress | None = None) -> object:
        """Forget everything and replay the history."""


def rebuild(index: Rebuildable, progress: Progress | None = None) -> int:
    """Make an index again from the history, whatever became of it; return the position that it is at.

    `progress` is called with events taken and in all. Raises what the index raises.
    """
    index.rebuild(progress=progress)
    return index.position
