"""What approximate kinds add to a checkpoint: written once, checked, and made again where it is damaged."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import EventStore
from projections import CheckpointWarning, VectorIndex, approximate
from projections.hnsw import Graph
from projections.ivf import InvertedLists
from tests.approximate_support import (
    DIMENSION,
    KINDS,
    QUERIES,
    SEGMENT,
    answers,
    clustered,
    fill,
    made,
    open_index,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of a few rows are searched approximately too."""
    monkeypatch.setattr(approximate, "FEW_ROWS", 0)


pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore(tmp_path / "agent.db", durability="normal") as store:
        fill(store)
        yield store


def files_of(directory: Path, pattern: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in directory.glob(pattern)}


def test_a_later_checkpoint_writes_only_what_is_new(store: EventStore) -> None:
    """Lists of full segments and centroids stay as they are on disk."""
    index = open_index(store)
    index.catch_up()
    index.checkpoint()
    assert index.directory is not None
    before = {**files_of(index.directory, "lists-*"), **files_of(index.directory, "middles-*")}
    structure = index._content.structure
    assert structure is not None
    assert len(files_of(index.directory, "lists-*")) == structure.ready(index._content.table.rows) > 10
    assert len(files_of(index.directory, "middles-*")) == 2
    fill(store, 100, seed=3)
    reopened = open_index(store)
    reopened.catch_up()
    reopened.checkpoint()
    after = {**files_of(index.directory, "lists-*"), **files_of(index.directory, "middles-*")}
    assert before.items() < after.items()


def test_a_graph_is_written_again_only_when_it_has_grown(store: EventStore) -> None:
    """Not for events that fill no segment; the graph before it goes when no generation names it."""
    index = open_index(store, "hnsw")
    index.catch_up()
    index.checkpoint()
    assert index.directory is not None
    before = files_of(index.directory, "graph-*")
    store.add("", vector=QUERIES[0])
    for reopened in (index, open_index(store, "hnsw")):
        reopened.catch_up()
        reopened.checkpoint()
        assert files_of(index.directory, "graph-*") == before
    for seed in range(3):
        fill(store, 100, seed=seed)
        index.catch_up()
        index.checkpoint()
    after = files_of(index.directory, "graph-*")
    assert len(after) == 2
    assert not set(after) & set(before)


