"""An index directory that somebody else filled: nothing is read elsewhere, nothing hangs, memory stays bounded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from eventstore import EventStore
from projections import CheckpointWarning, VectorIndex
from tests.damage.hostile import limited_memory, opened_files
from tests.damage.subject import SEGMENT_ROWS, Subject, answers, database, deadline, index_directory, make, run_noting

Fields = dict[str, Any]


def _sealed(fields: Fields) -> bytes:
    """A manifest with a digest that is right."""
    body = {name: value for name, value in fields.items() if name != "sha256"}
    digest = sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps({**body, "sha256": digest})


def _with(**changes: Any) -> Callable[[Fields], bytes]:
    return lambda fields: _sealed({**fields, **changes})


def _table(**changes: Any) -> Callable[[Fields], bytes]:
    return lambda fields: _sealed({**fields, "table": {**fields["table"], **changes}})


def _segment(of: str = "vectors", **changes: Any) -> Callable[[Fields], bytes]:
    def changed(fields: Fields) -> bytes:
        first, *rest = fields["segments"]
        return _sealed({**fields, "segments": [{**first, of: {**first[of], **changes}}, *rest]})

    return changed


def _text(old: bytes, new: bytes) -> Callable[[Fields], bytes]:
    def changed(fields: Fields) -> bytes:
        text = orjson.dumps(fields)
        assert old in text
        return text.replace(old, new, 1)

    return changed


MANIFESTS: dict[str, Callable[[Fields], bytes]] = {
    "a name that leads out": _table(name="rows-../../secret"),
    "a name that leads up": _segment(name="../secret"),
    "an absolute name": _table(name="/etc/passwd"),
    "a name with a NUL": _table(name="rows-\0"),
    "a name that is empty": _table(name=""),
    "a long name": _segment(name="vectors-" + "a" * 5000),
    "a name of dots": _segment(name="vectors-.."),
    "a huge position": _with(position=2**62),
    "a position past 64 bits": _text(b'"position":', b'"position":1' + b"0" * 40),
    "a negative position": _with(position=-1),
    "a position of a wrong type": _with(position="7"),
    "a true position": _with(position=True),
    "a position that is no whole number": _with(position=7.0),
    "more rows than events": _with(rows=8),
    "a gigantic number of rows": _with(rows=2**62),
    "as many rows, and as large a file": lambda fields: _sealed(
        {**fields, "rows": 2**50, "table": {**fields["table"], "size": 2**53}}
    ),
    "a gigantic table": _table(size=2**60),
    "a gigantic segment": _segment(size=2**60),
    "gigantic codes": _segment("codes", size=2**60),
    "codes that lead up": _segment("codes", name="../secret"),
    "a gigantic dimension": _with(dimension=2**62),
    "another dimension": _with(dimension=3),
    "tiny segments": _with(segment_rows=1),
    "gigantic segments": _with(segment_rows=2**62),
    "a million segments": lambda fields: _sealed({**fields, "segments": fields["segments"][:1] * 50_000}),
    "no segments": _with(segments=[]),
    "the format before": _with(format=2),
    "a later format": _with(format=4),
    "an unknown field": _with(command="rm"),
    "NaN": _text(b'"dimension":2', b'"dimension":NaN'),
    "infinity": _text(b'"dimension":2', b'"dimension":1e999'),
    "a key given twice": _text(b'"position":', b'"position":6,"position":'),
    "deep nesting": lambda fields: b"[" * 100_000,
    "deep objects": lambda fields: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a lone surrogate": _text(b'"metric":"', b'"metric":"\\ud800'),
    "bytes that are no text": _text(b'"metric":"', b'"metric":"\xff\xfe'),
    "a list": lambda fields: b"[1, 2]",
    "a number": lambda fields: b"1",
    "null": lambda fields: b"null",
    "nothing": lambda fields: b"",
    "noise": lambda fields: bytes(range(256)) * 100,
    "more than any manifest": lambda fields: b" " * (17 * 2**20),
}


def test_hostile_manifests(tmp_path: Path) -> None:
    """Every one of them: the answers are the history's or refused, in 400 MiB, and nothing else is opened."""
    assert run_noting(open_manifests, tmp_path) == len(MANIFESTS)


def open_manifests(directory: Path) -> int:
    """In the lab."""
    subject = Subject.made(directory)
    (directory / "secret").write_bytes(b"outside")
    (path,) = index_directory(subject.sound).glob("generation-*.json")
    fields = orjson.loads(path.read_bytes())
    for name, hostile in MANIFESTS.items():
        (directory / "doing").write_text(name)
        subject.restore()
        (index_directory(subject.work) / path.name).write_bytes(hostile(fields))
        with deadline(), limited_memory(400), opened_files() as opened:
            found = answers(subject.work)
        wrong = {each for each in subject.answers if found[each] != subject.answers[each]}
        assert all(each.startswith("checkpoint: ") for each in wrong), (name, wrong)
        assert all(type(found[each]).__name__ == "Refused" for each in wrong), (name, wrong)
        outside = [each for each in opened if each.startswith("/") and not Path(each).is_relative_to(subject.work)]
        assert not outside, (name, outside)
    return len(MANIFESTS)


