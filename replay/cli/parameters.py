"""What arguments and options mean: instants, heads, filters, vectors, embedders, files. Errors say what to give."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np
import numpy.typing as npt
import orjson

from eventstore import AsOf, Head, InvalidFilter, InvalidInstant, parse_filter
from eventstore.embedders import Embedder, builtin_embedder
from eventstore.instants import from_microseconds, parse_instant
from replay.cli.foreign import OURS
from replay.cli.text import path_text

__all__ = [
    "AS_OF",
    "BOUND",
    "DATABASE",
    "EMBEDDER",
    "FILTER",
    "HEAD",
    "INDEX_DIRECTORY",
    "NEW_DATABASE",
    "RENAMING",
    "VECTOR",
    "VECTORS",
]

_EXAMPLES = "give ISO 8601 with a zone (2026-11-24T06:50:00Z), a position (1932), an age (90s, 15m, 2h, 3d, 1w) or now"
_AGE = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_POSITION = re.compile(r"\d{1,18}", re.ASCII)
_HEAD = re.compile(r"(\d{1,18}):([0-9a-fA-F]{64})", re.ASCII)
_HEADS_LIMIT = 16 * 2**20


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on, and 8.3 will do
    def refuse(self, message: str, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
        self.fail(message, param, ctx)


class AsOfType(_Parsed):
    """An instant with a zone, a position, an age, or `now`, which is None: what `as_of` means in the library."""

    name = "instant"

    def __init__(self, *, bound: bool = False) -> None:
        """A `bound` says where to begin or end, where None would mean not at all: there `now` is the clock's time."""
        self._bound = bound

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> AsOf:
        """The datetime or position; an age is taken back from the clock as it is now."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        text = value.strip()
        if text == "now":
            return datetime.now(timezone.utc) if self._bound else None
        if _POSITION.fullmatch(text):
            return int(text)
        if age := _AGE.fullmatch(text):
            try:
                return datetime.now(timezone.utc) - timedelta(**{_UNITS[age[2]]: float(age[1])})
            except OverflowError:
                self.refuse(f"{value!r} ago was before the year 1", param, ctx)
        try:
            return from_microseconds(parse_instant(text))
        except InvalidInstant:
            self.refuse(self._fault(text), param, ctx)

    def _fault(self, text: str) -> str:
        try:
            parse_instant(f"{text}Z")
        except InvalidInstant:
            return f"{text[:80]!r} is no instant: {_EXAMPLES}"
        return f"{text!r} has no time zone: put Z behind it for UTC, or an offset such as +02:00"


class DatabaseType(_Parsed):
    """A history's database file; by default one that is there."""

    name = "database"

    def __init__(self, must_exist: bool = True) -> None:
        self._must_exist = must_exist

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path, as given."""
        path = os.fspath(value)
        shown = path_text(path)
        if path == ":memory:":
            self.refuse("a history in memory ends with the program that made it: give a file", param, ctx)
        if os.path.isdir(path):
            self.refuse(f"{shown!r} is a directory: give the history's database file", param, ctx)
        if self._must_exist and not os.path.exists(path):
            self.refuse(f"there is no file {shown!r}: give the history's database file", param, ctx)
        if self._must_exist and os.path.isfile(path) and os.path.getsize(path) == 0:
            self.refuse(f"{shown!r} is empty: give the history's database file", param, ctx)
        return str(path)


class HeadType(_Parsed):
    """Heads kept elsewhere: `POSITION:HASH`, or a file of what `replay head --json` printed, one or more."""

    name = "head"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Head]:
        """The heads, at least one."""
        if isinstance(value, list):
            return value
        if given := _HEAD.fullmatch(value.strip()):
            return [Head(int(given[1]), None, given[2].lower())]
        try:
            with Path(value).open("rb") as stream:
                content = stream.read(_HEADS_LIMIT + 1)
        except (OSError, ValueError):
            self.refuse(
                f"{path_text(value[:200])!r} is neither POSITION:HASH with 64 hexadecimal digits nor a file that can "
                "be read: give what `replay head` printed",
                param,
                ctx,
            )
        try:
            return _heads_in(content)
        except (ValueError, KeyError, TypeError, InvalidInstant):
            self.refuse(f"{path_text(value)!r} holds no heads: give a file made by `replay head --json`", param, ctx)


def _heads_in(content: bytes) -> list[Head]:
    if len(content) > _HEADS_LIMIT:
        raise ValueError
    try:
        records = [orjson.loads(content)]
    except orjson.JSONDecodeError:
        records = [orjson.loads(line) for line in content.splitlines() if line.strip()]
    heads = []
    for record in records:
        head = _HEAD.fullmatch(f"{record['position']}:{record['hash']}")
        if head is None:
            raise ValueError
        instant = record.get("recorded_at")
        at = None if instant is None else from_microseconds(parse_instant(instant, "recorded_at"))
        heads.append(Head(int(head[1]), at, head[2].lower()))
    if not heads:
        raise ValueError
    return heads


class FilterType(_Parsed):
    """A filter over metadata, as JSON."""

    name = "filter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The filter, checked."""
        if isinstance(value, dict):
            return value
        try:
            decoded: Any = orjson.loads(value)
            if not isinstance(decoded, dict):
                raise InvalidFilter("it is no JSON object")
            parse_filter(decoded)
        except ValueError as error:  # orjson's and ours both are
            self.refuse(f'{error}; a filter looks like {{"user_id": "alice", "age": {{"gte": 3}}}}', param, ctx)
        return decoded


