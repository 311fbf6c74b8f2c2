"""Makes `v1.db.gz`, a history of schema version 1, and `v1.json`, what is read from it.

Both are kept: they were made once, by the asof that had version 1, and every later one has to read the same from the
file (`tests/test_version_1.py`) and to migrate it (`tests/test_migrate.py`). So this refuses to make them again where
they are; salts are random, and so are the hashes. `python -m tests.data.make_v1 [folder]`
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from eventstore import Add, Delete, EventStore, Update

HERE = Path(__file__).parent
DIMENSION = 5

# Of each kind of text, number and vector that must come back as it went in.
TEXTS = [
    "plain",
    "",
    "ünïcödé ☕ 🫖 e\u0301 \u05e9\u05dc\u05d5\u05dd \U0010ffff",
    "line\nbreaks\tand \"quotes\" 'and' \\ \x01 \x7f",
    "NUL \0 inside",
    "more than a page " * 2000,
]
METADATA: list[dict[str, Any]] = [
    {},
    {"user_id": "alice", "n": 1.5, "tags": ["a", "é", None, True]},
    {"user_id": "bob", "n": -0.0, "tiny": 5e-324, "huge": 1.7976931348623157e308, "third": 1 / 3, "e16": 1e16},
    {"n": 2**64 - 1, "least": -(2**63), "nested": {"deep": [{"x": []}, {}]}, "": "empty name"},
    {"user_id": "álice", "n": 0.1 + 0.2, "zero": 0, "false": False, "null": None},
]
VECTORS = np.array(
    [
        [1, 0, 0, 0, 0],
        [0.1, -0.2, 0.3, -0.4, 0.5],
        [1e-45, -0.0, 3.4e38, -1e-38, 1],
        [1 / 3, 2 / 3, 1e-7, 1e7, -1],
    ],
    dtype=np.float32,
)


def embed(texts: list[str]) -> Any:
    """Vectors that follow from the texts."""
    return [[len(text) % 97 + 1, *(sum(text.encode()[part::4]) % 251 for part in range(4))] for text in texts]


embed.name = "kept-file-embedder"  # type: ignore[attr-defined]


def foreign() -> list[dict[str, Any]]:
    """What is imported first: with times of its own, some shared, from before 1970 on."""
    start = datetime(1969, 7, 20, 20, 17, 40, 999_999, tzinfo=timezone.utc)
    times = [start, start, start + timedelta(microseconds=1), datetime(1999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)]
    records: list[dict[str, Any]] = [
        {
            "event_id": f"foreign-{number}",
            "memory_id": f"old {number % 3}",
            "type": "ADD" if number < 3 else "UPDATE",
            "content": TEXTS[number % len(TEXTS)],
            "metadata": METADATA[number % len(METADATA)],
            "vector": VECTORS[number % len(VECTORS)].tolist(),
            "recorded_at": times[number].isoformat(),
            "actor_id": "importer" if number % 2 else None,
            "source": "elsewhere" if number else None,
        }
        for number in range(4)
    ]
    gone = {"type": "DELETE", "memory_id": "old 1", "recorded_at": "2001-09-09T01:46:40.000001Z", "reason": "expired"}
    return [*records, gone]


def make(path: Path) -> None:
    """The history: everything that version 1 can record."""
    now = datetime(2026, 1, 5, 9, tzinfo=timezone.utc)
    with EventStore(path, embedder=embed, clock=lambda: now) as store:
        store.import_events(foreign(), source="foreign.jsonl")
        for number, text in enumerate(TEXTS):
            now += timedelta(hours=1)
            store.add(
                text,
                memory_id=f"memory {number}",
                metadata=METADATA[number % len(METADATA)],
                vector=VECTORS[number % len(VECTORS)] if number % 3 else None,
                actor_id="assistant",
                role="assistant",
                reason="said so ☕",
                correlation_id="chat 1",
                occurred_at=now - timedelta(days=number),
            )
        store.add("an id of its own", metadata={"user_id": "carol"})
        now += timedelta(days=1)
        with_cause = store.append(
            [
                Update(memory_id="memory 0", content="changed", vector=VECTORS[1].tolist()),
                Update(memory_id="memory 1", metadata={"only": "metadata", "n": 2.5}),
                Update(memory_id="memory 0", content="changed again"),
                Delete(memory_id="memory 3"),
                Add(memory_id="memory 3", content="added again", vector=VECTORS[0].tolist()),
                Delete(memory_id="memory 3"),
            ],
            actor_id="用户",
            role="user",
            correlation_id="chat 2",
        )[0]
        now -= timedelta(days=2)  # a clock that was set back
        store.update("memory 2", metadata=METADATA[3], causation_id=with_cause.event_id, expected_version=1)
        store.add_many(
            [f"bulk {number}" for number in range(20)], metadatas=[{"n": number / 4} for number in range(20)]
        )
        now += timedelta(days=9)
        store.delete_where({"n": {"gte": 4}}, reason="too large")
        store.add("old 1 lives again", memory_id="old 1", event_id="known event", metadata={"user_id": "alice"})


def describe(path: Path) -> dict[str, Any]:
    """What is read from a history: all of it, by every read that there is."""
    with EventStore(path, clock=lambda: datetime(2027, 1, 1, tzinfo=timezone.utc)) as store:
        some = sorted({0, 1, 4, 5, 12, 18, store.position // 2, store.position})
        times = sorted({event.recorded_at for event in store.events()})
        filters: list[dict[str, Any]] = [{"user_id": "alice"}, {"n": {"gt": 0.3, "lt": 3}}, {"NOT": [{"n": 2.5}]}]
        described = {
            "head": dataclasses.asdict(store.head),
            "dimension": store.dimension,
            "embedder": store.embedder_name,
            "events": [
                {**dataclasses.asdict(event), "embedding": None if event.embedding is None else event.embedding.hex()}
                for event in store.events()
            ],
            "history": [dataclasses.asdict(record) for record in store.history()],
            "view": store._connections.fetch("SELECT * FROM history ORDER BY rowid"),
            "memories": {
                position: [dataclasses.asdict(memory) for memory in store.memories(as_of=position, order="memory_id")]
                for position in some
            },
            "hashes": {position: store.hash_at(position) for position in some},
            "positions": {time.isoformat(): store.position_at(time) for time in times},
            "vectors": {position: [list(ids), vectors.tobytes().hex()] for position in some if position
                        for ids, vectors in [store.vectors(as_of=position)]},
            "matching": [[memory.memory_id for memory in store.memories(filter)] for filter in filters],
            "by actor": [event.position for event in store.events(actor_id="assistant")],
            "by correlation": [event.position for event in store.events(correlation_id="chat 2", reverse=True)],
        }  # fmt: skip
    # As JSON has it: times as text, positions as text where they are names.
    return _shortened(json.loads(json.dumps(described, default=lambda value: value.isoformat())))  # type: ignore[no-any-return]


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    if isinstance(value, str) and len(value) > 1000:
        return f"{len(value)} characters, SHA-256 {sha256(value.encode()).hexdigest()}"
    return value


def unpack(to: Path) -> Path:
    """The kept file, as a database at a path."""
    to.write_bytes(gzip.decompress((HERE / "v1.db.gz").read_bytes()))
    return to


def main() -> None:
    """Make both, once."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    kept, answers = folder / "v1.db.gz", folder / "v1.json"
    if kept.exists() or answers.exists():
        sys.exit(f"{kept} and {answers} are kept as they are: give another folder")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "v1.db")
        make(path)
        kept.write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        answers.write_text(json.dumps(describe(path), ensure_ascii=False, indent=1), encoding="utf-8")
    print(f"{kept}: {kept.stat().st_size} bytes, {answers}: {answers.stat().st_size} bytes")


if __name__ == "__main__":
    main()
