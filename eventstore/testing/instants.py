"""Which moments of a history are worth asking for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from hypothesis import strategies as st

from eventstore import Event, EventStore, InvalidInstant
from eventstore.testing.clocks import MICROSECOND, START
from eventstore.testing.model import ModelEvent, ModelStore

__all__ = ["instants", "instants_of"]


def instants(store: EventStore | ModelStore) -> st.SearchStrategy[datetime | int | None]:
    """Moments of a history, as `as_of` takes them: positions and aware datetimes, and None for now.

    Position 0 and every other, so also one inside an append; the instant of each append and the microsecond
    before and after it; long before the first. After the last event those instants only that the store answers:
    asking a store for one settles it, so what is appended later is later. Shrinks towards the first events.
    """
    return instants_of(store, store.events if isinstance(store, ModelStore) else list(store.events()))


def instants_of(
    store: EventStore | ModelStore, events: Sequence[Event] | Sequence[ModelEvent]
) -> st.SearchStrategy[datetime | int | None]:
    """`instants` for who has the store's events at hand."""
    times = list(dict.fromkeys(event.recorded_at for event in events))
    moments: dict[datetime | int | None, None] = {}
    moments.update(dict.fromkeys(range(len(events) + 1)))
    first = times[0] if times else START
    for time in times:
        moments.update(dict.fromkeys([time - MICROSECOND, time, time + MICROSECOND]))
    moments.update(dict.fromkeys([first.replace(year=first.year - 1, day=1), None]))
    # Up to the last event every instant is answered: only those past it have to be asked for.
    known = times[-1] if times else None
    return st.sampled_from(
        [
            moment
            for moment in moments
            if not isinstance(moment, datetime) or (known is not None and moment <= known) or _answers(store, moment)
        ]
    )


def _answers(store: EventStore | ModelStore, moment: datetime) -> bool:
    try:
        store.position_at(moment)
    except InvalidInstant:
        return False
    return True
