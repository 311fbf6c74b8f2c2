"""Scores: exact ones in float64, and how far FAISS's float32 ones can be from them.

A score is a pure function of the query and one recorded vector, summed in a fixed order (`_sums`). So it does not
depend on which other rows are scored beside it, nor on how they were found.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from eventstore import InvalidOperation

__all__ = ["Metric", "check_metric", "error_bound", "exact_scores", "norms_of"]

Metric = Literal["cosine", "ip", "l2"]
Floats = npt.NDArray[np.float64]

_UNIT_ROUNDOFF = 2.0**-24  # of float32
_SMALLEST_NORMAL = 2.0**-126
_OVERFLOW = 1e37  # well below float32's largest, 3.4e38


def check_metric(metric: str) -> Metric:
    """The metric, or `InvalidOperation`."""
    for known in get_args(Metric):
        if metric == known:
            return known  # type: ignore[no-any-return]
    raise InvalidOperation(f"metric is {metric!r}: give 'cosine', 'ip' or 'l2'")


def _sums(terms: Floats) -> Floats:
    """Sums of the rows, folded by halves: of n terms the last n // 2 are added to the first, until one is left.

    numpy's own sum and dot take another order for other shapes, so their last bits depend on the other rows.
    Overwrites `terms`.
    """
    count = terms.shape[1]
    while count > 1:
        half = count // 2
        terms[:, :half] += terms[:, count - half : count]
        count -= half
    return terms[:, 0].copy()


def norms_of(vectors: npt.NDArray[np.float32]) -> Floats:
    """Euclidean norms of the rows, in float64, shape `(rows,)`."""
    wide = vectors.astype(np.float64)
    wide *= wide
    return np.sqrt(_sums(wide))


def exact_scores(
    metric: Metric, query: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], norms: Floats
) -> Floats:
    """The scores of rows, shape `(rows,)`; higher is better.

    cosine: q.x / (|q| |x|), 0 where x is all zeros. ip: q.x. l2: minus the squared distance, -|q - x|^2.
    `norms` are those of the rows, from `norms_of`.
    """
    wide, asked = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        difference = wide - asked
        difference *= difference
        return 0.0 - _sums(difference)
    wide *= asked
    products = _sums(wide)
    if metric == "ip":
        return products
    scale = norms * norms_of(query[None, :])[0]
    cosines: Floats = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return cosines


def error_bound(metric: Metric, dimension: int, query_norm: float, largest_norm: float, unit_error: float) -> float:
    """How far a float32 score can be from the exact one, whatever the order of summation; inf where it may overflow.

    From the standard bound for sums of products, |fl(q.x) - q.x| <= n u / (1 - n u) |q| |x| (Higham, Accuracy and
    Stability of Numerical Algorithms, 3.1), with the roundings of the query and of a normalised row added.
    `unit_error` is by how much a row's norm may differ from 1 where rows are compared by cosine as they are.
    """
    gamma = 1.01 * (dimension + 4) * _UNIT_ROUNDOFF
    underflow = dimension * _SMALLEST_NORMAL
    if metric == "cosine":
        return (gamma + 4 * _UNIT_ROUNDOFF) * (1 + unit_error) + unit_error + underflow
    scale = query_norm * largest_norm if metric == "ip" else (query_norm + largest_norm) ** 2
    return float("inf") if scale > _OVERFLOW else gamma * scale + underflow
