"""Qdrant Edge: Qdrant's own engine in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import Vectors
from benchmarks.peers.peer import Metadata, Peer, needed


class QdrantEdge(Peer):
    """One shard with its write-ahead log; `optimize()` builds the HNSW graph."""

    name = "qdrant"
    settings = (
        "EdgeShard with WAL, inner product, vectors and graph cached in memory, HNSW m 16, ef_construct 100, "
        "keyword indexes on metadata, batches as added; flush() after each add, which syncs: update() alone does not"
    )
    durable = True
    efforts = (16, 32, 64, 128, 256, 512)

    def __init__(self, folder: Path, dims: int, *, approximate: bool = False) -> None:
        (edge,) = needed("qdrant_edge")
        self._edge: Any = edge
        threads = int(os.environ.get("RAYON_NUM_THREADS") or 1)
        config = self._edge.EdgeConfig(
            vectors=self._edge.EdgeVectorParams(size=dims, distance=self._edge.Distance.Dot),
            hnsw_config=self._edge.HnswIndexConfig(16, 100, 10_000, threads),
            # One segment, indexed whatever its size: fewest graphs to search.
            optimizers=self._edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1),
            max_search_threads=threads,
        )
        self._shard: Any = self._edge.EdgeShard.create(str(folder), config)
        for key in ("user_id", "topic", "kind"):
            keyword = self._edge.PayloadSchemaType.Keyword
            self._shard.update(self._edge.UpdateOperation.create_field_index(key, keyword))
        self._approximate = approximate

    def add(self, start: int, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        point = self._edge.Point
        points = [
            point(start + row, vector, {"text": text, **keys})
            for row, (vector, text, keys) in enumerate(zip(vectors.tolist(), texts, metadata))
        ]
        self._shard.update(self._edge.UpdateOperation.upsert_points(points))
        if self.durable:
            self._shard.flush()

    def finish(self) -> None:
        if self._approximate:
            self._shard.optimize()

    def search(
        self, vector: Vectors, k: int, filter: dict[str, str] | None = None, effort: int | None = None
    ) -> list[int]:
        edge, condition = self._edge, None
        if filter is not None:
            condition = edge.Filter(
                must=[edge.FieldCondition(key, match=edge.MatchValue(value)) for key, value in filter.items()]
            )
        params = edge.SearchParams(hnsw_ef=effort, exact=not self._approximate)
        request = edge.SearchRequest(
            edge.Query.Nearest(vector.tolist()), k, filter=condition, params=params, with_payload=["text"]
        )
        return [int(point.id) for point in self._shard.search(request)]

    def close(self) -> None:
        self._shard.close()


class QdrantUnsynced(QdrantEdge):
    """The same without a flush after each add: its log is written, and synced by nobody."""

    name = "qdrant-unsynced"
    settings = "as qdrant, without flush(): a power failure can lose what was added"
    durable = False
