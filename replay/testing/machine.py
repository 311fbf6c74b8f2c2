"""`MemoryMachine`: a state machine that drives a store and its projections through whatever may happen to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

import replay
from eventstore import (
    Delete,
    EventConflict,
    EventStore,
    InvalidInstant,
    InvalidOperation,
    Operation,
    Update,
)
from eventstore.testing import CheckedFilter, ModelEvent, Refused, jumps
from eventstore.testing.model import CONTEXT, json_of
from projections import project
from projections.testing import assert_consistent, brute_force_search
from projections.testing.contract import Breaking, Broken
from projections.testing.search import Found, assert_plausible, difference
from replay.testing import draws
from replay.testing.base import MachineBase

__all__ = ["MemoryMachine", "memory_machine"]

OpenStore = Callable[["MemoryMachine"], Any]
OpenProjection = Callable[["MemoryMachine"], Any]


class MemoryMachine(MachineBase):
    """Drives a store, its projections and a model of both, in any order, and compares them after every step.

    Its rules: valid operations alone and in batches, many adds, deletes by filter, operations that must be refused,
    retries, a clock that jumps, instants asked for, searches as of any moment, checkpoint, reopen, crash, rebuild,
    restore, verify, and an index directory that is damaged or gone.

    Subclass it to test an application: override `open_store` and `open_projections`, make the application on
    `self.store` in `opened`, add rules and invariants of your own. The model learns by itself what your rules
    record. A rule that does not suit the application is left out by naming it: `restore = None`.

    Attributes:
        dim: the dimension of the vectors that are drawn.
        ids: the memory ids that operations are about; few, so that they meet.
        folder: an empty directory, this run's own. What is kept in it is what survives a crash.
        clock: a `ManualClock`; `open_store` gives it to the store.
        store, projections: what was opened.
        model: a `ModelStore` that has every event recorded so far.
    """

    # Operations

    @rule(operation=draws.operation)
    def append(self, operation: Operation) -> None:
        """One valid operation."""
        self.record([operation])

    @rule(operations=draws.batch)
    def append_many(self, operations: list[Operation]) -> None:
        """An append that builds on itself, on two memories that are its own."""
        self.record(operations)

    @rule(vectors=draws.vector_list)
    def add_many(self, vectors: list[list[float]]) -> None:
        """Many memories at once, which get ids of their own."""
        # Some with a value that few have, so that a filter chooses a few of many.
        metadatas = [{"n": number % 3} if number % 2 else None for number in range(len(vectors))]
        contents = [f"text {number}" for number in range(len(vectors))]
        events = self.store.add_many(contents, vectors=vectors, metadatas=metadatas)
        assert [event.vector.tolist() for event in events] == vectors
        assert [(event.content, event.metadata or None) for event in events] == list(
            zip(contents, metadatas, strict=True)
        )
        assert list(self.store.events(after=self.model.position)) == list(events)
        self.sync()

    @rule(chosen=draws.filter_of_now)
    def delete_where(self, chosen: CheckedFilter) -> None:
        """Everything that matches a filter ends; without a filter that is refused."""
        if chosen.everything:
            self.refused(InvalidOperation, lambda: self.store.delete_where(chosen.filter))
            return
        state = self.model.state()
        doomed = [memory_id for memory_id, each in state.items() if chosen.matches(each.metadata or {})]
        events = self.store.delete_where(chosen.filter)
        assert [(event.type, event.memory_id) for event in events] == [("DELETE", name) for name in doomed]
        self.sync()

    # What must fail, and what is tried again

    @rule(refused=draws.refused_operation, after=st.booleans())
    def refuse(self, refused: Refused, after: bool) -> None:
        """An invalid operation raises its error, alone or after valid ones, and nothing is recorded."""
        about = refused.operation.memory_id
        valid = [Update(memory_id=name, metadata={}) for name in self.model.state() if name != about] if after else []
        self.refused(refused.error, lambda: self.store.append([*valid[:2], refused.operation]))

    @precondition(lambda self: self.model.events)
    @rule(position=draws.past_position)
    def retry(self, position: int) -> None:
        """What is tried again under its event_id is recorded once; the id with something else is refused."""
        event = self.model.events[position - 1]
        self.refused(EventConflict, lambda: self.store.delete("never added", event_id=event.event_id))
        operation = self.asked.get(position)
        if operation is None and event.type == "DELETE":  # by a filter or a rule of one's own
            said: dict[str, Any] = {name: getattr(event, name) for name in (*CONTEXT, "occurred_at")}
            operation = Delete(memory_id=event.memory_id, **said)
        if operation is not None:
            (again,) = self.store.append([operation.model_copy(update={"event_id": event.event_id})])
            assert again.position == position, f"a retry was recorded again, at {again.position}"

    # Time

    @rule(step=jumps())
    def clock_jumps(self, step: timedelta) -> None:
        """The clock is set forward or back."""
        self.clock.now += step

    @rule(step=jumps())
    def ask_an_instant(self, step: timedelta) -> None:
        """What an instant means never changes once it has been answered."""
        instant = self.clock.now + step
        try:
            position = self.store.position_at(instant)
        except InvalidInstant:
            head = self.store.head.recorded_at
            assert instant > self.clock.now, f"{instant} has passed by the clock and is refused"
            assert head is None or instant > head, f"{instant} is not later than the head and is refused"
            assert instant not in self.answered, f"{instant} was answered before and is refused"
            return
        assert position == self.model.position_at(instant)
        self.answered[instant] = position

    # Reads of any moment

    @rule(as_of=draws.moment)
    def everything_agrees(self, as_of: datetime | int | None) -> None:
        """As of any moment store, projections and model say the same."""
        assert_consistent(self.store, *self.projections, as_of=as_of, model=self.model)

    @rule(
        query=draws.vector | draws.known_vector,
        k=st.sampled_from([1, 2, 3, 12]),
        as_of=draws.moment,
        chosen=draws.filter_of_now | draws.filter_of_any_time,
        min_score=st.none() | st.just(0.25),
    )
    def search(
        self,
        query: list[float],
        k: int,
        as_of: datetime | int | None,
        chosen: CheckedFilter,
        min_score: float | None,
    ) -> None:
        """Each projection that can be searched finds what brute force finds, filtered, as of any moment.

        Hits that say they are not exact may lack some; those that there are have to be right.
        """
        asked: dict[str, Any] = {"filter": chosen.filter, "min_score": min_score}
        for projection in self._searched():
            right = self._found(projection, query, 10**6, chosen, as_of, min_score)
            hits = projection.search(query, k, as_of=as_of, **asked)
            self._compare(projection, hits, right, k, at_least=k if min_score is None else 0)
            position = self.store.position_at(as_of)
            assert projection.search(query, k, as_of=position, **asked) == hits
            if hasattr(projection, "search_many"):
                back = [-number for number in query]
                many = projection.search_many([query, back], k, as_of=as_of, **asked)
                assert list(many) == [hits, projection.search(back, k, as_of=position, **asked)]

    @precondition(lambda self: self.model.events)
    @rule(query=draws.known_vector, chosen=draws.filter_of_any_time, as_of=draws.moment)
    def search_among_few(self, query: list[float], chosen: CheckedFilter, as_of: datetime | int | None) -> None:
        """Where a crowd is near and few match, the nearest of those that match are found, however few are asked for."""
        for projection in self._searched():
            for moment in self._moments_of(chosen, as_of):
                right = self._found(projection, query, 10**6, chosen, moment, None)
                for k in range(1, min(len(right), 4) + 2):
                    hits = projection.search(query, k, filter=chosen.filter, as_of=moment)
                    self._compare(projection, hits, right, k, at_least=k)

    def _each_is_found_under_its_own(self) -> None:
        """The last memories that had metadata are found by those of then, as of then, whatever they have now."""
        for event in [each for each in self.model.events if each.metadata and each.vector and any(each.vector)][-5:]:
            key, value = next(iter((event.metadata or {}).items()))
            chosen, query = CheckedFilter({key: {"eq": value}}), event.vector or []
            for projection in self._searched() if key not in ("AND", "OR", "NOT") else []:
                right = self._found(projection, query, 10**6, chosen, event.position, None)
                hits = projection.search(query, 1, filter=chosen.filter, as_of=event.position)
                self._compare(projection, hits, right, 1, at_least=1)

    def _moments_of(self, chosen: CheckedFilter, as_of: datetime | int | None) -> list[datetime | int | None]:
        """The moment asked for, and two at which a memory matched that by its newest metadata does not."""
        newest = {each.memory_id: each.metadata for each in self.model.events if each.metadata is not None}
        lost = {memory_id for memory_id, metadata in newest.items() if not chosen.matches(metadata)}
        then = [each for each in self.model.events if each.memory_id in lost and each.metadata is not None]
        return [as_of, *[each.position for each in then if chosen.matches(each.metadata or {})][-2:]]

    def _searched(self) -> list[Any]:
        return [projection for projection in self.projections if hasattr(projection, "search")]

    def _found(
        self,
        projection: Any,
        query: list[float],
        k: int,
        chosen: CheckedFilter,
        as_of: datetime | int | None,
        min_score: float | None,
    ) -> list[Found]:
        metric, position = getattr(projection, "metric", "cosine"), self.model.position_at(as_of)
        return brute_force_search(
            self.model, query, k, metric=metric, filter=chosen, as_of=position, min_score=min_score
        )

    def _compare(self, projection: Any, hits: Any, everything: list[Found], k: int, *, at_least: int) -> None:
        found, right = [Found(hit.memory_id, hit.score, hit.position) for hit in hits], everything[:k]
        if getattr(hits, "exact", True):
            assert found == right, f"projection {projection.name!r} finds {found}; by brute force it is {right}"
        else:
            who = f"projection {projection.name!r}"
            assert_plausible(who, found, everything, min(at_least, len(everything)))
        for hit in hits:
            wrong = difference(hit, self.model.events[hit.position - 1])
            assert wrong is None, f"projection {projection.name!r} says that {wrong}"

    @rule(chosen=draws.filter_of_any_time, as_of=draws.moment)
    def read_filtered(self, chosen: CheckedFilter, as_of: datetime | int | None) -> None:
        """The store's reads with a filter look at the metadata of the moment."""
        for moment in self._moments_of(chosen, as_of):
            state = self.model.state(self.model.position_at(moment))
            right = [memory_id for memory_id, each in state.items() if chosen.matches(each.metadata or {})]
            asked = {} if moment is None else {"as_of": moment}
            found = [memory.memory_id for memory in self.store.memories(chosen.filter, **asked)]
            assert found == right, f"as of {moment} {chosen.filter} gives {found}; by the history it is {right}"
            assert self.store.vectors(filter=chosen.filter, **asked)[0] == right
            assert self.store.count(chosen.filter, **asked) == len(right)

    @precondition(lambda self: self.model.events)
    @rule(memory_id=draws.memory_id, as_of=draws.moment)
    def read_history(self, memory_id: str, as_of: datetime | int | None) -> None:
        """A memory's history up to a moment: each of its events, with the content before and after."""
        position = self.model.position_at(as_of)
        own = [event for event in self.model.chosen(memory_id=memory_id) if event.position <= position]
        found = self.store.history(memory_id, upto=as_of)
        assert [(each.position, each.event, each.old_memory, each.new_memory, each.actor_id) for each in found] == [
            (each.position, each.type, each.before, each.content, each.actor_id) for each in own
        ]
        events = self.store.events(memory_id=memory_id, upto=as_of)
        assert [event.position for event in events] == [each.position for each in own]

    # Events that come again, with a gap, or not all of them

    @precondition(lambda self: self.model.events)
    @rule(after=draws.past_position)
    def apply_again(self, after: int) -> None:
        """A projection passes over events that it has, and refuses those that do not follow on."""
        for projection in self.projections:
            before = projection.position
            if after <= before:
                projection.apply(list(self.store.events(after=after - 1, upto=before)))
                assert projection.position == before, "events that a projection had moved it"
            if self.store.position > before + 1:
                with pytest.raises(Exception):  # noqa: B017 -- which one is the projection's affair
                    projection.apply(list(self.store.events(after=before + 1)))
                assert projection.position == before, "events with a gap before them moved a projection"
            assert_consistent(self.store, projection, as_of=before)

    @rule(breaks=st.integers(0, 3))
    def apply_half(self, breaks: int) -> None:
        """The events that a projection takes stop coming: its position and what it holds still belong together."""
        for projection in self.projections:
            with suppress(Broken):
                projection.apply(Breaking(list(self.store.events(after=projection.position)), breaks))
            assert_consistent(self.store, projection, as_of=projection.position)

    # The projections' files, and the store's

    @rule()
    def checkpoint(self) -> None:
        """Projections that keep checkpoints write one."""
        for projection in self.projections:
            if hasattr(projection, "checkpoint"):
                projection.checkpoint()

    @rule()
    def reopen(self) -> None:
        """Everything is closed in good order, the projections first, and opened again."""
        for projection in self.projections:
            if hasattr(projection, "close"):
                projection.close()
        self._close()
        self._open()

    @rule()
    def crash(self) -> None:
        """The process dies: nothing is closed, and what is opened next is what was on disk by then."""
        self.crashed()
        self._close()
        self._open()

    @rule()
    def rebuild(self) -> None:
        """Projections are thrown away and made again from the history."""
        for projection in self.projections:
            if hasattr(projection, "rebuild"):
                replay.rebuild(projection)
            else:
                projection.reset()
                project(projection, self.store)
            assert projection.position == self.model.position

    @rule(at=st.integers(0, 10**6), bit=st.integers(0, 7))
    def damage_a_checkpoint(self, at: int, bit: int) -> None:
        """A bit of a projection's files flips, and they are opened again: nothing is lost, nothing is wrong."""
        files = self._projection_files()
        if files:
            self._expect_warnings()
            path = files[at % len(files)]
            content = bytearray(path.read_bytes())
            if content:
                note(f"bit {bit} of byte {at % len(content)} of {path.name} flips")
                content[at % len(content)] ^= 1 << bit
                path.write_bytes(content)
            self._reopen_projections()
            for projection in self.projections:
                # What is only read when it is needed may be damaged still: it is named here, once, and mended.
                if hasattr(projection, "faults"):
                    projection.faults()

    @rule()
    def lose_the_checkpoints(self) -> None:
        """The files of the projections vanish, and those that are open go on."""
        for path in self._projection_files():
            self._expect_warnings()
            path.unlink()

    def _projection_files(self) -> list[Path]:
        directories = [getattr(projection, "directory", None) for projection in self.projections]
        return sorted(
            path
            for directory in directories
            if directory is not None and os.path.isdir(directory)
            for path in Path(directory).rglob("*")
            if path.is_file()
        )

    def _reopen_projections(self) -> None:
        self.projections = list(self.open_projections())
        self.opened()

    # The past brought back

    @precondition(lambda self: self.model.events)
    @rule(as_of=draws.moment)
    def restore(self, as_of: datetime | int | None) -> None:
        """The present becomes the state of any moment, and the restore is undone by another."""
        then, start = self.model.state(self.store.position_at(as_of)), self.model.state()
        restored = replay.restore(self.store, as_of, reason="undo")
        self.sync()
        assert brought_back(self.model.state()) == brought_back(then)
        replay.restore(self.store, restored.position_before)
        self.sync()
        assert brought_back(self.model.state()) == brought_back(start)

    # What must hold after every step

    @rule()
    def verify(self) -> None:
        """The history and the projections find no fault with themselves, and all events are as they were."""
        assert_consistent(self.store, *self.projections, model=self.model)
        assert all(self.store.hash_at(event.position) == event.hash for event in self.store.events())
        self._each_is_found_under_its_own()
        if isinstance(self.store, EventStore):
            report = replay.verify(self.store)
            assert report.ok, report.faults

    @invariant()
    def nothing_is_lost_or_added(self) -> None:
        """The head is the model's last event, and an instant that was answered means what it meant."""
        self.sync()
        assert self.store.position == self.model.position
        last = self.model.events[-1].recorded_at if self.model.events else None
        assert self.store.head.recorded_at == last
        for instant, position in list(self.answered.items())[-3:]:
            assert self.store.position_at(instant) == position


def memory_machine(open_store: OpenStore, *open_projections: OpenProjection) -> type[MemoryMachine]:
    """A `MemoryMachine` over a store and projections of one's own, without writing a subclass.

    Each factory is given the machine: `lambda machine: EventStore(machine.folder / "x.db", clock=machine.clock)`,
    `lambda machine: VectorIndex(machine.store)`. `TestCase` of the result is what pytest collects.
    """

    class Machine(MemoryMachine):
        def open_store(self) -> Any:
            return open_store(self)

        def open_projections(self) -> Sequence[Any]:
            return [open_one(self) for open_one in open_projections]

    return Machine


def brought_back(state: dict[str, ModelEvent]) -> dict[str, tuple[str | None, str, bytes | None]]:
    """What a restore brings back: not versions and times, which only go forward."""
    return {memory_id: (each.content, json_of(each.metadata), each.embedding) for memory_id, each in state.items()}
