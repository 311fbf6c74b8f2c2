"""Embedders: what is checked of any of them, and what the built-in one promises."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstore.embedders import (
    HashingEmbedder,
    _unit,  # the one step that a text of reasonable size does not reach all of
    builtin_embedder,
    embed_texts,
    embedder_name,
)
from eventstore.errors import DimensionMismatch, InvalidOperation, InvalidVector


def constant(texts: list[str]) -> list[list[float]]:
    return [[1.0, 2.0, 3.0] for _ in texts]


class Model:
    def __call__(self, texts: list[str]) -> list[list[float]]:
        return constant(texts)

    def encode(self, texts: list[str], scale: float = 1) -> list[list[float]]:
        return constant(texts)


class Named(Model):
    def __init__(self, name: Any) -> None:
        self.name = name


# -- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("embedder", "name"),
    [
        (Named("minilm-v2"), "minilm-v2"),
        (Named(""), "Named"),
        (Named(7), "Named"),
        (constant, "constant"),
        (Model(), "Model"),
        (Model().encode, "Model.encode"),
        (functools.partial(constant), "constant"),
        (functools.partial(functools.partial(Model().encode, scale=2), scale=3), "Model.encode"),
        (functools.partial(Named("minilm-v2")), "minilm-v2"),
        (HashingEmbedder(64), "hashing-64-v1"),
    ],
)
def test_an_embedder_goes_by_its_name_or_what_its_code_is_called(embedder: Any, name: str) -> None:
    assert name == embedder_name(embedder)


def test_a_partial_with_a_name_of_its_own_goes_by_it() -> None:
    embedder: Any = functools.partial(constant)
    embedder.name = "constant-3"
    assert embedder_name(embedder) == "constant-3"


# -- what embed_texts gives and refuses ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        [[1, 2, 3], [4, 5, 6]],
        ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
        [np.array([1, 2, 3]), np.array([4, 5, 6])],
        [[Decimal(1), Fraction(2), 3], [4, 5, 6]],
        np.array([[1, 2, 3], [4, 5, 6]], np.float16),
        np.array([[1, 2, 3], [4, 5, 6]], ">f8"),
        np.array([[1, 4], [2, 5], [3, 6]], np.float64).T,
        np.array([[1, 0, 2, 0, 3, 0], [4, 0, 5, 0, 6, 0]], np.float32)[:, ::2],
    ],
)
def test_whatever_numpy_reads_as_rows_becomes_contiguous_float32(result: Any) -> None:
    vectors = embed_texts(lambda texts: result, ["a", "b"], 3)
    assert np.dtype(np.float32) == vectors.dtype
    assert vectors.flags.c_contiguous
    assert vectors.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_the_embedders_buffer_and_the_callers_list_stay_their_own() -> None:
    buffer = np.ones((2, 3), np.float32)
    texts = ["a", "b"]

    def embed(given: list[str]) -> Any:
        given.clear()
        return buffer

    vectors = embed_texts(embed, texts)
    buffer[:] = 7
    assert texts == ["a", "b"]
    assert vectors.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_any_sequence_of_texts_reaches_the_embedder_as_a_list_in_order() -> None:
    seen: list[Any] = []

    def embed(given: Any) -> Any:
        seen.append(given)
        return constant(given)

    embed_texts(embed, ("b", "a", "b"))
    assert seen == [["b", "a", "b"]]


@pytest.mark.parametrize(("dimension", "shape"), [(None, (0, 0)), (3, (0, 3))])
def test_no_texts_need_no_embedder(dimension: int | None, shape: tuple[int, int]) -> None:
    def never(texts: list[str]) -> Any:
        raise AssertionError("called")

    vectors = embed_texts(never, [], dimension)
    assert shape == vectors.shape
    assert np.dtype(np.float32) == vectors.dtype


def generated() -> Iterator[list[float]]:
    yield [1.0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([[1.0, 2.0]], "returned 1 vectors for 2 texts"),
        ([[1.0]] * 3, "returned 3 vectors for 2 texts"),
        ([], "returned list of shape (0,); it must return one vector for each text, here of shape (2, dim)"),
        ([1.0, 2.0], "returned list of shape (2,)"),
        (np.zeros((2, 3, 4)), "returned ndarray of shape (2, 3, 4)"),
        (np.zeros((2, 0)), "returned empty vectors"),
        (None, "returned NoneType of shape ()"),
        ([[1.0, 2.0], [3.0]], "returned list that is no array of real numbers"),
        ([["1", "2"], ["3", "4"]], "returned list that is no array of real numbers: <U1"),
        ([[1j], [2j]], "complex128 is not a type of real numbers"),
        ([[True], [False]], "bool is not a type of real numbers"),
        (generated(), "returned generator that is no array of real numbers"),
        ([{"a": 1}, {"a": 2}], "returned list that is no array of real numbers"),
        ([[10**400], [1]], "returned list that is no array of real numbers"),
        ([[1.0], [math.nan]], "not finite as float32, for the text at index 1 of 2"),
        ([[1.0], [None]], "not finite as float32, for the text at index 1 of 2"),
        ([[-math.inf], [1.0]], "not finite as float32, for the text at index 0 of 2"),
        ([[1e39], [1.0]], "not finite as float32, for the text at index 0 of 2"),
    ],
)
def test_what_is_not_one_finite_row_per_text_is_refused_by_the_embedders_name(result: Any, message: str) -> None:
    def odd_model(texts: list[str]) -> Any:
        return result

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidVector) as caught:
            embed_texts(odd_model, ["a", "b"])
    assert "odd_model" in str(caught.value)
    assert message in str(caught.value)
    assert not isinstance(caught.value, DimensionMismatch)


def test_the_largest_float32_and_what_rounds_to_zero_are_fine() -> None:
    largest = float(np.finfo(np.float32).max)
    assert [[largest, 0.0]] == embed_texts(lambda texts: [[largest, 1e-300]], ["a"]).tolist()


def test_vectors_of_another_length_are_a_dimension_mismatch() -> None:
    with pytest.raises(DimensionMismatch, match="'constant' returned vectors of length 3 where length 4 is needed"):
        embed_texts(constant, ["a"], 4)


def test_an_asynchronous_embedder_is_named_as_that() -> None:
    async def embed(texts: list[str]) -> Any:
        return constant(texts)

    with pytest.raises(InvalidVector, match="is asynchronous"):
        embed_texts(embed, ["a"])  # type: ignore[arg-type]


def test_what_the_embedder_raises_passes_through() -> None:
    failure = TypeError("model not loaded")

    def embed(texts: list[str]) -> Any:
        raise failure

    with pytest.raises(TypeError) as caught:
        embed_texts(embed, ["a"])
    assert failure is caught.value


# -- HashingEmbedder ----------------------------------------------------------------------------------------

SAMPLES = [
    "Alice prefers tea",
    "",
    "?!",
    "Straße — naïve café ﬁn",
    "🍕❤️👍🏽",
    "東京で寿司を食べた",
    "नमस्ते दुनिया",
    "\ud800 x",
    "a a a a b" * 50,
]
texts = st.text(max_size=40) | st.text(st.characters(codec=None, exclude_categories=[]), max_size=10)


@pytest.mark.parametrize(
    ("dim", "digest"),
    [
        (256, "993fdc5c8599314160023f85975391e93fd6e6df101a7b9e59971b39eb6d0a99"),
        (8, "40417cbe6b3d53b97d51c0749a239e39c3dc69d8d8be4cd49cf60eadad455017"),
    ],
)
def test_the_bits_that_the_name_stands_for(dim: int, digest: str) -> None:
    """Histories hold these vectors under this name: if this fails, the new function needs a new name."""
    vectors = HashingEmbedder(dim)(SAMPLES)
    assert digest == hashlib.sha256(vectors.astype("<f4").tobytes()).hexdigest()


def test_every_character_there_is_has_the_bits_it_always_had() -> None:
    """Taken with Python 3.10 to 3.13, whose own Unicode tables differ."""
    characters = "".join(map(chr, range(0x110000)))
    pieces = [characters[start : start + 37] for start in range(0, len(characters), 37)]
    vectors = HashingEmbedder(64)(pieces)
    digest = "71ad985090072fd7fc8a6bd0b7c338e96bc2f6a02163d521d22d8f26014c4ca2"
    assert digest == hashlib.sha256(vectors.astype("<f4").tobytes()).hexdigest()


def test_a_vector_written_out() -> None:
    unit = float(np.float32(1 / math.sqrt(3)))
    assert [0, 0, 0, 0, unit, 0, -unit, unit] == HashingEmbedder(8)(["tea"])[0].tolist()


@given(st.lists(texts, max_size=6), st.sampled_from([8, 9, 256]))
def test_a_text_alone_has_the_bits_that_it_has_among_others(batch: list[str], dim: int) -> None:
    embed = HashingEmbedder(dim)
    together = embed(batch)
    assert (len(batch), dim) == together.shape
    for text, vector in zip(batch, together):
        assert vector.tobytes() == HashingEmbedder(dim)([text])[0].tobytes()


@given(texts, st.sampled_from([8, 17, 256, 1024]))
@example("", 8)
@example(" \n\t", 8)
@example("...", 8)
@example("\u200d\ufe0f", 8)
@example("\ud800", 8)
def test_every_text_has_a_unit_vector(text: str, dim: int) -> None:
    vectors = embed_texts(HashingEmbedder(dim), [text], dim)
    assert pytest.approx(math.fsum(float(x) ** 2 for x in vectors[0]), abs=1e-6) == 1.0


def test_texts_without_words_are_told_apart() -> None:
    vectors = HashingEmbedder(256)(["", "?", "!!!", " ", "\n"])
    assert len({vector.tobytes() for vector in vectors}) == 5


@given(st.text(st.characters(max_codepoint=127), max_size=60).filter(lambda text: any(map(str.isalnum, text))))
def test_ascii_text_is_read_by_the_same_rules_as_all_other_text(text: str) -> None:
    plain, beside_a_dash = HashingEmbedder(64)([text, text + " \u2014"])
    assert plain.tobytes() == beside_a_dash.tobytes()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Alice Prefers TEA", "alice, prefers: tea!"),
        ("ＡＬＩＣＥ", "alice"),
        ("Stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "CAFE\u0301"),
        ("\ufb01n", "fin"),
        ("ΣΊΣΥΦΟΣ", "Σίσυφος"),
        ("❤", "❤\ufe0f"),
        ("寿司", "寿 司"),
    ],
)
def test_case_punctuation_and_compatibility_forms_do_not_count(text: str, same: str) -> None:
    one, other = HashingEmbedder()([text, same])
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("what does Alice drink?", "Alice drinks tea in the morning", "Bob went to the office by train"),
        ("prefers tea", "Alice prefers tea", "Alice prefers coffee"),
        ("database migration", "we migrated the databases", "the weather was fine"),
        ("speling mistake", "a spelling mistake", "a smelling salt"),
        ("🍕", "dinner was 🍕 again", "dinner was 🍣 again"),
        ("寿司", "東京で寿司を食べた", "大阪で仕事をした"),
        ("नमस्ते", "नमस्ते दुनिया", "अलविदा दुनिया"),
        ("tea for the dog", "dog for the tea", "the cat and the car"),
        ("man bites dog", "a man bites dog story", "a dog bites man story"),
    ],
)
def test_texts_that_share_words_or_parts_of_words_are_nearer(query: str, near: str, far: str) -> None:
    vectors = HashingEmbedder()([query, near, far])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_a_long_text_and_a_long_word_have_vectors_too() -> None:
    embed = HashingEmbedder()
    long_text, long_word, other_word = embed(["tea and biscuits " * 50_000, "x" * 200_000, "xy" * 100_000])
    assert long_text @ embed(["biscuits and tea"])[0] > 0.9
    assert long_word.tobytes() != other_word.tobytes()


@given(st.lists(st.integers(-(2**40), 2**40), min_size=8, max_size=8).filter(any))
@example([2**26 - 1, 0, 0, 0, 0, 0, 0, 0])
@example([2**26, 1, 0, 0, 0, 0, 0, 0])
def test_scaling_to_length_one_is_exact_up_to_the_last_roundings(sums: list[int]) -> None:
    length = math.sqrt(sum(component**2 for component in sums))
    expected = [float(np.float32(component / length)) for component in sums]
    assert expected == _unit(np.array(sums, np.float64)).tolist()


def test_one_text_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(InvalidOperation, match=r"write \[text\]"):
        HashingEmbedder()("tea")


@pytest.mark.parametrize("dim", [7, 0, -1, 65537, True, 8.0, "256", None])
def test_a_dimension_out_of_range_is_refused(dim: Any) -> None:
    with pytest.raises(InvalidOperation, match="dim is an integer from 8 to 65536, not "):
        HashingEmbedder(dim)


@pytest.mark.parametrize("dim", [8, 256, 65536])
def test_the_recorded_name_brings_the_embedder_back(dim: int) -> None:
    recreated = builtin_embedder(HashingEmbedder(dim).name)
    assert isinstance(recreated, HashingEmbedder)
    assert dim == recreated.dim
    assert f"HashingEmbedder(dim={dim})" == repr(recreated)


@pytest.mark.parametrize(
    "name",
    ["", "minilm", "hashing-7-v1", "hashing-65537-v1", "hashing-0256-v1", "hashing-256-v2", "hashing-256-v1\n"],
)
def test_any_other_name_is_of_no_built_in_embedder(name: str) -> None:
    assert builtin_embedder(name) is None


# -- real text ----------------------------------------------------------------------------------------------

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.skipif(not (DATA / "locomo-turns.jsonl").exists(), reason="needs ../shared/data")
def test_evidence_is_among_the_first_ten_for_four_in_ten_questions() -> None:
    """Chance finds it for some 20 of the 997. Questions share words with their evidence: that is measured."""
    turns = read_lines(DATA / "locomo-turns.jsonl")
    questions = read_lines(DATA / "locomo-questions.jsonl")
    questions = [question for question in questions if question["evidence"]]
    embed = HashingEmbedder()
    turn_vectors = embed([turn["text"] for turn in turns])
    found = 0
    for question, vector in zip(questions, embed([question["question"] for question in questions])):
        rows = [n for n, turn in enumerate(turns) if turn["conversation"] == question["conversation"]]
        scores = (turn_vectors[rows].astype(np.float64) * vector).sum(axis=1)
        first = [turns[rows[n]]["turn"] for n in np.argsort(-scores, kind="stable")[:10]]
        found += not set(first).isdisjoint(question["evidence"])
    assert len(questions) == 997
    assert found == 406
