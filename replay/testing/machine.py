"""`MemoryMachine`: a state machine that drives a store and its projections through whatever may happen to them."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import replay
from eventstore import AsofError, EventStore, HashingEmbedder, InvalidInstant, InvalidOperation, Update
from eventstore.testing import (
    ManualClock,
    ModelEvent,
    ModelStore,
    filters,
    histories,
    instants,
    invalid_operations,
    jumps,
    operations,
    vectors,
)
from eventstore.testing.model import json_of
from projections import CheckpointWarning, VectorIndex, project
from projections.testing import assert_consistent, brute_force_search

__all__ = ["MemoryMachine", "memory_machine"]

OpenStore = Callable[["MemoryMachine"], Any]
OpenProjection = Callable[["MemoryMachine"], Any]


class MemoryMachine(RuleBasedStateMachine):
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

    dim = 8
    ids: tuple[str, ...] = ("a", "b", "c", "d")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="asof-machine-"))
        self._folders = [self.folder]
        self.clock = ManualClock()
        self.model = ModelStore()
        self.answered: dict[datetime, int] = {}
        self.store: Any = None
        self.projections: list[Any] = []
        try:
            self._open()
        except BaseException:
            self.teardown()
            raise

    # To be overridden

    def open_store(self) -> Any:
        """Open the store, by default an `EventStore` in `self.folder`. Called again after each close and crash."""
        return EventStore(
            self.folder / "memory.db", embedder=HashingEmbedder(self.dim), clock=self.clock, durability="normal"
        )

    def open_projections(self) -> Sequence[Any]:
        """Open the projections of `self.store`, by default one `VectorIndex` in small segments."""
        return [VectorIndex(self.store, segment_rows=4)]

    def opened(self) -> None:
        """Called when store and projections were opened, again after each close and crash: the place for what
        the application makes of them."""

    def crashed(self) -> None:
        """Make of `self.folder` what a crash would leave: by default a copy of it as it is, nothing closed.

        Called while everything is open. A store that is kept elsewhere has to override it.
        """
        left = Path(tempfile.mkdtemp(prefix="asof-machine-"))
        self._folders.append(left)
        shutil.copytree(self.folder, left, dirs_exist_ok=True)
        self.folder = left

    # Life and death

    def _open(self) -> None:
        self.store = self.open_store()
        if self.model.embed is None:
            self.model.embed = getattr(self.store, "embed", None)
        self.projections = list(self.open_projections())
        # What was answered past the head holds for as long as the store is open: it is not on disk.
        head = self.model.events[-1].recorded_at if self.model.events else None
        self.answered = {at: position for at, position in self.answered.items() if head is not None and at <= head}
        self.opened()

    def _close(self) -> None:
        # The store first: an index that finds it closed lets go without a checkpoint, as when a process ends.
        for each in [self.store, *self.projections]:
            if hasattr(each, "close"):
                each.close()

    def teardown(self) -> None:
        """Close everything and remove the folder."""
        if self.store is not None:
            self._close()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    # What the model learns

    def sync(self) -> list[ModelEvent]:
        """Let the model take what was recorded since; checks that it follows on what was there. The new events."""
        return [self.model.observe(event) for event in self.store.events(after=self.model.position)]

    def refused(self, error: type[BaseException], call: Callable[[], object]) -> None:
        """Assert that a call raises an error of asof's and records nothing."""
        before = self.store.head
        with pytest.raises(error) as raised:
            call()
        assert isinstance(raised.value, AsofError), f"{raised.value!r} is no AsofError"
        assert self.store.head == before, f"a refused operation moved the head from {before} to {self.store.head}"

    def record(self, some: Sequence[Any]) -> list[ModelEvent]:
        """Append valid operations, and compare what was recorded with what was asked for."""
        events = self.store.append(some)
        expected = self.model.append(some, events[0].recorded_at)
        for event, asked in zip(events, expected, strict=True):
            for name in ("position", "memory_id", "version", "prev_seq", "type", "recorded_at", "content", "embedding"):
                found, right = getattr(event, name), getattr(asked, name)
                assert found == right, f"event {event.position} has {name} {found!r}; asked for was {right!r}"
            assert json_of(event.metadata) == json_of(asked.metadata)
        return expected

    # Operations

    @rule(data=st.data())
    def operation(self, data: st.DataObject) -> None:
        """One valid operation."""
        chosen = data.draw(operations(self.model.state(), dim=self.dim, ids=self.ids, text_only=True), "operation")
        self.record([self._as_of_now(chosen)])

    @rule(data=st.data())
    def batch(self, data: st.DataObject) -> None:
        """An append that builds on itself, on memories that nobody else touches."""
        ids = tuple(f"batch {self.model.position} {name}" for name in "xy")
        (chosen,) = data.draw(histories(1, 1, dim=self.dim, ids=ids, text_only=True), "appends")
        self.record(chosen)

    def _as_of_now(self, operation: Any) -> Any:
        """The operation, with the version that the memory has by now where it expects one."""
        last = self.model.last(operation.memory_id)
        if last is None or getattr(operation, "expected_version", None) is None:
            return operation
        return operation.model_copy(update={"expected_version": last.version})

    @rule(data=st.data())
    def add_many(self, data: st.DataObject) -> None:
        """Many memories at once, which get ids of their own."""
        drawn = data.draw(st.lists(vectors(self.dim), min_size=1, max_size=9), "vectors")
        events = self.store.add_many([f"text {number}" for number in range(len(drawn))], vectors=drawn)
        assert [event.vector.tolist() for event in events] == drawn
        assert list(self.store.events(after=self.model.position)) == list(events)
        self.sync()

    @rule(data=st.data())
    def delete_where(self, data: st.DataObject) -> None:
        """Everything that matches a filter ends; without a filter that is refused."""
        state = self.model.state()
        chosen = data.draw(filters([each.metadata or {} for each in state.values()]), "filter")
        if chosen.everything:
            self.refused(InvalidOperation, lambda: self.store.delete_where(chosen.filter))
            return
        doomed = [memory_id for memory_id, each in state.items() if chosen.matches(each.metadata or {})]
        events = self.store.delete_where(chosen.filter)
        assert [(event.type, event.memory_id) for event in events] == [("DELETE", name) for name in doomed]
        self.sync()

    # What must fail, and what is tried again

    @rule(data=st.data())
    def refused_operation(self, data: st.DataObject) -> None:
        """An invalid operation raises its error, alone or after a valid one, and nothing is recorded."""
        dim = self.dim if self.model.events else None
        chosen = data.draw(invalid_operations(self.model.state(), dim=dim, ids=self.ids), "refused")
        before = data.draw(st.sampled_from([0, 1]), "valid ones before it")
        good = [Update(memory_id=name, metadata={}) for name in list(self.model.state())[:before]]
        # The valid ones must not be what makes the last one valid.
        good = [each for each in good if each.memory_id != chosen.operation.memory_id]
        self.refused(chosen.error, lambda: self.store.append([*good, chosen.operation]))

    @precondition(lambda self: self.model.events)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """A deletion that is tried again under its event_id is recorded once."""
        event = data.draw(st.sampled_from(self.model.events), "event")
        if event.type == "DELETE" and event.correlation_id is None and event.reason is None and event.actor_id is None:
            again = self.store.delete(event.memory_id, event_id=event.event_id)
            assert again.position == event.position, f"a retry was recorded again, at {again.position}"
        else:
            # The same id for something else: whatever it is, it is refused.
            from eventstore import EventConflict

            self.refused(EventConflict, lambda: self.store.delete("never added", event_id=event.event_id))

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

    @rule(data=st.data())
    def everything_agrees(self, data: st.DataObject) -> None:
        """As of any moment, now included, store, projections and model say the same."""
        moment = data.draw(instants(self.store), "as_of")
        for as_of in (moment, None):
            assert_consistent(self.store, *self.projections, as_of=as_of, model=self.model)

    @rule(data=st.data())
    def search(self, data: st.DataObject) -> None:
        """Each projection that can be searched finds what brute force finds, filtered, as of any moment."""
        moment = data.draw(instants(self.store), "as_of")
        position = self.store.position_at(moment)
        query = data.draw(vectors(self.dim), "query")
        k = data.draw(st.integers(1, 12), "k")
        state = self.model.state(position)
        chosen = data.draw(filters([each.metadata or {} for each in state.values()]), "filter")
        for projection in self.projections:
            if not hasattr(projection, "search"):
                continue
            metric = getattr(projection, "metric", "cosine")
            low = data.draw(st.none() | st.just(0.25), "min_score")
            asked: dict[str, Any] = {"as_of": moment, "filter": chosen.filter, "min_score": low}
            hits = projection.search(query, k, **asked)
            expected = brute_force_search(
                self.model, query, k, metric=metric, filter=chosen, as_of=position, min_score=low
            )
            found = [(hit.memory_id, hit.score, hit.position) for hit in hits]
            assert found == expected, f"projection {projection.name!r} finds {found}; by brute force it is {expected}"
            assert projection.search(query, k, **{**asked, "as_of": position}) == hits

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
            path = files[at % len(files)]
            content = bytearray(path.read_bytes())
            if content:
                note(f"bit {bit} of byte {at % len(content)} of {path.name} flips")
                content[at % len(content)] ^= 1 << bit
                path.write_bytes(content)
            self._reopen_projections()

    @rule()
    def lose_the_checkpoints(self) -> None:
        """The files of the projections vanish, and those that are open go on."""
        for path in self._projection_files():
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            self.projections = list(self.open_projections())
        self.opened()

    # The past brought back

    @precondition(lambda self: self.model.events)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """The present becomes the state of any moment, and the restore is undone by another."""
        moment = data.draw(instants(self.store), "as_of")
        then, start = self.model.state(self.store.position_at(moment)), self.model.state()
        restored = replay.restore(self.store, moment, reason="undo")
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
        if isinstance(self.store, EventStore):
            report = replay.verify(self.store)
            assert report.ok, report.faults

    @initialize()
    def begins_empty(self) -> None:
        """A run begins with what the application has recorded on being opened, usually nothing."""
        self.sync()

    @invariant()
    def nothing_is_lost_or_added(self) -> None:
        """The model has every event, and the head is the last of them."""
        self.sync()
        assert self.store.position == self.model.position
        last = self.model.events[-1].recorded_at if self.model.events else None
        assert self.store.head.recorded_at == last

    @invariant()
    def answered_instants_stay_answered(self) -> None:
        """An instant means what it meant."""
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
