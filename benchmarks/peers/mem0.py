"""mem0's storage layer driven directly: its FAISS store and its SQLite history, no language model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.data import Vectors
from benchmarks.peers.peer import Metadata, Peer, needed


class Mem0(Peer):
    """As its `Memory` does: the vector store first, the history second, in batches."""

    name = "mem0"
    settings = (
        "FAISS store (inner product, exact) and SQLiteManager, as shipped: every insert rewrites index and JSON, "
        "unsynced, and then adds to the history in one synced transaction; filters are applied after the top k"
    )
    durable = False
    filters = False

    def __init__(self, folder: Path, dims: int, *, approximate: bool = False) -> None:
        os.environ["MEM0_TELEMETRY"] = "False"
        os.environ["MEM0_DIR"] = str(folder / "home")  # it makes one at import
        stores, storage = needed("mem0.vector_stores.faiss", "mem0.memory.storage")
        faiss_store: Any = stores
        self._store = faiss_store.FAISS(
            "memories", str(folder / "faiss"), distance_strategy="inner_product", embedding_model_dims=dims
        )
        history: Any = storage
        self._history = history.SQLiteManager(str(folder / "history.db"))

    def add(self, start: int, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        now = datetime.now(timezone.utc).isoformat()
        ids = [str(start + row) for row in range(len(texts))]
        payloads = [{"data": text, "created_at": now, **keys} for text, keys in zip(texts, metadata)]
        self._store.insert(vectors, payloads, ids)
        self._history.batch_add_history(
            [
                {"memory_id": name, "old_memory": None, "new_memory": text, "event": "ADD", "created_at": now}
                for name, text in zip(ids, texts)
            ]
        )

    def search(
        self, vector: Vectors, k: int, filter: dict[str, str] | None = None, effort: int | None = None
    ) -> list[int]:
        return [int(hit.id) for hit in self._store.search("", vector, top_k=k, filters=filter)]

    def close(self) -> None:
        self._history.close()
