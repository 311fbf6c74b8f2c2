"""How cost grows with the number of events and with their dimensions: for plots."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss

from benchmarks.check import require, require_exact
from benchmarks.data import Data, Vectors
from benchmarks.floor import flat_of, read_vectors
from benchmarks.measure import Contender, Race, race
from benchmarks.options import Options
from benchmarks.peers.asof import Asof, open_index
from benchmarks.results import Goal, Result, Series, available_memory, compared
from benchmarks.stores import BATCH, blocks
from projections import VectorIndex

__all__ = ["growth"]

_WIDE = 1536
_COPIES = 4  # of all vectors in memory at once, at most: the index, FAISS, one being rebuilt, what it is made from


def growth(options: Options) -> Result:
    """Append, search now and then, rebuild, open: at 1,000 events, ten times as many, and so on."""
    sizes = [10**power for power in range(3, 10) if 10**power <= options.most] or [options.most]
    result = Result("growth", "How cost grows")
    result.checked = "at every size the index, and the one rebuilt, answer exactly"
    result.settings = {"asof": Asof.settings}
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for dims in (options.dims, _WIDE) if options.dims == 384 else (options.dims,):
        data = Data(dims, seed=options.seed, folder=options.data)
        result.data = result.data or data.described
        with options.folder() as folder:
            flat, filled = faiss.IndexFlatIP(dims), 0
            for rows in sizes:
                if lacking := _lacking(rows, dims, folder):
                    result.notes.append(f"{rows:,} events of {dims} dimensions were left out: {lacking}")
                    break
                _grow(folder, data, flat, filled, rows)
                times = _at_size(folder, data, flat, rows, options)
                for (plot, line), value in times.items():
                    points.setdefault((plot, f"{line}, {dims} dims"), []).append((float(rows), value))
                # Appends come last, and are not part of the next size.
                filled = rows
                result.rows += _rebuilt(folder, data, flat, rows, options, points)
    result.series = [
        Series(plot, line, "events", _LABELS[plot], sorted(line_points))
        for (plot, line), line_points in sorted(points.items())
    ]
    return result


_LABELS = {
    "growth-append": "µs per event",
    "growth-search": "ms per search",
    "growth-rebuild": "seconds",
    "growth-open": "ms until the first answer",
}


def _lacking(rows: int, dims: int, folder: Path) -> str:
    """What there is too little of for this size; nothing if there is enough."""
    vectors = 4 * dims * rows
    if _COPIES * vectors > available_memory():
        return f"they need {_COPIES * vectors / 2**30:.0f} GiB of memory"
    if 4 * vectors > shutil.disk_usage(folder).free:
        return f"they need {4 * vectors / 2**30:.0f} GiB on disk"
    return ""


def _grow(folder: Path, data: Data, flat: Any, start: int, rows: int) -> None:
    with closing(Asof(folder / "asof", data.dims)) as ours:
        for low, high in blocks(start, rows):
            vectors = data.vectors(low, high)
            ours.add(low, vectors, data.texts(low, high), data.metadata(low, high))
            flat.add(vectors)
        ours.index.checkpoint()


def _at_size(folder: Path, data: Data, flat: Any, rows: int, options: Options) -> dict[tuple[str, str], float]:
    """Appends to another store of the same size are not measured here, but in place of it: see `_append`."""
    k, queries = options.k, data.queries(options.queries)
    home = folder / "asof"
    with closing(Asof(home, data.dims)) as ours:
        require_exact("asof", lambda query: ours.search(query, k), flat, queries, k)

        def now() -> Any:
            return [ours.search(query, k) for query in queries]

        def then() -> Any:
            return [ours.search_then(rows // 2, query, k) for query in queries]

        def raw() -> Any:
            return [flat.search(query[None], k) for query in queries]

        searches = race([Contender("now", now), Contender("then", then), Contender("raw", raw)], options.rounds)
        first: Vectors = queries[0]
        expected = ours.search(first, k)

    def opened() -> tuple[Asof, list[int]]:
        again = Asof(home, data.dims)
        return again, again.search(first, k)

    def close(found: tuple[Asof, list[int]]) -> None:
        found[0].close()
        require(found[1] == expected, "a store that was opened again answers something else")

    openings = race([Contender("open", opened, after=close)], options.rounds)
    appends = _append(folder, data, rows, options)
    per = 1e3 / len(queries)
    return {
        ("growth-search", "now"): searches.median("now") * per,
        ("growth-search", "as of the middle"): searches.median("then") * per,
        ("growth-search", "raw FAISS Flat"): searches.median("raw") * per,
        ("growth-open", "asof"): openings.median("open") * 1e3,
        ("growth-append", "asof"): appends.median("append") * 1e6 / min(BATCH, rows),
    }


def _append(folder: Path, data: Data, rows: int, options: Options) -> Race:
    """Appends to a copy: the store itself is to go on at its size."""
    copy = folder / "copy"
    shutil.copytree(folder / "asof", copy)
    try:
        with closing(Asof(copy, data.dims)) as ours:
            at, step = [rows], min(BATCH, rows)
            ready: list[Any] = []

            def before() -> None:
                low, high = at[0], at[0] + step
                ready[:] = [low, data.vectors(low, high), data.texts(low, high), data.metadata(low, high)]
                at[0] = high

            times = race([Contender("append", lambda: ours.add(*ready), before=before)], options.rounds)
            require(ours.store.position == at[0], f"the store is at {ours.store.position}, not {at[0]}")
    finally:
        shutil.rmtree(copy)
    return times


def _rebuilt(
    folder: Path, data: Data, flat: Any, rows: int, options: Options, points: dict[tuple[str, str], list[Any]]
) -> list[Any]:
    path, fresh = folder / "asof" / "memories.db", folder / "fresh"
    queries, k = data.queries(options.queries), options.k
    checked = [False]
    with closing(Asof(folder / "asof", data.dims)) as ours:
        store = ours.store
        ours.index.reset()  # its memory is wanted

        def rebuild() -> VectorIndex:
            index = open_index(store, fresh)
            index.catch_up()
            return index

        def right(index: VectorIndex) -> None:
            shutil.rmtree(fresh, ignore_errors=True)
            if not checked[0]:
                checked[0] = True
                found = lambda query: [int(hit.memory_id) for hit in index.search(query, k)]  # noqa: E731
                require_exact("the rebuilt index", found, flat, queries, k)

        times = race(
            [
                Contender("asof", rebuild, after=right),
                Contender("raw read + FAISS add", lambda: flat_of(read_vectors(path, data.dims, rows), data.dims)),
            ],
            options.rounds,
        )
        ours.index.catch_up()
    for name in times.seconds:
        points.setdefault(("growth-rebuild", f"{name}, {data.dims} dims"), []).append((float(rows), times.median(name)))
    what = f"rebuild, {rows:,} events, {data.dims} dims; per event"
    return [compared(what, "raw read + FAISS add", times, "asof", "raw read + FAISS add", Goal("time"), per=rows)]
