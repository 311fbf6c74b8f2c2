"""Faults in a process's own file calls: faults.c, as it is used from inside a process that has it preloaded."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faults.c")


class Calls(enum.IntFlag):
    """Kinds of file calls; the numbers are those of faults.c."""

    WRITE = 1
    SYNC = 2
    READ = 4
    TRUNCATE = 8
    OPEN = 16
    RENAME = 32
    UNLINK = 64
    MKDIR = 128
    MAP = 256


CHANGES = Calls.WRITE | Calls.SYNC | Calls.TRUNCATE | Calls.OPEN | Calls.RENAME | Calls.UNLINK | Calls.MKDIR | Calls.MAP


class Then(enum.IntEnum):
    """What happens at the chosen call."""

    FAIL = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    KILL_HALFWAY = 3


def compiled(directory: Path) -> Path:
    """The library, compiled; the test is skipped where there is no C compiler or no LD_PRELOAD."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("faults in file calls need Linux and a C compiler")
    library = directory / "faults.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if made.returncode:
        pytest.skip(f"{SOURCE.name} cannot be compiled here: {made.stderr.strip().splitlines()[-1:]}")
    return library


_library = ctypes.CDLL(None)


def watch(directory: Path) -> None:
    """Count calls on what lies under `directory`, and on nothing else."""
    _library.faults_watch(os.fsencode(os.path.realpath(directory)))


def arm(kinds: Calls, nth: int, then: Then = Then.FAIL, error: int = errno.EIO, *, always: bool = False) -> None:
    """At the `nth` call of these kinds from now on (and, if `always`, at every later one) something happens."""
    _library.faults_arm(int(kinds), ctypes.c_long(nth), int(then), error, int(always))


def disarm() -> int:
    """Let everything work again; how many such calls there were."""
    return int(_library.faults_disarm())


def fired() -> int:
    """How many calls were made to fail since `arm`."""
    return int(_library.faults_fired())


@contextlib.contextmanager
def counted(kinds: Calls) -> Iterator[list[int]]:
    """Let nothing happen, and put into the list how many calls of these kinds there were."""
    counts: list[int] = []
    arm(kinds, 2**40)
    yield counts
    counts.append(disarm())


def log_to(path: Path | None) -> None:
    """Write down every change of a watched file, for `disk.read_log`."""
    _library.faults_log(None if path is None else os.fsencode(path))


def mark(text: str) -> None:
    """Put a line of one's own into the log."""
    _library.faults_mark(text.encode())
