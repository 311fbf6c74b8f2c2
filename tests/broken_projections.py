"""A plain index over a list, and others that break one promise each: what the contracts of projections must catch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from eventstore import Event, EventStore, parse_filter
from projections import Hits, project
from projections.testing import score_of


@dataclass
class Row:
    """A version of a memory, alive in `[born, died)`."""

    memory_id: str
    born: int
    died: float
    vector: list[float]
    embedding: bytes
    metadata: dict[str, Any]
    version: int


class ListIndex:
    """What somebody's own projection may look like: it passes the contract, and shares nothing with `VectorIndex`."""

    name = "list"
    metric = "cosine"
    kept: ClassVar[dict[str, tuple[int, list[Row]]]] = {}

    def __init__(self, store: EventStore, name: str | None = None) -> None:
        self.store = store
        self.kept_as = name
        self.position, self.rows = copy.deepcopy(self.kept.get(name or "", (0, [])))

    def apply(self, events: Sequence[Event]) -> None:
        fresh = [event for event in events if event.position > self.position]
        if not fresh:
            return
        if fresh[0].position != self.position + 1:
            raise ValueError("there is a gap")
        for event in fresh:
            self.take(event)
        self.position = fresh[-1].position
        self.save()

    def take(self, event: Event) -> None:
        self.end(event)
        if event.type != "DELETE":
            self.begin(event)

    def end(self, event: Event) -> None:
        for row in self.rows:
            if row.born == event.prev_seq:
                row.died = event.position

    def begin(self, event: Event) -> None:
        assert event.vector is not None
        assert event.embedding is not None
        self.rows.append(
            Row(
                event.memory_id,
                event.position,
                float("inf"),
                event.vector.tolist(),
                event.embedding,
                event.metadata or {},
                event.version,
            )
        )

    def save(self) -> None:
        if self.kept_as is not None:
            self.kept[self.kept_as] = copy.deepcopy((self.position, self.rows))

    def reset(self) -> None:
        self.position, self.rows = 0, []

    def contents(self, as_of: int) -> tuple[list[int], list[Any]]:
        alive = self.alive(as_of)
        return [row.born for row in alive], [np.frombuffer(row.embedding, dtype="<f4") for row in alive]

    def alive(self, position: int) -> list[Row]:
        return [row for row in self.rows if row.born <= position < row.died]

    def catch_up(self) -> None:
        project(self, self.store)

    def matches(self, row: Row, filter: Any) -> bool:
        return parse_filter(filter).matches(row.metadata)

    def order(self, row: Row) -> Any:
        return row.born

    def search(
        self, query: Any, k: int = 10, *, filter: Any = None, as_of: Any = None, min_score: float | None = None
    ) -> Any:
        position = self.store.position_at(as_of)
        self.catch_up()
        return self.best(self.candidates(position, filter), query, k, position, min_score)

    def search_many(self, queries: Any, k: int = 10, **asked: Any) -> list[Any]:
        return [self.search(query, k, **asked) for query in queries]

    def candidates(self, position: int, filter: Any) -> list[Row]:
        return [row for row in self.alive(position) if self.matches(row, filter)]

    def best(self, rows: list[Row], query: Any, k: int, position: int, min_score: float | None) -> Any:
        scored = sorted(((-score_of(self.metric, query, row.vector), self.order(row), row) for row in rows), key=_first)
        hits = [
            SimpleNamespace(memory_id=row.memory_id, score=-negative, position=row.born, version=row.version)
            for negative, _, row in scored[:k]
            if self.enough(-negative, min_score)
        ]
        return Hits(hits, position)  # type: ignore[arg-type]

    def enough(self, score: float, bound: float | None) -> bool:
        return bound is None or score >= bound


def _first(scored: tuple[float, Any, Row]) -> Any:
    return scored[:2]


class SkipsAnEvent(ListIndex):
    """The third is not taken."""

    def take(self, event: Event) -> None:
        if event.position != 3:
            super().take(event)


class LosesTheTailOfARange(ListIndex):
    """The last of several events is not taken."""

    def apply(self, events: Sequence[Event]) -> None:
        super().apply(events[:-1] if len(events) > 2 else events)
        self.position = max(self.position, events[-1].position)


class ReordersARange(ListIndex):
    """The events of a range are taken by memory."""

    def apply(self, events: Sequence[Event]) -> None:
        fresh = [event for event in events if event.position > self.position]
        if fresh and fresh[0].position != self.position + 1:
            raise ValueError("there is a gap")
        for event in sorted(fresh, key=lambda event: event.memory_id):
            self.take(event)
            self.position = max(self.position, event.position)
        self.save()


