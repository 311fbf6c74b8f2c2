"""Running the `replay` command in tests: in this process, or as one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from eventstore import Add, Delete, EventStore, HashingEmbedder
from replay.cli.app import replay

ROOT = Path(__file__).resolve().parent.parent
DISPLAY = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR")  # what may be set where tests are run
START = datetime(2024, 1, 1, tzinfo=timezone.utc)


def call(*arguments: object, **options: Any) -> Result:
    """Run the command in this process; `stdout`, `stderr` and `exit_code` are those of a real run in a pipe."""
    result = CliRunner(env=dict.fromkeys(DISPLAY)).invoke(
        replay, [str(each) for each in arguments], prog_name="replay", **options
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ok(*arguments: object, **options: Any) -> str:
    """The output of a run that must succeed and say nothing on stderr."""
    result = call(*arguments, **options)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def ok_json(*arguments: object, **options: Any) -> Any:
    """The JSON object that a run with --json prints, alone."""
    return json.loads(ok(*arguments, "--json", **options))


def error(*arguments: object, code: int, **options: Any) -> str:
    """The one line on stderr of a run that must fail with `code` and print nothing."""
    result = call(*arguments, **options)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    return result.stderr[len("error: ") : -1]


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the command as a process of its own, its output in pipes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    for name in DISPLAY:
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-m", "replay", *map(str, arguments)],
        text=True,
        encoding="utf-8",
        env=environment,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options},
    )


def run(*arguments: object, **options: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command as a process of its own."""
    with start(*arguments, **options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


class Clock:
    """Every look at it is a second later."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def make_history(path: Path) -> None:
    """Six events of four memories, a second apart but for the last two, which are one append.

    1 ADD tea, 2 ADD cat, 3 UPDATE tea, 4 DELETE cat, then as one append 5 ADD bus, 6 ADD sun.
    """
    with EventStore(path, embedder=HashingEmbedder(), clock=Clock()) as store:
        store.add(
            "Alice drinks tea",
            memory_id="tea",
            metadata={"user": "alice"},
            actor_id="bot",
            reason="said so",
            role="user",
        )
        store.add("Bob has a cat", memory_id="cat", metadata={"user": "bob"}, actor_id="bot", correlation_id="chat-1")
        store.update("tea", "Alice drinks coffee", actor_id="ann", reason="changed her mind")
        store.append([Delete(memory_id="cat")], actor_id="bot")
        store.append([Add(content="The bus is late", memory_id="bus"), Add(content="The sun shines", memory_id="sun")])


def grow(path: Path, count: int, *, dimension: int = 8) -> None:
    """Append `count` short memories in one transaction."""
    vectors = np.random.default_rng(count).normal(size=(count, dimension)).astype(np.float32)
    with EventStore(path) as store:
        store.add_many([f"memory number {number}" for number in range(count)], vectors=vectors)


def files(folder: Path) -> dict[str, bytes]:
    """What a folder holds: names and contents."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """The block must leave every file in the folder as it was, add none and take none away."""
    before = files(folder)
    yield
    assert files(folder) == before
