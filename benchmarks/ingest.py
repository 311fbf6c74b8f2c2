"""Writing: in bulk, one by one, from many threads, and reading what one has just written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.check import WrongAnswer, require, require_exact
from benchmarks.data import Data
from benchmarks.floor import RawHistory, Recording, read_vectors
from benchmarks.measure import Contender, race
from benchmarks.options import Options
from benchmarks.peers import Peer, available, make
from benchmarks.peers.asof import Asof, kinds
from benchmarks.results import Goal, Result, compared
from benchmarks.stores import BATCH, all_closed, blocks, data_of, fill, new_store
from eventstore import EventStore
from replay import verify

__all__ = ["bulk", "bulk_peers", "one_add", "read_your_writes", "threads"]

_FLOOR = "executemany of the same rows + FAISS add"
_PAIRS = 20
_THREADS = 16
_UNSYNCED = "asof, durability normal"


class _Feed:
    """The next rows of each round, made ready before it begins."""

    def __init__(self, data: Data, rows: int, step: int, start: int = 0) -> None:
        self._data, self._rows, self._step, self._at = data, rows, step, start
        self.batches: list[tuple[int, Any, Any, Any]] = []

    def __call__(self) -> None:
        data, stop = self._data, self._at + self._rows
        self.batches = [
            (low, data.vectors(low, high), data.texts(low, high), data.metadata(low, high))
            for low, high in blocks(self._at, stop, self._step)
        ]
        self._at = stop


def _adder(name: str, peer: Peer, feed: _Feed) -> Contender:
    def work() -> None:
        for batch in feed.batches:
            peer.add(*batch)

    return Contender(name, work, before=feed)


def _record(folder: Path, data: Data, rows: int, step: int) -> Recording:
    """A store's file and which of its rows came with which append: what the floor inserts."""
    with new_store(folder / "recorded.db") as store:
        recording = Recording(folder / "recorded.db")
        recording.mark()
        for low, high in blocks(0, rows, step):
            names = [f"{row:012}" for row in range(low, high)]
            texts, keys = data.texts(low, high), data.metadata(low, high)
            store.add_many(texts, vectors=data.vectors(low, high), memory_ids=names, metadatas=keys)
            recording.mark()
    return recording


def _floor(raw: RawHistory, flat: Any, recording: Recording, data: Data, step: int, appends: int) -> Contender:
    ready: list[tuple[Any, Any]] = []
    done = [0]

    def before() -> None:
        numbers = range(done[0], done[0] + appends)
        ready[:] = [(recording.rows(number), data.vectors(number * step, (number + 1) * step)) for number in numbers]
        done[0] += appends

    def work() -> None:
        for rows, vectors in ready:
            raw.add(rows)
            flat.add(vectors)

    return Contender(_FLOOR, work, before=before)


