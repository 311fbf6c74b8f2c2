"""Time: what an append's instant is, and what an instant means when it is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Add, EventStore, ImportFailed, InvalidInstant
from tests.profiles import scaled
from tests.store_support import MICROSECOND, START, STEPS, Appended, Clock, histories, told_to, vector


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[EventStore]:
    with EventStore(clock=clock) as opened:
        yield opened


# -- recorded_at --------------------------------------------------------------------------------------------


def test_an_event_is_recorded_at_the_clocks_time(store: EventStore, clock: Clock) -> None:
    """To the microsecond, in UTC."""
    clock.now = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    event = store.add("x", vector=vector())
    assert event.recorded_at == datetime(2026, 5, 1, 10, 0, 0, 123456, tzinfo=timezone.utc)
    assert event.recorded_at.tzinfo is timezone.utc


def test_instants_go_on_though_the_clock_stands_still(store: EventStore) -> None:
    """A microsecond for each append."""
    times = [store.add("x", vector=vector()).recorded_at for _ in range(3)]
    assert times == [START, START + MICROSECOND, START + 2 * MICROSECOND]


def test_instants_go_on_though_the_clock_is_set_back(store: EventStore, clock: Clock) -> None:
    """A microsecond after the head, until the clock has caught up."""
    store.add("x", vector=vector())
    clock.move(days=-1)
    assert store.add("x", vector=vector()).recorded_at == START + MICROSECOND
    clock.move(days=2)
    assert store.add("x", vector=vector()).recorded_at == START + timedelta(days=1)


def test_a_clock_that_was_ahead_holds_the_next_store_to_it(tmp_path: Path) -> None:
    """The head's time is in the file: a store opened later goes on from there."""
    with EventStore(tmp_path / "a.db", clock=Clock(START + timedelta(days=9))) as store:
        store.add("x", vector=vector())
    with EventStore(tmp_path / "a.db", clock=Clock(START)) as store:
        assert store.add("x", vector=vector()).recorded_at == START + timedelta(days=9) + MICROSECOND


@settings(max_examples=scaled(50))
@given(history=histories())
def test_each_append_is_strictly_later_than_the_one_before(history: list[Appended]) -> None:
    """Whatever the clock does; and within an append all are at one instant."""
    with told_to(history) as (store, model, _):
        times = [event.recorded_at for event in store.events()]
        assert times == [told.recorded_at for told in model.events]
        appends = [len(append.operations) for append in history if append.error is None]
        starts = np.cumsum([0, *appends])
        distinct = [set(times[a:b]) for a, b in itertools.pairwise(starts)]
        assert [len(some) for some in distinct] == [1] * len(appends)
        assert [max(some) for some in distinct] == sorted({max(some) for some in distinct})


def test_times_before_1970_are_times(clock: Clock) -> None:
    """Down to the year 1."""
    clock.now = datetime(1, 1, 1, tzinfo=timezone.utc)
    with EventStore(clock=clock) as store:
        first = store.add("x", vector=vector(), occurred_at="0001-01-01T00:00:00Z")
        clock.now = datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=timezone.utc)
        second = store.add("y", vector=vector())
        assert list(store.events()) == [first, second]
        assert store.position_at("1969-12-31T23:59:59.999998Z") == 1
        assert store.position_at("1969-12-31T23:59:59.999999Z") == 2


def test_a_history_ends_with_the_year_9999(clock: Clock) -> None:
    """After the last microsecond that a datetime can say nothing can be recorded, and nothing breaks."""
    clock.now = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone.utc)
    with EventStore(clock=clock) as store:
        store.add("x", vector=vector())
        with pytest.raises(InvalidInstant, match="after the year 9999"):
            store.add("y", vector=vector())
        assert len(list(store.events())) == 1


@pytest.mark.parametrize("reading", [datetime(2026, 1, 1), datetime.max.replace(tzinfo=timezone(-timedelta(hours=2)))])
def test_a_clock_that_tells_no_instant_records_nothing(clock: Clock, store: EventStore, reading: datetime) -> None:
    """Naive, or beyond what UTC can say."""
    clock.now = reading
    with pytest.raises(InvalidInstant):
        store.add("x", vector=vector())
    clock.now = START
    assert store.add("x", vector=vector()).position == 1


# -- position_at --------------------------------------------------------------------------------------------


