"""Which peers there are, and which of them can run here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.peers.peer import Missing, Peer

__all__ = ["NAMES", "available", "make"]

_PEERS = {
    "mem0": "mem0.Mem0",
    "chroma": "chroma.Chroma",
    "lancedb": "lance.Lance",
    "qdrant": "qdrant.QdrantEdge",
    "qdrant-unsynced": "qdrant.QdrantUnsynced",
    "sqlite-vec": "sqlite_vec.SqliteVec",
    "faiss": "plain_faiss.PlainFaiss",
}
NAMES = tuple(_PEERS)


def make(name: str, folder: Path, dims: int, *, approximate: bool = False) -> Peer:
    """A peer by its name, in a folder of its own; `Missing` where its package is."""
    module, _, kind = _PEERS[name].rpartition(".")
    peer: Callable[..., Peer] = getattr(importlib.import_module(f"benchmarks.peers.{module}"), kind)
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    return peer(home, dims, approximate=approximate)


def available(
    wanted: Sequence[str] | None, among: Sequence[str], folder: Path, dims: int, *, approximate: bool = False
) -> tuple[dict[str, Peer], list[str]]:
    """The peers of `among` that are wanted and can run, opened; and a line about each that cannot."""
    found: dict[str, Peer] = {}
    notes: list[str] = []
    for name in among:
        if wanted is not None and name not in wanted:
            continue
        try:
            found[name] = make(name, folder, dims, approximate=approximate)
        except Missing as error:
            notes.append(f"{name}: {error}")
    return found, notes
