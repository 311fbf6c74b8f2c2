"""asof itself behind the interface of the peers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import Vectors
from benchmarks.peers.peer import Metadata, Peer
from eventstore import Delete, EventStore, Update
from projections import VectorIndex

__all__ = ["Asof", "kinds", "open_index"]


def kinds() -> bool:
    """Whether `VectorIndex` can be told what kind of index to be."""
    return "kind" in inspect.signature(VectorIndex).parameters


def open_index(store: EventStore, directory: Path | None = None, kind: str = "flat", **more: Any) -> VectorIndex:
    """An index by inner product: vectors have unit length, and so does the floor search them.

    `more` is for `VectorIndex` as it is. `ValueError` for another kind than "flat" where `VectorIndex` has no such
    parameter.
    """
    make: Callable[..., VectorIndex] = VectorIndex
    if kinds():
        return make(store, metric="ip", directory=directory, kind=kind, **more)
    if kind not in ("flat", "auto"):
        raise ValueError(f"VectorIndex has no parameter kind: {kind} is not there yet")
    return make(store, metric="ip", directory=directory, **more)


class Asof(Peer):
    """A history and an index over it, durable."""

    name = "asof"
    settings = "EventStore durability full, VectorIndex by inner product, add_many and catch_up, checkpoints as shipped"
    durable = True

    def __init__(
        self, folder: Path, dims: int, *, approximate: bool = False, kind: str = "", synced: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not synced:
            self.settings = self.settings.replace("durability full", "durability normal")
        if kind:
            self.settings = self.settings.replace("VectorIndex", f"VectorIndex {kind}")
        self.durable = synced
        self.store = EventStore(folder / "memories.db", durability="full" if synced else "normal")
        self.index = open_index(self.store, kind=kind or ("auto" if approximate else "flat"))

    def add(self, start: int, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        if len(texts) == 1:
            self.store.add(texts[0], vector=vectors[0], memory_id=_name(start), metadata=metadata[0])
        else:
            names = [_name(start + row) for row in range(len(texts))]
            self.store.add_many(texts, vectors=vectors, memory_ids=names, metadatas=metadata)
        self.index.catch_up()

    def replace(self, ids: Any, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        """New vectors, texts and metadata for rows that are there, in one append."""
        self.store.append(
            [
                Update(memory_id=_name(row), content=text, vector=vector, metadata=keys)
                for row, vector, text, keys in zip(ids, vectors, texts, metadata)
            ]
        )
        self.index.catch_up()

    def delete(self, ids: Sequence[int]) -> None:
        """The end of some rows, in one append."""
        self.store.append([Delete(memory_id=_name(row)) for row in ids])
        self.index.catch_up()

    def search(
        self, vector: Vectors, k: int, filter: dict[str, str] | None = None, effort: int | None = None
    ) -> list[int]:
        return [int(hit.memory_id) for hit in self.index.search(vector, k, filter=filter)]

    def version(self) -> int:
        return self.store.position

    def search_then(self, version: Any, vector: Vectors, k: int) -> list[int]:
        return [int(hit.memory_id) for hit in self.index.search(vector, k, as_of=version)]

    def close(self) -> None:
        self.index.close()
        self.store.close()


def _name(row: int) -> str:
    return f"{row:012}"
