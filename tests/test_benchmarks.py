"""The benchmarks run, check their answers, and write tables. Nothing here looks at a time."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import history, ingest, measure, sizes
from benchmarks.approximate import cheapest, enough
from benchmarks.check import WrongAnswer, truth
from benchmarks.cli import COMMANDS, main
from benchmarks.data import DATA_VARIABLE, Data
from benchmarks.floor import RawHistory, Recording, flat_of, hashed_rows, open_raw, read_hashed, read_vectors
from benchmarks.measure import Contender, race
from benchmarks.options import Options
from benchmarks.peers import NAMES, Missing, available, make
from benchmarks.peers.asof import Asof, kinds, open_index
from benchmarks.report import write
from benchmarks.results import Goal, load
from benchmarks.stores import fill, new_store
from benchmarks.threads import limit_threads
from eventstore import EventStore
from projections import Hits, VectorIndex
from tests.pages import ROOT

PAGE = ROOT / "docs" / "performance.md"
ROWS = {"one-add": 4, "threads": 32, "instant": 30}


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """Whatever ends a benchmark: what it leaves to the garbage collector is found here, not in another test."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _small_and_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same vectors on every machine; and no time for garbage, of which a test run has a lot."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "no data"))
    monkeypatch.setattr(measure, "gc", SimpleNamespace(collect=lambda: None))


def run(command: str, out: Path, *more: str) -> int:
    """A command at a tiny size, with plain FAISS as the only peer unless more says otherwise."""
    sizes = ["--rows", str(ROWS.get(command, 300)), "--max", "300", "--dims", "16"]
    return main([command, *sizes, "--rounds", "1", "--queries", "5", "--peers", "faiss", "--out", str(out), *more])


