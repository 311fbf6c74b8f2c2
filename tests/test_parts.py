"""What a killed process left of a file, the next that makes the same file removes; what is being made it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from eventstore import EventStore
from eventstore.parts import new_part, remove_abandoned, write_whole
from replay import recover
from tests.store_support import vector

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL, and locks on files")

KILLED = """
import os, signal, sys
from eventstore import EventStore
from replay import recover
def die(done, total):
    os.kill(os.getpid(), signal.SIGKILL)
with EventStore(sys.argv[1]) as store:
    if sys.argv[2] == "export":
        store.export(sys.argv[3], progress=die)
    else:
        recover(store, None, sys.argv[3], progress=die)
"""


def parts(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if ".part" in name)


def history(path: Path) -> Path:
    with EventStore(path) as store:
        store.add("text", vector=vector())
    return path


@pytest.mark.parametrize("work", ["export", "recover"])
def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path, work: str) -> None:
    """An export or a recover that was killed, and then one to the same target."""
    path = history(tmp_path / "a.db")
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KILLED, path, work, tmp_path / "new"], cwd=ROOT, check=False)
        assert done.returncode == -9
        assert len(parts(tmp_path)) == 1
    with EventStore(path) as store:
        if work == "export":
            store.export(tmp_path / "new")
        else:
            recover(store, None, tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["a.db", "new"]


def test_the_files_beside_it_go_too(tmp_path: Path) -> None:
    """Those of a database that was being made."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f".new.0123.part{suffix}").touch()
    remove_abandoned(tmp_path / "new")
    assert os.listdir(tmp_path) == []


def test_those_of_other_files_are_left_alone(tmp_path: Path) -> None:
    """Whoever makes those will see to them."""
    for name in (".other.0123.part", "new.0123.part", ".new.0123.partly", ".newer.0123.part"):
        (tmp_path / name).touch()
    with write_whole(tmp_path / "new") as stream:
        stream.write(b"x")
    assert len(os.listdir(tmp_path)) == 5


HELD = """
import sys
from pathlib import Path
from eventstore.parts import new_part
part, stream = new_part(Path(sys.argv[1]))
print(part, flush=True)
sys.stdin.read()
"""


def test_what_another_process_is_making_is_left_alone(tmp_path: Path) -> None:
    """Until it ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(tmp_path / "new")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        part = Path(process.stdout.readline().strip())
        with write_whole(tmp_path / "new") as stream:
            stream.write(b"x")
        assert part.exists()
    finally:
        process.kill()
        process.communicate()
    with write_whole(tmp_path / "new", overwrite=True) as stream:
        stream.write(b"y")
    assert os.listdir(tmp_path) == ["new"]


def test_threads_that_make_the_same_file_leave_each_other_alone(tmp_path: Path) -> None:
    """Each writes one of its own, and the last that ends is the file."""
    problems: list[BaseException] = []

    def make(number: int) -> None:
        try:
            for _ in range(20):
                with write_whole(tmp_path / "new", overwrite=True) as stream:
                    stream.write(str(number).encode() * 1000)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=make, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert problems == []
    content = (tmp_path / "new").read_bytes()
    assert len(content) == 1000
    assert len(set(content)) == 1
    assert os.listdir(tmp_path) == ["new"]


def test_one_that_was_taken_for_left_behind_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the moment when it is made and that when it is locked."""
    really, removed = os.fdopen, []

    def opened(descriptor: int, mode: str) -> object:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        return really(descriptor, mode)

    monkeypatch.setattr("os.fdopen", opened)
    part, stream = new_part(tmp_path / "new")
    with stream:
        assert part.exists()
        assert [part] == list(tmp_path.iterdir())
    assert part != removed[0]
