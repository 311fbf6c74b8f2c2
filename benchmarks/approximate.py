"""Approximate search: every contender at a measured recall on real embeddings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.check import Truth, require, truth
from benchmarks.data import Vectors
from benchmarks.floor import flat_of
from benchmarks.measure import Contender, Race, race
from benchmarks.options import Options
from benchmarks.peers import Peer, available
from benchmarks.peers.asof import Asof, kinds, open_index
from benchmarks.results import Goal, Result, compared
from benchmarks.stores import BATCH, all_closed, blocks, data_of, fill, write_store
from eventstore import EventStore
from projections import VectorIndex

__all__ = ["approximate", "approximate_small"]

_EFFORTS = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
_NOT_THERE = "VectorIndex has no parameter kind: approximate search is not there yet; what is timed is exact"


def approximate(options: Options) -> Result:
    """At 100,000 rows, or a million, against the best peer."""
    return _measured(Result("approximate", "Approximate search"), options, ("chroma", "qdrant", "lancedb", "faiss"))


def approximate_small(options: Options) -> Result:
    """At 20,000 rows against Qdrant Edge and Chroma."""
    result = Result("approximate-small", "Approximate search, small")
    return _measured(result, options, ("chroma", "qdrant", "faiss"))


def _measured(result: Result, options: Options, names: tuple[str, ...]) -> Result:
    data, rows, k = data_of(options), options.rows, options.k
    queries = data.queries(options.queries)
    right = truth(flat_of((data.vectors(low, high) for low, high in blocks(0, rows)), options.dims), queries, k)
    with options.folder() as folder, ExitStack() as opened:
        peers, result.notes = available(options.peers, names, folder, options.dims, approximate=True)
        opened.enter_context(all_closed(peers.values()))
        for peer in peers.values():
            fill(peer, data, rows, step=10 * BATCH)
            peer.finish()
        write_store(folder / "memories.db", data, rows)
        store = opened.enter_context(EventStore(folder / "memories.db"))
        if kinds():
            indexes = {f"asof, {kind}": open_index(store, folder / kind, kind) for kind in ("auto", "ivf", "hnsw")}
        else:
            indexes = {"asof": open_index(store, folder / "index")}
            result.notes.append(_NOT_THERE)
        for index in indexes.values():
            opened.enter_context(index).catch_up()
        ours, recalls = {}, {}
        for name, index in indexes.items():
            label = enough(name, index, right, options)
            if all(index.search(query, k).exact for query in queries):
                label = f"{name}, exact"
            ours[label] = _search(index, k)
            recalls[label] = right.recall(ours[label])
        for index in indexes.values():
            _require_honest(index, right, k)
        ladders = {name: _ladder(peer, right, k) for name, peer in peers.items()}
        times, matches = _race(options, queries, ours, recalls, peers, ladders)
    result.data, result.cores = data.described, times.cores
    result.checked = f"recall@{k} of every contender measured with {len(queries)} queries"
    result.settings = {"asof": Asof.settings, **{name: peer.settings for name, peer in peers.items()}}
    for name, ladder in ladders.items():
        result.settings[f"{name}, recall by effort"] = ", ".join(f"{effort}: {found:.3f}" for effort, found in ladder)
    _rows(result, options, times, matches, recalls, ladders)
    return result


def _search(index: VectorIndex, k: int) -> Callable[[Vectors], list[int]]:
    return lambda query: [int(hit.memory_id) for hit in index.search(query, k)]


def enough(name: str, index: VectorIndex, right: Truth, options: Options) -> str:
    """Have an index make the least effort that gives the wanted recall, as peers do; say which."""
    for effort in _EFFORTS:
        index.effort = effort
        if right.recall(_search(index, options.k)) >= options.recall:
            break
    return name if index.effort == 1.0 else f"{name} at effort {index.effort:g}"


def _require_honest(index: VectorIndex, right: Truth, k: int) -> None:
    """Hits that say they are exact are."""
    for number, query in enumerate(right.queries):
        hits = index.search(query, k)
        if hits.exact:
            right.require_answer("asof", number, [int(hit.memory_id) for hit in hits])


def _ladder(peer: Peer, right: Truth, k: int) -> list[tuple[int, float]]:
    """Each effort of a peer and the recall it gives."""
    ladder = []
    for effort in peer.efforts:

        def search(query: Vectors, effort: int = effort) -> list[int]:
            return peer.search(query, k, effort=effort)

        ladder.append((effort, right.recall(search)))
    return ladder


def cheapest(ladder: list[tuple[int, float]], wanted: float) -> tuple[int, float]:
    """The least effort with so much recall; the one with most where none has."""
    for effort, found in ladder:
        if found >= wanted:
            return effort, found
    return max(ladder, key=lambda step: step[1])


def _race(
    options: Options,
    queries: Vectors,
    ours: dict[str, Callable[[Vectors], list[int]]],
    recalls: dict[str, float],
    peers: dict[str, Peer],
    ladders: dict[str, list[tuple[int, float]]],
) -> tuple[Race, dict[tuple[str, str, str], tuple[str, float]]]:
    """Time asof's kinds, and each peer at the effort that matches: (ours, peer, how) -> contender and its recall."""
    contenders = {name: _through(name, queries, search) for name, search in ours.items()}
    matches: dict[tuple[str, str, str], tuple[str, float]] = {}
    for mine, recall in recalls.items():
        for name, ladder in ladders.items():
            for how, wanted in (("wanted", options.recall), ("same", max(options.recall, recall))):
                effort, found = cheapest(ladder, wanted)
                label = f"{name} at effort {effort}"
                contenders.setdefault(label, _at_effort(label, peers[name], queries, options.k, effort))
                matches[mine, name, how] = label, found
    return race(list(contenders.values()), options.rounds, options.patience), matches


