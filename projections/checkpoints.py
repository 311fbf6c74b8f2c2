"""Checkpoints on disk: generations that are whole or not there, and are never believed unchecked.

A generation is a manifest, `generation-000007.json`, that names data files by their SHA-256. They hold plain
little-endian numbers and never change once named, so generations share those that are the same: a checkpoint writes
only what is new. Everything is written to a temporary name, synced and renamed; the manifest comes last.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eventstore import StorageError
from eventstore.parts import sync_directory

try:
    import fcntl
except ImportError:  # Windows: two processes that checkpoint at once may each lose a generation, never data
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "NO_LINK",
    "CheckpointWarning",
    "Checkpoints",
    "DataFile",
    "Manifest",
    "SegmentFiles",
    "StructureFiles",
    "Unusable",
    "not_read",
]

_GENERATION = re.compile(r"generation-(\d{6,12})\.json")
_KEPT_GENERATIONS = 2
# What nobody finished or named may be another process's, under way; what was set aside may be looked at.
_STALE_SECONDS = {".part": 3600.0, ".bin": 3600.0, ".set-aside": 7 * 86400.0}
_MANIFEST_LIMIT = 16 * 2**20
_BYTES_AT_ONCE = 2**20
_KINDS = "rows|vectors|codes|metadata|lists|middles|graph"
_OURS = re.compile(rf"(generation-\d{{6,12}}\.json|({_KINDS})-[0-9a-z.-]{{1,80}})(\.[0-9a-f]{{16}}\.part|\.set-aside)?")
# Without waiting for whoever writes into a pipe. Windows has neither.
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class CheckpointWarning(UserWarning):
    """A checkpoint could not be used or written. Nothing is lost: the history fills in."""


class Unusable(Exception):
    """A generation or one of its files is not what its manifest says."""


class Unreadable(Unusable):
    """A generation or one of its files could not be read now: it may be good all the same."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataFile(_Strict):
    """A data file: its name in the directory, its length in bytes, its SHA-256 and its CRC-32."""

    name: str = Field(pattern=rf"^({_KINDS})-[0-9a-z.-]{{1,80}}$")
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    crc32: int = Field(ge=0, lt=2**32)


class SegmentFiles(_Strict):
    """The files of one segment: the vectors as recorded; the codes of rows that have such; metadata where filters need
    them; the inverted lists of its rows where it is in such."""

    vectors: DataFile
    codes: DataFile | None = None
    metadata: DataFile | None = None
    lists: DataFile | None = None

    @property
    def all(self) -> list[DataFile]:
        """Those that there are."""
        return [file for file in (self.vectors, self.codes, self.metadata, self.lists) if file is not None]


class StructureFiles(_Strict):
    """What an approximate index was made of the full segments: inverted lists or a graph.

    `version` changes when the same rows would make another one; `first` is how many segments had to be full for it.
    """

    kind: Literal["ivf", "hnsw"]
    version: int
    first: int = Field(ge=1)
    middles: list[DataFile] = []
    graph: DataFile | None = None
    taken: list[bool] = []

    @property
    def all(self) -> list[DataFile]:
        """Those that there are."""
        return [*self.middles, *([self.graph] if self.graph else [])]


class Manifest(_Strict):
    """What a generation holds: the index at `position` of the history whose hash there is `head_hash`."""

    format: Literal[4] = 4
    position: int = Field(ge=1)
    head_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    dimension: int = Field(ge=1)
    rows: int = Field(ge=0)
    segment_rows: int = Field(ge=1)
    metric: str
    faiss_version: str
    table: DataFile
    segments: list[SegmentFiles]
    structure: StructureFiles | None = None


