"""Work ahead of time: one piece at a time, on a thread that ends when it is told to."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from projections.ahead import Ahead

WAIT = 30


def endless(began: threading.Event, ended: threading.Event) -> Callable[[Callable[[], None]], None]:
    """Work that only `check` ends."""

    def work(check: Callable[[], None]) -> None:
        began.set()
        try:
            while True:
                check()
                time.sleep(0.001)
        finally:
            ended.set()

    return work


def test_work_is_done_beside() -> None:
    """On another thread; without work there is none."""
    ahead, done = Ahead(), threading.Event()
    ahead.begin(None)
    assert ahead._thread is None
    ahead.begin(lambda check: done.set())
    assert done.wait(WAIT)


def test_one_piece_at_a_time() -> None:
    """What is begun meanwhile is not; after it has been stopped there can be another."""
    ahead, began, ended, second = Ahead(), threading.Event(), threading.Event(), threading.Event()
    ahead.begin(endless(began, ended))
    assert began.wait(WAIT)
    ahead.begin(lambda check: second.set())
    assert not second.wait(0.05)
    ahead.stop()
    assert ended.wait(WAIT)
    assert ahead._thread is not None
    ahead._thread.join(WAIT)
    ahead.begin(lambda check: (check(), second.set())[0])
    assert second.wait(WAIT)


def test_without_a_thread_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may start no more of them goes on."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ahead, done = Ahead(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        ahead.begin(lambda check: done.set())
    assert not done.is_set()
    ahead.begin(lambda check: done.set())
    assert done.wait(WAIT)


def test_what_goes_wrong_is_left_to_who_needs_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed, and the next piece is done."""

    def fail(check: Callable[[], None]) -> None:
        raise MemoryError

    ahead, done = Ahead(), threading.Event()
    ahead.begin(fail)
    assert ahead._thread is not None
    ahead._thread.join(WAIT)
    ahead.begin(lambda check: done.set())
    assert done.wait(WAIT)
    assert capfd.readouterr() == ("", "")


def run(program: str) -> tuple[int, str, str]:
    """What a process ends with and prints."""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT)
    return ended.returncode, ended.stdout, ended.stderr


def test_it_goes_on_while_other_threads_do() -> None:
    """Where the main thread has come to its end and the process has not."""
    program = (
        "import threading, time\n"
        "from projections.ahead import Ahead\n"
        "def work(check):\n"
        "    while threading.main_thread().is_alive(): time.sleep(0.01)\n"
        "    for _ in range(10): check()\n"
        "    print('done', flush=True)\n"
        "    worked.set()\n"
        "worked = threading.Event()\n"
        "threading.Thread(target=worked.wait, args=(20,)).start()\n"
        "ahead = Ahead(); ahead.begin(work)\n"
    )
    assert run(program) == (0, "done\n", "")


def test_a_process_that_ends_does_not_wait_for_it() -> None:
    """Nor is anything printed."""
    program = (
        "import sys, time\n"
        "from projections.ahead import Ahead\n"
        "def work(check):\n"
        "    sys.stdout.write('began'); sys.stdout.flush()\n"
        "    while True:\n"
        "        check(); time.sleep(0.01)\n"
        "ahead = Ahead(); ahead.begin(work); time.sleep(0.1)\n"
    )
    assert run(program) == (0, "began", "")