@pytest.mark.parametrize("kind", ["generation", "rows", "vectors", "codes"])
@pytest.mark.parametrize("what", ["a link", "a link to zeros", "a pipe", "a directory", "a link to itself"])
def test_what_is_no_file_in_the_directory_itself(tmp_path: Path, kind: str, what: str) -> None:
    """A link, though what it leads to is sound; a device without end; a pipe that nobody writes to: not read."""
    make(tmp_path)
    expected = answers(tmp_path)
    path = next(index_directory(tmp_path).glob(f"{kind}-*"))
    kept = tmp_path / "elsewhere"
    shutil.move(path, kept)
    if what == "a link":
        path.symlink_to(kept)
    elif what == "a link to zeros":
        path.symlink_to("/dev/zero")
    elif what == "a link to itself":
        path.symlink_to(path)
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with EventStore(database(tmp_path)) as store, pytest.warns(CheckpointWarning), deadline():
        assert VectorIndex(store, segment_rows=SEGMENT_ROWS).position == 0
    assert answers(tmp_path) == expected


def test_a_sparse_file_as_large_as_it_says(tmp_path: Path) -> None:
    """A terabyte of nothing takes no memory: the history says how large a checkpoint can be."""
    assert run_noting(open_sparse, tmp_path) == "sound"


def open_sparse(directory: Path) -> str:
    """In the lab."""
    subject = Subject.made(directory)
    (path,) = index_directory(subject.sound).glob("generation-*.json")
    fields = orjson.loads(path.read_bytes())
    first = fields["segments"][0]
    names = (fields["table"]["name"], first["vectors"]["name"], first["codes"]["name"], path.name)
    for name, size in ((name, 2**40) for name in names):
        subject.restore()
        if name != path.name:
            changed = _table(size=size) if name.startswith("rows") else _segment(name.split("-")[0], size=size)
            (index_directory(subject.work) / path.name).write_bytes(changed(fields))
        os.truncate(index_directory(subject.work) / name, size)
        with deadline(), limited_memory(200):
            assert answers(subject.work) == subject.answers
        shutil.rmtree(index_directory(subject.work))
    return "sound"


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_sparse_file_of_an_approximate_index(tmp_path: Path, kind: str) -> None:
    """Nor do lists, centroids, graphs and metadata that say that they are as large as that."""
    assert run_noting(open_sparse_structure, tmp_path, kind) == "sound"


def open_sparse_structure(directory: Path, kind: Any) -> str:
    """In the lab."""
    vectors = np.random.default_rng(3).normal(size=(400, 4)).astype(np.float32)
    good, bad = directory / "good", directory / "bad"
    with EventStore(directory / "a.db") as store:
        store.add_many([""] * 400, vectors=vectors, metadatas=[{"n": n % 3} for n in range(400)])

        def opened(place: Path) -> VectorIndex:
            return VectorIndex(store, kind=kind, segment_rows=SEGMENT_ROWS, directory=place)

        def same(again: VectorIndex) -> None:
            assert again.position == store.position
            assert again.search(vectors[0], 5, filter={"n": 1}) == expected

        index = opened(good)
        expected = index.search(vectors[0], 5, filter={"n": 1})
        index.checkpoint()
        (path,) = good.glob("generation-*.json")
        for key in ("metadata", "lists", "middles") if kind == "ivf" else ("metadata", "graph"):
            shutil.copytree(good, bad)
            fields = orjson.loads(path.read_bytes())
            holder = fields["segments"][0] if key in ("metadata", "lists") else fields["structure"]
            file = holder[key][0] if key == "middles" else holder[key]
            file["size"] = 2**40
            (bad / path.name).write_bytes(_sealed(fields))
            os.truncate(bad / file["name"], 2**40)
            with deadline(), limited_memory(200), pytest.warns(CheckpointWarning, match="passed over"):
                same(opened(bad))
            shutil.rmtree(bad)
    return "sound"


def test_a_graph_of_no_segment_is_passed_over(tmp_path: Path) -> None:
    """Whoever names one in a checkpoint whose segments are not full."""
    vectors = np.random.default_rng(3).normal(size=(400, 4)).astype(np.float32)
    with EventStore(tmp_path / "a.db") as store:
        store.add_many([""] * 400, vectors=vectors)
        for place, upto in (("some", 400), ("none", SEGMENT_ROWS - 1)):
            index = VectorIndex(store, kind="hnsw", segment_rows=SEGMENT_ROWS, directory=tmp_path / place)
            index.catch_up(upto)
            index.checkpoint()
        (some,), (none,) = (list((tmp_path / place).glob("generation-*.json")) for place in ("some", "none"))
        structure = orjson.loads(some.read_bytes())["structure"]
        shutil.copy(tmp_path / "some" / structure["graph"]["name"], tmp_path / "none")
        fields = {**orjson.loads(none.read_bytes()), "structure": {**structure, "taken": []}}
        none.write_bytes(_sealed(fields))
        with pytest.warns(CheckpointWarning, match="is larger than a graph of 0 rows|a graph of 0 of 0 segments"):
            index = VectorIndex(store, kind="hnsw", segment_rows=SEGMENT_ROWS, directory=tmp_path / "none")
        assert index.position == SEGMENT_ROWS - 1
        assert len(index.search(vectors[0], 5)) == 5


def test_only_files_of_its_own_are_removed(tmp_path: Path) -> None:
    """A directory that holds other things too: their names are none that a checkpoint makes."""
    make(tmp_path)
    foreign = index_directory(tmp_path) / "weights.bin"
    stale = index_directory(tmp_path) / "vectors-000000-0.bin"
    for path in (foreign, stale):
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    with EventStore(database(tmp_path)) as store:
        VectorIndex(store, segment_rows=SEGMENT_ROWS).rebuild()
    assert foreign.exists()
    assert not stale.exists()
