"""Which moments of a history are worth asking for."""

from __future__ import annotations

from datetime import datetime

from hypothesis import strategies as st

from eventstore import Event, EventStore, InvalidInstant
from eventstore.testing.clocks import MICROSECOND, START
from eventstore.testing.model import ModelEvent, ModelStore

__all__ = ["instants"]


def instants(store: EventStore | ModelStore) -> st.SearchStrategy[datetime | int | None]:
    """Moments of a history, as `as_of` takes them: positions and aware datetimes, and None for now.

    Position 0 and every other, so also one inside an append; the instant of each append and the microsecond
    before and after it; long before the first. After the last event those instants only that the store answers:
    asking a store for one settles it, so what is appended later is later. Shrinks towards the first events.
    """
    times = list(dict.fromkeys(event.recorded_at for event in _events(store)))
    moments: dict[datetime | int | None, None] = {}
    moments.update(dict.fromkeys(range(store.position + 1)))
    first = times[0] if times else START
    for time in times:
        moments.update(dict.fromkeys([time - MICROSECOND, time, time + MICROSECOND]))
    moments.update(dict.fromkeys([first.replace(year=first.year - 1, day=1), None]))
    return st.sampled_from([moment for moment in moments if _answers(store, moment)])


def _events(store: EventStore | ModelStore) -> list[Event] | list[ModelEvent]:
    return store.events if isinstance(store, ModelStore) else list(store.events())


def _answers(store: EventStore | ModelStore, moment: datetime | int | None) -> bool:
    try:
        store.position_at(moment)
    except InvalidInstant:
        return False
    return True
