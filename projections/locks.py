"""A lock that many readers share and one writer has alone."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator

__all__ = ["SharedLock"]

# Whoever waits looks again after so many seconds, should the one who was to wake it have been interrupted.
_LOOK_AGAIN = 0.05


class _Holder:
    """One who holds the lock or waits for it; forgotten where an interrupt kept it from taking its leave."""

    __slots__ = ("__weakref__",)


class SharedLock:
    """Searches share it, changes take it alone. A waiting writer goes before readers that come later.

    Ctrl-C may come between any two steps. So nothing is counted: holders are known by name, from inside the `try` that
    takes them out again. And only plain locks are used: what `threading` makes of them in Python can stay locked.
    """

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._readers: weakref.WeakSet[_Holder] = weakref.WeakSet()
        self._waiting: weakref.WeakSet[_Holder] = weakref.WeakSet()
        self._writing: weakref.WeakSet[_Holder] = weakref.WeakSet()
        self._sleeping: list[threading.Lock] = []

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold it together with other readers."""
        holder = _Holder()
        try:
            self._enter(holder, self._readers, lambda: not self._writing and not self._waiting)
            yield
        finally:
            self._leave(holder)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold it alone."""
        holder = _Holder()
        try:
            with self._gate:
                self._waiting.add(holder)
            self._enter(holder, self._writing, lambda: not self._writing and not self._readers)
            yield
        finally:
            self._leave(holder)

    def _enter(self, holder: _Holder, holders: weakref.WeakSet[_Holder], free: Callable[[], bool]) -> None:
        while True:
            with self._gate:
                if free():
                    holders.add(holder)
                    self._waiting.discard(holder)
                    return
                woken = threading.Lock()
                woken.acquire()
                self._sleeping.append(woken)
            woken.acquire(timeout=_LOOK_AGAIN)

    def _leave(self, holder: _Holder) -> None:
        with self._gate:
            for holders in (self._readers, self._waiting, self._writing):
                holders.discard(holder)
            while self._sleeping:
                self._sleeping.pop().release()
