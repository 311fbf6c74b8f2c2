"""Checkpoint files exchanged: between generations of an index, and between histories."""

from __future__ import annotations

import itertools
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from eventstore import EventStore
from projections import VectorIndex
from projections.checkpoints import Checkpoints, DataFile
from replay import verify
from tests.damage.subject import (
    SEGMENT_ROWS,
    IndexOnDisk,
    Refused,
    Subject,
    answers,
    database,
    deadline,
    index_directory,
    make,
    run_noting,
)


def test_files_of_two_generations_exchanged(tmp_path: Path) -> None:
    """Any file in the place of any other: noticed, and no answer differs."""
    done = run_noting(exchange_within, tmp_path)
    assert done["exchanged"] >= 20
    assert done["noticed"] == done["exchanged"]


def exchange_within(directory: Path) -> dict[str, int]:
    """In the lab."""
    sound = directory / "first"
    make(sound)
    with EventStore(database(sound)) as store:
        index = VectorIndex(store, segment_rows=SEGMENT_ROWS)
        index.catch_up()
        index.checkpoint()
    expected = answers(sound)
    files = sorted(index_directory(sound).iterdir())
    assert len([path for path in files if path.name.startswith("generation")]) == 2
    done = {"exchanged": 0, "noticed": 0}
    for taken, put in itertools.permutations(files, 2):
        work = directory / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(sound, work)
        shutil.copyfile(taken, index_directory(work) / put.name)
        (directory / "doing").write_text(f"{taken.name} in the place of {put.name}")
        with deadline():
            found = answers(work)
        assert found == expected
        shutil.rmtree(work)
        shutil.copytree(sound, work)
        shutil.copyfile(taken, index_directory(work) / put.name)
        done["exchanged"] += 1
        # A manifest in the place of the other is a sound generation all the same, and one of an unused file is unread.
        used = not verify(database(work), IndexOnDisk(work)).ok
        done["noticed"] += used or put.name in _unread(work, taken, put)
    return done


def _unread(work: Path, taken: Path, put: Path) -> set[str]:
    """The files that the newest generation does not name; and manifests, where one took the other's place."""
    newest = max(index_directory(work).glob("generation-*.json"))
    fields = orjson.loads(newest.read_bytes())
    files = [file for segment in fields["segments"] for file in segment.values() if file]
    named = {fields["table"]["name"], *(file["name"] for file in files)}
    manifests = {put.name} if taken.name.startswith("generation") and put.name.startswith("generation") else set()
    return {path.name for path in index_directory(work).iterdir()} - named - {newest.name} | manifests


def test_the_index_of_another_history_is_refused(tmp_path: Path) -> None:
    """The whole directory, or its manifest alone: a history with the same shape, other words."""
    subject = Subject.made(tmp_path / "one")
    make(tmp_path / "other", text="coffee")
    for only in ("*", "generation-*", "rows-*", "vectors-*", "codes-*"):
        subject.restore()
        for path in index_directory(tmp_path / "other").glob(only):
            shutil.copyfile(path, index_directory(subject.work) / path.name)
        outcome = subject.examine()
        outcome.require_nothing_wrong()
        if only in ("*", "generation-*"):
            assert not outcome.report.ok
            assert isinstance(outcome.found["checkpoint: contents"], Refused)
            assert "another history" in outcome.found["checkpoint: contents"].message


# -- a checkpoint that was made on purpose ------------------------------------------------------------------


def _forged(directory: Path, **changes: Any) -> Path:
    """A manifest with these fields, its digest made anew, as the only generation."""
    (path,) = directory.glob("generation-*.json")
    fields = orjson.loads(path.read_bytes())
    del fields["sha256"]
    fields = {**fields, **changes}
    digest = sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()
    path.write_bytes(orjson.dumps({**fields, "sha256": digest}))
    return path


@pytest.mark.parametrize(("of", "at"), [("vectors", 3), ("codes", 7), ("codes", -1)])
def test_a_forged_checkpoint_is_found_by_verify_alone(tmp_path: Path, of: str, at: int) -> None:
    """Who can write to the index directory can write a checkpoint with sound digests: the index is compared."""
    make(tmp_path)
    checkpoints = Checkpoints(index_directory(tmp_path))
    (path,) = checkpoints.newest_first()
    manifest = checkpoints.read_manifest(path)
    segment = manifest.segments[0]
    sound = getattr(segment, of)
    content = bytearray(checkpoints.read_data(sound))
    first_code = len(content) - SEGMENT_ROWS * manifest.dimension
    content[at if at >= 0 else first_code] ^= 0x80
    forged = checkpoints.write_data(f"{of}-000000", bytes(content))
    assert isinstance(forged, DataFile)
    segments = [segment.model_copy(update={of: forged}), *manifest.segments[1:]]
    checkpoints.write_manifest(manifest.model_copy(update={"segments": segments}))
    report = verify(database(tmp_path), IndexOnDisk(tmp_path))
    assert {fault.kind for fault in report.faults} == {"index"}
    assert any("position 1 " in fault.message for fault in report.faults)


def test_a_forged_position_is_held_against_the_chain(tmp_path: Path) -> None:
    """The hash at that position is another."""
    make(tmp_path)
    _forged(index_directory(tmp_path), position=6)
    found = answers(tmp_path)
    assert isinstance(found["checkpoint: contents"], Refused)


@pytest.mark.parametrize("name", ["rows", "vectors", "codes"])
def test_a_data_file_of_another_index_with_the_same_name(tmp_path: Path, name: str) -> None:
    """The digest in the manifest is what counts."""
    subject = Subject.made(tmp_path / "one")
    make(tmp_path / "other", text="coffee", later=False)
    for theirs, ours in zip(
        sorted(index_directory(tmp_path / "other").glob(f"{name}-*")),
        sorted(index_directory(subject.work).glob(f"{name}-*")),
    ):
        ours.write_bytes(theirs.read_bytes()[::-1])
    outcome = subject.examine()
    outcome.require_nothing_wrong()
    assert {fault.kind for fault in outcome.report.faults} == {"index"}
