"""Inverted lists take a segment some rows late, and what that needs is made ahead, on a thread beside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventstore import EventStore
from projections import approximate
from projections.codes import Codes
from projections.hnsw import Graph
from projections.ivf import InvertedLists
from tests.approximate_support import (
    SEGMENT,
    answers,
    fill,
    made,
    open_index,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of a few rows are searched approximately too."""
    monkeypatch.setattr(approximate, "FEW_ROWS", 0)


pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore(tmp_path / "agent.db", durability="normal") as store:
        fill(store)
        yield store


def test_a_segment_is_taken_some_rows_after_it_is_full() -> None:
    """One that a block begins with, when the next is full; how many are taken depends on the number of rows alone."""
    lists, size = InvertedLists("ip", 64, 3), 64
    taken = [lists.ready(rows) for rows in range(size * 14)]
    assert taken == sorted(taken)
    for number in range(12):
        begins = number in (2, 6)  # blocks are [0, 6) and [6, 12); the first is made of three segments
        expected = (number + 2) * size if begins else (number + 1) * size + size // 8
        assert taken.index(number + 1) == expected
    assert Graph("ip", 64).ready(200) == 3


def test_what_a_segment_needs_is_made_before_it_is_taken(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever adds the row with which it is taken waits for no training; and the answers are the same."""
    late = open_index(store, directory=Path(f"{store.path}.late"))
    with monkeypatch.context() as patch:
        patch.setattr("projections.ahead.Ahead.begin", lambda *given: None)
        late.catch_up()
    index = open_index(store)
    structure = index._content.structure
    assert isinstance(structure, InvertedLists)
    made_by = []
    original = InvertedLists._step

    def step(*given: Any) -> Any:
        made_by.append(threading.current_thread().name)
        return original(*given)

    monkeypatch.setattr(InvertedLists, "_step", step)
    for event in store.events():
        index.apply([event])
        if (thread := index._ahead._thread) is not None:
            thread.join()
    assert len(structure.blocks) == 2
    assert set(made_by) == {"asof-ahead"}
    assert len(made_by) == len(structure.lists) + (structure._prepared is not None)
    assert made(index) == made(late)
    assert answers(index) == answers(late)
    assert "ivf" in {kind for _, kind in answers(index)}


def full_segments(store: EventStore) -> list[Codes]:
    """The codes of the full segments of a history."""
    with open_index(store) as index:
        index.catch_up()
        assert index._content.segments is not None
        return index._content.segments.coded


def never() -> None:
    """What a thread that is not to end calls now and then."""


def test_what_was_made_too_late_is_not_used(store: EventStore) -> None:
    """A thread that comes when its segment has been taken makes nothing; nor does it try twice."""
    coded = full_segments(store)
    plain, late = InvertedLists("cosine", SEGMENT, 3), InvertedLists("cosine", SEGMENT, 3)
    plain.fold(coded[:9])
    late.fold(coded[:5])
    late.prepare(coded[:5], never)
    assert late._prepared is None
    late.prepare(coded[:7], never)
    assert late._prepared is not None
    assert late._prepared.number == 5
    assert not late.is_behind(7)
    late.fold(coded[:9])
    assert late._prepared is None
    assert [lists.tolist() for lists in late.lists if lists is not None] == [
        lists.tolist() for lists in plain.lists if lists is not None
    ]


@pytest.mark.parametrize(("taken", "least"), [(2, 4), (4, 1)])
def test_what_is_made_ahead_can_be_ended(store: EventStore, taken: int, least: int) -> None:
    """In training, and in the search for the lists of rows: it calls now and then what may end it."""
    coded, calls = full_segments(store), []
    lists = InvertedLists("cosine", SEGMENT, 3)
    lists.fold(coded[:taken])
    lists.prepare(coded[: taken + 1], lambda: calls.append(taken))
    assert len(calls) >= least

    def end() -> None:
        raise InterruptedError

    lists = InvertedLists("cosine", SEGMENT, 3)
    lists.fold(coded[:taken])
    with pytest.raises(InterruptedError):
        lists.prepare(coded[: taken + 1], end)
    assert lists._prepared is None
    assert not lists.is_behind(taken + 1)
    lists.fold(coded[: taken + 1])
    assert len(lists.lists) == taken + 1


def test_who_needs_what_is_being_made_waits_for_it(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not made twice."""
    coded, began, go_on = full_segments(store), threading.Event(), threading.Event()
    lists, steps = InvertedLists("cosine", SEGMENT, 3), []
    original = InvertedLists._step
    monkeypatch.setattr(InvertedLists, "_step", lambda *given: (steps.append(len(given[1])), original(*given))[1])

    def check() -> None:
        began.set()
        assert go_on.wait(30)

    lists.fold(coded[:2])
    maker = threading.Thread(target=lists.prepare, args=(coded[:3], check))
    maker.start()
    assert began.wait(30)
    taker = threading.Thread(target=lists.fold, args=(coded[:3],))
    taker.start()
    taker.join(0.05)
    assert taker.is_alive()
    assert len(lists.lists) == 2
    go_on.set()
    for thread in (maker, taker):
        thread.join(30)
    assert steps == [1, 2, 3]
    assert (len(lists.lists), len(lists.blocks)) == (3, 1)


def test_closing_ends_what_is_made_ahead(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does beginning anew: nobody waits for what is wanted no more."""

    def endless(structure: Any, coded: Any, check: Any) -> None:
        while True:
            check()

    monkeypatch.setattr(InvertedLists, "prepare", endless)
    index = open_index(store)
    index.catch_up(455)  # a segment has just become full
    thread = index._ahead._thread
    assert thread is not None
    assert thread.is_alive()
    index.reset()
    thread.join(30)
    assert not thread.is_alive()
    index.catch_up(455)
    thread = index._ahead._thread
    assert thread.is_alive()
    index.close()
    thread.join(30)
    assert not thread.is_alive()
