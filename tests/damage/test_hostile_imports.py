"""Files to import that somebody made to harm whoever imports them: refused by their line, in little memory."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from eventstore import EventStore, ImportFailed, read_json_lines, transfer
from tests.cli_support import call
from tests.crash.lab import LONG
from tests.damage.hostile import MIB, limited_memory
from tests.damage.subject import deadline, run_noting

HOSTILE = {
    "a line without end": b'{"content": "',
    "nothing but zeros": b"",
    "an empty line, then zeros": b"\n",
    "deep nesting": b"[" * 10_000_000,
    "deep objects": b'{"a":' * 10_000_000,
    "a number of a million digits": b'{"metadata": {"n": ' + b"9" * 1_000_000 + b"}}",
    "a key a million times": b'{"content": "' + b'", "content": "' * 1_000_000 + b'"}',
}


def test_hostile_lines(tmp_path: Path) -> None:
    """Eight gigabytes, as the file says: in little more memory than a line may take, and nothing is recorded."""
    assert run_noting(import_hostile, tmp_path) == len(HOSTILE)


def import_hostile(directory: Path) -> int:
    """In the lab."""
    path = directory / "in.jsonl"
    for name, start in HOSTILE.items():
        (directory / "doing").write_text(name)
        path.write_bytes(start)
        if len(start) < 100:
            os.truncate(path, 8 * 2**30)  # sparse: it takes no disk
        limit = transfer.LINE_LIMIT if LONG else 16 * MIB
        with deadline(), EventStore() as store, mock.patch.object(transfer, "LINE_LIMIT", limit):
            with limited_memory(4 * limit // MIB + 250), pytest.raises(ImportFailed, match=r"line [12]:"):
                store.import_events(read_json_lines(path), source="hostile")
            assert store.position == 0
    return len(HOSTILE)


def test_empty_lines_before_the_end_are_named(tmp_path: Path) -> None:
    """At the end they are nothing; anywhere else the first of them is refused."""
    path = tmp_path / "in.jsonl"
    for content, line in ((b"{}\n\n\n{}\n", 2), (b"\n{}\n", 1), (b"{}\n \n{}", 2)):
        path.write_bytes(content)
        with pytest.raises(ImportFailed, match=f"line {line}: not JSON"):
            list(read_json_lines(path))
    path.write_bytes(b"{}\n\n \n\t\n")
    assert list(read_json_lines(path)) == [{}]


def test_arrays_that_are_pickles_are_refused(tmp_path: Path) -> None:
    """A .npy file of objects would run code when it is loaded: it is not loaded."""
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(ran),)

    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    (tmp_path / "in.jsonl").write_text('{"content": "x", "vector": 0}\n')
    done = call("import", "jsonl", tmp_path / "in.jsonl", tmp_path / "new.db", "--vectors", tmp_path / "evil.npy")
    assert done.exit_code == 2
    assert "no .npy file of numbers" in done.stderr
    assert not ran.exists()


def test_an_array_that_says_it_is_gigantic(tmp_path: Path) -> None:
    """Its header is not believed."""
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4), }"
    head += b" " * (118 - len(head) - 1) + b"\n"
    (tmp_path / "vast.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(64))
    (tmp_path / "in.jsonl").write_text('{"content": "x", "vector": 0}\n')
    done = call("import", "jsonl", tmp_path / "in.jsonl", tmp_path / "new.db", "--vectors", tmp_path / "vast.npy")
    assert done.exit_code == 2
    assert "vast.npy" in done.stderr