def _against_the_floor(options: Options, result: Result, step: int, goal: Goal, what: str) -> Result:
    data, appends = data_of(options), max(1, options.rows // step)
    total = appends * step * (options.rounds + 1)
    with options.folder() as folder:
        recording, flat = _record(folder, data, total, step), faiss.IndexFlatIP(options.dims)
        with (
            closing(RawHistory(folder / "raw.db", recording)) as raw,
            closing(Asof(folder / "ours", options.dims)) as us,
        ):
            ours = _adder("asof", us, _Feed(data, appends * step, step))
            times = race([ours, _floor(raw, flat, recording, data, step, appends)], options.rounds)
            written = [read_vectors(path, options.dims, total) for path in (raw.path, Path(us.store.file))]
            for vectors in written:
                require(np.array_equal(vectors, data.vectors(0, total)), "the vectors on disk are not those given")
            queries = data.queries(options.queries)
            require_exact("asof", lambda query: us.search(query, options.k), flat, queries, options.k)
    result.data, result.cores = data.described, times.cores
    result.checked = "both files hold the same vectors bit for bit; the index answers exactly"
    result.settings = {"asof": Asof.settings, _FLOOR: "schema, triggers, indexes and pragmas as asof's own file"}
    result.rows = [compared(what, _FLOOR, times, "asof", _FLOOR, goal, per=appends * step)]
    return result


def bulk(options: Options) -> Result:
    """Bulk append, durable, history and index up to date."""
    step = min(BATCH, options.rows)
    what = f"bulk append of {options.rows:,}, {step:,} at a time, and index; per event"
    return _against_the_floor(options, Result("bulk", "Bulk append"), step, Goal("rate", 0.6, 0.8), what)


def one_add(options: Options) -> Result:
    """One durable add, visible to search."""
    goal = Goal("time", 1.25, 1.05)
    return _against_the_floor(options, Result("one-add", "One durable add"), 1, goal, "one add, durable, and index")


def bulk_peers(options: Options) -> Result:
    """The same bulk append by the peers, each adding to what it already holds."""
    data, step, result = data_of(options), min(BATCH, options.rows), Result("bulk-peers", "Bulk append, peers")
    wrong: dict[str, str] = {}
    with options.folder() as folder:
        peers, result.notes = available(
            options.peers,
            ("lancedb", "sqlite-vec", "qdrant", "qdrant-unsynced", "chroma", "mem0", "faiss"),
            folder,
            options.dims,
        )
        everyone: dict[str, Peer] = {**_ours(folder, options), **peers}
        with all_closed(everyone.values()):
            runs = [_adder(name, peer, _Feed(data, options.rows, step)) for name, peer in everyone.items()]
            times = race(runs, options.rounds, options.patience)
            for name, peer in everyone.items():
                rows = options.rows * (1 if name in times.once else options.rounds + 1)
                try:
                    _require_newest(name, peer, data, rows)
                except WrongAnswer as error:
                    _left_out(name, error, wrong)
    result.data, result.cores = data.described, times.cores
    result.checked = "each finds the last row it was given by that row's own vector"
    result.settings = {name: peer.settings for name, peer in everyone.items()}
    result.notes += wrong.values()
    for name, peer in peers.items():
        if name in wrong:
            continue
        goal = Goal("rate", 1.0, 1.4) if name in ("lancedb", "sqlite-vec") else Goal("rate")
        for mine in ("asof",) if peer.durable else ("asof", _UNSYNCED):
            what = f"{mine}: bulk append of {options.rows:,}, {step:,} at a time; per row"
            note = "" if peer.durable else "it is not synced"
            wanted = goal if mine == "asof" else Goal("rate")
            result.rows.append(compared(what, name, times, mine, name, wanted, per=options.rows, note=note))
    return result


def _ours(folder: Path, options: Options, kind: str = "flat") -> dict[str, Peer]:
    """asof as it comes, and without a sync per append: for peers that do not sync either."""
    return {
        "asof": Asof(folder / "asof", options.dims, kind=kind),
        _UNSYNCED: Asof(folder / "asof-unsynced", options.dims, kind=kind, synced=False),
    }


def _left_out(name: str, error: WrongAnswer, wrong: dict[str, str]) -> None:
    """A peer that answers wrongly has no time to report; asof ends the benchmark."""
    if name.startswith("asof"):
        raise error
    wrong.setdefault(name, f"{name}: left out, {error}")


def _require_newest(name: str, peer: Peer, data: Data, rows: int) -> None:
    last = data.vectors(rows - 1, rows)[0]
    found = peer.search(last, 1)
    # A repeated text has the same vector: then it is the other one that may come first.
    same = bool(found) and float(data.vectors(found[0], found[0] + 1)[0] @ last) > 1 - 1e-6
    require(same, f"{name} does not find row {rows - 1} by its own vector, but {found}")


def threads(options: Options) -> Result:
    """Sixteen threads adding one by one, durable, against one thread doing the same."""
    data, each = data_of(options), max(1, options.rows // _THREADS)
    count = each * _THREADS
    many, one = f"{_THREADS} threads", "one thread"
    with options.folder() as folder:
        with EventStore(folder / "memories.db") as store:
            vectors, texts, metadata = data.vectors(0, count), data.texts(0, count), data.metadata(0, count)

            def burst(workers: int) -> Callable[[], None]:
                return lambda: _burst(store, workers, vectors, texts, metadata)

            times = race([Contender(many, burst(_THREADS)), Contender(one, burst(1))], options.rounds)
            expected = 2 * count * (options.rounds + 1)
            require(store.count() == expected, f"there are {store.count()} memories, not {expected}")
        report = verify(folder / "memories.db")
        require(report.ok and report.events == expected, f"the history does not verify: {report.faults[:3]}")
    result = Result("threads", f"{_THREADS} threads adding one by one", data=data.described, cores=times.cores)
    result.checked = "every add is there, and the history verifies"
    result.settings = {"asof": "EventStore durability full, add; no index"}
    what = f"{count} adds by {_THREADS} threads, durable; per add"
    result.rows = [compared(what, one, times, many, one, Goal("rate", 4, 8), per=count)]
    return result


def _burst(store: EventStore, workers: int, vectors: Any, texts: list[str], metadata: list[dict[str, str]]) -> None:
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for row in range(first, len(texts), workers):
                store.add(texts[row], vector=vectors[row], metadata=metadata[row])
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=work, args=(first,)) for first in range(workers)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def read_your_writes(options: Options) -> Result:
    """Add one and search at once, again and again, on what is already there."""
    data, result = data_of(options), Result("read-your-writes", "Add one and search at once")
    wrong: dict[str, str] = {}
    with options.folder() as folder:
        everyone = _ours(folder, options, "auto" if kinds() else "flat")
        if kinds():  # beside peers that have a graph
            everyone |= {f"{name}, hnsw": peer for name, peer in _ours(folder / "hnsw", options, "hnsw").items()}
        names = ("chroma", "lancedb", "qdrant", "qdrant-unsynced", "sqlite-vec", "mem0", "faiss")
        peers, result.notes = available(options.peers, names, folder / "exact", options.dims)
        everyone |= peers
        for name in [name for name in ("lancedb", "qdrant", "qdrant-unsynced") if name in peers]:
            everyone[f"{name}, HNSW"] = make(name, folder / "hnsw", options.dims, approximate=True)
        with all_closed(everyone.values()):
            for peer in everyone.values():
                fill(peer, data, options.rows, step=10 * BATCH)  # mem0 writes all it has with every batch
                peer.finish()
            runs = [_pairs(name, peer, data, options, wrong) for name, peer in everyone.items()]
            times = race(runs, options.rounds, options.patience)
    result.data, result.cores = data.described, times.cores
    result.checked = "every search by the vector just added finds it first"
    result.settings = {name: peer.settings for name, peer in everyone.items()}
    result.notes += wrong.values()
    rest = sorted((name for name in everyone if not name.startswith("asof") and name not in wrong), key=times.median)
    # The best that keeps texts and does as much for safety is the one to beat.
    for mine in [name for name in everyone if name.startswith("asof")]:
        synced = not mine.startswith(_UNSYNCED)
        as_durable = (name for name in rest if everyone[name].keeps_texts and everyone[name].durable is synced)
        champion = next(as_durable, None)
        for other in rest:
            if not synced and everyone[other].durable:
                continue
            goal, notes = Goal("rate"), [] if everyone[other].durable else ["it is not synced"]
            if other == champion:
                goal = Goal("rate", 1.0, 3.0)
                notes.append("the best as durable")
            if not everyone[other].keeps_texts:
                notes.append("texts not kept")
            what = f"{mine}: add one and search at once, on {options.rows:,}; per pair"
            note = "; ".join(notes)
            result.rows.append(compared(what, other, times, mine, other, goal, per=_PAIRS, note=note))
    return result


def _pairs(name: str, peer: Peer, data: Data, options: Options, wrong: dict[str, str]) -> Contender:
    feed = _Feed(data, _PAIRS, 1, start=options.rows)

    def work() -> list[tuple[int, list[int]]]:
        answers = []
        for batch in feed.batches:
            peer.add(*batch)
            answers.append((batch[0], peer.search(batch[1][0], options.k)))
        return answers

    def after(answers: list[tuple[int, list[int]]]) -> None:
        for row, found in answers:
            vector = data.vectors(row, row + 1)[0]
            first = found[0] if found else None
            right = first is not None and float(data.vectors(first, first + 1)[0] @ vector) > 1 - 1e-6
            try:
                require(right, f"it does not find row {row}, just added, by its own vector, but {found[:3]}")
            except WrongAnswer as error:
                _left_out(name, error, wrong)

    return Contender(name, work, before=feed, after=after)
