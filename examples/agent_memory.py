"""An agent's memory in a few lines: what is known, what was known, and why. Run it: python -m examples.agent_memory"""

from __future__ import annotations

import tempfile
from pathlib import Path

from eventstore import EventStore, HashingEmbedder
from projections import VectorIndex


def main(path: str) -> None:
    """Remember something, change it, and ask for both: now, and as of then."""
    embed = HashingEmbedder()  # words, not meanings: for demos and tests; any callable from texts to vectors will do
    # The index opens its newest good checkpoint and catches up from the history.
    with EventStore(path, embedder=embed) as store, VectorIndex(store) as index:
        tea = store.add(
            "Alice prefers tea", metadata={"user_id": "alice"}, actor_id="assistant", reason="said so in chat"
        )
        store.update(
            tea.memory_id,
            "Alice prefers coffee",
            expected_version=1,
            actor_id="assistant",
            reason="she said: now coffee",
        )

        now = index.search("what does Alice drink?", k=5, filter={"user_id": "alice"})
        then = index.search("what does Alice drink?", k=5, as_of=tea.recorded_at)
        print("now: ", now[0].content)
        print("then:", then[0].content)
        for record in store.history(tea.memory_id):
            print(f"v{record.version} {record.event} by {record.actor_id}: {record.new_memory} ({record.reason})")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(str(Path(folder) / "agent.db"))