def _through(label: str, queries: Vectors, search: Callable[[Vectors], list[int]]) -> Contender:
    return Contender(label, lambda: [search(query) for query in queries])


def _at_effort(label: str, peer: Peer, queries: Vectors, k: int, effort: int) -> Contender:
    def work() -> Any:
        return [peer.search(query, k, effort=effort) for query in queries]

    # Some are told their effort once for all searches: that is not timed.
    return Contender(label, work, before=lambda: peer.search(queries[0], k, effort=effort))


def _rows(
    result: Result,
    options: Options,
    times: Race,
    matches: dict[tuple[str, str, str], tuple[str, float]],
    recalls: dict[str, float],
    ladders: dict[str, list[tuple[int, float]]],
) -> None:
    per = options.queries
    for mine, recall in recalls.items():
        enough = recall >= options.recall
        require(enough or mine != "asof", f"an exact search has recall {recall:.3f}")
        what = f"{mine}, {options.rows:,} rows, recall {recall:.3f}"
        real = [name for name in ladders if name != "faiss"]
        best = min(real, key=lambda name: times.median(matches[mine, name, "same"][0]), default=None)
        for name in ladders:
            for how in ("same", "wanted"):
                label, found = matches[mine, name, how]
                if how == "wanted" and label == matches[mine, name, "same"][0]:
                    continue
                goal, notes = Goal("rate"), []
                wants = max(options.recall, recall) if how == "same" else options.recall
                if found < wants:
                    notes.append(f"its most, not {wants:.3f}")
                if not enough:
                    notes.append(f"below {options.recall:.2f}: no result")
                elif how == "same" and name == best and recall >= options.recall:
                    goal = Goal("rate", 1.0, 1.0)
                    notes.append("best peer at the same recall")
                elif how == "wanted":
                    notes.append(f"at recall >= {options.recall:.2f} only")
                if name == "faiss":
                    notes.append("row numbers only")
                against = f"{label}, recall {found:.3f}"
                result.rows.append(
                    compared(what, against, times, mine, label, goal, per=per, note="; ".join(notes))
                )  # fmt: skip
