"""Plain FAISS: vectors in memory and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.data import Vectors
from benchmarks.peers.peer import Metadata, Peer


class PlainFaiss(Peer):
    """A Flat index, or HNSW; texts, metadata and durability are left to whoever uses it."""

    name = "faiss"
    settings = "IndexFlatIP, approximate: IndexHNSWFlat M 16, efConstruction 100; in memory, texts not kept"
    durable = False
    keeps_texts = False
    filters = False
    efforts = (16, 32, 64, 128, 256, 512)

    def __init__(self, folder: Path, dims: int, *, approximate: bool = False) -> None:
        self._index: Any
        if approximate:
            self._index = faiss.IndexHNSWFlat(dims, 16, faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efConstruction = 100
        else:
            self._index = faiss.IndexFlatIP(dims)
        self._approximate = approximate

    def add(self, start: int, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        self._index.add(vectors)

    def search(
        self, vector: Vectors, k: int, filter: dict[str, str] | None = None, effort: int | None = None
    ) -> list[int]:
        if self._approximate and effort is not None:
            self._index.hnsw.efSearch = effort
        found: list[int] = self._index.search(np.ascontiguousarray(vector[None]), k)[1][0].tolist()
        return [row for row in found if row >= 0]

    def close(self) -> None:
        self._index.reset()
