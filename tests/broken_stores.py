"""Stores that break one promise each: what `EventStoreContract` has to catch. `CAUGHT_BY` says by which test."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any

import numpy as np

from eventstore import Add, AsofError, Delete, Event, EventStore, InvalidInstant, Memory, Update


class LosesTheTail(EventStore):
    """What was acknowledged last is gone after closing."""

    def close(self) -> None:
        if not self.closed and self.path != ":memory:":
            super().close()
            with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                for (trigger,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                ).fetchall():
                    connection.execute(f"DROP TRIGGER {trigger}")
                for table in ("payloads", "events"):
                    connection.execute(f"DELETE FROM {table} WHERE seq = (SELECT max(seq) FROM {table})")
        super().close()


class SplitsAppends(EventStore):
    """Each operation of an append is its own transaction, at its own instant."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        if not operations:
            return super().append(operations, **context)
        return [super(SplitsAppends, self).append([each], **context)[0] for each in operations]


class KeepsWritesToItself(EventStore):
    """Nobody else sees them."""

    def __init__(self, path: Any = ":memory:", **options: Any) -> None:
        super().__init__(":memory:", **options)


class SkipsAnEvent(EventStore):
    """The second event is recorded and not given back."""

    def events(self, **asked: Any) -> Iterator[Event]:
        return (event for event in super().events(**asked) if event.position != 2)


class ReordersEvents(EventStore):
    """The operations of an append are recorded in the order of their memories."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        return super().append(sorted(operations, key=lambda each: str(each.memory_id)), **context)


class SharesAnInstant(EventStore):
    """Instants are those of a clock with seconds only, which two appends may share."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        return [_in_seconds(event) for event in super().append(operations, **context)]

    def events(self, **asked: Any) -> Iterator[Event]:
        return (_in_seconds(event) for event in super().events(**asked))


def _in_seconds(event: Event) -> Event:
    return replace(event, recorded_at=event.recorded_at.replace(microsecond=0))


class BeginsVersionsAnew(EventStore):
    """A memory that is added again is at version 1 again."""

    def events(self, **asked: Any) -> Iterator[Event]:
        for event in super().events(**asked):
            yield replace(event, version=1, prev_seq=None) if event.type == "ADD" else event


class ChainOfPositions(EventStore):
    """The hash of a position says nothing about what is recorded there."""

    def hash_at(self, position: int) -> str | None:
        return sha256(str(position).encode()).hexdigest() if position <= self.position else None


class ReordersMemories(EventStore):
    """The newest comes first."""

    def memories(self, *filter: Any, **asked: Any) -> list[Memory]:
        return super().memories(*filter, **asked)[::-1]


class LeavesOutTheBound(EventStore):
    """`upto` is not in."""

    def events(self, **asked: Any) -> Iterator[Event]:
        upto = asked.get("upto")
        return (event for event in super().events(**asked) if upto is None or event.position < upto or upto == 0)


class EmptiesWhatIsNotGiven(EventStore):
    """An update without metadata empties them."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        changed = [
            each.model_copy(update={"metadata": {}}) if isinstance(each, Update) and each.metadata is None else each
            for each in operations
        ]
        return super().append(changed, **context)


class LosesTheSignOfZero(EventStore):
    """-0.0 becomes 0.0, and what is denormal nothing."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        changed = []
        for each in operations:
            if isinstance(each, Add) and isinstance(each.vector, list) and len(each.vector) == 5:
                rounded = np.array(each.vector, dtype=np.float32) + np.float32(0)
                each = each.model_copy(update={"vector": rounded})
            changed.append(each)
        return super().append(changed, **context)


class RewritesThePast(EventStore):
    """The past shows the content of today."""

    def memories(self, *filter: Any, **asked: Any) -> list[Memory]:
        today = {memory.memory_id: memory for memory in super().memories()}
        return [today.get(memory.memory_id, memory) for memory in super().memories(*filter, **asked)]


class ForgetsWhatItAnswered(EventStore):
    """With the clock set back, an instant that was answered is recorded at."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        self._writer._floor = -(2**63)
        return super().append(operations, **context)


class AnswersTheFuture(EventStore):
    """An instant to come is now."""

    def position_at(self, as_of: Any) -> int:
        with contextlib.suppress(InvalidInstant):
            return super().position_at(as_of)
        return self.position


class LeaksADeletedMemory(EventStore):
    """`get` still has it."""

    def get(self, memory_id: str, **asked: Any) -> Memory | None:
        for position in range(self.position if asked.get("as_of") is None else 0, 0, -1):
            if found := super().get(memory_id, as_of=position):
                return found
        return super().get(memory_id, **asked)


class LeaksADeletedVector(EventStore):
    """`vectors` still has it."""

    def vectors(self, memory_ids: Any = None, **asked: Any) -> Any:
        if memory_ids is None and asked.get("as_of") is None and self.position:
            ids, matrix = super().vectors(memory_ids, **asked)
            more = super().vectors(as_of=self.position - 1)
            kept = [at for at, name in enumerate(more[0]) if name not in ids]
            return ids + [more[0][at] for at in kept], np.vstack([matrix, more[1][kept]])
        return super().vectors(memory_ids, **asked)


class RevivesTheOld(EventStore):
    """A memory that is added again has the metadata of its life before."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        changed = []
        for each in operations:
            if isinstance(each, Add) and each.metadata is None and each.memory_id is not None:
                before = [event.metadata for event in super().events() if event.memory_id == each.memory_id]
                old = next((metadata for metadata in reversed(before) if metadata is not None), None)
                each = each.model_copy(update={"metadata": old})
            changed.append(each)
        return super().append(changed, **context)


