"""What a benchmark is told: sizes, rounds, where the data and the scratch files are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """The options of one run.

    `rows` is the size of what is measured, `rounds` how often beside one round that does not count, `patience`
    the seconds after which a contender is asked no second time, `peers` the names to run (None: all).
    """

    rows: int
    dims: int = 384
    rounds: int = 5
    queries: int = 100
    k: int = 10
    threads: int = 1
    seed: int = 0
    recall: float = 0.95
    most: int = 1_000_000
    patience: float = 120.0
    peers: tuple[str, ...] | None = None
    data: Path | None = None
    scratch: Path | None = field(default=None, compare=False)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder on the disk that is measured, removed afterwards."""
        with TemporaryDirectory(prefix="asof-bench-", dir=self.scratch) as name:
            yield Path(name)
