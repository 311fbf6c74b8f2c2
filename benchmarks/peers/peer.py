"""The one interface through which every peer, and asof, is driven."""

from __future__ import annotations

import importlib
import types
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.data import Vectors

__all__ = ["Metadata", "Missing", "Peer", "needed"]

Metadata = Sequence[dict[str, str]]


class Missing(Exception):
    """A peer's package is not there."""


def needed(*modules: str) -> list[types.ModuleType]:
    """The modules of a peer; `Missing` says how to get them."""
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise Missing(f"not installed ({error}): pip install 'asof[bench]'") from error


class Peer(ABC):
    """A place for vectors, texts and metadata, whose rows are known by their number.

    Vectors have unit length, so inner product, cosine and distance give the same order, and each is asked for
    whichever costs it least. A search gives row numbers, best first, and fetches the texts of what it found.
    """

    name: ClassVar[str]
    settings: str
    """How it is configured, and whether what was added is synced to disk when `add` returns."""
    durable: bool
    keeps_texts: ClassVar[bool] = True
    filters: ClassVar[bool] = True
    """Whether a filter is applied inside the search."""
    efforts: ClassVar[tuple[int, ...]] = ()
    """What an approximate search can be told, from fastest to most exact."""

    @abstractmethod
    def __init__(self, folder: Path, dims: int, *, approximate: bool = False) -> None:
        """Make one in an empty folder; `Missing` where its package is."""

    @abstractmethod
    def add(self, start: int, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        """Add rows with the numbers from `start` on, visible to the next search."""

    @abstractmethod
    def search(
        self, vector: Vectors, k: int, filter: dict[str, str] | None = None, effort: int | None = None
    ) -> list[int]:
        """The numbers of the `k` nearest rows, best first."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and memory."""

    def finish(self) -> None:  # noqa: B027 - most have nothing to do
        """Build what an approximate search needs, once all rows are there."""

    def version(self) -> Any:
        """A name for what it holds now, to check out later."""
        raise NotImplementedError(f"{self.name} keeps no versions")

    def search_then(self, version: Any, vector: Vectors, k: int) -> list[int]:
        """A search in what it held at a version."""
        raise NotImplementedError(f"{self.name} keeps no versions")