class FiltersByToday(EventStore):
    """Today's metadata decide which memories of yesterday match."""

    def memories(self, filter: Any = None, **asked: Any) -> list[Memory]:
        today = {memory.memory_id for memory in super().memories(filter)}
        found = super().memories(**asked)
        return found if filter is None else [memory for memory in found if memory.memory_id in today]


class ForgetsBefore(EventStore):
    """The history has what a memory became and not what it was."""

    def history(self, *memory: Any, **asked: Any) -> list[Any]:
        return [replace(record, old_memory=None) for record in super().history(*memory, **asked)]


class DeletesOne(EventStore):
    """Of those that match only the first."""

    def delete_where(self, filter: Any = None, **options: Any) -> Sequence[Event]:
        matching = self.memories(filter)
        return [self.delete(matching[0].memory_id)] if filter and matching else super().delete_where(filter, **options)


class RecordsFailures(EventStore):
    """A failure leaves an event that says so."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        try:
            return super().append(operations, **context)
        except AsofError:
            super().append([Add(content="failed", vector=[1.0] * (self.dimension or 4))])
            raise


class TakesAnEmptyAppend(EventStore):
    """And records nothing."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        return super().append(operations, **context) if operations else []


class ForgetsEventIds(EventStore):
    """A retry is recorded again."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        renamed = [each.model_copy(update={"event_id": None}) for each in operations]
        if len(operations) == 1 and isinstance(operations[0], Delete) and self.get(operations[0].memory_id) is None:
            return super().append(operations, **context)
        return super().append(renamed, **context)


class IgnoresExpectations(EventStore):
    """The last one wins."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        context.pop("expected_position", None)
        return super().append(
            [
                each if isinstance(each, Add) else each.model_copy(update={"expected_version": None})
                for each in operations
            ],
            **context,
        )


class IgnoresTheClock(EventStore):
    """Every append is a microsecond after the one before, whatever time it is."""

    def __init__(self, path: Any = ":memory:", *, clock: Any, **options: Any) -> None:
        began = clock()
        super().__init__(path, clock=lambda: began, **options)


class ForgetsWho(EventStore):
    """Who did it, in which role and why is not recorded."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        nobody = {"actor_id": None, "role": None, "reason": None}
        return super().append([each.model_copy(update=nobody) for each in operations], **context)


class ForgetsWhatAnAppendSays(EventStore):
    """Only what the operations say themselves is recorded."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        return super().append(operations, expected_position=context.get("expected_position"))


class ChoosesByLess(EventStore):
    """Of several conditions on events the time is passed over."""

    def events(self, **asked: Any) -> Iterator[Event]:
        return super().events(**{name: value for name, value in asked.items() if name not in ("since", "until")})


class ReadsOn(EventStore):
    """A reading that is under way goes on to what is recorded meanwhile."""

    def events(self, **asked: Any) -> Iterator[Event]:
        at = asked.pop("after", 0)
        while event := next(super().events(after=at, limit=1, **asked), None):
            yield event
            at = event.position


class HasOneOrder(EventStore):
    """Whatever order is asked for, memories come in that of positions."""

    def memories(self, *filter: Any, **asked: Any) -> list[Memory]:
        return super().memories(*filter, **{**asked, "order": "position"})


class ReadsTheHourOnly(EventStore):
    """An instant's zone is passed over."""

    def position_at(self, as_of: Any) -> int:
        if isinstance(as_of, str) and as_of[:1].isdigit():
            as_of = datetime.fromisoformat(as_of.replace("Z", "+00:00"))
        return super().position_at(as_of.replace(tzinfo=timezone.utc) if isinstance(as_of, datetime) else as_of)


class HasVectorsOfNowOnly(EventStore):
    """Asked for by id, vectors are today's."""

    def vectors(self, memory_ids: Any = None, **asked: Any) -> Any:
        return super().vectors(memory_ids, **(asked if memory_ids is None else {}))


class HasOneHead(EventStore):
    """The head of any moment is that of now."""

    def head_at(self, as_of: Any) -> Any:
        return self.head


class GivesProjectionsToday(EventStore):
    """The state at a position is the memory's of now."""

    def states(self, positions: Any) -> Iterator[Memory]:
        return (self.get(memory.memory_id) or memory for memory in super().states(positions))


