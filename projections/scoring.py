"""Scores: exact ones in float64, and how far quick ones can be from them.

A score is a pure function of the query and one recorded vector, summed in a fixed order (`_sums`). So it does not
depend on which other rows are scored beside it, nor on how they were found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from eventstore import InvalidOperation, Vector

__all__ = [
    "LARGE",
    "SMALL",
    "Metric",
    "Query",
    "check_metric",
    "distance_bounds",
    "exact_scores",
    "norms_of",
    "quick_norms",
    "quick_scores",
    "rounding",
]

Metric = Literal["cosine", "ip", "l2"]
Floats = npt.NDArray[np.float64]

# Where squares and products stay far from float32's ends, 1e-38 and 3e38.
SMALL, LARGE = 1e-12, 1e12


def check_metric(metric: str) -> Metric:
    """The metric, or `InvalidOperation`."""
    for known in get_args(Metric):
        if metric == known:
            return known  # type: ignore[no-any-return]
    raise InvalidOperation(f"metric is {metric!r}: give 'cosine', 'ip' or 'l2'")


# So many rows at once stay in the processor's cache: half of the time that thousands in one go take.
_ROWS_AT_ONCE = 64


def _numbers_first(vectors: npt.NDArray[np.floating[Any]]) -> Iterator[tuple[slice, Floats]]:
    """Some rows after the others, in float64, a number of all of them after the other: shape `(dimension, rows)`.

    So one half is added to the other in one piece. (Between rows numpy has to find out whether the halves overlap.)
    """
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        yield some, vectors[some].T.astype(np.float64, order="C")


def _sums(terms: Floats) -> Floats:
    """Sums of the columns, folded by halves: of n terms the last n // 2 are added to the first, until one is left.

    numpy's own sum and dot take another order for other shapes, so their last bits depend on the other columns.
    Overwrites `terms`.
    """
    count = len(terms)
    while count > 1:
        half = count // 2
        terms[:half] += terms[count - half : count]
        count -= half
    sums: Floats = terms[0]
    return sums


def norms_of(vectors: npt.NDArray[np.floating[Any]]) -> Floats:
    """Euclidean norms of the rows, in float64, summed in the fixed order, shape `(rows,)`."""
    norms = np.empty(len(vectors), dtype=np.float64)
    for some, wide in _numbers_first(vectors):
        wide *= wide
        norms[some] = np.sqrt(_sums(wide))
    return norms


def exact_scores(metric: Metric, query: Vector, vectors: Vector, length: float | None = None) -> Floats:
    """The scores of rows, shape `(rows,)`; higher is better.

    cosine: q.x / (|q| |x|), 0 where x is all zeros. ip: q.x. l2: minus the squared distance, -|q - x|^2.
    `length` is |q| by `norms_of`, where it is known already.
    """
    if metric == "cosine" and length is None:
        length = float(norms_of(query[None, :])[0])
    asked = query.astype(np.float64)[:, None]
    scores = np.empty(len(vectors), dtype=np.float64)
    for some, wide in _numbers_first(vectors):
        if metric == "l2":
            wide -= asked
            wide *= wide
            scores[some] = 0.0 - _sums(wide)
        elif metric == "ip":
            wide *= asked
            scores[some] = _sums(wide)
        else:
            products = _sums(wide * asked)
            wide *= wide
            scale = np.sqrt(_sums(wide)) * length
            scores[some] = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return scores


def quick_norms(vectors: Vector) -> Floats:
    """Euclidean norms of the rows to about 12 digits, whatever their size: for bounds, not for scores."""
    norms: Floats = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return norms


class Query:
    """A query as the metric sees it: for the cosine only its direction counts, so it is brought to length 1.

    `recorded` is as it was given and `length` its norm; `wide` is in float64, and `norm` is that one's. Only the cosine
    divides by the length, so only there it is summed in the fixed order.
    """

    def __init__(self, metric: Metric, recorded: Vector) -> None:
        self.recorded = recorded
        self.wide: Floats = recorded.astype(np.float64)
        if metric == "cosine":
            self.length = float(norms_of(recorded[None, :])[0])
            self.wide = self.wide / self.length
            self.norm = 1.0
        else:
            self.length = self.norm = math.sqrt(float(self.wide.dot(self.wide)))


def rounding(dimension: int, roundoff: float) -> float:
    """By how much a sum of `dimension` products can be off, relative to the sum of their sizes, in any order.

    The standard bound n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), with a few
    more roundings for what went into the products.
    """
    return 1.01 * (dimension + 8) * roundoff


def distance_bounds(distances: Floats, slack: Floats | float) -> tuple[Floats, Floats]:
    """Lower and upper ends of -|q - x|^2, for distances |q - x| that are off by at most `slack`."""
    nearest = np.maximum(distances - slack, 0.0)
    return -((distances + slack) ** 2) * (1 + 1e-12), -(nearest**2) * (1 - 1e-12)


def quick_scores(metric: Metric, query: Query, vectors: Vector, norms: Floats) -> tuple[Floats, Floats]:
    """Lower and upper ends of the rows' scores, by one matrix product; `norms` from `quick_norms`.

    In float32 where sizes allow, else in float64.
    """
    largest = float(norms.max(initial=0.0))
    if max(largest, query.norm) < LARGE and min(float(norms.min(initial=1.0)), query.norm) > SMALL:
        kind: type[np.floating[Any]] = np.float32
    else:
        kind = np.float64
    asked, rows = query.wide.astype(kind), vectors.astype(kind, copy=False)
    least = float(np.finfo(kind).tiny)
    relative = rounding(vectors.shape[1], float(np.finfo(kind).eps) / 2)
    if metric == "l2":
        rows = rows - asked
        distances = np.sqrt(np.einsum("ij,ij->i", rows, rows).astype(np.float64))
        return distance_bounds(distances, relative * (distances + norms + query.norm) + vectors.shape[1] * least)
    products = (rows @ asked).astype(np.float64)
    slack = relative * query.norm * norms + vectors.shape[1] * least
    if metric == "cosine":
        scale = np.where(norms > 0, norms, 1.0)
        products, slack = products / scale, slack / scale + 1e-11
    return products - slack, products + slack
