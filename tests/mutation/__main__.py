"""Mutation run: change our own code in small ways and see whether the tests notice.

    python -m tests.mutation [--only append] [--sample 40] [--seed 1] [--seconds 600] [--output survivors.jsonl]

Works on a copy of the tree. Each mutant is tried in a process of its own, by the tests of its target, until one
fails. Prints the survivors, which are to be looked at: docs/reference/testing.md lists those that stay. A mutant
whose tests do not end in five times what they take without it, and never under two minutes, counts as killed, and is
printed too: on a busy machine it may only have been slow.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_A_MUTANT = 120.0
TIMES_A_MUTANT = 5

STORE = ["tests/test_store_append.py", "tests/test_store_retry.py", "tests/test_store_chain.py"]
STORE += [
    "tests/test_store_groups.py",
    "tests/test_store_transfer.py",
    "tests/test_store_batches.py",
    "tests/test_store_time.py",
    "tests/test_kit_contracts.py::TestEventStore",
]
INDEX = ["tests/test_projector.py", "tests/test_vector_index_search.py", "tests/test_vector_index_checkpoints.py"]
INDEX += [
    "tests/test_row_table.py",
    "tests/test_vector_index_overflow.py",
    "tests/test_kit_contracts.py::TestVectorIndex",
]
NEAREST = ["tests/test_vector_index_codes.py", *INDEX]
REPLAY = [
    "tests/test_row_table.py",
    "tests/test_replay_state.py",
    "tests/test_replay_diff.py",
    "tests/test_replay_restore.py",
]
TARGETS = {
    "append": ("eventstore/append.py", STORE),
    "versions": (
        "eventstore/versions.py",
        ["tests/test_version_table.py", "tests/test_store_reads.py", "tests/test_kit_contracts.py::TestEventStore"],
    ),
    "rows": ("projections/rows.py", INDEX),
    "nearest": ("projections/nearest.py", NEAREST),
    "scan": ("projections/scan.py", NEAREST),
    "selection": ("projections/selection.py", [*NEAREST, "tests/test_vector_index_approximate.py"]),
    "state": ("replay/state.py", REPLAY),
    "diff": ("replay/diff.py", REPLAY),
    "restore": ("replay/restore.py", REPLAY),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--only", choices=TARGETS, action="append", help="these targets; all by default")
    parser.add_argument("--sample", type=int, help="so many mutants of each target, chosen at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after so long")
    parser.add_argument("--output", type=Path, help="a file to which each result is added as a line of JSON")
    given = parser.parse_args()
    began = time.monotonic()
    # Once, so that each process begins with them: none of ours, which are what is changed.
    for module in (
        "numpy",
        "faiss",
        "pydantic",
        "orjson",
        "sqlite_utils",
        "uuid_utils",
        "hypothesis.stateful",
        "pytest",
    ):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "docs", "benchmarks")
        shutil.copytree(ROOT, tree, ignore=ignored)
        survived = tried = endless = 0
        for name in given.only or TARGETS:
            path, tests = TARGETS[name]
            source = (tree / path).read_text(encoding="utf-8")
            every = list(mutants(source))
            some = random.Random(given.seed).sample(every, min(given.sample or len(every), len(every)))
            started = time.monotonic()
            if (outcome := outcome_of(tree, tests, 3600)) != "survived":
                sys.exit(f"{name}: {outcome} before anything is changed: its tests have to pass first")
            most = max(SECONDS_A_MUTANT, TIMES_A_MUTANT * (time.monotonic() - started))
            for mutant in sorted(some, key=lambda each: each.line):
                if time.monotonic() - began > given.seconds:
                    break
                (tree / path).write_text(mutant.source, encoding="utf-8")
                outcome = outcome_of(tree, tests, most)
                tried += 1
                survived += outcome == "survived"
                endless += outcome == "did not end"
                if outcome != "killed":
                    print(f"{path}:{mutant.line}: {mutant.before}  ->  {mutant.after}  ({outcome})", flush=True)
                note(given.output, path, mutant, outcome)
            (tree / path).write_text(source, encoding="utf-8")
    print(f"{tried} mutants, {survived} survived, {endless} did not end, {time.monotonic() - began:.0f} s")


def note(output: Path | None, path: str, mutant: Mutant, outcome: str) -> None:
    if output is not None:
        line = {"file": path, "line": mutant.line, "before": mutant.before, "after": mutant.after, "outcome": outcome}
        with output.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def outcome_of(tree: Path, tests: list[str], seconds: float) -> str:
    """What became of a copy of the tree whose tests were run by a process of their own."""
    child = os.fork()
    if not child:
        os.setsid()
        run_tests(tree, tests)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "killed" if status else "survived"
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # the child's own group
    os.waitpid(child, 0)
    return "did not end"


def run_tests(tree: Path, tests: list[str]) -> None:
    sys.dont_write_bytecode = True
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "pytest_asof")]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    import pytest

    code = 99
    try:
        # Hypothesis was imported before pytest could look at it, which it would warn of.
        quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main(["-x", *quiet, *tests]))
    finally:
        sys.stdout.flush()
        os._exit(min(code, 99))


if __name__ == "__main__":
    main()
