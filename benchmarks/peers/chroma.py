"""Chroma, embedded and persistent."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import Vectors
from benchmarks.peers.peer import Metadata, Peer, needed


class Chroma(Peer):
    """A `PersistentClient` with one collection, embeddings given. It has no exact kind: HNSW always."""

    name = "chroma"
    settings = (
        "PersistentClient, HNSW by inner product (max_neighbors 16, ef_construction 100, its defaults; ef_search 100 "
        "unless swept), batches as added; it syncs its log with every add"
    )
    durable = True
    efforts = (10, 20, 40, 80, 160, 320, 640)

    def __init__(self, folder: Path, dims: int, *, approximate: bool = False) -> None:
        os.environ["ANONYMIZED_TELEMETRY"] = "False"
        chromadb, config = needed("chromadb", "chromadb.config")
        settings: Any = config.Settings(anonymized_telemetry=False)
        self._make: Callable[..., Any] = chromadb.PersistentClient
        self._path, self._settings = str(folder), settings
        self._client: Any = self._open()
        self._collection = self._client.create_collection(
            "memories",
            embedding_function=None,
            configuration={"hnsw": {"space": "ip", "ef_construction": 100, "ef_search": 100, "max_neighbors": 16}},
        )
        self._effort = 100

    def _open(self) -> Any:
        return self._make(path=self._path, settings=self._settings)

    def add(self, start: int, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        step = self._client.get_max_batch_size()
        for at in range(0, len(texts), step):
            some = slice(at, min(at + step, len(texts)))
            self._collection.add(
                ids=[str(start + row) for row in range(some.start, some.stop)],
                embeddings=vectors[some],
                documents=list(texts[some]),
                metadatas=list(metadata[some]),
            )

    def search(
        self, vector: Vectors, k: int, filter: dict[str, str] | None = None, effort: int | None = None
    ) -> list[int]:
        if effort is not None and effort != self._effort:
            # An index that is loaded goes on with the effort it was loaded with.
            self._collection.modify(configuration={"hnsw": {"ef_search": effort}})
            self._client.close()
            self._client = self._open()
            self._collection = self._client.get_collection("memories", embedding_function=None)
            self._effort = effort
        found = self._collection.query(
            query_embeddings=vector[None], n_results=k, where=filter, include=["documents", "distances"]
        )
        return [int(name) for name in found["ids"][0]]

    def close(self) -> None:
        self._client.close()
