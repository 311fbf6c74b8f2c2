"""Progress on stderr: for people, and only where it takes long enough to be read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["progress"]

_PATIENCE = 0.7
_EVERY = 0.05


class _Count(ProgressColumn):
    def __init__(self, unit: str) -> None:
        self._unit = unit
        super().__init__()

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f" of {int(task.total):,}"
        return Text(f"{int(task.completed):,}{total} {self._unit}")


@contextmanager
def progress(doing: str, unit: str = "events") -> Iterator[Callable[[int, int | None], None]]:
    """Gives a function to call with how much is done and how much there is to do, None where nobody knows.

    A bar appears after some tenths of a second and goes away at the end. Nothing appears where stderr is not a
    terminal.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        _Count(unit),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
    )
    task = bar.add_task(doing, total=None)
    started = shown = time.monotonic()

    def update(done: int, total: int | None) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - started >= _PATIENCE and (now - shown >= _EVERY or done == total):
            shown = now
            bar.start()
            bar.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()
