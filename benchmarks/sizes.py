"""What is held: bytes on disk per event, and memory per live row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.check import require, truth
from benchmarks.data import Data
from benchmarks.floor import flat_of
from benchmarks.options import Options
from benchmarks.peers import available
from benchmarks.peers.asof import open_index
from benchmarks.results import Goal, Result, Row
from benchmarks.stores import BATCH, all_closed, blocks, data_of, fill, write_store
from eventstore import EventStore

__all__ = ["disk", "memory"]

_ROOT = Path(__file__).resolve().parent.parent
_HEADER = 150


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _row(what: str, against: str, ours: float, theirs: float, goal: Goal, note: str = "") -> Row:
    ratio = ours / theirs
    return Row(
        what, against, "bytes", ours, theirs, ratio, ratio, ratio, goal.kind, goal.at_least, goal.aim,
        goal.verdict(ratio), note,
    )  # fmt: skip


def disk(options: Options) -> Result:
    """Bytes on disk per event against what was given and 150 bytes; and what the peers take."""
    data, rows, dims = data_of(options), options.rows, options.dims
    result = Result("disk", "Bytes on disk", data=data.described)
    given = 0
    for low, high in blocks(0, rows):
        given += sum(len(text.encode()) for text in data.texts(low, high)) + 4 * dims * (high - low)
        given += sum(len(json.dumps(keys, separators=(",", ":"))) for keys in data.metadata(low, high))
    with options.folder() as folder:
        home = folder / "asof"
        home.mkdir()
        write_store(home / "memories.db", data, rows)
        history = _bytes_in(home)
        with EventStore(home / "memories.db") as store, open_index(store, folder / "index") as index:
            index.catch_up()
            index.checkpoint()
            require(store.count() == rows, f"the store has {store.count()} memories, not {rows}")
            require(len(index.contents()[0]) == rows, "the checkpoint is not of all rows")
        checkpoint = _bytes_in(folder / "index")
        what, allowance = f"history of {rows:,} events, closed; per event", given / rows + _HEADER
        result.rows = [
            _row(what, "embedding + content + metadata + 150", history / rows, allowance, Goal("size", 1.25, 1.1)),
            _row(f"checkpoint of {rows:,} rows; per row", "embedding", checkpoint / rows, 4 * dims, Goal("size")),
        ]
        total = (history + checkpoint) / rows
        names = ("lancedb", "sqlite-vec", "qdrant", "chroma", "mem0")
        peers, result.notes = available(options.peers, names, folder / "peers", dims)
        for name, peer in peers.items():
            with all_closed([peer]):
                fill(peer, data, rows, step=10 * BATCH)
                peer.finish()
                found = peer.search(data.vectors(rows - 1, rows)[0], 10)
                require(bool(found), f"{name} finds nothing in what it was given")
            size = _bytes_in(folder / "peers" / name) / rows
            result.rows.append(_row(f"history and checkpoint, {rows:,}; per row", name, total, size, Goal("size")))
            result.settings[name] = peer.settings
    result.settings["asof"] = "one ADD per row, 1,000 an append, log folded; checkpoint written once"
    result.checked = "every row is there"
    return result


def memory(options: Options) -> Result:
    """Memory per live row beyond its vector: how much a process grows from half as many rows to all.

    The difference leaves out what does not grow: the interpreter, libraries, and SQLite's cache once it is full.
    """
    data, dims = data_of(options), options.dims
    sizes = max(2, options.rows // 2), max(4, options.rows)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with options.folder() as folder:
        for rows in sizes:
            home = folder / str(rows)
            home.mkdir()
            write_store(home / "memories.db", data, rows)
            with EventStore(home / "memories.db") as store, open_index(store, home / "index") as index:
                index.catch_up()
                index.checkpoint()
            flat = flat_of((data.vectors(low, high) for low, high in blocks(0, rows)), dims)
            for job in ("open", "rebuild"):
                answer = found[job, rows] = _ask(job, home, options, data)
                right = truth(flat, data.queries(1), options.k)
                right.require_answer(f"the process that did {job}", 0, answer["found"])
    result = Result("memory", "Memory", data=data.described)

    def more(job: str, *keys: str) -> float:
        values = []
        for rows in sizes:
            value: Any = found[job, rows]
            for key in keys:
                value = value[key]
            values.append(float(value))
        return (values[1] - values[0]) / (sizes[1] - sizes[0]) - 4 * dims

    goal, against = Goal("amount", 120, 60), "its vector"
    for what, value, wanted in (
        ("opened from a checkpoint, one search: resident", more("open", "searched", "VmRSS"), goal),
        ("the same, not backed by a file", more("open", "searched", "RssAnon"), Goal("amount")),
        ("after a filtered search too: resident", more("open", "filtered", "VmRSS"), Goal("amount")),
        ("rebuilt from the history, the most there was", more("rebuild", "peak"), Goal("amount")),
    ):
        result.rows.append(
            Row(
                f"{what}; per row of {sizes[1]:,} beyond {4 * dims:,} bytes of vector", against, "bytes", value, None,
                value, value, value, "amount", wanted.at_least, wanted.aim, wanted.verdict(value),
            )
        )  # fmt: skip
    result.settings = {"asof": f"one process per size, {sizes[0]:,} and {sizes[1]:,} rows: the growth per row"}
    result.checked = "each process gives the exact answer"
    if sizes[1] < 100_000:
        result.notes = ["below 100,000 rows SQLite's cache and the allocator still grow: the figures say little"]
    return result


def _ask(job: str, home: Path, options: Options, data: Data) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "benchmarks.worker", job, home, options.dims, options.k, options.data or ""),
    ]
    done = subprocess.run([str(part) for part in command], cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process that should {job} failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