class AppliesTwice(ListIndex):
    """An event that comes again is taken again."""

    def apply(self, events: Sequence[Event]) -> None:
        fresh = list(events)
        if fresh and fresh[0].position > self.position + 1:
            raise ValueError("there is a gap")
        for event in fresh:
            self.take(event)
            self.position = max(self.position, event.position)
        self.save()


class TakesAGap(ListIndex):
    """Whatever comes next is taken."""

    def apply(self, events: Sequence[Event]) -> None:
        for event in [event for event in events if event.position > self.position]:
            self.take(event)
            self.position = event.position
        self.save()


class KeepsRowsOnReset(ListIndex):
    """Only the position goes back."""

    def reset(self) -> None:
        self.position = 0


class MovesBeforeItHasTaken(ListIndex):
    """The position is that of the whole range while its events are still coming."""

    def apply(self, events: Sequence[Event]) -> None:
        if len(events) and self.position < len(events) + self.position:
            start, self.position = self.position, self.position + len(events)
            for event in events:
                if event.position > start:
                    self.take(event)


class KeepsThePositionOnly(ListIndex):
    """What is written down is the new position and the rows of the time before."""

    def save(self) -> None:
        if self.kept_as is not None:
            before = self.kept.get(self.kept_as, (0, []))[1]
            self.kept[self.kept_as] = (self.position, before)


class LosesAHit(ListIndex):
    """One fewer than asked for."""

    def best(self, rows: list[Row], query: Any, k: int, position: int, min_score: float | None) -> Any:
        return super().best(rows, query, max(1, k - 1), position, min_score)


class RoundsScores(ListIndex):
    """Near-ties tie."""

    def best(self, rows: list[Row], query: Any, k: int, position: int, min_score: float | None) -> Any:
        return super().best(rows, [float(np.float16(x)) for x in np.clip(query, -1e4, 1e4)], k, position, min_score)


class SearchesOnlyNow(ListIndex):
    """As of then is as of now."""

    def candidates(self, position: int, filter: Any) -> list[Row]:
        return super().candidates(self.position, filter)


class ForgetsTheOldVector(ListIndex):
    """An update moves the vector of the version before it, too."""

    def begin(self, event: Event) -> None:
        super().begin(event)
        for row in self.rows:
            if row.memory_id == event.memory_id:
                row.vector = self.rows[-1].vector


class LeaksADeletedMemory(ListIndex):
    """A deletion ends nothing."""

    def end(self, event: Event) -> None:
        if event.type != "DELETE":
            super().end(event)


class FiltersAfterTopK(ListIndex):
    """Who does not match took the place of who does."""

    def search(self, query: Any, k: int = 10, *, filter: Any = None, as_of: Any = None, min_score: Any = None) -> Any:
        hits = super().search(query, k, as_of=as_of, min_score=min_score)
        by_position = {row.born: row for row in self.rows}
        return Hits([hit for hit in hits if self.matches(by_position[hit.position], filter)], hits.position)


class LooksBackAfterTopK(ListIndex):
    """Who came later took the place of who was there then."""

    def search(self, query: Any, k: int = 10, *, filter: Any = None, as_of: Any = None, min_score: Any = None) -> Any:
        position = self.store.position_at(as_of)
        self.catch_up()
        rows = [row for row in self.rows if self.matches(row, filter)]
        alive = {row.born for row in self.alive(position)}
        hits = self.best(rows, query, 2 * k, position, min_score)
        return Hits([hit for hit in hits if hit.position in alive][:k], position)


class FiltersByToday(ListIndex):
    """Today's metadata for yesterday's search."""

    def matches(self, row: Row, filter: Any) -> bool:
        today = [other for other in self.rows if other.memory_id == row.memory_id][-1]
        return parse_filter(filter).matches(today.metadata)


class IgnoresTheFilter(ListIndex):
    """Everything matches."""

    def matches(self, row: Row, filter: Any) -> bool:
        return True


class BreaksTiesById(ListIndex):
    """And not by position."""

    def order(self, row: Row) -> Any:
        return row.memory_id


class GrowsOtherwise(ListIndex):
    """Rows that came one at a time have coarser vectors than those that came together."""

    def apply(self, events: Sequence[Event]) -> None:
        before = len(self.rows)
        super().apply(events)
        if len(events) == 1 and self.position > 1:
            for row in self.rows[before:]:
                row.vector = [number * 1.0000001 for number in row.vector]


