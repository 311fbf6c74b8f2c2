"""Work that is done before it is needed, on a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

__all__ = ["Ahead"]

Check = Callable[[], None]


class _Stopped(Exception):
    """The work is wanted no more."""


class Ahead:
    """One piece of work at a time, which whoever needs its result does himself where this has not.

    So nothing depends on it: not on whether a thread could be started, nor on what becomes of it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def begin(self, work: Callable[[Check], None] | None) -> None:
        """Begin a piece of work, if there is any and none under way; what it is to call now and then may end it."""
        if work is not None and (self._thread is None or not self._thread.is_alive()):
            self._stop = threading.Event()
            self._thread = threading.Thread(target=_done, args=(work, self._stop), name="asof-ahead")
            with contextlib.suppress(RuntimeError):  # no more threads: it is done when it is needed
                self._thread.start()

    def stop(self) -> None:
        """Let the work under way end soon, undone."""
        self._stop.set()


def _done(work: Callable[[Check], None], stop: threading.Event) -> None:
    def check() -> None:
        # The interpreter waits for its threads before it ends: this one shall not keep it.
        if stop.is_set() or not threading.main_thread().is_alive():
            raise _Stopped

    with contextlib.suppress(_Stopped):
        work(check)
