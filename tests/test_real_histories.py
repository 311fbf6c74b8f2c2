"""Real histories with real embeddings, where the data folder is there: time travel against what the source says."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import EventStore
from projections import VectorIndex
from projections.scoring import exact_scores
from replay import diff, restore, state, verify

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real histories are not here")


def lines(name: str) -> list[dict[str, Any]]:
    """The records of a JSON lines file."""
    with (DATA / name).open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


@pytest.fixture(scope="module")
def til(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notes' history as records, and a store that has imported it."""
    records, vectors = lines("til-history.jsonl"), np.load(DATA / "til-history.npy")
    store = EventStore(tmp_path_factory.mktemp("til") / "til.db")
    result = store.import_events(
        (
            {
                "type": record["event"],
                "memory_id": record["id"],
                "content": record["text"],
                "recorded_at": record["at"],
                "actor_id": record["actor"],
                "reason": record["reason"],
                "correlation_id": record["commit"],
                "metadata": {"topic": record["id"].partition("/")[0]} if record["event"] != "DELETE" else None,
                "vector": None if record["vector"] is None else vectors[record["vector"]],
            }
            for record in records
        ),
        source="til",
    )
    assert (result.imported, result.last_position) == (len(records), len(records))
    with store:
        yield store, records, vectors


def instants_of(records: list[dict[str, Any]], how_many: int) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Some instants, evenly spread, each with what existed after its last event."""
    notes: dict[str, dict[str, Any]] = {}
    states = []
    for at, group in groupby(records, key=lambda record: record["at"]):
        for record in group:
            if record["event"] == "DELETE":
                del notes[record["id"]]
            else:
                notes[record["id"]] = record
        states.append((at, dict(notes)))
    return [states[index] for index in np.linspace(0, len(states) - 1, how_many).astype(int)]


def test_at_fifty_instants_the_state_is_what_the_file_says(til: Any) -> None:
    """Invariant 3 on real input: contents and vectors, bit for bit."""
    store, records, vectors = til
    for at, notes in instants_of(records, 50):
        then = state(store, at)
        assert {i: m.content for i, m in then.memories.items()} == {i: note["text"] for i, note in notes.items()}
        assert all(then.vectors[i].tobytes() == vectors[note["vector"]].tobytes() for i, note in notes.items())


def test_at_fifty_instants_search_is_brute_force_over_the_file(til: Any) -> None:
    """Invariant 4 on real input: the same notes, scores and order."""
    store, records, vectors = til
    rng = np.random.default_rng(7)
    with VectorIndex(store, segment_rows=256) as index:
        for at, notes in instants_of(records, 50):
            query = vectors[rng.integers(len(vectors))]
            numbers = np.array([note["vector"] for note in notes.values()])
            scores = exact_scores("cosine", query, vectors[numbers])
            best = np.argsort(-scores, kind="stable")[:10]
            hits = index.search(query, k=10, as_of=at)
            assert [hit.score for hit in hits] == scores[best].tolist()
            assert {hit.memory_id for hit in hits if hit.score > scores[best[-1]]} == {
                list(notes)[row] for row in best if scores[row] > scores[best[-1]]
            }


def test_diff_between_real_instants_is_what_the_file_says(til: Any) -> None:
    """What was added, updated and deleted between two instants."""
    store, records, _ = til
    (early, before), (late, after) = instants_of(records, 4)[1:3]
    found = diff(store, early, late)
    assert {m.memory_id for m in found.added} == set(after) - set(before)
    assert {m.memory_id for m in found.deleted} == set(before) - set(after)
    assert {change.after.memory_id for change in found.updated} == {
        i for i in set(before) & set(after) if before[i]["text"] != after[i]["text"]
    }


def test_a_real_history_verifies_and_survives_a_restore(til: Any, tmp_path: Path) -> None:
    """Export, import elsewhere, restore to the middle, restore back: nothing is lost and all of it verifies."""
    store, records, _ = til
    store.export(tmp_path / "til.jsonl")
    with EventStore(tmp_path / "copy.db") as copy:
        from eventstore import read_json_lines

        copy.import_events(read_json_lines(tmp_path / "til.jsonl"), source="til")
        assert copy.head == store.head
        start = state(copy)
        at, notes = instants_of(records, 3)[1]
        undone = restore(copy, at)
        assert {m.memory_id: m.content for m in copy.memories()} == {i: note["text"] for i, note in notes.items()}
        restore(copy, undone.position_before)
        assert not diff(copy, start.position, None)
        with VectorIndex(copy, segment_rows=256) as index:
            index.catch_up()
            assert verify(copy, index).ok


def test_exact_search_finds_the_evidence_of_356_of_997_questions() -> None:
    """LoCoMo: the evidence of a question among its conversation's ten nearest turns, as measured by others."""
    turns, questions = lines("locomo-turns.jsonl"), lines("locomo-questions.jsonl")
    turn_vectors, question_vectors = np.load(DATA / "locomo-turns.npy"), np.load(DATA / "locomo-questions.npy")
    with EventStore() as store, VectorIndex(store) as index:
        store.add_many(
            [turn["text"] for turn in turns],
            vectors=turn_vectors[[turn["vector"] for turn in turns]],
            metadatas=[{"conversation": turn["conversation"], "turn": turn["turn"]} for turn in turns],
        )
        asked = [question for question in questions if question["evidence"]]
        found = 0
        for question in asked:
            hits = index.search(
                question_vectors[question["vector"]], k=10, filter={"conversation": question["conversation"]}
            )
            found += any(hit.metadata["turn"] in question["evidence"] for hit in hits)
    assert (found, len(asked)) == (356, 997)
