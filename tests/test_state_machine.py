"""Everything that may happen to a store and its indexes, in any order: invariants 2 to 6 of the design.

The machine is the one that applications use. After every step, at the head and as of any earlier moment, store,
model and indexes say the same, vectors bit for bit, searches to the last bit and in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from eventstore.testing import vectors
from projections import VectorIndex, approximate
from replay.testing import MemoryMachine
from tests.profiles import scaled


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


class EveryKind(MemoryMachine):
    """An index of each approximate kind, for which a few rows are many: searched beside ones that are made anew."""

    kinds = (("ivf", "cosine", 3, 0), ("ivf", "l2", 2, 2**20), ("hnsw", "ip", 4, 64))

    def open_projections(self) -> Sequence[Any]:
        return [
            VectorIndex(
                self.store,
                kind=kind,  # type: ignore[arg-type]
                metric=metric,  # type: ignore[arg-type]
                segment_rows=rows,
                vector_memory=memory,
                directory=self.folder / f"{kind}-{metric}",
            )
            for kind, metric, rows, memory in self.kinds
        ]

    @rule(query=vectors(8), k=st.sampled_from([1, 2, 3]), data=st.data())
    def search_as_then(self, query: list[float], k: int, data: st.DataObject) -> None:
        """As of any position, the hits are those of an index that has never seen what came later, or exact."""
        position = data.draw(st.integers(0, self.model.position), label="position")
        if not any(query):
            return
        for (kind, metric, rows, _), grown in zip(self.kinds, self.projections, strict=True):
            grown.catch_up()
            then = VectorIndex(
                self.store,
                kind=kind,  # type: ignore[arg-type]
                metric=metric,  # type: ignore[arg-type]
                segment_rows=rows,
                directory=self.folder / "none",
            )
            then.catch_up(position)
            for at in (position, self.model.position):
                now, expected = grown.search(query, k, as_of=at), then.search(query, k, as_of=at)
                if kind == "ivf" or not now.exact:
                    assert (list(now), now.kind) == (list(expected), expected.kind)
                kinds_of_answers.update([now.kind])


EveryKind.TestCase.settings = settings(max_examples=scaled(20), stateful_step_count=30, deadline=None)
TestEveryKind = EveryKind.TestCase

kinds_of_answers: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few rows are many, and no more candidates are asked for than hits; and that it came to that is seen to."""
    for name, value in {"FEW_ROWS": 0, "FEW_SHARE": 0.0, "LISTS_FROM": 1, "PER_HIT": 1, "SPARE": 0}.items():
        monkeypatch.setattr(approximate, name, value)
    kinds_of_answers.clear()
    yield
    if scaled(1) > 1:  # in a short run that is luck
        assert not kinds_of_answers or {"ivf", "hnsw"} <= kinds_of_answers.keys(), "nothing was approximate"