# The commands


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("ignore")  # a peer's own, where one is installed
def test_a_command_measures_and_says_where(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a table and writes JSON: rows with figures, and all that is needed to judge them."""
    assert run(command, tmp_path) == 0
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text("utf-8"))
    assert found["command"] == command
    if "lancedb: not installed" not in "".join(found["notes"]):
        assert found["rows"]
        assert found["checked"]
        assert found["settings"]["asof"]
    for row in found["rows"]:
        assert all(math.isfinite(row[key]) for key in ("ours", "ratio", "low", "high")), row
        assert row["low"] <= row["ratio"] <= row["high"]
    assert {"date", "commit", "machine", "versions", "threads"} <= set(found["conditions"])
    assert found["data"].startswith("synthetic")
    assert load([path])[0].title in capsys.readouterr().out


def test_an_index_that_is_exact_says_so_and_not_with_what_effort(tmp_path: Path) -> None:
    """At so few rows every kind is."""
    assert run("approximate", tmp_path) == 0
    (path,) = tmp_path.glob("*.json")
    contenders = {row["what"].split(" rows")[0] for row in json.loads(path.read_text("utf-8"))["rows"]}
    assert {name.rsplit(", ", 1)[0] for name in contenders} == {
        f"asof, {kind}, exact" for kind in ("auto", "ivf", "hnsw")
    }


SEARCHING = [
    *("bulk", "bulk-peers", "one-add", "rebuild", "search", "as-of", "filtered", "approximate", "approximate-small"),
    *("open", "read-your-writes", "growth"),
]


@pytest.mark.parametrize("command", SEARCHING)
def test_a_wrong_index_has_no_time(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index that leaves out the best hit ends the benchmark, and nothing is written."""
    right = VectorIndex.search

    def wrong(self: VectorIndex, *arguments: Any, **keywords: Any) -> Hits:
        hits = right(self, *arguments, **keywords)
        return Hits(list(hits)[1:], hits.position)

    monkeypatch.setattr(VectorIndex, "search", wrong)
    assert run(command, tmp_path) == 1
    assert "No time is reported" in capsys.readouterr().err
    assert list(tmp_path.glob("*.json")) == []


def options(**given: Any) -> Options:
    return replace(Options(rows=40, dims=16, rounds=1, queries=5, peers=()), **given)


def test_a_lost_add_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`threads` counts what was added."""
    right, calls = EventStore.add, [0]

    def lossy(self: EventStore, *arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        return None if calls[0] == 7 else right(self, *arguments, **keywords)

    monkeypatch.setattr(EventStore, "add", lossy)
    with pytest.raises(WrongAnswer, match="memories, not"):
        ingest.threads(options())


def test_a_blind_verify_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` is shown a changed byte, and has to see it."""
    monkeypatch.setattr(history, "verify_history", lambda path: SimpleNamespace(ok=True, events=40, faults=[]))
    with pytest.raises(WrongAnswer, match="does not see"):
        history.verify(options())


@pytest.mark.parametrize("offset", [-1, 1])
def test_the_state_of_another_instant_has_no_time(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`instant` compares every text, version and vector."""
    right = history.state
    monkeypatch.setattr(history, "state", lambda store, position: right(store, position + offset))
    with pytest.raises(WrongAnswer, match="another version"):
        history.instant(options(rows=10))


def test_a_process_that_answers_otherwise_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """`memory` checks what its processes found."""
    monkeypatch.setattr(sizes, "_ask", lambda *_: {"found": list(range(10))})
    with pytest.raises(WrongAnswer, match="finds"):
        sizes.memory(options())


def test_a_checkpoint_of_fewer_rows_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """`disk` looks whether all is in what it weighs."""
    monkeypatch.setattr(VectorIndex, "contents", lambda self: ([1], None))
    with pytest.raises(WrongAnswer, match="all rows"):
        sizes.disk(options())


# The peers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("approximate", [False, True], ids=["exact", "approximate"])
@pytest.mark.filterwarnings("ignore")
def test_a_peer_finds_what_it_was_given(name: str, approximate: bool, tmp_path: Path) -> None:
    """Every adapter adds in batches and one by one, finds the nearest, and filters where it says so."""
    data = Data(16)
    try:
        peer = make(name, tmp_path, 16, approximate=approximate)
    except Missing as missing:
        pytest.skip(str(missing))
    with closing(peer):
        fill(peer, data, 300, step=100)
        peer.finish()
        fill(peer, data, 303, step=1, start=300)
        flat, queries = flat_of(data.vectors(0, 303), 16), data.queries(20)
        right = truth(flat, queries, 10)
        if approximate or name == "chroma":
            effort = peer.efforts[-1] if peer.efforts else None
            assert right.recall(lambda query: peer.search(query, 10, effort=effort)) > 0.9
        else:
            right.require_exact(name, lambda query: peer.search(query, 10))
        assert peer.search(data.vectors(302, 303)[0], 1) == [302]
        if peer.filters:
            condition, allowed = data.selected(10, 303)
            found = truth(flat, queries, 5, allowed).recall(lambda query: peer.search(query, 5, condition))
            assert found > (0.9 if approximate or name == "chroma" else 0.999)


def test_a_missing_peer_is_left_out_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the peer and says how to get it."""

    monkeypatch.setitem(sys.modules, "lancedb", None)  # what import takes for "not there"
    found, notes = available(None, ("lancedb", "faiss"), tmp_path, 16)
    assert list(found) == ["faiss"]
    assert len(notes) == 1
    assert re.fullmatch(r"lancedb: not installed \(.*lancedb.*\): pip install 'asof\[bench\]'", notes[0])


def test_an_unknown_peer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the pen does not become a run without that peer."""
    assert run("disk", tmp_path, "--peers", "chrome") == 2
    assert "no peer is called chrome" in capsys.readouterr().err


def test_a_kind_that_is_not_there_yet_is_refused(tmp_path: Path) -> None:
    """What would be measured as approximate must not be exact unnoticed."""
    if kinds():
        pytest.skip("VectorIndex takes a kind")
    with new_store(tmp_path / "memories.db") as store, pytest.raises(ValueError, match="not there yet"):
        open_index(store, tmp_path / "index", "hnsw")


# Checking


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Of all of them, and of each."""
    for asked in ([], ["filtered"]):
        with pytest.raises(SystemExit) as ended:
            main([*asked, "--help"])
        assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^ +{name}\b", printed, re.MULTILINE) for name in COMMANDS)
    assert " ".join(printed.split()).count("search among 1, 10, 50 %, against raw FAISS") == 2


def test_an_index_makes_as_much_effort_as_is_asked_of_its_peers() -> None:
    """The least that gives the recall; the most there is where none does. Only another than the usual is named."""
    index = SimpleNamespace(effort=1.0)
    right = SimpleNamespace(recall=lambda search: min(1.0, 0.5 + index.effort / 8))
    for wanted, label, effort in ((0.6, "asof", 1.0), (0.8, "asof at effort 3", 3.0), (2.0, "asof at effort 12", 12.0)):
        assert enough("asof", index, right, options(recall=wanted)) == label  # type: ignore[arg-type]
        assert index.effort == effort


def test_an_exact_answer_may_differ_among_equals_only() -> None:
    """Rows with the same score may change places; any other row, too few or one twice are wrong."""
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 1, 2]]
    query = np.array([[0.1, 0.9, 0.2, 0.0]], dtype=np.float32)
    right = truth(flat_of(vectors, 4), query, 3)
    right.require_exact("it", lambda _: [1, 2, 3])
    right.require_exact("it", lambda _: [2, 1, 3])
    for wrong in ([1, 2, 0], [1, 3, 2], [1, 2], [1, 1, 3], []):
        with pytest.raises(WrongAnswer):
            right.require_exact("it", lambda _, wrong=wrong: wrong)
    assert right.recall(lambda _: [3, 2, 1]) == 1
    assert right.recall(lambda _: [0, 1, 2]) == pytest.approx(2 / 3)
    assert right.recall(lambda _: []) == 0


