"""Histories and indexes that the tests of approximate kinds share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eventstore import EventStore
from projections import Hits, VectorIndex
from projections.hnsw import Graph
from projections.ivf import InvertedLists

KINDS: tuple[Any, ...] = ("ivf", "hnsw")
METRICS: tuple[Any, ...] = ("cosine", "ip", "l2")
DIMENSION = 16
SEGMENT = 64
ROWS = 1000


def clustered(rows: int, seed: int = 0, dimension: int = DIMENSION) -> Any:
    """Rows around a few dozen centers, as memories are about a few dozen things."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(40, dimension))
    return (centers[rng.integers(0, 40, rows)] + rng.normal(scale=0.5, size=(rows, dimension))).astype(np.float32)


def fill(store: EventStore, rows: int = ROWS, at_once: int = 100, seed: int = 0) -> None:
    """Adds in batches, each followed by updates of both kinds, and deletes."""
    matrix, start = clustered(rows, seed), store.position
    for first in range(0, rows, at_once):
        some = matrix[first : first + at_once]
        names = [f"m{start + first + n}" for n in range(len(some))]
        metadatas = [{"n": n % 4, "rare": n % 50} for n in range(len(some))]
        store.add_many([""] * len(some), vectors=some, memory_ids=names, metadatas=metadatas)
        store.update(names[0], "changed", vector=some[-1])
        store.update(names[1], metadata={"n": 9})
        store.delete(names[2])


def open_index(store: EventStore, kind: Any = "ivf", **keywords: Any) -> VectorIndex:
    return VectorIndex(store, kind=kind, segment_rows=SEGMENT, **keywords)


QUERIES = clustered(6, seed=1)


def answers(index: VectorIndex, moments: Sequence[int | None] = (None, 1000, 500, 300, 150, 90)) -> list[Any]:
    """Hits, scores, and how they were found; now and then, filtered and not."""
    asked = itertools.product(QUERIES, moments, (None, {"n": {"lt": 2}}))
    found = [index.search(query, 5, as_of=as_of, filter=filter) for query, as_of, filter in asked]
    return [(list(hits), hits.kind) for hits in found]


def exact(store: EventStore, metric: Any = "cosine") -> VectorIndex:
    """What an approximate index is measured by; that it is brute force is tested elsewhere."""
    directory = None if store.path == ":memory:" else Path(f"{store.path}.exact")
    return open_index(store, "flat", metric=metric, directory=directory)


def recall(found: Sequence[Hits], right: Sequence[Hits]) -> float:
    """The share of the hits that should be there."""
    same = [len({hit.position for hit in a} & {hit.position for hit in b}) for a, b in zip(found, right, strict=True)]
    return sum(same) / sum(map(len, right))


def made(index: VectorIndex) -> Any:
    """What an index was made into, to the last bit: answers alone hide what differs, since most are right."""
    structure = index._content.structure
    if isinstance(structure, Graph):
        return structure.taken, structure.packed() if any(structure.taken) else b""
    assert isinstance(structure, InvertedLists)
    lists = [None if some is None else some.tolist() for some in structure.lists]
    return lists, [block.centroids.middles.tobytes() for block in structure.blocks]