class DoesNotCatchUp(ListIndex):
    """After its first search it answers from what it has."""

    searched = False

    def catch_up(self) -> None:
        if not self.searched:
            super().catch_up()
        self.searched = True


class LeavesOutTheBound(ListIndex):
    """`min_score` itself is not in."""

    def enough(self, score: float, bound: float | None) -> bool:
        return bound is None or score > bound


class DoesNotReadInstants(ListIndex):
    """An instant that is said as text is now."""

    def search(self, query: Any, k: int = 10, *, as_of: Any = None, **asked: Any) -> Any:
        return super().search(query, k, as_of=None if isinstance(as_of, str) else as_of, **asked)


class SaysTheVersionOfNow(ListIndex):
    """A hit of the past has the version that the memory has today."""

    def best(self, rows: list[Row], query: Any, k: int, position: int, min_score: float | None) -> Any:
        hits = super().best(rows, query, k, position, min_score)
        for hit in hits:
            hit.version = max(row.version for row in self.rows if row.memory_id == hit.memory_id)
        return hits


class SearchesManyNow(ListIndex):
    """Several searches at once are of now."""

    def search_many(self, queries: Any, k: int = 10, **asked: Any) -> list[Any]:
        return super().search_many(queries, k, **{**asked, "as_of": None})


class SearchesManyForTheFirst(ListIndex):
    """Several searches at once are all for the first query."""

    def search_many(self, queries: Any, k: int = 10, **asked: Any) -> list[Any]:
        return super().search_many(list(queries[:1]) * len(queries), k, **asked)


class ChecksTheBoundOnlyNow(ListIndex):
    """As of then `min_score` is passed over."""

    def search(self, query: Any, k: int = 10, *, as_of: Any = None, min_score: Any = None, **asked: Any) -> Any:
        return super().search(query, k, as_of=as_of, min_score=min_score if as_of is None else None, **asked)


class WritesNoCheckpoint(ListIndex):
    """It says that it has."""

    def save(self) -> None:
        pass

    def checkpoint(self) -> int:
        return self.position


CAUGHT_BY: list[tuple[type[ListIndex], str]] = [
    (SkipsAnEvent, "test_it_holds_what_the_history_says"),
    (LosesTheTailOfARange, "test_it_does_not_matter_how_events_are_cut"),
    (ReordersARange, "test_it_does_not_matter_how_events_are_cut"),
    (AppliesTwice, "test_applying_an_event_again_changes_nothing"),
    (TakesAGap, "test_a_gap_is_refused"),
    (KeepsRowsOnReset, "test_a_reset_starts_from_nothing"),
    (MovesBeforeItHasTaken, "test_what_fails_half_way_is_finished_later"),
    (KeepsThePositionOnly, "test_position_and_contents_are_kept_together"),
    (WritesNoCheckpoint, "test_position_and_contents_are_kept_together"),
    (LosesAHit, "test_a_search_is_brute_force"),
    (RoundsScores, "test_a_search_is_brute_force"),
    (SearchesOnlyNow, "test_a_search_of_the_past_is_a_search_then"),
    (DoesNotReadInstants, "test_a_search_of_the_past_is_a_search_then"),
    (SaysTheVersionOfNow, "test_a_hit_says_what_the_memory_was_then"),
    (SearchesManyNow, "test_many_searches_are_each_a_search"),
    (SearchesManyForTheFirst, "test_many_searches_are_each_a_search"),
    (ForgetsTheOldVector, "test_the_vector_before_an_update_is_found_as_of_then"),
    (LeaksADeletedMemory, "test_a_deleted_memory_is_not_found"),
    (FiltersAfterTopK, "test_the_filter_is_inside_the_search"),
    (LooksBackAfterTopK, "test_as_of_is_inside_the_search"),
    (IgnoresTheFilter, "test_a_filter_as_of_sees_the_metadata_of_then"),
    (FiltersByToday, "test_yesterdays_search_is_not_filtered_by_todays_metadata"),
    (BreaksTiesById, "test_equal_scores_are_in_the_order_of_positions"),
    (GrowsOtherwise, "test_a_grown_index_answers_as_a_rebuilt_one"),
    (DoesNotCatchUp, "test_a_search_sees_what_was_recorded_before_it"),
    (LeavesOutTheBound, "test_min_score_leaves_out_what_scores_lower"),
    (ChecksTheBoundOnlyNow, "test_min_score_leaves_out_what_scores_lower"),
]