def test_truth_keeps_to_the_rows_that_are_allowed() -> None:
    """A filter's exact answers are among what it lets pass, and may be fewer than k."""
    allowed = np.array([True, False, False, True])
    right = truth(flat_of(np.eye(4, dtype=np.float32), 4), np.eye(4, dtype=np.float32)[:1], 3, allowed)
    assert right.rows.tolist() == [[0, 3, -1]]
    right.require_exact("it", lambda _: [0, 3])


def test_a_cheaper_effort_is_not_taken_for_one_that_finds_enough() -> None:
    """Peers are compared at the least effort that has the recall; at their best where none has."""
    ladder = [(10, 0.8), (20, 0.96), (40, 0.95), (80, 0.99)]
    assert cheapest(ladder, 0.95) == (20, 0.96)
    assert cheapest(ladder, 0.97) == (80, 0.99)
    assert cheapest(ladder, 1.0) == (80, 0.99)


# Measuring


def test_rounds_are_run_in_turn_and_the_first_does_not_count() -> None:
    """Each contender runs once a round, each round begins with another, and one round more is run than counted."""
    order: list[str] = []
    contenders = [Contender(name, lambda name=name: order.append(name)) for name in "ab"]
    times = race(contenders, 3)
    assert order == list("abbaabba")
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 3, "b": 3}


def test_who_is_too_slow_is_asked_once() -> None:
    """Its first round is its result, and the row says so."""
    asked: list[str] = []
    contenders = [Contender(name, lambda name=name: asked.append(name)) for name in "ab"]
    times = race(contenders, 3, patience=-1)
    assert sorted(asked) == ["a", "b"]
    assert times.once == {"a", "b"}
    assert len(times.ratios("a", "b")) == 1


@pytest.mark.parametrize(
    ("kind", "ratio", "verdict"),
    [
        ("rate", 0.5, "missed"),
        ("rate", 0.6, "reached"),
        ("rate", 0.9, "aim"),
        ("time", 0.5, "aim"),
        ("time", 0.7, "reached"),
        ("time", 0.9, "missed"),
    ],
)
def test_a_goal_knows_which_way_is_better(kind: Any, ratio: float, verdict: str) -> None:
    """More of a rate is better, less of a time."""
    limits = (0.6, 0.8) if kind == "rate" else (0.8, 0.6)
    assert Goal(kind, *limits).verdict(ratio) == verdict
    assert Goal(kind).verdict(ratio) == ""


