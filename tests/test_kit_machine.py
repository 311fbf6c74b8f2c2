"""The machine: it finds what is broken, shrinks it, and can be made one's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from eventstore import EventStore
from examples.forgetful_agent import SEARCH, AgentMachine, CarefulAgentMachine
from projections import VectorIndex
from replay.testing import MemoryMachine, memory_machine
from tests import broken_projections, broken_stores
from tests.profiles import scaled

# The same examples every time: whether a planted bug is among them is no matter of luck.
QUICK = settings(
    max_examples=500,
    stateful_step_count=20,
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
        machine.folder / "x.db", clock=machine.clock, durability="normal", embedder=machine_embedder(machine)
    )


def machine_embedder(machine: MemoryMachine) -> Any:
    from eventstore import HashingEmbedder

    return HashingEmbedder(machine.dim)


@pytest.mark.parametrize(
    "broken",
    [
        broken_stores.LosesTheTail,
        broken_stores.RecordsFailures,
        broken_stores.DeletesOne,
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
        broken_projections.SkipsAnEvent,
        broken_projections.LeaksADeletedMemory,
    ],
)
def test_a_broken_projection_is_found(broken: Any) -> None:
    """Beside one that is not broken."""
    machine = memory_machine(over(EventStore), lambda machine: VectorIndex(machine.store), lambda m: broken(m.store))
    with pytest.raises((AssertionError, KeyError, IndexError)) as caught:
        run_state_machine_as_test(machine, settings=QUICK)
    assert "'list'" in str(caught.value) or steps_of(caught.value)


def test_a_failing_run_prints_code_that_runs() -> None:
    """Pasted into a test, the steps fail as they failed."""
    import eventstore
    import eventstore.testing

    machine = memory_machine(over(broken_stores.RecordsFailures))
    search = settings(QUICK, stateful_step_count=8, phases=[Phase.generate, Phase.shrink])
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(machine, settings=search)
    notes = "\n".join(caught.value.__notes__)
    code = notes[notes.index("state = ") :]
    names = {**vars(eventstore), **vars(eventstore.testing), "eventstore": eventstore, "Machine": machine}
    names["datetime"] = __import__("datetime")
    try:
        with pytest.raises(AssertionError):
            exec(code, names)
    finally:
        if "state" in names:
            names["state"].teardown()