def load_array(path: str, *, mapped: bool = False) -> npt.NDArray[Any]:
    """The array in a .npy file of numbers; ValueError, in words, for anything else. Never runs what is in it."""
    shown = path_text(path)
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"{shown!r} cannot be read: {error.strerror or 'it is no .npy file, or cut off'}") from error
    except (ValueError, EOFError) as error:
        raise ValueError(f"{shown!r} is no .npy file of numbers: make one with numpy.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{shown!r} is an .npz archive: give one array, saved with numpy.save")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{shown!r} holds {array.dtype} values: give real numbers")
    return array


class VectorType(_Parsed):
    """A vector: a JSON list of numbers, or a .npy file that holds one."""

    name = "vector"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> npt.NDArray[np.float64]:
        """The vector, flat, of at least one number."""
        if isinstance(value, np.ndarray):
            return value
        try:
            vector = self._vector(value)
        except ValueError as error:
            self.refuse(str(error), param, ctx)
        return vector

    def _vector(self, value: str) -> npt.NDArray[np.float64]:
        if value.lstrip().startswith("["):
            try:
                numbers = orjson.loads(value)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"it is not JSON ({error}): give a list such as [0.1, -0.2]") from None
            if not all(type(number) in (int, float) for number in numbers):
                raise ValueError("it is no flat list of numbers: give one such as [0.1, -0.2]")
            array = np.asarray(numbers, dtype=np.float64)
        elif os.path.exists(value):
            array = load_array(value).astype(np.float64)
            if array.ndim == 2 and len(array) == 1:
                array = array[0]
        else:
            raise ValueError(f"{path_text(value[:200])!r} is neither a JSON list of numbers nor a .npy file")
        if array.ndim != 1 or not len(array):
            raise ValueError(f"it has shape {array.shape}: give one vector")
        return array


class VectorsType(_Parsed):
    """A .npy file of vectors, one a row."""

    name = "vectors"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> npt.NDArray[Any]:
        """The vectors, shape (rows, dimension), read as they are needed."""
        if isinstance(value, np.ndarray):
            return value
        try:
            array = load_array(value, mapped=True)
            if array.ndim != 2:
                raise ValueError(f"{path_text(value)!r} has shape {array.shape}: give one vector a row")
        except ValueError as error:
            self.refuse(str(error), param, ctx)
        return array


class RenamingType(_Parsed):
    """`OURS=THEIRS`: the key that a foreign record has for one of ours."""

    name = "renaming"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Our key and theirs."""
        if isinstance(value, tuple):
            return value
        ours, equals, theirs = value.partition("=")
        if not equals or not theirs:
            self.refuse(f"{value!r} is not OURS=THEIRS: give one such as content=text", param, ctx)
        if ours not in OURS:
            self.refuse(f"a record has no {ours!r}: give one of {', '.join(sorted(OURS))}", param, ctx)
        return ours, theirs


class EmbedderType(_Parsed):
    """An embedder: MODULE:ATTRIBUTE of the user's own, or the name of a built-in one."""

    name = "embedder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Embedder:
        """The embedder; a class is called, without arguments, to make one."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        built_in = builtin_embedder(value)
        if built_in is not None:
            return built_in
        module, colon, attribute = value.partition(":")
        if not (module and colon and attribute):
            self.refuse(
                f"{value!r} names none: give MODULE:ATTRIBUTE, or a built-in one such as hashing-256-v1", param, ctx
            )
        try:
            found = _imported(module, attribute)
        except ModuleNotFoundError as error:
            self.refuse(
                f"there is no module {error.name!r}: run where it can be imported, or set PYTHONPATH", param, ctx
            )
        except AttributeError:
            self.refuse(f"the module {module!r} has no {attribute!r}", param, ctx)
        if not callable(found):
            self.refuse(
                f"{value} is a {type(found).__name__}: give what turns a list of texts into vectors", param, ctx
            )
        return found  # type: ignore[no-any-return]


def _imported(module: str, attribute: str) -> Any:
    # As for `python -m`: the user's own modules lie where the command is run.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
    return found() if inspect.isclass(found) else found


AS_OF = AsOfType()
BOUND = AsOfType(bound=True)
DATABASE = DatabaseType()
NEW_DATABASE = DatabaseType(must_exist=False)
EMBEDDER = EmbedderType()
FILTER = FilterType()
HEAD = HeadType()
INDEX_DIRECTORY = click.Path(file_okay=False)
RENAMING = RenamingType()
VECTOR = VectorType()
VECTORS = VectorsType()
