"""What is remembered: real sentence embeddings and texts, repeated with noise where more are wanted.

The folder of real data is given by `--data` or ASOF_BENCH_DATA and has `locomo-turns.npy`, `locomo-questions.npy`
(float32, unit length, one row each) and `locomo-turns.jsonl` with a `text` a line. Where it is absent, clustered
random vectors take its place, and the results say so.

A repeated vector gets noise in the shape of the data: the difference of two other real vectors, scaled to length 1.
A copy is then about as similar to the original as a real vector is to its nearest neighbour (0.7), and lies where
real ones lie, which round noise would not. Other dimensions come from a fixed orthonormal map: upwards it keeps every
inner product.
"""

from __future__ import annotations

import json
import os
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["DATA_VARIABLE", "Data", "Vectors", "data_folder"]

Vectors = np.ndarray[Any, np.dtype[np.float32]]

DATA_VARIABLE = "ASOF_BENCH_DATA"
_DEFAULT = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
_BLOCK = 4096
_KEPT = 4
_NOISE = 1.0
_TEXTS = "locomo-turns.jsonl"
_ROWS = ("locomo-turns.npy", "til-history.npy")
_QUERIES = "locomo-questions.npy"


def data_folder(given: Path | None = None) -> Path:
    """The folder of real data: as given, as the variable says, or beside the checkout."""
    return given or Path(os.environ.get(DATA_VARIABLE) or _DEFAULT)


class Data:
    """Vectors, texts and metadata by row number, the same for the same seed whatever part of them is asked for.

    Metadata has three keys with random values: `user_id` selects 1 % of the rows, `topic` 10 %, `kind` 50 %.
    """

    def __init__(self, dims: int, *, seed: int = 0, folder: Path | None = None) -> None:
        self.dims = dims
        self._seed = seed
        self._folder = data_folder(folder)
        self._blocks: dict[int, Vectors] = {}

    @cached_property
    def real(self) -> bool:
        """Whether there is real data."""
        return all((self._folder / name).is_file() for name in (*_ROWS, _QUERIES, _TEXTS))

    @property
    def described(self) -> str:
        """In words, what the vectors are."""
        if not self.real:
            return f"synthetic: unit vectors in 500 clusters (no real data: give --data or set {DATA_VARIABLE})"
        text = f"{len(self._base):,} real sentence embeddings, repeated with noise"
        return text if self.dims == self._width else f"{text}, {self._width} dimensions mapped to {self.dims}"

    @cached_property
    def _base(self) -> Vectors:
        if self.real:
            # A note that did not change its text has the same vector again: one of each is enough.
            vectors = np.concatenate([np.load(self._folder / name) for name in _ROWS])
            return vectors[np.sort(np.unique(vectors, axis=0, return_index=True)[1])]
        return _synthetic(7, 5000)

    @cached_property
    def _width(self) -> int:
        return int(self._base.shape[1])

    @cached_property
    def _map(self) -> Vectors | None:
        if self.dims == self._width:
            return None
        wide = max(self.dims, self._width)
        square = np.linalg.qr(np.random.default_rng(11).normal(size=(wide, min(self.dims, self._width))))[0]
        return (square.T if self.dims > self._width else square).astype(np.float32)

    def _mapped(self, vectors: Vectors) -> Vectors:
        return _unit(vectors if self._map is None else vectors @ self._map)

    def vectors(self, start: int, stop: int) -> Vectors:
        """Rows `start` to `stop`, float32, unit length, shape `(stop - start, dims)`."""
        out = np.empty((max(0, stop - start), self.dims), dtype=np.float32)
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            first = block * _BLOCK
            low, high = max(start, first), min(stop, first + _BLOCK)
            out[low - start : high - start] = self._kept(block)[low - first : high - first]
        return out

    def _kept(self, block: int) -> Vectors:
        """A block, made once for those who ask for its rows one by one."""
        if block not in self._blocks:
            if len(self._blocks) >= _KEPT:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[block] = self._block(block)
        return self._blocks[block]

    def _block(self, block: int) -> Vectors:
        base, rng = self._base, np.random.default_rng((self._seed, block))
        rows = block * _BLOCK + np.arange(_BLOCK)
        one, other = base[rng.integers(len(base), size=_BLOCK)], base[rng.integers(len(base), size=_BLOCK)]
        noise = one - other
        length = np.linalg.norm(noise, axis=1, keepdims=True)
        noise *= np.where((rows >= len(base))[:, None], _NOISE, 0) / np.where(length > 0, length, 1)  # real ones first
        return self._mapped(base[rows % len(base)] + noise)

    def queries(self, count: int) -> Vectors:
        """Real questions where there are any, never vectors that are stored; shape `(count, dims)`."""
        if self.real:
            vectors = np.load(self._folder / _QUERIES)
        else:
            vectors = _synthetic(13, 1000)
        order = np.random.default_rng(self._seed).permutation(len(vectors))
        return self._mapped(vectors[order[np.arange(count) % len(order)]])

    @cached_property
    def _sentences(self) -> list[str]:
        if not self.real:
            return [f"this is what somebody said in turn {turn} of a conversation" for turn in range(1000)]
        with open(self._folder / _TEXTS, encoding="utf-8") as lines:
            return [json.loads(line)["text"] for line in lines]

    def texts(self, start: int, stop: int) -> list[str]:
        """The texts of rows `start` to `stop`."""
        sentences = self._sentences
        return [sentences[row % len(sentences)] for row in range(start, stop)]

    def codes(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """A well mixed number below 100 for each row: what its metadata are made of."""
        mixed = np.arange(start, stop, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        return (mixed >> np.uint64(32)) % np.uint64(100)

    def metadata(self, start: int, stop: int) -> list[dict[str, str]]:
        """The metadata of rows `start` to `stop`."""
        return [
            {"user_id": f"user {code}", "topic": f"topic {code % 10}", "kind": "said" if code % 2 else "heard"}
            for code in self.codes(start, stop).tolist()
        ]

    def selected(self, percent: int, rows: int) -> tuple[dict[str, str], np.ndarray[Any, np.dtype[np.bool_]]]:
        """A filter that selects so many percent (1, 10 or 50) of the first rows, and which rows those are."""
        codes = self.codes(0, rows)
        if percent == 1:
            return {"user_id": "user 7"}, codes == 7
        if percent == 10:
            return {"topic": "topic 7"}, codes % np.uint64(10) == 7
        if percent == 50:
            return {"kind": "said"}, codes % np.uint64(2) == 1
        raise ValueError(f"there is no filter for {percent} %: 1, 10 or 50")


@cache
def _synthetic(seed: int, count: int) -> Vectors:
    """Unit vectors in 500 clusters, the same clusters for every seed; read-only."""
    centers, rng = np.random.default_rng(5).normal(size=(500, 384)), np.random.default_rng(seed)
    vectors = _unit(centers[rng.integers(500, size=count)] + rng.normal(scale=0.6, size=(count, 384)))
    vectors.setflags(write=False)
    return vectors


def _unit(vectors: Any) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
