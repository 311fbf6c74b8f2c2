"""A disk that loses power: from the log of what a process did to its files, what may be left of them at any moment.

What was written to a file is on disk when the file was synced, a name when its directory was synced. Until then each
write and each name may be there, or not, or (a write) in some of its sectors, in any order: no file system promises
more, and most do better.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tests.crash.lab import Ack

WRITE, TRUNCATE, SYNC, SYNC_DIRECTORY, CREATE, RENAME, LINK, UNLINK, MKDIR, MARK, SYNC_FAILED = range(1, 12)
_RECORD = struct.Struct("<IIIIqQQ")
_SECTOR = 512


@dataclass(frozen=True)
class Change:
    """A record of the log that faults.c writes."""

    kind: int
    first: str
    second: str
    offset: int
    data: bytes
    inode: int


def read_log(path: Path) -> list[Change]:
    """All changes, in order."""
    log, at, changes = path.read_bytes(), 0, []
    while at < len(log):
        kind, first, second, _, offset, length, inode = _RECORD.unpack_from(log, at)
        at += _RECORD.size
        names = [log[at : at + first].decode(), log[at + first : at + first + second].decode()]
        at += first + second
        data = log[at : at + length]
        at += length
        changes.append(Change(kind, *names, offset, data, inode))
    return changes


@dataclass(frozen=True)
class Loss:
    """How likely it is that what was not synced is there all the same: each write, and each name."""

    name: str
    writes: float
    names: float
    torn: bool = False


LOSSES = (
    Loss("nothing unsynced is left", 0, 0),
    Loss("names are left, without what was written", 0, 1),
    Loss("what was written is left, without names", 1, 0),
    Loss("everything is left", 1, 1),
    Loss("half is left, torn", 0.5, 0.5, torn=True),
    Loss("most is left, torn", 0.9, 0.9, torn=True),
)


class _Content(bytes):
    """What is in one file: each of its names has the same object."""


@dataclass
class _File:
    content: bytearray
    unsynced: list[Change] = field(default_factory=list)


@dataclass(frozen=True)
class _Naming:
    """A change of names that is there or is not: `gone` is removed, `name` leads to `file`, None to a directory."""

    gone: str | None = None
    name: str | None = None
    file: _File | None = None


class Disk:
    """Files under a directory, as they are on disk and as they would be were all of it synced."""

    def __init__(self, directory: Path) -> None:
        self.acks: list[Ack] = []
        self._root = str(directory)
        self._names: dict[str, _File | None] = {self._root: None}
        self._current: dict[str, _File] = {}
        self._by_inode: dict[int, _File] = {}
        self._unsynced: dict[str, list[_Naming]] = {}
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                file = _File(bytearray(path.read_bytes()))
                self._by_inode[path.stat().st_ino] = self._current[str(path)] = file
                self._names[str(path)] = file
            else:
                self._names[str(path)] = None

    def take(self, change: Change) -> None:
        """The next change of the log."""
        if change.kind == MARK:
            what, position, digest = json.loads(change.first)
            self.acks.append((what, position, digest))
        elif change.kind in (WRITE, TRUNCATE):
            self._by_inode[change.inode].unsynced.append(change)
        elif change.kind == SYNC:
            file = self._by_inode[change.inode]
            for written in file.unsynced:
                _apply(file.content, written, lambda: True)
            file.unsynced.clear()
        elif change.kind == SYNC_FAILED:
            # The system forgets what it could not write. It is still seen by whoever reads, and synced no more.
            self._by_inode[change.inode].unsynced.clear()
        elif change.kind == SYNC_DIRECTORY:
            for naming in self._unsynced.pop(change.first, []):
                _rename(self._names, naming)
        elif change.kind == CREATE:
            self._by_inode[change.inode] = file = _File(bytearray())
            self._name(change.first, _Naming(None, change.first, file))
        elif change.kind == RENAME:
            assert os.path.dirname(change.first) == os.path.dirname(change.second)
            self._name(change.first, _Naming(change.first, change.second, self._current[change.first]))
        elif change.kind == LINK:
            self._name(change.second, _Naming(None, change.second, self._current[change.first]))
        elif change.kind == UNLINK:
            self._name(change.first, _Naming(change.first))
        elif change.kind == MKDIR:
            self._unsynced.setdefault(os.path.dirname(change.first), []).append(_Naming(None, change.first, None))

    def _name(self, path: str, naming: _Naming) -> None:
        if naming.gone is not None:
            del self._current[naming.gone]
        if naming.name is not None and naming.file is not None:
            self._current[naming.name] = naming.file
        self._unsynced.setdefault(os.path.dirname(path), []).append(naming)

    def left(self, loss: Loss, chance: random.Random) -> dict[str, bytes | None]:
        """What is left of it when power is lost now: path -> content, None for a directory."""
        names = dict(self._names)
        for namings in self._unsynced.values():
            for naming in namings:
                if chance.random() < loss.names:
                    _rename(names, naming)
        contents: dict[int, _Content] = {}
        left: dict[str, bytes | None] = {}
        for path, file in names.items():
            # SQLite makes the shared memory anew, whatever is in it.
            if path.endswith("-shm") or (os.path.dirname(path) not in names and path != self._root):
                continue
            if file is None:
                left[path] = None
                continue
            if id(file) not in contents:
                content = bytearray(file.content)
                for written in file.unsynced:
                    if chance.random() < loss.writes:
                        _apply(content, written, lambda: not loss.torn or chance.random() < 0.9)
                contents[id(file)] = _Content(content)
            left[path] = contents[id(file)]
        return left


def _rename(names: dict[str, _File | None], naming: _Naming) -> None:
    if naming.gone is not None:
        names.pop(naming.gone, None)
    if naming.name is not None:
        names[naming.name] = naming.file


def _apply(content: bytearray, change: Change, sector_is_there: Callable[[], bool]) -> None:
    if change.kind == TRUNCATE:
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
        return
    for start in range(0, len(change.data), _SECTOR):
        if sector_is_there():
            some, at = change.data[start : start + _SECTOR], change.offset + start
            content.extend(bytes(max(0, at - len(content))))
            content[at : at + len(some)] = some


def losses(
    disk: Disk, changes: list[Change], most: int, chance: random.Random
) -> Iterator[tuple[int, str, list[Ack], dict[str, bytes | None]]]:
    """Up to `most` different states in which a loss of power, after some of the changes, leaves `disk`.

    With the number of changes, the kind of loss, and what had been acknowledged.
    """
    moments = [(after, number) for after in range(len(changes) + 1) for number in range(len(LOSSES))]
    chosen = set(moments if len(moments) <= most else chance.sample(moments, most))
    seen: set[bytes] = set()
    for after in range(len(changes) + 1):
        for number, loss in enumerate(LOSSES):
            if (after, number) not in chosen:
                continue
            left = disk.left(loss, chance)
            digest = sha256(repr((len(disk.acks), sorted(left.items(), key=lambda item: item[0]))).encode()).digest()
            if digest not in seen:
                seen.add(digest)
                yield after, loss.name, list(disk.acks), left
        if after < len(changes):
            disk.take(changes[after])


def write_out(left: dict[str, bytes | None], old: Path, new: Path) -> None:
    """Put what is left of the files under `old` into the directory `new`; two names of one file stay that."""
    written: dict[int, Path] = {}
    for path, content in sorted(left.items()):
        target = new / os.path.relpath(path, old)
        if content is None:
            target.mkdir(exist_ok=True)
        elif id(content) in written:
            os.link(written[id(content)], target)
        else:
            target.write_bytes(content)
            written[id(content)] = target
