"""Events by column, for projections that are handed whole events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventstore import Event
from eventstore.reads import EventColumns

__all__ = ["columns_of"]


def columns_of(events: Sequence[Event], after: int) -> EventColumns:
    """The columns of the events past position `after`."""
    fresh = [event for event in events if event.position > after]
    own = [event for event in fresh if event.embedding_seq == event.position]
    # Of the state after an event: there may be no event that has an embedding of its own.
    width = next((len(event.embedding) // 4 for event in fresh if event.embedding is not None), 0)
    embeddings = np.frombuffer(b"".join(event.embedding or b"" for event in own), dtype="<f4")
    return EventColumns(
        seqs=np.array([event.position for event in fresh], dtype=np.int64),
        prev_seqs=np.array([event.prev_seq or 0 for event in fresh], dtype=np.int64),
        embedding_seqs=np.array([event.embedding_seq or 0 for event in fresh], dtype=np.int64),
        is_delete=np.array([event.type == "DELETE" for event in fresh], dtype=np.bool_),
        embedding_at=np.array([event.position for event in own], dtype=np.int64),
        embeddings=embeddings.reshape(len(own), width),
    )
