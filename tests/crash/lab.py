"""Runs a function in a process of its own: with the faults preloaded, a deadline, and nothing left running after it.

`python -m tests.crash.lab module:function` reads its arguments as JSON from standard input and writes what the
function returns to the file that LAB_RESULT names.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("ASOF_PROFILE") == "long"
DEADLINE = 3000 if LONG else 240

Ack = tuple[str, int, str]
"""Something acknowledged: what, a position, and the hash of the history there (or another word)."""


def run(function: Callable[..., Any], directory: Path, *arguments: Any, library: Path | None = None) -> Any:
    """What `function(directory, *arguments)` returns in a new process; `AssertionError` with its output if it fails."""
    result = directory / "result.json"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "LAB_RESULT": str(result),
    }
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", __name__, f"{function.__module__}:{function.__name__}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=ROOT,
        text=True,
        start_new_session=True,  # so that what it forks ends with it
    )
    try:
        output, _ = process.communicate(json.dumps([str(directory), *arguments]), timeout=DEADLINE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, f"{function.__name__} ended with {process.returncode}:\n{output[-6000:]}"
    done = json.loads(result.read_text())
    print(f"{function.__name__} {arguments}: {done}")  # `make torture` shows it
    return done


def forked(work: Callable[[Callable[..., None]], None]) -> tuple[int, int]:
    """Start `work(ack)` in a fork; its pid and the pipe's end on which its acknowledgements arrive."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 3
    try:
        os.close(reading)

        def ack(*what: Any) -> None:
            os.write(writing, json.dumps(what).encode() + b"\n")

        work(ack)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def collected(pid: int, reading: int) -> tuple[list[Any], int]:
    """All acknowledgements of a fork until it ended, whole ones, and how it ended: 0, or minus the signal."""
    with open(reading, "rb") as stream:
        lines = stream.read().split(b"\n")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return [json.loads(line) for line in lines[:-1]], status


def main() -> None:
    """Run what the command line names."""
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    directory, *arguments = json.load(sys.stdin)
    result = function(Path(directory), *arguments)
    Path(os.environ["LAB_RESULT"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
