"""What was asked for last, kept for who asks again."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

__all__ = ["Recent"]

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The values that were asked for last, `most` of them, by key. Safe to share between threads.

    What is kept is never changed but replaced in one step: hashing and comparing keys runs Python code, into the middle
    of which Ctrl-C may come, and an `OrderedDict` that is left there contradicts itself from then on.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[K, V] = {}
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of a key; None where it is not kept."""
        return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value that has just been asked for, be it kept already or not; what was asked for longest ago goes."""
        with self._lock:
            if self._kept and next(reversed(self._kept.values())) is value:
                return
            kept = dict(self._kept)
            kept.pop(key, None)
            kept[key] = value
            for oldest in list(kept)[: -self._most]:
                del kept[oldest]
            self._kept = kept

    def values(self) -> list[V]:
        """All that is kept, what was asked for last last."""
        return list(self._kept.values())
