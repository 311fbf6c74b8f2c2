"""How many threads every library may use: fixed, the same for all, and stated with the results."""

from __future__ import annotations

import os
import sys

__all__ = ["LIMITS", "limit_faiss", "limit_threads"]

LIMITS = (
    "OMP_NUM_THREADS",  # FAISS
    "OPENBLAS_NUM_THREADS",  # numpy
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",  # Chroma, LanceDB, Qdrant
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
)


def limit_threads(threads: int) -> None:
    """Set the limits that libraries read when they are loaded; `RuntimeError` if that is too late."""
    loaded = {"faiss", "numpy"} & set(sys.modules)
    if loaded:
        raise RuntimeError(f"{', '.join(sorted(loaded))} is loaded: limit threads before anything is imported")
    for name in LIMITS:
        os.environ[name] = str(threads)


def limit_faiss(threads: int) -> None:
    """Set FAISS's own limit, which can be changed at any time."""
    import faiss

    faiss.omp_set_num_threads(threads)
