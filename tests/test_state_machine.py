"""Everything that may happen to a store and its indexes, in any order: invariants 2 to 6 of the design.

The machine is the one that applications use. After every step, at the head and as of any earlier moment, store,
model and indexes say the same, vectors bit for bit, searches to the last bit and in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings

from projections import VectorIndex
from replay.testing import MemoryMachine
from tests.profiles import scaled

# Vectors past `vector_memory` are read from a checkpoint, which the machine may have removed.
pytestmark = pytest.mark.filterwarnings("ignore::projections.CheckpointWarning")


class EveryMetric(MemoryMachine):
    """One index for each metric, in segments so small that there are several; vectors in memory, in files, in both."""

    def open_projections(self) -> Sequence[Any]:
        return [
            VectorIndex(
                self.store, metric=metric, segment_rows=rows, vector_memory=memory, directory=self.folder / metric
            )
            for metric, rows, memory in (("cosine", 4, 0), ("ip", 3, 2**20), ("l2", 7, 64))  # type: ignore[arg-type]
        ]


EveryMetric.TestCase.settings = settings(max_examples=scaled(40), stateful_step_count=30, deadline=None)
TestMemoryMachine = EveryMetric.TestCase
