"""The machine: it finds what is broken, shrinks it, and can be made one's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from eventstore import EventStore, HashingEmbedder
from eventstore.testing.profiles import PROFILES
from examples.forgetful_agent import SEARCH, AgentMachine, CarefulAgentMachine
from projections import VectorIndex
from replay.testing import MemoryMachine, draws, memory_machine
from tests import broken_projections, broken_stores
from tests.profiles import scaled

# The same examples every time: whether a planted bug is among them is no matter of luck.
QUICK = settings(
    max_examples=500,
    stateful_step_count=50,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    derandomize=True,
    print_blob=False,
)


def steps_of(error: BaseException) -> list[str]:
    """The rules of the failing example, as printed, without the invariants between them."""
    lines = "\n".join(error.__notes__).splitlines()
    found = [re.sub(r"^(\w+ = )?state\.", "", line) for line in lines if re.match(r"(\w+ = )?state\.", line)]
    return [step for step in found if not re.match(r"(nothing_is_lost|no_memory_of_a_user|teardown)", step)]


def test_the_planted_bug_of_the_example_is_found_and_shrunk() -> None:
    """Something is remembered, corrected, and should be forgotten: three steps, give or take one."""
    with pytest.raises(AssertionError, match="a memory survived forget_user") as caught:
        run_state_machine_as_test(AgentMachine, settings=SEARCH)
    steps = [step.partition("(")[0] for step in steps_of(caught.value)]
    assert {"remember", "correct", "forget_user"} <= set(steps)
    assert len(steps) <= 4


def test_the_example_without_the_bug_has_none() -> None:
    """Among crashes, restarts, damaged checkpoints and rebuilds."""
    run_state_machine_as_test(
        CarefulAgentMachine, settings=settings(SEARCH, max_examples=scaled(20), phases=[Phase.generate])
    )


def over(store_class: type[EventStore]) -> Callable[[MemoryMachine], Any]:
    """A factory of stores of a class."""
    return lambda machine: store_class(
        machine.folder / "x.db", clock=machine.clock, durability="normal", embedder=HashingEmbedder(machine.dim)
    )


@pytest.mark.parametrize(
    "broken",
    [
        broken_stores.ChainOfPositions,
        broken_stores.DeletesOne,
        broken_stores.FiltersByToday,
        broken_stores.ForgetsBefore,
        broken_stores.ForgetsEventIds,
        broken_stores.ForgetsWho,
        broken_stores.LeaksADeletedMemory,
        broken_stores.LeaksADeletedVector,
        broken_stores.LosesTheTail,
        broken_stores.RecordsFailures,
    ],
)
def test_a_broken_store_is_found(broken: type[EventStore]) -> None:
    """By some rule or invariant."""
    with pytest.raises(Exception) as caught:
        run_state_machine_as_test(memory_machine(over(broken)), settings=QUICK)
    assert steps_of(caught.value)


@pytest.mark.parametrize(
    "broken",
    [
        broken_projections.AppliesTwice,
        broken_projections.BreaksTiesById,
        broken_projections.FiltersAfterTopK,
        broken_projections.FiltersByToday,
        broken_projections.ForgetsTheOldVector,
        broken_projections.KeepsRowsOnReset,
        broken_projections.LeaksADeletedMemory,
        broken_projections.LooksBackAfterTopK,
        broken_projections.MovesBeforeItHasTaken,
        broken_projections.ReordersARange,
        broken_projections.SaysTheVersionOfNow,
        broken_projections.SearchesManyNow,
        broken_projections.SkipsAnEvent,
        broken_projections.TakesAGap,
    ],
)
def test_a_broken_projection_is_found(broken: Any) -> None:
    """Beside one that is not broken."""
    machine = memory_machine(over(EventStore), lambda machine: VectorIndex(machine.store), lambda m: broken(m.store))
    with pytest.raises((AssertionError, KeyError, IndexError, pytest.fail.Exception)) as caught:
        run_state_machine_as_test(machine, settings=QUICK)
    assert "'list'" in str(caught.value) or steps_of(caught.value)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_failing_run_prints_code_that_runs(profile: str) -> None:
    """Whichever profile is at hand: pasted into a test, down to the teardown, the steps fail as they failed."""
    machine = memory_machine(over(broken_stores.RecordsFailures))
    chosen = settings.get_profile(profile)
    search = settings(chosen, database=None, stateful_step_count=8, phases=[Phase.generate, Phase.shrink])
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(machine, settings=search)
    notes = "\n".join(caught.value.__notes__)
    end = "state.teardown()"
    code, told = notes[notes.index("state = ") : notes.index(end)], notes[notes.index(end) :]
    assert ("@reproduce_failure" in told) == chosen.print_blob
    assert len(steps_of(caught.value)) <= 3
    names: dict[str, Any] = {"Machine": machine}
    exec("import datetime\nimport eventstore\nfrom eventstore import *\nfrom eventstore.testing import *", names)
    try:
        with pytest.raises(AssertionError) as again:
            exec(code, names)
        assert str(again.value).partition(" from ")[0] == str(caught.value).partition(" from ")[0]
    finally:
        if "state" in names:
            names["state"].teardown()


def test_what_a_rule_is_given_prints_as_code() -> None:
    """Operations with all that can be said of them, filters, moments and refusals, of each kind."""
    printed: list[Any] = []

    class Noting(MemoryMachine):
        @rule(
            drawn=st.tuples(draws.operation, draws.batch, draws.refused_operation, draws.moment, draws.known_vector),
            chosen=st.tuples(draws.filter_of_now, draws.filter_of_any_time),
        )
        def note_it(self, drawn: Any, chosen: Any) -> None:
            printed.append((drawn, chosen))

    run_state_machine_as_test(Noting, settings=settings(QUICK, max_examples=20))
    names: dict[str, Any] = {}
    exec("import datetime\nimport eventstore\nfrom eventstore import *\nfrom eventstore.testing import *", names)
    assert printed
    for each in printed:
        assert repr(eval(repr(each), names)) == repr(each)