class AddsManyOneByOne(EventStore):
    """Each of many memories is an append of its own."""

    def add_many(self, contents: Sequence[str], **lists: Any) -> Sequence[Event]:
        shared = {name: given for name, given in lists.items() if not isinstance(given, list)}
        each = {name: given for name, given in lists.items() if isinstance(given, list)}
        return [
            super(AddsManyOneByOne, self).add_many(
                [content], **shared, **{name: [given[at]] for name, given in each.items()}
            )[0]
            for at, content in enumerate(contents)
        ]


class NamesByContent(EventStore):
    """What has no id is called by its content, so that the same text twice is one memory."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        return super().append([self._named(each) for each in operations], **context)

    def add(self, content: str, **options: Any) -> Event:
        return super().add(content, **{**options, "memory_id": options.get("memory_id") or f"of {content}"})

    def _named(self, operation: Any) -> Any:
        if operation.memory_id is None:
            return operation.model_copy(update={"memory_id": f"of {operation.content}"})
        return operation


class ForgetsEventIdsOfMany(EventStore):
    """An append of several operations that is tried again is recorded again, or refused."""

    def append(self, operations: Sequence[Any], **context: Any) -> Sequence[Event]:
        if len(operations) > 1:
            operations = [each.model_copy(update={"event_id": None}) for each in operations]
        return super().append(operations, **context)


class DeletesAllWithoutBeingTold(EventStore):
    """No filter means everything."""

    def delete_where(self, filter: Any = None, **options: Any) -> Sequence[Event]:
        return super().delete_where(filter, **{**options, "everything": not filter})


class AnswersWhenClosed(EventStore):
    """From what it knew."""

    def get(self, memory_id: str, **asked: Any) -> Memory | None:
        return None if self.closed else super().get(memory_id, **asked)


CAUGHT_BY: list[tuple[type[EventStore], str]] = [
    (LosesTheTail, "test_an_acknowledged_append_survives_closing"),
    (SplitsAppends, "test_an_append_is_all_there_or_not_at_all"),
    (KeepsWritesToItself, "test_another_reader_sees_an_append_once_it_is_acknowledged"),
    (SkipsAnEvent, "test_positions_have_no_gaps"),
    (ReordersEvents, "test_positions_have_no_gaps"),
    (SplitsAppends, "test_an_append_is_one_instant"),
    (SharesAnInstant, "test_the_next_append_is_strictly_later"),
    (IgnoresTheClock, "test_an_append_is_recorded_at_the_time_of_the_clock"),
    (BeginsVersionsAnew, "test_versions_count_by_one_and_link_back"),
    (ChainOfPositions, "test_the_head_commits_to_everything_before_it"),
    (ReordersMemories, "test_the_state_at_a_position_is_the_fold_up_to_it"),
    (LeavesOutTheBound, "test_events_are_read_back_as_they_were_recorded"),
    (EmptiesWhatIsNotGiven, "test_an_update_keeps_what_it_does_not_give"),
    (LosesTheSignOfZero, "test_vectors_are_bit_for_bit"),
    (RewritesThePast, "test_the_past_does_not_change"),
    (ForgetsWhatItAnswered, "test_an_instant_that_was_answered_is_closed"),
    (AnswersTheFuture, "test_an_instant_to_come_is_refused"),
    (LeaksADeletedMemory, "test_a_deleted_memory_is_gone_from_every_read"),
    (LeaksADeletedVector, "test_a_deleted_memory_is_gone_from_every_read"),
    (RevivesTheOld, "test_a_deleted_memory_can_be_added_again"),
    (FiltersByToday, "test_a_filter_sees_the_metadata_of_then"),
    (ForgetsWho, "test_who_and_why_are_recorded"),
    (ForgetsWhatAnAppendSays, "test_what_an_append_says_holds_for_its_operations"),
    (ChoosesByLess, "test_events_are_chosen_by_all_that_is_asked"),
    (ReadsOn, "test_a_reading_ends_where_the_history_ended"),
    (HasOneOrder, "test_memories_come_in_the_order_asked_for"),
    (ReadsTheHourOnly, "test_a_moment_can_be_said_in_any_zone"),
    (HasVectorsOfNowOnly, "test_vectors_come_in_the_order_of_the_ids"),
    (HasOneHead, "test_the_head_of_a_moment_is_its_last_event"),
    (GivesProjectionsToday, "test_a_projection_can_read_by_position"),
    (ForgetsBefore, "test_the_history_says_before_and_after"),
    (DeletesOne, "test_delete_where_deletes_what_matches"),
    (DeletesAllWithoutBeingTold, "test_delete_where_needs_to_be_told_what"),
    (AddsManyOneByOne, "test_many_memories_are_added_in_one_append"),
    (NamesByContent, "test_what_has_no_name_gets_one_of_its_own"),
    (RecordsFailures, "test_a_refused_operation_changes_nothing"),
    (TakesAnEmptyAppend, "test_an_empty_append_is_refused"),
    (ForgetsEventIds, "test_a_retry_with_the_same_event_id_is_recorded_once"),
    (ForgetsEventIdsOfMany, "test_an_append_that_is_tried_again_is_recorded_once"),
    (AnswersWhenClosed, "test_a_closed_store_says_so"),
    (IgnoresExpectations, "test_of_two_who_expect_a_version_one_wins"),
]
