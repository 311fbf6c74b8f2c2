"""Embedders: any callable from a list of texts to an array, and one that needs no model.

The store calls an embedder only through `embed_texts`, which checks what comes back, and records its
`embedder_name`, so that vectors of two embedders do not end up in one history unnoticed.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
import struct
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from eventstore.errors import DimensionMismatch, InvalidOperation, InvalidVector

__all__ = ["Embedder", "HashingEmbedder", "builtin_embedder", "embed_texts", "embedder_name"]


class Embedder(Protocol):
    """What turns texts into vectors: a function, a bound method or an object with `__call__`.

    Given a list of n texts it returns n finite vectors of one length: an array, a list of lists, or anything
    else that numpy makes an array of shape (n, dim) from. A non-empty string attribute `name` names it in the
    histories made with it; give it one that changes when the model does.
    """

    def __call__(self, texts: list[str], /) -> npt.ArrayLike:
        """The vectors of the texts, in their order, shape (len(texts), dim)."""
        ...


def embedder_name(embedder: Embedder) -> str:
    """The name to record for an embedder.

    That is its `name`, if it has a non-empty string there, else the qualified name of the function, method or
    class. A `functools.partial` without a name of its own goes by what it wraps.
    """
    target: Any = embedder
    while True:
        name = getattr(target, "name", None)
        if isinstance(name, str) and name:
            return name
        if not isinstance(target, functools.partial):
            break
        target = target.func
    name = getattr(target, "__qualname__", None)
    return name if isinstance(name, str) and name else type(target).__qualname__


def embed_texts(embedder: Embedder, texts: Sequence[str], dimension: int | None = None) -> npt.NDArray[np.float32]:
    """The embedder's vectors for the texts, checked: a new C-contiguous float32 array of shape (n, dim).

    `dimension` is the length the vectors must have, None for any. The embedder is not called for no texts;
    the result then has shape (0, dimension or 0).

    Raises InvalidVector, naming the embedder, if it does not return one row of real numbers for each text or
    if a number is not finite as float32; DimensionMismatch if the rows are not `dimension` long. What the
    embedder itself raises passes through.
    """
    if not texts:
        return np.empty((0, dimension or 0), np.float32)
    result: Any = embedder(list(texts))
    who = f"embedder {embedder_name(embedder)!r}"
    vectors = _as_float32(result, who)
    if vectors.ndim != 2:
        raise InvalidVector(
            f"{who} returned {type(result).__name__} of shape {vectors.shape}; "
            f"it must return one vector for each text, here of shape ({len(texts)}, dim)"
        )
    if len(vectors) != len(texts):
        raise InvalidVector(f"{who} returned {len(vectors)} vectors for {len(texts)} texts; it must return one each")
    length = vectors.shape[1]
    if length == 0:
        raise InvalidVector(f"{who} returned empty vectors")
    if dimension is not None and length != dimension:
        raise DimensionMismatch(
            f"{who} returned vectors of length {length} where length {dimension} is needed; "
            "use the embedder that the other vectors were made with"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        number = int(np.argmin(finite))
        raise InvalidVector(
            f"{who} returned a number that is not finite as float32, for the text at index {number} of {len(texts)}"
        )
    return vectors


def _as_float32(result: Any, who: str) -> npt.NDArray[np.float32]:
    if inspect.iscoroutine(result):
        result.close()
        raise InvalidVector(f"{who} is asynchronous; wrap it in a function that waits for its result")
    try:
        array = np.asarray(result)
        if array.dtype.kind not in "fiuO":
            raise TypeError(f"{array.dtype} is not a type of real numbers")
        # A copy, always: the embedder may use its buffer again. Overflow becomes infinity and is found later.
        with np.errstate(all="ignore"):
            return np.array(array, dtype=np.float32, order="C", copy=True)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InvalidVector(
            f"{who} returned {type(result).__name__} that is no array of real numbers: {error}"
        ) from error


_MIN_DIM: Final = 8
_MAX_DIM: Final = 65536
_BUILTIN_NAME: Final = re.compile(r"hashing-([1-9][0-9]{0,4})-v1")


def builtin_embedder(name: str) -> Embedder | None:
    """The built-in embedder that a history records under this name, None if the name is of no such one."""
    found = _BUILTIN_NAME.fullmatch(name)
    if found is None or not _MIN_DIM <= int(found[1]) <= _MAX_DIM:
        return None
    return HashingEmbedder(int(found[1]))


class HashingEmbedder:
    """Words, pairs of words and pieces of words, hashed into a unit vector: for demos and tests.

    It finds texts that share words, parts of words or spelling. It knows no meaning: "car" and "automobile"
    are strangers to it, and for real use a trained model takes its place. What it has instead: no download,
    no dependency, and the same bits for the same text on every machine, alone or in a batch, in every version
    of Python and numpy. Its name (`hashing-256-v1`) stands for exactly these bits; a better function will
    have another name.

    `dim` (8 to 65536) is the length of the vectors. Longer ones confuse fewer words with each other.
    Every text has a vector, the empty text too. Safe to share between threads.

    Raises InvalidOperation if `dim` is not an integer in that range.
    """

    def __init__(self, dim: int = 256) -> None:
        if not isinstance(dim, int) or isinstance(dim, bool) or not _MIN_DIM <= dim <= _MAX_DIM:
            raise InvalidOperation(f"HashingEmbedder: dim is an integer from {_MIN_DIM} to {_MAX_DIM}, not {dim!r}")
        self.dim: Final = dim
        self.name: Final = f"hashing-{dim}-v1"

    def __repr__(self) -> str:
        return f"HashingEmbedder(dim={self.dim})"

    def __call__(self, texts: Sequence[str], /) -> npt.NDArray[np.float32]:
        """The unit vectors of the texts: float32 of shape (len(texts), dim)."""
        if isinstance(texts, str):
            raise InvalidOperation("HashingEmbedder takes a list of texts, not one text: write [text]")
        vectors = np.empty((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = _unit(_sums(text, self.dim))
        return vectors


# How a text becomes a vector. Any change here changes what `hashing-N-v1` has meant so far: don't; make v2.
#
# Features: each word, its character 3-, 4- and 5-grams with the word between < and >, each two neighbours. A
# feature adds its weight to the component that its hash chooses, or takes it away, as its hash says. Longer
# words weigh more (a stand-in for rarity, in any language), repetition counts by its order of magnitude. All
# weights are integers and all sums are exact, so that no order of summation can change a bit.

_LONGEST_WORD: Final = 64
_LARGEST_WEIGHT: Final = 8
_WORD_SEED, _PIECE_SEED, _PAIR_SEED, _TEXT_SEED = 1, 2, 3, 4

# The character data of Unicode 3.2, which every Python has: later versions differ between Pythons.
_ucd: Final = unicodedata.ucd_3_2_0
_ASCII_WORD: Final = re.compile(rf"[a-z0-9_]{{1,{_LONGEST_WORD}}}")
_WORD_BY_KINDS: Final = re.compile(rf"w[wm]{{0,{_LONGEST_WORD - 1}}}|s")


def _sums(text: str, dim: int) -> npt.NDArray[np.float64]:
    """The sum of the features' signed weights, component by component: integers, not all of them 0."""
    words = _words(text)
    counts = Counter(words)
    pairs = Counter(itertools.pairwise(words))
    hashes = [_word_hashes(word) for word in counts]
    weights = [_weight(word) * times.bit_length() for word, times in counts.items()]
    sizes = [len(each) // 4 for each in hashes]
    for (first, second), times in pairs.items():
        hashes.append(_packed([_hash(f"{first} {second}", _PAIR_SEED)]))
        weights.append(min(_weight(first), _weight(second)) * times.bit_length())
        sizes.append(1)
    sums = _scatter(b"".join(hashes), np.repeat(np.array(weights, np.float64), sizes), dim)
    if not sums.any():  # no word in it, or all cancelled out
        sums = _scatter(_packed([_hash(text, _TEXT_SEED)]), np.ones(1), dim)
    return sums


def _scatter(hashes: bytes, weights: npt.NDArray[np.float64], dim: int) -> npt.NDArray[np.float64]:
    # CRC-32 is linear in its input; the finaliser of MurmurHash3 breaks that up.
    mixed = np.frombuffer(hashes, "<u4").astype(np.uint32)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    components = (mixed >> np.uint32(1)) % np.uint32(dim)
    signed = np.where(mixed & np.uint32(1), weights, -weights)
    return np.bincount(components.astype(np.intp), weights=signed, minlength=dim).astype(np.float64, copy=False)


def _unit(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Integers scaled to length 1, by correctly rounded steps only: the same bits everywhere."""
    if np.abs(sums).sum() < 2.0**26:
        squares = int(np.square(sums).sum())  # below 2**52: exact in whatever order
    else:
        squares = sum(int(component) ** 2 for component in sums.tolist())
    return (sums / math.sqrt(squares)).astype(np.float32)


def _weight(word: str) -> int:
    return min(len(word), _LARGEST_WEIGHT)


@functools.lru_cache(maxsize=2**14)
def _word_hashes(word: str) -> bytes:
    marked = f"<{word}>"
    hashes = [_hash(word, _WORD_SEED)]
    for length in (3, 4, 5):
        for start in range(len(marked) - length + 1):
            hashes.append(_hash(marked[start : start + length], _PIECE_SEED))
    return _packed(hashes)


def _hash(text: str, seed: int) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"), seed)


def _packed(hashes: list[int]) -> bytes:
    return struct.pack(f"<{len(hashes)}I", *hashes)


def _words(text: str) -> list[str]:
    """The words of a text in order, case-folded, those too long cut; a symbol or ideograph is a word."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    folded = "".join(
        # Only what Unicode 3.2 knows may be touched: what it does not know, Pythons disagree about.
        _ucd.normalize("NFKC", "".join(run)).casefold() if known else "".join(run)
        for known, run in itertools.groupby(text, _is_known)
    )
    kinds = "".join(map(_kind, folded))
    return [folded[match.start() : match.end()] for match in _WORD_BY_KINDS.finditer(kinds)]


@functools.lru_cache(maxsize=2**12)
def _is_known(character: str) -> bool:
    return _ucd.category(character) != "Cn"


@functools.lru_cache(maxsize=2**12)
def _kind(character: str) -> str:
    """w: belongs to a word; m: continues one; s: a word by itself; space: what stands between words."""
    category = _ucd.category(character)
    code = ord(character)
    if category == "So" or 0x1F000 <= code <= 0x1FBFF:  # pictographs, which Unicode 3.2 has not heard of
        return "s"
    if category == "Lo" and (0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or code >= 0x20000):
        return "s"  # kana and ideographs, written without spaces
    if category[0] == "M":
        return "m"
    if category[0] in "LN" or category in ("Cn", "Co", "Cs") or character == "_":
        return "w"
    return " "
