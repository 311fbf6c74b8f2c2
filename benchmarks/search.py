"""Exact searches: now, as of an instant, with a filter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import faiss
import numpy as np

from benchmarks.check import require, require_exact, truth
from benchmarks.data import Vectors
from benchmarks.floor import flat_of
from benchmarks.measure import Contender, race
from benchmarks.options import Options
from benchmarks.peers import Missing, Peer
from benchmarks.peers.asof import Asof
from benchmarks.peers.lance import Lance
from benchmarks.results import Goal, Result, compared
from benchmarks.stores import Moment, Story, all_closed, blocks, data_of, fill

__all__ = ["as_of", "as_of_lance", "exact", "filtered"]

_FLAT = "raw FAISS Flat"
_GOAL_FROM_ROWS = 20_000


def _then(peer: Peer, version: Any, k: int) -> Callable[[Vectors], list[int]]:
    return lambda query: peer.search_then(version, query, k)


def _each(queries: Vectors, search: Any) -> Any:
    return lambda: [search(query) for query in queries]


def exact(options: Options) -> Result:
    """Exact search now against raw FAISS Flat."""
    data, k = data_of(options), options.k
    queries = data.queries(options.queries)
    flat = flat_of((data.vectors(low, high) for low, high in blocks(0, options.rows)), options.dims)
    with options.folder() as folder, closing(Asof(folder / "ours", options.dims)) as ours:
        fill(ours, data, options.rows)
        require_exact("asof", lambda query: ours.search(query, k), flat, queries, k)
        times = race(
            [
                Contender("asof", _each(queries, lambda query: ours.search(query, k))),
                Contender(_FLAT, _each(queries, lambda query: flat.search(query[None], k))),
            ],
            options.rounds,
        )
    result = Result("search", "Exact search now", data=data.described, cores=times.cores)
    result.checked = f"{len(queries)} answers are exact"
    result.settings = {"asof": f"{Asof.settings}; hits come with text and metadata", _FLAT: "row numbers and scores"}
    what = f"exact search now, k = {k}, {options.rows:,} rows"
    # Of fewer rows it says what a search costs besides going through them.
    goal = Goal("time", 1.1, 0.4) if options.rows >= _GOAL_FROM_ROWS else Goal("time")
    result.rows = [compared(what, _FLAT, times, "asof", _FLAT, goal, per=len(queries))]
    return result


def _compact(ours: Asof, story: Story, moment: Moment) -> None:
    """A store with only what was alive at a moment, under the same names."""
    data, alive = story.data, np.flatnonzero(moment.current >= 0)
    everything = story.everything()
    for low, high in blocks(0, len(alive)):
        some = alive[low:high]
        ours.store.add_many(
            data.texts(low, high),
            vectors=everything[moment.current[some]],
            memory_ids=[f"{row:012}" for row in some.tolist()],
            metadatas=data.metadata(low, high),
        )
    ours.index.catch_up()


def _flat_at(everything: Any, moment: Moment) -> tuple[Any, Any]:
    """A Flat index by memory number at a moment, and which memories were alive."""
    alive = moment.current >= 0
    return flat_of(everything[np.where(alive, moment.current, 0)], everything.shape[1]), alive


def as_of(options: Options) -> Result:
    """Search as of an instant against a search now over as many live rows."""
    data, k = data_of(options), options.k
    queries = data.queries(options.queries)
    story = Story(data, options.rows, deletes=True, seed=options.seed)
    result = Result("as-of", "Search as of an instant", data=data.described)
    with options.folder() as folder, closing(Asof(folder / "ours", options.dims)) as ours:
        story.tell(ours)
        everything = story.everything()
        for share in (0.5, 0.9):
            moment = story.moments[min(len(story.moments) - 1, int(share * len(story.moments)))]
            flat, alive = _flat_at(everything, moment)
            right = truth(flat, queries, k, alive)
            with closing(Asof(folder / f"compact-{share}", options.dims)) as compact:
                _compact(compact, story, moment)
                names = f"as of {share:.0%}", f"now over as many as at {share:.0%}"

                def then(query: Vectors, moment: Moment = moment) -> list[int]:
                    return ours.search_then(moment.position, query, k)

                def now(query: Vectors, compact: Asof = compact) -> list[int]:
                    return compact.search(query, k)

                right.require_exact(names[0], then)
                right.require_exact(names[1], now)
                times = race(
                    [Contender(names[0], _each(queries, then)), Contender(names[1], _each(queries, now))],
                    options.rounds,
                )
            what = f"search as of {share:.0%} of {story.moments[-1].position:,} events, {int(alive.sum()):,} alive"
            goal = Goal("time", 1.2, 1.0)
            result.rows.append(
                compared(what, "search now over as many", times, *names, goal, per=len(queries))
            )  # fmt: skip
            result.cores |= times.cores
    result.checked = f"{len(queries)} answers at each instant are exact, as of and compact"
    result.settings = {"asof": Asof.settings}
    return result


def as_of_lance(options: Options) -> Result:
    """Search as of an instant against LanceDB's checkout and search, Flat."""
    data, k, instants = data_of(options), options.k, 10
    queries = data.queries(options.queries)
    result = Result("as-of-lance", "Search as of an instant, LanceDB", data=data.described)
    with options.folder() as folder, closing(Asof(folder / "ours", options.dims)) as ours, ExitStack() as opened:
        (folder / "lance").mkdir()
        try:
            lance = Lance(folder / "lance", options.dims)
        except Missing as error:
            result.notes = [f"lancedb: {error}"]
            return result
        opened.enter_context(all_closed([lance]))
        story = Story(data, options.rows, deletes=False, seed=options.seed)
        story.tell(ours, lance, step=max(1, min(1000, options.rows // instants)))
        everything = story.everything()
        moments = [story.moments[number] for number in np.linspace(1, len(story.moments), instants, dtype=int) - 1]
        for number, moment in enumerate(moments):
            flat, alive = _flat_at(everything, moment)
            right = truth(flat, queries[number::instants], k, alive)
            right.require_exact("asof", _then(ours, moment.position, k))
            right.require_exact("lancedb", _then(lance, moment.version, k))
        pairs = [(query, moments[number % instants]) for number, query in enumerate(queries)]
        checked_out = "lancedb, checked out before"
        times = race(
            [
                Contender("asof", lambda: [ours.search_then(moment.position, query, k) for query, moment in pairs]),
                Contender("lancedb", lambda: [lance.search_then(moment.version, query, k) for query, moment in pairs]),
                Contender(
                    checked_out,
                    _each(queries, lambda query: lance.search_held(query, k)),
                    before=lambda: lance.search_then(moments[-1].version, queries[0], k),
                ),
            ],
            options.rounds,
            options.patience,
        )
    result.cores, result.settings = times.cores, {"asof": Asof.settings, "lancedb": Lance.settings}
    result.checked = f"{len(queries)} answers at {instants} instants are exact, both"
    what = f"search as of {instants} instants in turn, {options.rows:,} memories, {story.moments[-1].position:,} events"
    per = len(queries)
    against = "lancedb, checkout and search"
    result.rows = [
        compared(what, against, times, "asof", "lancedb", Goal("rate", 1, 10), per=per),
        compared(what, checked_out, times, "asof", checked_out, Goal("rate"), per=per, note="one instant for all"),
    ]
    return result


def filtered(options: Options) -> Result:
    """Search among 1, 10 and 50 % against raw FAISS with a ready bitmap."""
    data, k, rows = data_of(options), options.k, options.rows
    queries = data.queries(options.queries)
    flat = flat_of((data.vectors(low, high) for low, high in blocks(0, rows)), options.dims)
    result = Result("filtered", "Filtered search", data=data.described)
    with options.folder() as folder, closing(Asof(folder / "ours", options.dims)) as ours:
        fill(ours, data, rows)
        for percent in (1, 10, 50):
            condition, allowed = data.selected(percent, rows)
            bitmap = np.packbits(allowed, bitorder="little")
            only: Any = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))  # type: ignore[call-arg, arg-type]
            half = rows // 2

            def mine(query: Vectors, condition: dict[str, str] = condition) -> list[int]:
                return ours.search(query, k, condition)

            def then(query: Vectors, condition: dict[str, str] = condition, half: int = half) -> list[int]:
                hits = ours.index.search(query, k, filter=condition, as_of=half)
                return [int(hit.memory_id) for hit in hits]

            def raw(query: Vectors, only: Any = only) -> Any:
                return flat.search(query[None], k, params=only)

            names = f"asof {percent} %", f"FAISS {percent} %", f"asof as of the middle {percent} %"
            right = truth(flat, queries, k, allowed)
            right.require_exact(names[0], mine)
            right.require_exact(names[1], lambda query: [row for row in raw(query)[1][0].tolist() if row >= 0])
            truth(flat, queries, k, allowed & (np.arange(rows) < half)).require_exact(names[2], then)
            require(int(allowed.sum()) > 0 or rows < 500, f"no row of {rows} passes the filter for {percent} %")
            times = race(
                [Contender(name, _each(queries, do)) for name, do in zip(names, (mine, raw, then))], options.rounds
            )
            what, against = f"{percent} % of {rows:,} rows", "raw FAISS Flat with a ready bitmap"
            per = len(queries)
            result.rows += [
                compared(f"search among {what}", against, times, *names[:2], Goal("time", 1.2, 1.0), per=per),
                compared(
                    f"the same as of the middle, {what}",
                    "the same now",
                    times,
                    names[2],
                    names[0],
                    Goal("time"),
                    per=per,
                ),
            ]
            result.cores |= times.cores
    result.checked = f"{len(queries)} answers for each filter are exact, now and as of the middle"
    result.settings = {"asof": Asof.settings, "FAISS": "IDSelectorBitmap made before, row numbers and scores"}
    return result