def test_an_instant_means_the_last_event_recorded_no_later(store: EventStore, clock: Clock) -> None:
    """Before the first, at one, between two, inside an append's instant, after the last."""
    store.append([Add(content="x", vector=[1]), Add(content="y", vector=[1])])
    clock.move(seconds=10)
    store.append([Add(content="z", vector=[1])])
    clock.move(seconds=10)
    asked = {
        START - MICROSECOND: 0,
        START: 2,
        START + MICROSECOND: 2,
        START + timedelta(seconds=10) - MICROSECOND: 2,
        START + timedelta(seconds=10): 3,
        START + timedelta(seconds=20): 3,
    }
    assert {instant: store.position_at(instant) for instant in asked} == asked


@settings(max_examples=scaled(50))
@given(history=histories(), data=st.data())
def test_any_instant_up_to_now_resolves_as_counting_does(history: list[Appended], data: st.DataObject) -> None:
    """Near events, between them and up to the clock's time."""
    with told_to(history) as (store, model, clock):
        marks = [told.recorded_at for told in model.events] + [clock.now]
        instant = data.draw(st.sampled_from(marks)) + data.draw(st.sampled_from([-MICROSECOND, 0 * MICROSECOND]))
        assert store.position_at(instant) == model.position_at(instant)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.000000+00:00",
        "2026-01-01t00:00z",
        "2026-01-01 05:30:00+0530",
        "2026-01-01T01:00:00+01",
        "2025-12-31T23:00:00.000000-01:00",
        " 2026-01-01T00:00:00,000000999 Z ",
    ],
)
def test_an_instant_may_be_iso_8601_text(store: EventStore, clock: Clock, text: str) -> None:
    """With a zone, whatever its notation; finer than a microsecond is cut off."""
    store.add("x", vector=[1])
    clock.move(days=1)
    store.add("y", vector=[1])
    assert store.position_at(text) == 1


def test_none_and_positions_are_themselves(store: EventStore) -> None:
    """None is the head; a position, of any integer type, is that position."""
    store.add_many(["x"] * 3, vectors=[[1]] * 3)
    assert [store.position_at(asked) for asked in (None, 0, 2, np.int64(3))] == [3, 0, 2, 3]
    assert type(store.position_at(np.int64(3))) is int


@pytest.mark.parametrize("asked", [4, -1, np.int64(4), 2**70])
def test_a_position_that_is_not_in_the_history_is_refused(store: EventStore, asked: int) -> None:
    """With the range there is."""
    store.add_many(["x"] * 3, vectors=[[1]] * 3)
    with pytest.raises(InvalidInstant, match=f"position {asked} is not in the history, which has positions 0 to 3"):
        store.position_at(asked)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (datetime(2026, 1, 1), "no time zone"),
        ("2026-01-01T00:00:00", "no time zone"),
        ("2026-01-01", "is not an instant"),
        ("yesterday", "is not an instant"),
        ("", "is not an instant"),
        ("2026-13-01T00:00:00Z", "is not an instant"),
        ("2026-01-01T00:00:60Z", "is not an instant"),
        ("2026-01-01T00:00:00+99:00", "is not an instant"),
        ("0001-01-01T00:00:00+01:00", "not within the years 1 to 9999"),
        ("12", "is not an instant"),
        (1.0, "as_of is of type float"),
        (True, "as_of is of type bool"),
        (np.True_, "as_of is of type bool"),
        (date(2026, 1, 1), "as_of is of type date"),
        (np.datetime64("2026-01-01"), "as_of is of type datetime64"),
        ([], "as_of is of type list"),
    ],
)
def test_what_is_no_instant_is_refused(store: EventStore, asked: Any, says: str) -> None:
    """One clear error that names what was given and what to give."""
    with pytest.raises(InvalidInstant, match=says):
        store.position_at(asked)


@pytest.mark.parametrize("text", ["٢٠٢٦-01-01T00:00:00Z", "2026-01-01T00:00:00Z\n2026", "x" * 100_000])
def test_what_only_looks_like_an_instant_is_refused(store: EventStore, text: str) -> None:
    """Digits of other scripts, more than one line, very long; the message stays short."""
    with pytest.raises(InvalidInstant) as raised:
        store.position_at(text)
    assert len(str(raised.value)) < 300


# -- the future ---------------------------------------------------------------------------------------------


def test_an_instant_later_than_clock_and_head_is_refused(store: EventStore, clock: Clock) -> None:
    """Its answer could still change."""
    store.add("x", vector=[1])
    later = START + MICROSECOND
    for read in (store.position_at, lambda at: store.get("m", as_of=at), lambda at: store.memories(as_of=at)):
        with pytest.raises(InvalidInstant, match="later than the clock"):
            read(later)
    clock.now = later
    assert store.position_at(later) == 1


