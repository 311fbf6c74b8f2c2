"""LanceDB, embedded, with its versions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Vectors
from benchmarks.peers.peer import Metadata, Peer, needed

_REFINE = 2  # how many times k are rescored from full vectors; an effort has to be as much


class Lance(Peer):
    """One table on disk; searched flat, or through an IVF_HNSW_SQ index whose hits are rescored from full vectors."""

    name = "lancedb"
    settings = (
        "one table, Arrow batches as added; flat, or IVF_HNSW_SQ (one partition per 1,048,576 rows, its default; "
        "m 20, ef_construction 300) with refine_factor 2; by inner product; bitmap indexes on metadata; "
        "it never syncs: a power failure can lose what was added"
    )
    durable = False
    efforts = (20, 30, 60, 120, 240, 480)

    def __init__(self, folder: Path, dims: int, *, approximate: bool = False) -> None:
        lancedb, self._arrow, self._indexes = needed("lancedb", "pyarrow", "lancedb.index")
        arrow: Any = self._arrow
        columns = [("id", arrow.int64()), ("vector", arrow.list_(arrow.float32(), dims)), ("text", arrow.string())]
        columns += [(key, arrow.string()) for key in ("user_id", "topic", "kind")]
        self._schema = arrow.schema(columns)
        self._table: Any = lancedb.connect(str(folder)).create_table("memories", schema=self._schema)
        self._then: Any = lancedb.connect(str(folder)).open_table("memories")
        self._dims, self._approximate = dims, approximate

    def add(self, start: int, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        self._table.add(self._rows(np.arange(start, start + len(texts)), vectors, texts, metadata))

    def _rows(self, ids: Any, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> Any:
        arrow: Any = self._arrow
        data = {
            "id": arrow.array(ids, arrow.int64()),
            "vector": arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.reshape(-1)), self._dims),
            "text": texts,
            **{key: [each[key] for each in metadata] for key in ("user_id", "topic", "kind")},
        }
        return arrow.table(data, schema=self._schema)

    def replace(self, ids: Any, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        """New vectors, texts and metadata for rows that are there, in one version."""
        rows = self._rows(ids, vectors, texts, metadata)
        self._table.merge_insert("id").when_matched_update_all().execute(rows)

    def finish(self) -> None:
        indexes: Any = self._indexes
        for column in ("user_id", "topic", "kind"):
            self._table.create_index(column, config=indexes.Bitmap())
        if self._approximate:
            parts = math.ceil(self._table.count_rows() / 1_048_576)
            config = indexes.HnswSq(distance_type="dot", num_partitions=parts, m=20, ef_construction=300)
            self._table.create_index("vector", config=config)
        self._table.optimize()

    def search(
        self, vector: Vectors, k: int, filter: dict[str, str] | None = None, effort: int | None = None
    ) -> list[int]:
        return self._found(self._table, vector, k, filter, effort)

    def _found(
        self, table: Any, vector: Vectors, k: int, filter: dict[str, str] | None = None, effort: int | None = None
    ) -> list[int]:
        query = table.search(vector, vector_column_name="vector").distance_type("dot").limit(k)
        if self._approximate:
            query = query.ef(max(effort or 60, _REFINE * k)).nprobes(8).refine_factor(_REFINE)
        if filter is not None:
            query = query.where(" AND ".join(f"{key} = '{value}'" for key, value in filter.items()), prefilter=True)
        found: list[int] = query.select(["id", "text", "_distance"]).to_arrow()["id"].to_pylist()
        return found

    def version(self) -> int:
        return int(self._table.version)

    def search_then(self, version: Any, vector: Vectors, k: int) -> list[int]:
        self._then.checkout(version)
        return self._found(self._then, vector, k)

    def search_held(self, vector: Vectors, k: int) -> list[int]:
        """A search in the version that was checked out last."""
        return self._found(self._then, vector, k)

    def close(self) -> None:
        self._table = self._then = None
