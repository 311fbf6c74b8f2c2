"""Every byte flipped, and every file cut at every length: found, or without meaning; and never a wrong answer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from eventstore import EventStore
from projections import CheckpointWarning, VectorIndex
from replay import verify
from tests.crash.lab import LONG
from tests.damage.subject import Subject, database, deadline, index_directory, make, run_noting

BATCHES = 8 if LONG else 1
SAMPLE = 120
"""How many of each kind of damage the default run tries; the long one tries them all."""


def _mine(cases: list[Any], batch: int, sample: int = SAMPLE) -> list[Any]:
    return cases[batch::BATCHES] if LONG else random.sample(cases, min(sample, len(cases)))


def _masks(at: int) -> tuple[int, int]:
    return 1 << at % 8, 0xFF


# -- the database -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_flipped_byte_of_the_database(tmp_path: Path, batch: int) -> None:
    """One bit, and the whole byte: verify says so, or no answer changes; and none is ever a wrong one."""
    done = run_noting(flip_database, tmp_path, batch)
    assert done["found"] > 0
    assert done["without meaning"] > 0


def flip_database(directory: Path, batch: int) -> dict[str, int]:
    """In the lab."""
    subject = Subject.made(directory)
    content = database(subject.sound).read_bytes()
    cases = [(at, mask) for at in range(len(content)) for mask in _masks(at)]
    if not LONG:
        # Three quarters of the file are zeros that nothing was ever written to.
        cases = [(at, mask) for at, mask in cases if content[at] or random.random() < 0.1]
    return _damaged(subject, database(subject.work), [(case, _flipped(content, *case)) for case in _mine(cases, batch)])


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_database_cut_at_any_length(tmp_path: Path, batch: int) -> None:
    """Verify always says so."""
    done = run_noting(cut_database, tmp_path, batch)
    assert done["without meaning"] == 0


def cut_database(directory: Path, batch: int) -> dict[str, int]:
    """In the lab."""
    subject = Subject.made(directory)
    content = database(subject.sound).read_bytes()
    cases = _mine(list(range(1, len(content))), batch)
    return _damaged(subject, database(subject.work), [(length, content[:length]) for length in cases])


def test_a_database_cut_to_nothing(tmp_path: Path) -> None:
    """An empty file is what a new history begins as, so it opens as one: verify and an index that had more say so."""
    head = make(tmp_path)
    database(tmp_path).write_bytes(b"")
    report = verify(database(tmp_path), against=[head])
    assert {fault.kind for fault in report.faults} == {"file", "against"}
    assert (report.good, report.head) == ([], None)
    with EventStore(database(tmp_path)) as store:
        with pytest.warns(CheckpointWarning, match="at position 7 and the history ends at 0"):
            VectorIndex(store)
        assert store.position == 0
    assert [fault.kind for fault in verify(database(tmp_path), against=[head]).faults] == ["against"]


# -- the checkpoint -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_flipped_byte_or_a_cut_of_a_checkpoint(tmp_path: Path, batch: int) -> None:
    """Each of its files: noticed on opening, and the history fills in. Nothing differs but for that."""
    done = run_noting(damage_checkpoint, tmp_path, batch)
    assert done["without meaning"] == 0
    assert done["found"] > 0


def damage_checkpoint(directory: Path, batch: int) -> dict[str, int]:
    """In the lab."""
    subject = Subject.made(directory)
    total = {"found": 0, "without meaning": 0, "refused": 0}
    for path in sorted(index_directory(subject.sound).iterdir()):
        content = path.read_bytes()
        flips = [
            ((path.name, at, mask), _flipped(content, at, mask)) for at in range(len(content)) for mask in _masks(at)
        ]
        cuts = [((path.name, length), content[:length]) for length in range(len(content))]
        target = index_directory(subject.work) / path.name
        for name, count in _damaged(subject, target, _mine(flips + cuts, batch, SAMPLE // 4)).items():
            total[name] += count
    return total


# -- how ----------------------------------------------------------------------------------------------------


def _flipped(content: bytes, at: int, mask: int) -> bytes:
    return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


def _damaged(subject: Subject, target: Path, cases: list[tuple[Any, bytes]]) -> dict[str, int]:
    """Write each content in turn, examine, and count: found by verify, without meaning, refused by some read."""
    done = {"found": 0, "without meaning": 0, "refused": 0}
    doing = subject.work.parent / "doing"
    failures = []
    for case, content in cases:
        doing.write_text(f"{target.name}: {case}")
        subject.restore()
        target.write_bytes(content)
        with deadline():
            outcome = subject.examine()
        done["without meaning" if outcome.report.ok else "found"] += 1
        done["refused"] += bool(outcome.differing)
        try:
            outcome.require_nothing_wrong()
        except AssertionError as error:
            failures.append(f"{case}: {error}"[:600])
    assert not failures, f"{len(failures)} of {len(cases)}:\n" + "\n".join(failures[:20])
    return done