def test_opening_makes_nothing_again(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint holds is not trained, assigned or built once more."""
    for kind in KINDS:
        with open_index(store, kind, directory=Path(f"{store.path}.{kind}")) as index:
            expected = answers(index)
            index.checkpoint()
    monkeypatch.setattr("projections.ivf.Centroids.trained", None)
    monkeypatch.setattr("projections.ivf.Centroids.lists_of", None)
    monkeypatch.setattr("projections.hnsw.Graph._add", None)
    for kind in KINDS:
        reopened = open_index(store, kind, directory=Path(f"{store.path}.{kind}"))
        assert answers(reopened)[0][1] == kind
    assert answers(reopened) == expected


@pytest.mark.parametrize(("kind", "pattern"), [("ivf", "lists-000003-*"), ("ivf", "middles-*"), ("hnsw", "graph-*")])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_structure_is_made_again(store: EventStore, kind: Any, pattern: str, damage: str) -> None:
    """A warning, the same answers, and nothing else of the checkpoint is lost; the next checkpoint has it again."""
    with open_index(store, kind) as index:
        expected = answers(index)
        index.checkpoint()
        assert index.directory is not None
        path = min(index.directory.glob(pattern))
    whole = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "flip":
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    else:
        path.write_bytes(whole[:-3] if damage == "truncate" else b"")
    with pytest.warns(CheckpointWarning, match="made again"):
        reopened = open_index(store, kind)
    assert reopened.position == store.position
    assert answers(reopened) == expected
    reopened.checkpoint()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answers(open_index(store, kind)) == expected
    assert path.read_bytes() == whole


def rewritten(directory: Path, change: Any) -> None:
    """The newest manifest after a change, with a digest that fits, and the older ones gone."""
    from projections.checkpoints import _digest_of

    newest, *others = sorted(directory.glob("generation-*.json"), reverse=True)
    for path in others:
        path.unlink()
    fields = json.loads(newest.read_text())
    fields.pop("sha256")
    change(fields)
    newest.write_text(json.dumps({**fields, "sha256": _digest_of(fields)}))


def data_file(directory: Path, name: str, content: bytes) -> dict[str, Any]:
    from projections.checkpoints import Checkpoints

    return Checkpoints(directory).write_data(name, content).model_dump()


@pytest.mark.parametrize(
    "lie", ["no middles", "one block", "too high a list", "short lists", "nan", "other dimension", "lists gone"]
)
def test_lists_that_cannot_be_are_not_believed(store: EventStore, lie: str) -> None:
    """Though every digest fits."""
    with open_index(store) as index:
        expected = answers(index)
        index.checkpoint()
        directory = index.directory
    assert directory is not None

    def change(fields: dict[str, Any]) -> None:
        structure, segment = fields["structure"], fields["segments"][3]
        if lie == "no middles":
            structure["middles"] = []
        elif lie == "one block":
            del structure["middles"][1]
        elif lie == "too high a list":
            segment["lists"] = data_file(directory, "lists-000003", np.full(SEGMENT, 999, dtype="<u2").tobytes())
        elif lie == "short lists":
            segment["lists"] = data_file(directory, "lists-000003", bytes(2))
        elif lie == "lists gone":
            segment["lists"] = None
        else:
            some = np.full((5, DIMENSION - (lie != "nan")), np.nan)
            structure["middles"][0] = data_file(directory, "middles", some.tobytes())

    rewritten(directory, change)
    with pytest.warns(CheckpointWarning, match="made again"):
        index = open_index(store)
    assert index.position == store.position
    assert answers(index) == expected


@pytest.mark.parametrize("lie", ["no graph", "another graph", "taken", "another faiss"])
def test_a_graph_that_cannot_be_is_not_believed(store: EventStore, lie: str) -> None:
    """Though every digest fits; nor one that another FAISS has written."""
    import faiss

    with open_index(store, "hnsw") as index:
        expected = answers(index)
        index.checkpoint()
        directory = index.directory
    assert directory is not None

    def change(fields: dict[str, Any]) -> None:
        structure = fields["structure"]
        if lie == "no graph":
            structure["graph"] = data_file(directory, "graph", b"IHNs" + bytes(400))
        elif lie == "another graph":
            flat = faiss.IndexFlat(DIMENSION)
            structure["graph"] = data_file(directory, "graph", faiss.serialize_index(flat).tobytes())
        elif lie == "taken":
            structure["taken"][0] = False
        else:
            fields["faiss_version"] = "1.0"

    rewritten(directory, change)
    if lie == "another faiss":
        index = open_index(store, "hnsw")
        structure = index._content.structure
        assert isinstance(structure, Graph)
        assert structure.written is None
    else:
        with pytest.warns(CheckpointWarning, match="made again"):
            index = open_index(store, "hnsw")
    assert index.position == store.position
    assert answers(index) == expected


def test_a_checkpoint_of_another_kind_or_metric_is_used_for_what_it_has(store: EventStore, tmp_path: Path) -> None:
    """Vectors, codes and table are read, the structure is made anew; and back again."""
    directory = tmp_path / "shared"
    kinds: list[tuple[Any, Any]] = [
        ("flat", "cosine"), ("ivf", "cosine"), ("hnsw", "cosine"), ("hnsw", "ip"), ("ivf", "ip"), ("ivf", "l2"),
    ]  # fmt: skip
    for number, (kind, metric) in enumerate(kinds):
        index = open_index(store, kind, metric=metric, directory=directory)
        assert index.position == (store.position if number else 0)
        fresh = open_index(store, kind, metric=metric, directory=tmp_path / "none")
        assert answers(index) == answers(fresh)
        index.checkpoint()
        again = open_index(store, kind, metric=metric, directory=directory)
        assert answers(again) == answers(fresh)
        if kind != "flat":
            assert made(index) == made(again) == made(fresh)


def test_lists_of_another_first_block_are_not_taken_for_ones_own(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that chose lists by itself begins later than one that was told to."""
    with open_index(store, "ivf") as index:
        index.rebuild()
    monkeypatch.setattr(approximate, "AUTO_ROWS", 5 * SEGMENT)
    chosen = open_index(store, "auto")
    structure = chosen._content.structure
    assert isinstance(structure, InvertedLists)
    assert [(block.start, block.stop) for block in structure.blocks] == [(0, 8), (8, 16)]
    fresh = open_index(store, "auto", directory=Path(f"{store.path}.none"))
    fresh.catch_up()
    assert made(chosen) == made(fresh)
    assert {kind for _, kind in answers(chosen)} == {"ivf", "flat"}
    chosen.checkpoint()
    assert answers(open_index(store, "auto")) == answers(chosen)


def test_a_manifest_without_what_came_later_is_read(store: EventStore) -> None:
    """One of an exact index, written before there were others."""

    def change(fields: dict[str, Any]) -> None:
        del fields["structure"]
        for segment in fields["segments"]:
            del segment["lists"]

    with open_index(store) as index:
        expected = answers(index)
        index.checkpoint()
        assert index.directory is not None
        rewritten(index.directory, change)
    index = open_index(store)
    assert index.position == store.position
    assert answers(index) == expected


def test_vectors_in_files_that_are_damaged_cost_no_answer(store: EventStore) -> None:
    """Candidates are scored from the history then."""
    with open_index(store) as index:
        expected = answers(index)
        index.checkpoint()
    index = open_index(store, vector_memory=0)
    assert index.directory is not None
    for path in index.directory.glob("vectors-*"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.warns(CheckpointWarning, match="history fills in"):
        assert answers(index) == expected


def test_every_flipped_byte_of_what_is_new_is_noticed(tmp_path: Path) -> None:
    """Of lists, centroids and a graph, each in turn: a warning, and never another answer."""
    with EventStore(tmp_path / "small.db", durability="normal") as store:
        store.add_many([""] * 60, vectors=clustered(60, dimension=2))
        query = [0.3, -1.0]
        for kind, pattern in (("ivf", "lists-*"), ("ivf", "middles-*"), ("hnsw", "graph-*")):
            directory, kept = tmp_path / kind / pattern[:3], tmp_path / "kept" / pattern[:3]
            index = VectorIndex(store, kind=kind, segment_rows=25, directory=directory)  # type: ignore[arg-type]
            expected = list(index.search(query, 1))
            index.checkpoint()
            shutil.copytree(directory, kept)
            for path in sorted(kept.glob(pattern)):
                content = path.read_bytes()
                for at in range(0, len(content), 1 if len(content) < 200 else 37):
                    shutil.rmtree(directory)
                    shutil.copytree(kept, directory)
                    changed = content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
                    (directory / path.name).write_bytes(changed)
                    with pytest.warns(CheckpointWarning):
                        again = VectorIndex(store, kind=kind, segment_rows=25, directory=directory)  # type: ignore[arg-type]
                    assert list(again.search(query, 1)) == expected
