"""The door: every value from outside is checked here, once, and trusted inside."""

from __future__ import annotations

import json
import operator
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from eventstore.errors import DimensionMismatch, InvalidMetadata, InvalidOperation, InvalidVector
from eventstore.events import Vector

__all__ = [
    "MAX_DEPTH",
    "MAX_DIMENSION",
    "MAX_ID_LENGTH",
    "check_content",
    "check_count",
    "check_id",
    "check_matrix",
    "check_text",
    "check_vector",
    "metadata_json",
    "shown",
]

MAX_ID_LENGTH = 512
MAX_DIMENSION = 65_536

_FLOAT32 = np.dtype("<f4")

# What orjson would quietly turn into something else (datetimes, dataclasses, enums) is an error here.
_STRICT = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


def shown(value: object) -> str:
    """A value for a message: short, and also where Python does not agree to print it."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a very long {type(value).__name__}"


def check_text(name: str, value: object) -> str:
    """A str that UTF-8 can hold; `InvalidOperation` otherwise."""
    if not isinstance(value, str):
        raise InvalidOperation(f"{name} is of type {type(value).__name__}: give a str")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidOperation(
                f"{name} has a lone surrogate at character {error.start}, which is not Unicode text: "
                "decode it with errors='replace' first"
            ) from None
    # Not str(): of a str enumeration that is the member's name.
    return value if type(value) is str else str.__str__(value)


def check_content(value: Any) -> str:
    """Content: text of any length, any Unicode."""
    if type(value) is str and value.isascii():
        return value
    return check_text("content", value)


def check_id(name: str, value: Any) -> str:
    """An identifier: 1 to 512 characters, no NUL."""
    if type(value) is str and 0 < len(value) <= MAX_ID_LENGTH and value.isascii() and "\0" not in value:
        return value  # as most are
    text = check_text(name, value)
    if not text:
        raise InvalidOperation(f"{name} is empty: give at least one character, or None to leave it out")
    if len(text) > MAX_ID_LENGTH:
        raise InvalidOperation(f"{name} has {len(text)} characters: at most {MAX_ID_LENGTH} are taken")
    if "\0" in text:
        raise InvalidOperation(f"{name} holds a NUL character: remove it")
    return text


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`; `InvalidOperation` otherwise."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InvalidOperation(f"{name} is {shown(value)}: give a whole number of at least {least}") from None
    if number < least:
        raise InvalidOperation(f"{name} is {shown(number)}: give a whole number of at least {least}")
    return number


def metadata_json(metadata: Any) -> str:
    """The JSON text of metadata, keys sorted, as it is recorded; `InvalidMetadata` names what is not JSON."""
    if type(metadata) is not dict and not isinstance(metadata, Mapping):
        raise InvalidMetadata(f"metadata is of type {type(metadata).__name__}: give a JSON object (a dict)")
    if not metadata:
        return "{}"
    plain = metadata if type(metadata) is dict else dict(metadata)
    try:
        encoded = orjson.dumps(plain, option=_STRICT)
        if _SCALARS.issuperset(map(type, plain.values())):
            return encoded.decode()  # as most are: what goes in is what comes out
        # What came out differs from what went in: NaN has become null, a tuple a list, a UUID a string.
        if orjson.loads(encoded) == plain and _fault("metadata", plain, -1) is None:
            return _with_floats(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMetadata(_fault("metadata", plain, -1) or f"metadata is not JSON: {error}") from None
    raise InvalidMetadata(_fault("metadata", plain, -1) or "metadata is not JSON")


def _with_floats(metadata: dict[str, Any]) -> str:
    # What is recorded is hashed, so it must not depend on a version: orjson has changed how it writes floats, the
    # standard library writes Python's own repr. Otherwise the two write the same.
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


_SCALARS = frozenset({str, int, bool, type(None)})
MAX_DEPTH = 64


def _fault(path: str, value: Any, depth: int = 0) -> str | None:
    """What about `value` is not JSON, in words, or None."""
    if depth > MAX_DEPTH:
        return f"{path[:80]} is nested more than {MAX_DEPTH} deep: flatten it"
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str:
                return f"{path} has the key {shown(key)} of type {type(key).__name__}: JSON keys are str"
            if fault := _text_fault(f"a key of {path}", key) or _fault(f"{path}.{key}", inner, depth + 1):
                return fault
        return None
    if kind is list:
        faults = (_fault(f"{path}[{i}]", inner, depth + 1) for i, inner in enumerate(value))
        return next((fault for fault in faults if fault), None)
    if kind is str:
        return _text_fault(path, value)
    if kind is int:
        return None if -(2**63) <= value < 2**64 else f"{path} does not fit in 64 bits: give it as a string"
    if kind is float:
        return None if value - value == 0.0 else f"{path} is {value}, which JSON has not: leave it out or use None"
    if kind in (bool, type(None)):
        return None
    return f"{path} is of type {kind.__name__}, which is not JSON: use str, int, float, bool, None, list or dict"


def _text_fault(path: str, value: str) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"{path} has a lone surrogate, which is not Unicode text"
    return None


def check_vector(name: str, value: Any, dimension: int | None, *, allow_zero: bool) -> Vector:
    """A vector as float32, shape `(dimension,)`; of any dimension where `dimension` is None."""
    if type(value) is np.ndarray and value.dtype == _FLOAT32 and value.shape == (dimension,):
        # As most are. What is wrong with another is said below; `all` would cost more than everything else here.
        if b"\0" not in np.isfinite(value).tobytes() and (allow_zero or value[0]):
            return np.ascontiguousarray(value)
    array = _as_numbers(name, value)
    if array.ndim != 1:
        raise InvalidVector(f"{name} has {array.ndim} dimensions, shape {array.shape}: give one flat vector")
    vector: Vector = check_matrix(name, array[None, :], dimension, allow_zero=allow_zero)[0]
    return vector


def check_matrix(
    name: str, value: Any, dimension: int | None, *, rows: int | None = None, allow_zero: bool = True
) -> Vector:
    """Vectors as float32, C order, shape `(rows, dimension)`; the first one at fault is named."""
    array = _as_numbers(name, value)
    if array.ndim != 2:
        raise InvalidVector(f"{name} has shape {array.shape}: give one vector a row")
    if rows is not None and len(array) != rows:
        raise InvalidVector(f"{name} has {len(array)} rows for {rows} texts: give one vector each")
    width = array.shape[1]
    if dimension is not None and width != dimension:
        raise DimensionMismatch(f"{name} has {width} numbers, and this store's vectors have {dimension}")
    if not 1 <= width <= MAX_DIMENSION:
        raise InvalidVector(f"{name} has {width} numbers: a vector has 1 to {MAX_DIMENSION}")
    with np.errstate(over="ignore", invalid="ignore"):
        vectors = np.ascontiguousarray(array, dtype="<f4")
    # All at once first, row by row only to name the one at fault.
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise InvalidVector(
            f"{_row(name, row, len(vectors))} holds NaN, infinity or a number too large "
            "for float32: vectors must be finite"
        )
    # A row that begins with another number than 0 is not all zeros.
    if not allow_zero and not vectors[:, 0].all():
        some = vectors.any(axis=1)
        if not some.all():
            raise InvalidVector(
                f"{_row(name, int(np.argmin(some)), len(vectors))} is all zeros: it has no direction, so cosine "
                "search could not find it; open the store with allow_zero_vectors=True to take it all the same"
            )
    return vectors


def _row(name: str, row: int, rows: int) -> str:
    return name if rows == 1 else f"row {row} of {name}"


def _as_numbers(name: str, value: Any) -> npt.NDArray[Any]:
    if isinstance(value, (str, bytes, Mapping)):
        raise InvalidVector(f"{name} is of type {type(value).__name__}: give numbers")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # the last from a tensor that wants its gradient
        raise InvalidVector(f"{name} is not an array of numbers ({error})") from None
    if array.size == 0 and isinstance(value, Sequence):
        raise InvalidVector(f"{name} is empty: a vector has 1 to {MAX_DIMENSION} numbers")
    if array.dtype.kind not in "fiu":
        raise InvalidVector(f"{name} holds {array.dtype} values: give real numbers")
    return array
