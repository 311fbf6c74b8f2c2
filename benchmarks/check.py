"""Answers are checked before times are reported: a wrong one ends the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np

from benchmarks.data import Vectors

__all__ = ["Truth", "WrongAnswer", "require", "require_exact", "truth"]

Search = Callable[[Vectors], Sequence[int]]
_TIES = 1e-5  # float32 sums in another order differ by less


class WrongAnswer(Exception):
    """A contender's answer is not what it has to be, so its time means nothing."""


def require(right: bool, message: str) -> None:
    """`WrongAnswer` with the message unless right."""
    if not right:
        raise WrongAnswer(message)


class Truth:
    """The exact answers to some queries over some rows: row numbers and inner products, best first."""

    def __init__(self, queries: Vectors, rows: Any, scores: Any, vectors: Callable[[Any], Vectors]) -> None:
        self.queries, self.rows, self.scores, self._vectors = queries, rows, scores, vectors

    def require_answer(self, name: str, number: int, found: Sequence[int]) -> None:
        """The rows found for the query of this number are exact, but for the order of what scores the same."""
        found = list(found)
        expected = [row for row in self.rows[number].tolist() if row >= 0]
        if found == expected:
            return
        require(
            len(found) == len(expected) == len(set(found)),
            f"{name} gives {len(found)} rows ({len(set(found))} different) for query {number}, not {len(expected)}",
        )
        require(
            np.allclose(self._scores(found, number), self.scores[number][: len(found)], rtol=0, atol=_TIES),
            f"{name} finds {found} for query {number}, not {expected}",
        )

    def _scores(self, rows: Sequence[int], number: int) -> Any:
        return self._vectors(np.asarray(rows, dtype=np.int64)) @ self.queries[number]

    def require_exact(self, name: str, search: Search) -> None:
        """Every answer of `search` is exact."""
        for number, query in enumerate(self.queries):
            self.require_answer(name, number, search(query))

    def recall(self, search: Search) -> float:
        """The share of the nearest rows that `search` finds; one that scores as the last of them is as good."""
        hits = total = 0
        for number, query in enumerate(self.queries):
            expected = [row for row in self.rows[number].tolist() if row >= 0]
            total += len(expected)
            found = sorted(set(search(query)))
            if found and expected:
                last = self.scores[number][len(expected) - 1]
                hits += min(len(expected), int((self._scores(found, number) >= last - _TIES).sum()))
        return hits / total if total else 1.0


def truth(flat: Any, queries: Vectors, k: int, allowed: Any = None) -> Truth:
    """The exact answers of a FAISS Flat index whose row numbers are the ids, among the allowed rows (a bool array)."""
    if allowed is None:
        scores, rows = flat.search(queries, k)
    else:
        where = np.flatnonzero(allowed)
        some = faiss.IndexFlatIP(flat.d)
        if len(where):
            some.add(flat.reconstruct_batch(where))
        scores, found = some.search(queries, k)
        rows = np.where(found >= 0, where[found] if len(where) else -1, -1)
    return Truth(queries, rows, scores, flat.reconstruct_batch)


def require_exact(name: str, search: Search, flat: Any, queries: Vectors, k: int, allowed: Any = None) -> None:
    """`truth(...).require_exact(...)`, for one who needs it once."""
    truth(flat, queries, k, allowed).require_exact(name, search)
