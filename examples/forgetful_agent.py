"""An agent that promises to forget a user, and does not always: a state machine finds out when.

Run it: python -m examples.forgetful_agent
"""

from __future__ import annotations

from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule, run_state_machine_as_test

from eventstore import EventStore
from replay.testing import MemoryMachine


class Agent:
    """The application: it remembers what users say, corrects it, and forgets a user who asks for that."""

    def __init__(self, store: EventStore) -> None:
        self.store = store

    def remember(self, user: str, text: str) -> str:
        return self.store.add(text, metadata={"user_id": user}, actor_id="agent").memory_id

    def correct(self, memory_id: str, text: str) -> None:
        # The bug: `metadata` replaces the whole object, so the memory is nobody's from here on.
        self.store.update(memory_id, text, metadata={"corrected": True}, actor_id="agent")

    def forget_user(self, user: str) -> None:
        self.store.delete_where({"user_id": user}, actor_id="agent", reason="the user asked for it")


class CarefulAgent(Agent):
    """The same without the bug."""

    def correct(self, memory_id: str, text: str) -> None:
        metadata = self.store.get(memory_id).metadata
        self.store.update(memory_id, text, metadata={**metadata, "corrected": True}, actor_id="agent")


class AgentMachine(MemoryMachine):
    """The agent's life among crashes, restarts and rebuilds. What it must never do is in the invariant."""

    agent_class: type[Agent] = Agent
    users = st.sampled_from(["alice", "bob"])
    texts = st.sampled_from(["likes tea", "likes coffee", "lives in Lisbon"])
    memories: Any = Bundle("memories")

    # All operations are the agent's, and bringing the past back would bring back who was forgotten.
    append = append_many = add_many = delete_where = restore = refuse = retry = None  # type: ignore[assignment]
    # These try the store and the index, which is not what is in question here: without them the search is quicker.
    search_among_few = read_filtered = read_history = apply_again = apply_half = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.owner: dict[str, str] = {}
        self.forgotten: set[str] = set()
        super().__init__()

    def opened(self) -> None:
        self.agent = self.agent_class(self.store)

    @rule(target=memories, user=users, text=texts)
    def remember(self, user: str, text: str) -> str:
        memory_id = self.agent.remember(user, text)
        self.owner[memory_id] = user
        return memory_id

    @rule(memory_id=memories, text=texts)
    def correct(self, memory_id: str, text: str) -> None:
        if memory_id not in self.forgotten:
            self.agent.correct(memory_id, text)

    @rule(user=users)
    def forget_user(self, user: str) -> None:
        self.agent.forget_user(user)
        self.forgotten |= {memory_id for memory_id, owner in self.owner.items() if owner == user}

    @invariant()
    def no_memory_of_a_user_survives_forget_user(self) -> None:
        (index,) = self.projections
        live = {memory.memory_id for memory in self.store.memories()}
        found = {hit.memory_id for hit in index.search("likes tea", k=100)}
        assert not (live | found) & self.forgotten, "a memory survived forget_user"


class CarefulAgentMachine(AgentMachine):
    """The machine over the agent without the bug."""

    agent_class = CarefulAgent


# A run of twenty steps meets the bug soon, and short runs are quick to shrink.
SEARCH = settings(
    max_examples=1000,
    stateful_step_count=20,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    derandomize=True,  # the same search every time: this is a demonstration
)


def main() -> None:
    """Let the machine look for the bug, and print what it comes down to."""
    try:
        run_state_machine_as_test(AgentMachine, settings=SEARCH)
    except AssertionError as error:
        print(f"{error}:\n", *error.__notes__, sep="\n")


if __name__ == "__main__":
    main()