def test_an_instant_up_to_the_head_is_answered_though_the_clock_is_behind(store: EventStore, clock: Clock) -> None:
    """Nothing can be recorded there any more."""
    store.add("x", vector=[1])
    clock.move(days=-1)
    assert store.position_at(START) == 1
    with pytest.raises(InvalidInstant):
        store.position_at(START + MICROSECOND)


def test_an_answered_instant_keeps_its_answer_though_the_clock_is_set_back(store: EventStore, clock: Clock) -> None:
    """What is recorded after the answer is recorded after the instant."""
    clock.move(hours=1)
    asked = clock.now
    assert store.position_at(asked) == 0
    clock.move(hours=-1)
    event = store.add("x", vector=[1])
    assert event.recorded_at == asked + MICROSECOND
    assert store.position_at(asked) == 0


@settings(max_examples=scaled(60))
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(STEPS)), min_size=1, max_size=12))
def test_no_answer_ever_changes(steps: list[tuple[timedelta, timedelta]]) -> None:
    """Instants are asked between appends while the clock jumps; in the end all are asked again."""
    clock, answers = Clock(), dict[datetime, int]()
    with EventStore(clock=clock) as store:
        for step, ago in steps:
            clock.now += step
            asked = clock.now - abs(ago)
            answers[asked] = store.position_at(asked)
            clock.now += ago
            store.add("x", vector=[1])
        assert {asked: store.position_at(asked) for asked in answers} == answers


def test_an_append_under_way_elsewhere_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    """It may have taken its time already: an answer that does not count it could change."""
    with EventStore(tmp_path / "a.db", clock=clock) as writer:
        writer.add("x", vector=[1])
        clock.move(seconds=5)
        with EventStore(tmp_path / "a.db", clock=clock, timeout=0) as reader:
            with writer._writer.transaction(), pytest.raises(TimeoutError):
                reader.position_at(clock.now)
            assert reader.position_at(clock.now) == 1


# -- since and until ----------------------------------------------------------------------------------------


def test_since_and_until_are_inclusive(store: EventStore, clock: Clock) -> None:
    """An event recorded at the instant itself is among them."""
    for _ in range(3):
        store.add("x", vector=[1])
        clock.move(seconds=1)
    middle = START + timedelta(seconds=1)

    def positions(**bounds: Any) -> list[int]:
        return [event.position for event in store.events(**bounds)]

    assert positions(since=middle) == [2, 3]
    assert positions(until=middle) == [1, 2]
    assert positions(since=middle, until=middle) == [2]
    assert positions(since=middle + MICROSECOND, until=middle + MICROSECOND) == []
    assert positions(until=START - MICROSECOND) == []
    assert positions(until="9999-01-01T00:00:00Z") == [1, 2, 3]


@pytest.mark.parametrize("bound", ["since", "until"])
def test_bounds_in_time_need_a_zone(store: EventStore, bound: str) -> None:
    """And are named where they are wrong."""
    with pytest.raises(InvalidInstant, match=f"{bound} 'soon' is not an instant"):
        store.events(**{bound: "soon"})
    with pytest.raises(InvalidInstant, match="no time zone"):
        store.events(**{bound: datetime(2026, 1, 1)})


# -- head ---------------------------------------------------------------------------------------------------


def test_the_head_of_an_empty_history(store: EventStore) -> None:
    """Position 0, no time, and the hash that the first event links to."""
    head = store.head
    assert (head.position, head.recorded_at, head.hash) == (0, None, "0" * 64)
    assert store.head_at(0) == head


def test_the_head_is_the_last_event(store: EventStore, clock: Clock) -> None:
    """Its position, time and hash; and as it was at an earlier point."""
    first = store.add("x", vector=[1])
    head = store.head
    clock.move(seconds=1)
    second = store.add("y", vector=[1])
    assert (head.position, head.recorded_at, head.hash) == (1, first.recorded_at, first.hash)
    assert (store.head.position, store.head.hash) == (2, second.hash)
    assert store.head_at(1) == head
    assert store.head_at(first.recorded_at) == head


def test_an_import_leaves_an_answered_instant_as_it_was_answered() -> None:
    """What was answered as of an instant past the head holds for events that come with times of their own."""
    record = {"content": "x", "vector": [1.0], "recorded_at": "2025-06-01T00:00:00Z"}
    with EventStore() as store:
        assert store.position_at("2025-12-31T00:00:00Z") == 0
        with pytest.raises(ImportFailed, match="settled"):
            store.import_events([record], source="late")
        assert store.position_at("2025-12-31T00:00:00Z") == 0
        assert store.import_events([{**record, "recorded_at": "2025-12-31T00:00:01Z"}], source="later").imported == 1
