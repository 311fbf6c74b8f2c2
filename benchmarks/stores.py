"""Stores to measure: filled with adds alone, or with a story of adds, updates and deletes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Data
from benchmarks.options import Options
from benchmarks.peers.asof import Asof
from benchmarks.peers.lance import Lance
from benchmarks.peers.peer import Peer
from eventstore import EventStore

__all__ = ["BATCH", "Moment", "Story", "all_closed", "blocks", "data_of", "fill", "new_store", "write_store"]

BATCH = 1000


def data_of(options: Options) -> Data:
    """The data that the options ask for."""
    return Data(options.dims, seed=options.seed, folder=options.data)


def blocks(start: int, stop: int, step: int = BATCH) -> Iterator[tuple[int, int]]:
    """`start` to `stop` in steps."""
    for low in range(start, stop, step):
        yield low, min(stop, low + step)


def fill(peer: Peer, data: Data, rows: int, step: int = BATCH, start: int = 0) -> None:
    """Add the rows from `start` to `rows` to a peer."""
    for low, high in blocks(start, rows, step):
        peer.add(low, data.vectors(low, high), data.texts(low, high), data.metadata(low, high))


@contextmanager
def all_closed(peers: Iterable[Peer]) -> Iterator[None]:
    """Close peers at the end of the block, also where a wrong answer ends it."""
    with ExitStack() as stack:
        for peer in peers:
            stack.callback(peer.close)
        yield


def write_store(path: Path, data: Data, rows: int) -> None:
    """A store's file with so many memories, added 1,000 at a time, closed."""
    with new_store(path) as store:
        for low, high in blocks(0, rows):
            names = [f"{row:012}" for row in range(low, high)]
            store.add_many(
                data.texts(low, high),
                vectors=data.vectors(low, high),
                memory_ids=names,
                metadatas=data.metadata(low, high),
            )


def new_store(path: Path) -> EventStore:
    """A store that is only prepared, not timed: it syncs less, and writes the same bytes."""
    return EventStore(path, durability="normal")


@dataclass(frozen=True)
class Moment:
    """A point of a story: asof's position, another's version, and which row each memory has then (-1: none)."""

    position: int
    version: Any
    current: np.ndarray[Any, np.dtype[np.int64]]


class Story:
    """Memories are added, then half of them get another vector, then, where asked for, a tenth is deleted.

    Told to asof, and to LanceDB beside, append by append; `moments` has the points after each append.
    """

    def __init__(self, data: Data, memories: int, *, deletes: bool, seed: int) -> None:
        self.data, self.memories = data, memories
        rng = np.random.default_rng(seed)
        self._updated = np.sort(rng.permutation(memories)[: memories // 2])
        rng.shuffle(self._updated)
        self._deleted = rng.permutation(memories)[: memories // 10 if deletes else 0]
        self.moments: list[Moment] = []

    def tell(self, ours: Asof, lance: Lance | None = None, step: int = BATCH) -> None:
        """Write all of it."""
        data, current = self.data, np.full(self.memories, -1, dtype=np.int64)

        def remember() -> None:
            version = None if lance is None else lance.version()
            self.moments.append(Moment(ours.version(), version, current.copy()))

        for low, high in blocks(0, self.memories, step):
            for peer in (ours, lance):
                if peer is not None:
                    peer.add(low, data.vectors(low, high), data.texts(low, high), data.metadata(low, high))
            current[low:high] = np.arange(low, high)
            remember()
        for low, high in blocks(0, len(self._updated), step):
            ids, rows = self._updated[low:high], np.arange(self.memories + low, self.memories + high)
            vectors = data.vectors(self.memories + low, self.memories + high)
            texts, metadata = data.texts(low, high), data.metadata(low, high)
            for each in (ours, lance):
                if each is not None:
                    each.replace(ids.tolist(), vectors, texts, metadata)
            current[ids] = rows
            remember()
        for low, high in blocks(0, len(self._deleted), step):
            ours.delete(self._deleted[low:high].tolist())
            current[self._deleted[low:high]] = -1
            remember()

    def everything(self) -> Any:
        """All rows that the story uses."""
        return self.data.vectors(0, self.memories + len(self._updated))