def _digest_of(fields: dict[str, Any]) -> str:
    return sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Checkpoints:
    """The generations in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Files that this process has written or read and found good: not written again.
        self._good: set[str] = set()

    def newest_first(self) -> list[Path]:
        """The manifests that are there."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(
                f"cannot read the index directory {self.directory} ({error.strerror}): give another directory"
            ) from error
        found = sorted((int(match[1]), name) for name in names if (match := _GENERATION.fullmatch(name)))
        return [self.directory / name for _, name in reversed(found)]

    def read_manifest(self, path: Path) -> Manifest:
        """The manifest at `path`; `Unusable` if it is damaged or of another format."""
        text = _read(path, _MANIFEST_LIMIT)
        try:
            fields = orjson.loads(text)
            digest = fields.pop("sha256")
            manifest = Manifest.model_validate(fields)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise Unusable(f"{path.name} is no manifest that this version can read ({reason})") from None
        if digest != _digest_of(fields):
            raise Unusable(f"{path.name} does not match its own digest")
        return manifest

    def read_data(self, file: DataFile) -> bytes:
        """The bytes of a data file, checked by SHA-256; `Unusable` if they are not what the manifest says.

        As many are read as the manifest says: whoever calls knows that so many make sense.
        """
        content = _read(self.directory / file.name, file.size)
        self._require_good(file, len(content), sha256(content).hexdigest() == file.sha256)
        return content

    def read_into(self, file: DataFile, buffers: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Fill buffers, together as long as a data file, one after the other with its bytes; checked by CRC-32.

        What is in them is not to be used before this returns. They hold numbers only, nothing that is parsed, of which
        there can be gigabytes: CRC-32 takes less time than SHA-256, and finds damage as well. Who alters a file
        on purpose could alter what the manifest says of it too, and is found by comparing with the history.
        """
        crc, size = 0, 0
        with _opened(self.directory / file.name, file.size) as stream:
            for buffer in buffers:
                for start in range(0, len(buffer), _BYTES_AT_ONCE):
                    # Summed up as it comes, while it is still in the processor's cache.
                    piece = buffer[start : start + _BYTES_AT_ONCE]
                    got = stream.readinto(piece.data)
                    crc = zlib.crc32(piece[:got].data, crc)
                    size += got
        self._require_good(file, size, crc == file.crc32)

    def _require_good(self, file: DataFile, size: int, same: bool) -> None:
        if size != file.size:
            raise Unusable(f"{file.name} has {size} bytes instead of {file.size}")
        if not same:
            self._good.discard(file.name)
            self._set_aside(self.directory / file.name)
            raise Unusable(f"{file.name} does not match its digest")
        self._good.add(file.name)

    def there(self, file: DataFile) -> Path:
        """The path of a data file that is there and has the right length; what it holds is not read."""
        path = self.directory / file.name
        try:
            status = path.lstat()
        except OSError as error:
            raise not_read(path, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise Unusable(f"{path.name} is no regular file")
        if status.st_size != file.size:
            raise Unusable(f"{file.name} has {status.st_size} bytes instead of {file.size}")
        return path

    def trusted(self, file: DataFile) -> Path:
        """The path of a data file that is there, taken to be good: whoever reads it checks what it holds."""
        path = self.there(file)
        self._good.add(file.name)
        return path

    def write_again(self, file: DataFile, content: bytes | memoryview) -> None:
        """Put a data file that was found damaged back as it was; the damaged one is set aside."""
        self._good.discard(file.name)
        self._set_aside(self.directory / file.name)
        self.write_data(file.name.rsplit("-", 1)[0], content)

    def set_aside(self, path: Path, reason: Unusable) -> None:
        """Rename a generation that cannot be used, and warn: the history fills in. What may be good stays there."""
        done = "passed over"
        if not isinstance(reason, Unreadable):
            self._set_aside(path)
            done = "set aside"
        warnings.warn(
            f"index checkpoint {path} was {done}: {reason}; the history fills in", CheckpointWarning, stacklevel=4
        )

    def _set_aside(self, path: Path) -> None:
        # In a directory that cannot be written to it stays where it is, and is found unusable again.
        with contextlib.suppress(OSError):
            path.rename(path.with_name(f"{path.name}.set-aside"))

    def has(self, file: DataFile) -> bool:
        """Whether a data file is there that this process has written or found good."""
        return file.name in self._good and os.path.exists(self.directory / file.name)

    def write_data(self, kind: str, content: bytes | memoryview) -> DataFile:
        """Write a data file, unless it is there and known to be good."""
        digest = sha256(content).hexdigest()
        name = f"{kind}-{digest[:32]}.bin"
        file = DataFile(name=name, size=len(content), sha256=digest, crc32=zlib.crc32(content))
        if not self.has(file):
            with self._written(self.directory / file.name) as part:
                _write_synced(part, content)
            self._good.add(file.name)
        return file

    def write_manifest(self, manifest: Manifest) -> Path:
        """Name a new generation, once all its data files are written; then drop what is no longer needed."""
        fields = manifest.model_dump()
        text = orjson.dumps({**fields, "sha256": _digest_of(fields)}, option=orjson.OPT_INDENT_2)
        with self._writing(), self._locked():
            newest = self.newest_first()
            number = 1 + (int(_GENERATION.fullmatch(newest[0].name)[1]) if newest else 0)  # type: ignore[index]
            path = self.directory / f"generation-{number:06d}.json"
            with self._written(path) as part:
                # The names of its data files first: a file system need not keep names in order.
                sync_directory(self.directory)
                _write_synced(part, text)
            sync_directory(self.directory)
            self._prune(manifest)
        return path

    def prepare(self) -> None:
        """Create the directory."""
        missing = [path for path in (self.directory, *self.directory.parents) if not os.path.exists(path)]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in missing:
                sync_directory(path.parent)
        except OSError as error:
            raise StorageError(
                f"cannot create the index directory {self.directory} ({error.strerror}): give another directory"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"cannot write an index checkpoint to {self.directory}: {error.strerror or error}; "
                "the history is not affected"
            ) from error

    @contextlib.contextmanager
    def _written(self, path: Path) -> Iterator[Path]:
        part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
        with self._writing():
            try:
                yield part
                part.replace(path)
            finally:
                _remove(part)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if fcntl is None:
            yield
            return
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def is_named(self, file: DataFile) -> bool:
        """Whether a generation that is there names a data file, so that it should be there too."""
        for path in self.newest_first():
            with contextlib.suppress(Unusable):
                if file.name in _names_of(self.read_manifest(path)):
                    return True
        return False

    def _prune(self, written: Manifest) -> None:
        """Remove generations past the last two, the files that only they named, and parts nobody finished."""
        manifests = self.newest_first()
        needed, spent = _names_of(written), set()
        for path in manifests[:_KEPT_GENERATIONS]:
            try:
                needed |= _names_of(self.read_manifest(path))
            except Unreadable:
                return  # it may be good, and what it names cannot be told: nothing is removed this time
            except Unusable:
                continue
        for path in manifests[_KEPT_GENERATIONS:]:
            with contextlib.suppress(Unusable):
                spent |= _names_of(self.read_manifest(path))
            _remove(path)
        for name in spent - needed:
            _remove(self.directory / name)
            self._good.discard(name)
        needed |= {path.name for path in manifests[:_KEPT_GENERATIONS]}
        for path in self.directory.iterdir():
            stale = _STALE_SECONDS.get(path.suffix)
            if stale is not None and path.name not in needed and _OURS.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > stale:
                        path.unlink()


@contextlib.contextmanager
def _opened(path: Path, most: int) -> Iterator[io.BufferedReader]:
    """A file of at most `most` bytes, open; what cannot be read of it is `Unusable`.

    Of a regular file in the directory itself: not what a link leads to elsewhere, and no pipe or device that gives
    its bytes never, or without end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | NO_LINK)
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable(f"{path.name} is no regular file")
            if status.st_size > most:
                raise Unusable(f"{path.name} has {status.st_size} bytes, more than {most}")
            yield stream
    except OSError as error:
        raise not_read(path, error) from error


def _read(path: Path, most: int) -> bytes:
    with _opened(path, most) as stream:
        return stream.read(most)


def _names_of(manifest: Manifest) -> set[str]:
    files = [manifest.table, *(file for segment in manifest.segments for file in segment.all)]
    return {file.name for file in [*files, *(manifest.structure.all if manifest.structure else [])]}


def not_read(path: Path, error: OSError) -> Unusable:
    """What a file that could not be read is: `Unreadable`, or only `Unusable` where that can be no passing trouble."""
    linked = error.errno in (errno.ELOOP, errno.EMLINK)
    kind = Unusable if linked or isinstance(error, FileNotFoundError) else Unreadable
    return kind(f"{path.name} cannot be read: {error.strerror or error}")


def _remove(path: Path) -> None:
    """Remove a file that nobody needs; where that fails it stays, and nothing is the worse for it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _write_synced(path: Path, content: bytes | memoryview) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
