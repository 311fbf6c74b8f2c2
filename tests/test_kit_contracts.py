"""The contracts: ours keep them, so does a projection of another make, and each test can fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from eventstore import AsofError, Event, EventStore
from eventstore.testing import EventStoreContract, ModelStore
from projections import VectorIndex
from projections.testing import ProjectionContract, SearchContract
from tests import broken_projections, broken_stores
from tests.broken_projections import ListIndex

# Ours


def store_factory(tmp_path: Path, opened: list[Any], store_class: type[EventStore]) -> Callable[..., EventStore]:
    """Opens histories, in memory where they have no name, and notes what to close."""

    def open_store(name: str | None = None, *, clock: Any) -> EventStore:
        path = ":memory:" if name is None else tmp_path / f"{name}.db"
        opened.append(store_class(path, clock=clock, durability="normal"))
        return opened[-1]

    return open_store


class TestEventStore(EventStoreContract):
    """The history in SQLite."""

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Iterator[Any]:
        opened: list[Any] = []
        yield store_factory(tmp_path, opened, EventStore)
        for store in opened:
            store.close()


class TestVectorIndex(SearchContract):
    """The index in FAISS, in segments so small that there are several, by cosine."""

    metric: Any = "cosine"

    @pytest.fixture
    def open_projection(self, tmp_path: Path) -> Any:
        def open_index(store: EventStore, name: str | None = None) -> VectorIndex:
            directory = None if name is None else tmp_path / name
            return VectorIndex(store, metric=self.metric, directory=directory, segment_rows=4)

        return open_index


class SearchedOnly(TestVectorIndex):
    """What a metric has no part in, how events become rows, is not tested again for each."""

    __test__ = False


for requirement in [name for name in dir(ProjectionContract) if name.startswith("test_")]:
    setattr(SearchedOnly, requirement, None)


class TestVectorIndexByInnerProduct(SearchedOnly):
    """Searches by inner product."""

    __test__ = True
    metric = "ip"


class TestVectorIndexByDistance(SearchedOnly):
    """Searches by distance."""

    __test__ = True
    metric = "l2"


class TestListIndex(SearchContract):
    """A projection of another make."""

    @pytest.fixture
    def open_projection(self) -> Any:
        return ListIndex


class Counts:
    """A projection that is no index: how many events of each type there were, in a file with its position."""

    name = "counts"

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def kept(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"position": 0, "counts": {}}
        return json.loads(self.path.read_text()) if self.path.exists() else empty

    @property
    def position(self) -> int:
        return int(self.kept["position"])

    def apply(self, events: Sequence[Event]) -> None:
        kept = self.kept
        for event in events:
            if event.position > kept["position"] + 1:
                raise ValueError(f"event {event.position} does not follow on {kept['position']}")
            if event.position > kept["position"]:
                kept["counts"][event.type] = kept["counts"].get(event.type, 0) + 1
                kept["position"] = event.position
        self.path.write_text(json.dumps(kept))

    def reset(self) -> None:
        self.path.unlink(missing_ok=True)


class TestCounts(ProjectionContract):
    """What a projection holds is its own affair: two methods say how to look at it."""

    @pytest.fixture
    def open_projection(self, tmp_path: Path) -> Any:
        numbers = iter(range(10**6))
        return lambda store, name=None: Counts(tmp_path / (name or f"new-{next(numbers)}"))

    def contents(self, projection: Any) -> Any:
        return projection.kept["counts"]

    def expected(self, model: ModelStore) -> Any:
        types = [event.type for event in model.events]
        return {type: types.count(type) for type in types}


# Broken ones


def run(contract: type, test: str, monkeypatch: pytest.MonkeyPatch, **fixture: Any) -> None:
    """One test of a contract, without shrinking what it finds: that it finds something is enough here."""
    function = getattr(contract, test)
    if hasattr(function, "hypothesis"):
        quick = settings(
            function._hypothesis_internal_use_settings, phases=[Phase.generate], max_examples=1000, database=None
        )
        monkeypatch.setattr(function, "_hypothesis_internal_use_settings", quick)
    function(contract(), **fixture)


def requirements(contract: type) -> set[str]:
    return {name for name in dir(contract) if name.startswith("test_")}


@pytest.mark.parametrize(
    ("broken", "test"), broken_stores.CAUGHT_BY, ids=lambda value: getattr(value, "__name__", value)
)
def test_the_store_contract_catches(
    broken: type[EventStore], test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that breaks one promise fails the test that states it."""
    opened: list[Any] = []
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception, AsofError)):
            run(EventStoreContract, test, monkeypatch, open_store=store_factory(tmp_path, opened, broken))
    finally:
        for store in opened:
            store.close()


@pytest.mark.parametrize(
    ("broken", "test"), broken_projections.CAUGHT_BY, ids=lambda value: getattr(value, "__name__", value)
)
def test_the_projection_contracts_catch(broken: type[ListIndex], test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A projection that breaks one promise fails the test that states it."""
    with pytest.raises((AssertionError, pytest.fail.Exception, AsofError)):
        run(SearchContract, test, monkeypatch, open_projection=broken)


def test_each_contract_test_is_known_to_fail() -> None:
    """A test that nothing broken fails would be a test that says nothing."""
    assert requirements(EventStoreContract) == {test for _, test in broken_stores.CAUGHT_BY}
    assert requirements(SearchContract) == {test for _, test in broken_projections.CAUGHT_BY}


@pytest.mark.parametrize("contract", [EventStoreContract, SearchContract])
def test_each_contract_test_says_which_invariant_it_states(contract: type) -> None:
    """By number, in its docstring."""
    for name in requirements(contract):
        assert (getattr(contract, name).__doc__ or "").startswith("Invariant"), name


def test_a_contract_without_its_fixture_says_so(tmp_path: Path) -> None:
    """Whoever forgets to provide it is told its name."""
    with pytest.raises(NotImplementedError, match="EventStoreContract has to define the fixture open_store"):
        EventStoreContract.open_store.__wrapped__(EventStoreContract())  # type: ignore[attr-defined]