def test_threads_cannot_be_limited_too_late() -> None:
    """A limit that libraries no longer read would be stated and not hold."""
    with pytest.raises(RuntimeError, match="loaded"):
        limit_threads(1)


def test_the_floor_writes_the_bytes_that_the_store_wrote(tmp_path: Path) -> None:
    """Same schema, triggers and indexes included, same rows."""
    data = Data(16)
    with new_store(tmp_path / "store.db") as store:
        recording = Recording(tmp_path / "store.db")
        recording.mark()
        for start in (0, 10, 20):
            store.add_many(data.texts(start, start + 10), vectors=data.vectors(start, start + 10))
            recording.mark()
    assert recording.appends == 3
    with closing(RawHistory(tmp_path / "raw.db", recording)) as raw:
        for append in range(3):
            raw.add(recording.rows(append))
        with pytest.raises(sqlite3.IntegrityError):
            raw.add(recording.rows(1))
    found = []
    for name in ("store.db", "raw.db"):
        with closing(open_raw(tmp_path / name)) as connection:
            sql = "SELECT name, sql FROM sqlite_master WHERE sql NOTNULL AND name NOT LIKE 'sqlite_%' ORDER BY name"
            tables = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("events", "payloads")]
            found.append(
                (connection.execute(sql).fetchall(), tables, connection.execute("PRAGMA page_size").fetchone())
            )
    assert found[0] == found[1]
    assert np.array_equal(read_vectors(tmp_path / "raw.db", 16, 30), data.vectors(0, 30))


def test_the_floor_of_what_is_checked_hashes_every_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header and a payload of each, every column, and the vectors come out as they went in."""
    data, hashed = Data(16, folder=None), []
    with EventStore(tmp_path / "store.db") as store:
        store.add_many(data.texts(0, 500), vectors=data.vectors(0, 500), metadatas=[{"n": n} for n in range(500)])
        store.delete_where({"n": 7})
    sha256 = hashlib.sha256
    monkeypatch.setattr("benchmarks.floor.hashlib.sha256", lambda some: (hashed.append(some), sha256(some))[1])
    counts: dict[str, int] = {}
    for table, rows in hashed_rows(tmp_path / "store.db"):
        counts[table] = counts.get(table, 0) + len(rows)
    assert counts == {"events": 501, "payloads": 501}
    assert len(hashed) == 1002
    for number, text in enumerate(data.texts(0, 500)):
        assert text.encode() in hashed[501 + number]
        assert data.vectors(number, number + 1).tobytes() in hashed[501 + number]
    assert np.array_equal(read_hashed(tmp_path / "store.db", 16, 500), data.vectors(0, 500))
    assert len(hashed) == 2004


# The data


@pytest.mark.parametrize("dims", [16, 384, 400])
def test_vectors_are_the_same_whatever_part_is_asked_for(dims: int) -> None:
    """A row is known by its number; all have unit length."""
    data = Data(dims)
    whole = data.vectors(4000, 5200)
    assert whole.shape == (1200, dims)
    assert np.array_equal(whole[90:110], data.vectors(4090, 4110))
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    assert not np.array_equal(whole, Data(dims, seed=1).vectors(4000, 5200)), "another seed, the same noise"


def test_more_dimensions_keep_what_is_near() -> None:
    """The map to more dimensions keeps inner products, so it changes the cost and not the answers."""
    narrow, wide = Data(384).vectors(0, 50), Data(1536).vectors(0, 50)
    assert np.allclose(narrow @ narrow.T, wide @ wide.T, atol=1e-5)


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_a_filter_selects_what_it_says(percent: int) -> None:
    """The condition and the mask agree with the metadata, and the share is right."""
    condition, allowed = Data(16).selected(percent, 20_000)
    metadata = Data(16).metadata(0, 2000)
    assert [all(keys[key] == value for key, value in condition.items()) for keys in metadata] == allowed[:2000].tolist()
    assert allowed.mean() == pytest.approx(percent / 100, rel=0.2)


def test_real_vectors_come_first_and_noise_stays_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are about as near to their original as real neighbours are to each other."""
    monkeypatch.delenv(DATA_VARIABLE)
    data = Data(384)
    if not data.real:
        pytest.skip("no real data here")
    first, again = data.vectors(0, 4096), data.vectors(8192, 12288)
    assert np.array_equal(first[:5], np.load(ROOT.parent / "shared" / "data" / "locomo-turns.npy")[:5])
    nearest = (first[:500] @ first.T - 2 * np.eye(500, 4096)).max(axis=1)
    assert (again[:500] @ first.T).max(axis=1).mean() == pytest.approx(nearest.mean(), abs=0.15)


