"""Work that is done before it is needed, on a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

__all__ = ["Ahead"]

Check = Callable[[], None]

_NAME = "asof-ahead"


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
            self._thread = threading.Thread(target=_done, args=(work, self._stop), name=_NAME)
            with contextlib.suppress(RuntimeError):  # no more threads: it is done when it is needed
                self._thread.start()

    def stop(self) -> None:
        """Let the work under way end soon, undone."""
        self._stop.set()


def _done(work: Callable[[Check], None], stop: threading.Event) -> None:
    def check() -> None:
        if stop.is_set() or _is_ending():
            raise _Stopped

    # What goes wrong here goes wrong again for who needs the result, and is raised there.
    with contextlib.suppress(Exception):
        work(check)


def _is_ending() -> bool:
    """Whether the interpreter waits for nothing but threads like this one: they shall not keep it."""
    others = (thread for thread in threading.enumerate() if thread.name != _NAME and not thread.daemon)
    return not any(thread.is_alive() for thread in others)
