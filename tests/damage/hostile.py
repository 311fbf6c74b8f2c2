"""What hostile files are opened in: a process that may not take memory, and that notes which files it opens."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MIB = 2**20


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """In the lab: let this process have `more` MiB of address space on top of what it has; then it gets no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more * MIB, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


_noted: list[list[str]] = []
_hooked = False


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """The paths that Python opens in the block."""
    global _hooked
    if not _hooked:  # a hook cannot be taken away again
        sys.addaudithook(_note)
        _hooked = True
    paths: list[str] = []
    _noted.append(paths)
    try:
        yield paths
    finally:
        _noted.remove(paths)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _noted and isinstance(arguments[0], (str, bytes, Path)):
        path = arguments[0]
        text = path.decode("utf-8", "replace") if isinstance(path, bytes) else str(path)
        for paths in _noted:
            paths.append(text)