# The report


def test_every_command_has_its_place_on_the_page() -> None:
    """A command without a marker could not be reported; a marker without a command would stay empty."""
    markers = re.findall(
        r"<!-- results: ([a-z-]+) -->\n(?:(?!<!--).)*<!-- end of results -->", PAGE.read_text(), re.DOTALL
    )
    assert sorted(markers) == sorted([*COMMANDS, "summary"])


def test_report_writes_tables_between_the_markers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the same; what stands around the markers stays; a row without a goal is not among those that have one."""
    assert run("search", tmp_path / "few") == 0
    assert not [row for result in load([*(tmp_path / "few").glob("*.json")]) for row in result.rows if row.at_least]
    monkeypatch.setattr("benchmarks.search._GOAL_FROM_ROWS", 1)
    assert run("search", tmp_path / "out") == 0
    assert run("instant", tmp_path / "out") == 0
    page = tmp_path / "page.md"
    empty = re.sub(r"(<!-- results: [a-z-]+ -->\n).*?(<!-- end)", r"\1\2", PAGE.read_text("utf-8"), flags=re.DOTALL)
    page.write_text(empty, "utf-8")
    files = [str(path) for path in (tmp_path / "out").glob("*.json")]
    assert main(["report", *files, "--page", str(page)]) == 0
    once = page.read_text("utf-8")
    assert main(["report", *files, "--page", str(page)]) == 0
    assert page.read_text("utf-8") == once
    assert once.count("| exact search now, k = 10, 300 rows | raw FAISS Flat |") == 2  # its own table and the goals
    assert "- Measured 20" in once
    around = re.sub(r"(<!-- results: [a-z-]+ -->\n).*?(<!-- end)", r"\1\2", once, flags=re.DOTALL)
    assert around == empty
    said = capsys.readouterr().out
    if "no plots of instant" not in said:  # matplotlib is there
        drawn = sorted(path.name for path in (tmp_path / "images").glob("*.svg"))
        assert drawn == ["instant-alive.svg", "instant-bytes.svg", "instant-events.svg"]
        assert "](images/instant-bytes.svg)" in once


def test_report_refuses_what_has_no_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written to a page without the marker, nor from a file that is no result."""
    assert run("search", tmp_path) == 0
    (path,) = tmp_path.glob("*.json")
    page = tmp_path / "page.md"
    page.write_text("no markers\n", "utf-8")
    with pytest.raises(ValueError, match="no marker for search"):
        write(load([path]), page, tmp_path)
    assert page.read_text("utf-8") == "no markers\n"
    (tmp_path / "other.json").write_text('{"format": 1, "rows": []}', "utf-8")
    assert main(["report", str(tmp_path / "other.json"), "--page", str(page)]) == 1
    assert "is no result" in capsys.readouterr().err


def test_asof_behind_the_interface_of_the_peers_is_exact(tmp_path: Path) -> None:
    """What the benchmarks drive is what a user would."""
    data = Data(16)
    with closing(Asof(tmp_path, 16)) as ours:
        fill(ours, data, 300, step=100)
        fill(ours, data, 303, step=1, start=300)
        right = truth(flat_of(data.vectors(0, 303), 16), data.queries(5), 10)
        right.require_exact("asof", lambda query: ours.search(query, 10))
        then = truth(flat_of(data.vectors(0, 200), 16), data.queries(5), 10)
        then.require_exact("asof", lambda query: ours.search_then(200, query, 10))
