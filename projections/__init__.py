"""asof's read side: what is folded out of the history, the FAISS index first."""

from projections.approximate import Kind
from projections.checkpoints import CheckpointWarning
from projections.hits import Hit, Hits
from projections.projection import Progress, Projection, project
from projections.scoring import Metric
from projections.vector_index import VectorIndex

__all__ = [
    "CheckpointWarning",
    "Hit",
    "Hits",
    "Kind",
    "Metric",
    "Progress",
    "Projection",
    "VectorIndex",
    "project",
]
