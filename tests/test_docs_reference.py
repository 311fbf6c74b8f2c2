"""The reference says what the code does: every public name and keyword, every byte of the file format.

The file format is checked by an implementation of its own, written from the page, and against what asof writes.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import json
import math
import operator
import random
import re
import sqlite3
import struct
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import eventstore
from eventstore import EventStore, hashing, read_json_lines
from eventstore.schema import APPLICATION_ID, PAGE_SIZE, migrations
from projections import Metric, VectorIndex
from projections.checkpoints import DataFile, Manifest, StructureFiles
from replay import FaultKind, GapKind
from tests.pages import ROOT, bodies

API = ROOT / "docs/reference/api.md"
FORMAT = ROOT / "docs/reference/file-format.md"
PACKAGES = ("eventstore", "projections", "replay", "replay.gitlog")

# The file format, by an implementation of its own: written from the page, using nothing of eventstore.hashing


def vectors_of_the_page() -> list[dict[str, Any]]:
    (lines,) = bodies(FORMAT, "jsonl")
    return [json.loads(line) for line in lines.splitlines()]


def field(value: bytes | str | int | None) -> bytes:
    if value is None:
        return b"\xff\xff\xff\xff"
    if isinstance(value, int):
        value = value.to_bytes(8, "little", signed=True)
    elif isinstance(value, str):
        value = value.encode("utf-8")
    return len(value).to_bytes(4, "little") + value


def microseconds(instant: str | None) -> int | None:
    if instant is None:
        return None
    found = re.fullmatch(r"(\d+)-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{6})\+00:00", instant)
    assert found is not None, instant
    year, month, day, hour, minute, second, micro = map(int, found.groups())
    # Days from the civil date, by the calendar's own arithmetic: not by the module that eventstore uses.
    shifted = year - (month <= 2)
    days = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400
    days += (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1 - 719468
    return ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + micro


def recomputed(records: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Payload digest and hash of each exported record, with the links worked out from the order of records."""
    previous, before, added = bytes(32), dict[str, int](), dict[str, int]()
    for record in records:
        position, memory_id = record["position"], record["memory_id"]
        text = None
        if record["metadata"] is not None:
            text = json.dumps(record["metadata"], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        vector = record["vector"]
        embedding = None if vector is None else b"".join(struct.pack("<f", number) for number in vector)
        payload = (bytes.fromhex(record["salt"]), record["content"], text, embedding)
        digest = sha256(b"asof.payload.1" + b"".join(map(field, payload))).digest()
        if record["type"] == "ADD":
            added[memory_id] = position
        header = (
            *(position, record["event_id"], memory_id, record["version"]),
            *(before.get(memory_id), added[memory_id], record["embedding_position"], record["type"], digest),
            *(microseconds(record["recorded_at"]), microseconds(record["occurred_at"])),
            *(record["actor_id"], record["role"], record["reason"]),
            *(record["correlation_id"], record["causation_id"], record["source"]),
        )
        previous = sha256(b"asof.event.1" + previous + b"".join(map(field, header))).digest()
        before[memory_id] = position
        yield digest.hex(), previous.hex()


def test_the_test_vectors_are_what_the_page_describes() -> None:
    """Who implements the page gets the digests and hashes that it shows."""
    records = vectors_of_the_page()
    shown = [(record["payload_digest"], record["hash"]) for record in records]
    assert list(recomputed(records)) == shown


def test_the_bytes_that_the_page_spells_out_are_the_first_event() -> None:
    """The two blocks of bytes hash to the digest and the hash of the first test vector."""
    first = vectors_of_the_page()[0]
    spelled = [
        bytes.fromhex("".join(re.match(r"[0-9a-f ]*(?=\s{2,})|[0-9a-f ]+$", line)[0] for line in body.splitlines()))  # type: ignore[index]
        for body in bodies(FORMAT, "hex")
    ]
    assert [sha256(part).hexdigest() for part in spelled] == [first["payload_digest"], first["hash"]]


@pytest.fixture
def made_from_the_page(tmp_path: Path) -> Iterator[EventStore]:
    """A database into which the test vectors of the page were imported."""
    file = tmp_path / "vectors.jsonl"
    file.write_text(bodies(FORMAT, "jsonl")[0], encoding="utf-8")
    with EventStore(tmp_path / "vectors.db") as store:
        store.import_events(read_json_lines(file), source="the page")
        yield store


def test_eventstore_writes_the_test_vectors(made_from_the_page: EventStore, tmp_path: Path) -> None:
    """Imported and exported again, the vectors come back byte for byte; so the product agrees with the page."""
    made_from_the_page.export(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_text(encoding="utf-8") == bodies(FORMAT, "jsonl")[0]


def test_eventstore_hashing_computes_the_test_vectors(made_from_the_page: EventStore) -> None:
    """The functions of `eventstore.hashing` give the page's digests and hashes for the stored rows."""
    with contextlib.closing(sqlite3.connect(made_from_the_page.path)) as database:
        headers = database.execute("SELECT * FROM events ORDER BY seq").fetchall()
        payloads = database.execute("SELECT salt, content, metadata, embedding FROM payloads ORDER BY seq").fetchall()
    found, previous = [], hashing.GENESIS
    for header, payload in zip(headers, payloads):
        previous = hashing.event_hash(previous, *header[:-1])
        found.append((hashing.payload_digest(*payload).hex(), previous.hex()))
    assert found == [(record["payload_digest"], record["hash"]) for record in vectors_of_the_page()]


def squeezed(sql: str) -> str:
    return " ".join(sql.split())


def statements(script: str) -> set[str]:
    """The statements of a script of the page, white space squeezed; `;` ends one, within a trigger only END does."""
    found = re.findall(r"CREATE TRIGGER .+?END;|CREATE .+?;", script, re.DOTALL)
    return {squeezed(statement).removesuffix(";") for statement in found}


def test_the_page_shows_the_schema(made_from_the_page: EventStore) -> None:
    """Tables, indexes and triggers are on the page as SQLite has them, and the view with its columns."""
    with contextlib.closing(sqlite3.connect(made_from_the_page.path)) as database:
        objects = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'view' AND name NOT LIKE '%sqlite%'"
        made = {squeezed(sql) for (sql,) in database.execute(objects)}
        columns = [column[0] for column in database.execute("SELECT * FROM history").description]
        application = database.execute("PRAGMA application_id").fetchone()[0]
        page_size = database.execute("PRAGMA page_size").fetchone()[0]
    assert statements("".join(bodies(FORMAT, "sql"))) == made
    assert keys_of_table("The view `history`") == columns
    assert (application, page_size) == (APPLICATION_ID, PAGE_SIZE)
    text = FORMAT.read_text(encoding="utf-8")
    assert f"`0x{application:08X}`" in text
    assert f"{page_size:,} bytes" in text


def test_the_page_lists_the_migrations_and_settings(made_from_the_page: EventStore) -> None:
    """Each step of the schema and each setting has its row."""
    assert keys_of_table("Migrations") == [step.name for step in migrations._migrations]
    assert set(keys_of_table("Tables", table=2)) == {"dimension", "embedder"}


def keys_of_table(heading: str, *, page: Path = FORMAT, table: int = 0) -> list[str]:
    """The names in the first column of a table under a heading, where a row may have several."""
    section = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert section is not None, heading
    tables = re.findall(r"(?:^\|.*\|\n)+", section[1], re.MULTILINE)
    rows = tables[table].splitlines()[2:]
    return [key for row in rows for key in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_page_lists_the_columns(made_from_the_page: EventStore) -> None:
    """Every column of the two tables is explained."""
    with contextlib.closing(sqlite3.connect(made_from_the_page.path)) as database:
        events = [column[0] for column in database.execute("SELECT * FROM events").description]
        payloads = [column[0] for column in database.execute("SELECT * FROM payloads").description]
    assert keys_of_table("Tables", table=0) == events
    assert keys_of_table("Tables", table=1) == payloads


def test_the_page_lists_the_keys_of_an_export() -> None:
    """The records of an export have the keys that the page names, in its order."""
    for record in vectors_of_the_page():
        assert list(record) == keys_of_table("Export records")


def test_the_page_lists_the_keys_that_an_import_takes() -> None:
    """Those of the page are taken or passed over; the error for any other key names the same."""
    named = set(keys_of_table("What an import takes"))
    with EventStore() as store, pytest.raises(eventstore.ImportFailed) as refused:
        store.import_events([{"content": "x", "no such key": 1}], source="test")
    known = str(refused.value).split("known are ")[1].split(";")[0].split(", ")
    assert named == set(known) | {"position", "version", "hash", "prev_position", "add_position"}


def test_the_page_describes_a_checkpoint(made_from_the_page: EventStore) -> None:
    """A manifest has the members and the digest of the page, and the data files hold the rows that it describes."""
    with VectorIndex(made_from_the_page) as index:
        index.catch_up()
        index.checkpoint()
        assert index.directory is not None
        directory = index.directory
    manifest = json.loads((directory / "generation-000001.json").read_text(encoding="utf-8"))
    assert keys_of_table("Manifest") == [*Manifest.model_fields, "sha256"] == list(manifest)
    assert list(DataFile.model_fields) == ["name", "size", "sha256", "crc32"]

    digest = manifest.pop("sha256")
    assert sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest() == digest

    table = (directory / manifest["table"]["name"]).read_bytes()
    assert manifest["table"]["name"] == f"rows-{sha256(table).hexdigest()[:32]}.bin"
    alive = 0xFFFFFFFF
    assert struct.unpack("<8I", table) == (1, 2, 3, 5) + (2, 3, 4, alive)
    (segment,) = manifest["segments"]
    assert (list(segment), segment["codes"], segment["metadata"]) == (
        ["vectors", "codes", "metadata", "lists"],
        None,
        None,
    )
    content = (directory / segment["vectors"]["name"]).read_bytes()
    assert segment["vectors"]["name"] == f"vectors-000000-{sha256(content).hexdigest()[:32]}.bin"
    kept = struct.pack("<2f", 0.6, -0.8)
    assert content == struct.pack("<2f", 1, 0) + kept + kept + struct.pack("<2f", 0, 1)


def test_the_page_describes_the_files_of_a_full_segment(made_from_the_page: EventStore) -> None:
    """Norms, digests, scale, bounds and codes one after the other; metadata as JSON and pairs."""
    with VectorIndex(made_from_the_page, segment_rows=2) as index:
        index.search([1.0, 0.0], filter={"no such key": 1})
        index.checkpoint()
        assert index.directory is not None
        directory = index.directory
    manifest = json.loads((directory / "generation-000001.json").read_text(encoding="utf-8"))
    files = manifest["segments"][0]
    rows = struct.unpack("<4f", (directory / files["vectors"]["name"]).read_bytes())
    content = (directory / files["codes"]["name"]).read_bytes()
    norms, scale, bounds = (struct.unpack_from(f"<{n}d", content, at) for n, at in ((2, 0), (2, 32), (3, 48)))
    assert norms == pytest.approx([math.hypot(*rows[:2]), math.hypot(*rows[2:])])
    numbers = struct.unpack("<4I", struct.pack("<4f", *rows))
    heads = [int.from_bytes(sha256(i.to_bytes(4, "little")).digest()[:8], "little") | 1 for i in range(2)]
    digests = [sum(map(operator.mul, row, heads)) % 2**64 for row in (numbers[:2], numbers[2:])]
    assert struct.unpack_from("<2Q", content, 16) == tuple(digests)
    coded = [(byte - 128) * scale[at % 2] for at, byte in enumerate(content[72:])]
    assert coded == pytest.approx(rows, abs=bounds[0])
    metadata = (directory / files["metadata"]["name"]).read_bytes()
    (length,) = struct.unpack_from("<I", metadata)
    header = json.loads(metadata[4 : 4 + length])
    assert header["rows"] == 2
    assert len(metadata) == 4 + length + 8 * sum(pairs for _, _, pairs in header["columns"])


def test_the_page_describes_the_files_of_an_approximate_index(tmp_path: Path) -> None:
    """The members of `structure`, one uint16 a row in each full segment's lists, and float64 centroids."""
    with EventStore(tmp_path / "x.db") as store:
        store.add_many([""] * 11, vectors=[[(-1) ** n, (-1) ** (n // 2)] for n in range(11)])
        for kind in ("flat", "hnsw", "ivf"):
            directory = tmp_path / kind
            with VectorIndex(store, kind=kind, segment_rows=2, directory=directory) as index:  # type: ignore[arg-type]
                index.rebuild()
            manifest = json.loads((directory / "generation-000001.json").read_text(encoding="utf-8"))
            structure = manifest["structure"]
            if kind == "flat":
                assert structure is None
                continue
            assert keys_of_table("Approximate indexes") == [*StructureFiles.model_fields] == list(structure)
            version = re.search(r"\| `version` \| (\d+)\.", FORMAT.read_text(encoding="utf-8"))
            assert version
            assert (structure["kind"], structure["version"]) == (kind, int(version[1]))
            if kind == "hnsw":
                assert (structure["first"], structure["middles"], structure["taken"]) == (1, [], [True] * 5)
                assert (directory / structure["graph"]["name"]).read_bytes()[:4] == b"IHNs"
    assert (structure["first"], structure["graph"], structure["taken"]) == (4, None, [])
    (block,) = [(directory / file["name"]).read_bytes() for file in structure["middles"]]
    centroids = list(struct.iter_unpack("<2d", block))
    for segment in manifest["segments"][:5]:
        content = (directory / segment["lists"]["name"]).read_bytes()
        rows = struct.iter_unpack("<2f", (directory / segment["vectors"]["name"]).read_bytes())
        for lists, row in zip(struct.iter_unpack("<H", content), rows, strict=True):
            products = [x * row[0] + y * row[1] for x, y in centroids]
            assert products[lists[0]] == pytest.approx(max(products), abs=0.05)
    assert manifest["segments"][5]["lists"] is None


# The API


def sections(module: str) -> dict[str, str]:
    """What the API page says of a module, by the names in its third-level headings; the types' table under ""."""
    found = re.search(
        rf"^## {re.escape(module)}\n(.*?)(?=^## |\Z)", API.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found is not None, module
    parts = re.split(r"^### (.+)\n", found[1], flags=re.MULTILINE)
    return {title.strip("`") if title.startswith("`") else title: text for title, text in zip(parts[1::2], parts[2::2])}


def documented_names(module: str) -> set[str]:
    """The names that have a section of their own or a row in a table of types or errors."""
    names: set[str] = set()
    for title, text in sections(module).items():
        if title == "Errors" or title.startswith("Types"):
            names |= set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
        else:
            names.add(title)
    return names


@pytest.mark.parametrize("module", PACKAGES)
def test_every_public_name_is_in_the_api_page(module: str) -> None:
    """A name in `__all__` has its place on the page, and the page names nothing else."""
    assert documented_names(module) == set(importlib.import_module(module).__all__)


def annotation(written: object) -> str:
    """An annotation in one form, however it was written: the store's filter type has another name in projections."""
    text = written if isinstance(written, str) else inspect.formatannotation(written)
    return re.sub(r"\bFilterDict\b", "Filter", ast.unparse(ast.parse(text, mode="eval")))


def signature(function: Callable[..., Any], *, method: bool) -> str:
    """The parameters, their kinds, annotations and defaults, and what is returned."""
    found = inspect.signature(function)
    parameters = list(found.parameters.values())[int(method) :]
    said = []
    for parameter in parameters:
        kind = "keyword " if parameter.kind is parameter.KEYWORD_ONLY else ""
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        said.append(f"{kind}{parameter.name}: {annotation(parameter.annotation)}{default}")
    returned = "None" if found.return_annotation is found.empty else annotation(found.return_annotation)
    return f"({', '.join(said)}) -> {returned}"


def shown_signature(stub: ast.FunctionDef) -> str:
    """The same of a stub on the page."""
    arguments = stub.args
    said = []
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [("", argument, default) for argument, default in zip(plain, defaults)]
    pairs += [("keyword ", argument, default) for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    for kind, argument, default in pairs:
        assert argument.annotation is not None, f"{stub.name}: {argument.arg}"
        value = "" if default is None else f" = {ast.literal_eval(default)!r}"
        said.append(f"{kind}{argument.arg}: {ast.unparse(argument.annotation)}{value}")
    returned = "None" if stub.returns is None else ast.unparse(stub.returns)
    return f"({', '.join(said)}) -> {returned}"


def shown(text: str) -> dict[str, str]:
    """The members or the function that the stubs of a section declare."""
    members: dict[str, str] = {}
    for body in re.findall(r"^```pyi\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for node in ast.parse(body).body:
            if isinstance(node, ast.FunctionDef):
                members[node.name] = shown_signature(node)
            else:
                assert isinstance(node, ast.AnnAssign), ast.dump(node)
                assert isinstance(node.target, ast.Name)
                default = "" if node.value is None else f" = {ast.literal_eval(node.value)!r}"
                members[node.target.id] = ast.unparse(node.annotation) + default
    return members


def members_of(cls: type) -> dict[str, str]:
    """The public methods, properties and fields of a class, inherited ones of ours included."""
    ours = [base for base in cls.__mro__ if base.__module__.split(".")[0] in PACKAGES]
    found: dict[str, str] = {}
    for base in reversed(ours):
        for member, value in vars(base).items():
            if inspect.isfunction(value) and (not member.startswith("_") or member in ("__init__", "__call__")):
                found[member] = signature(value, method=True)
            elif isinstance(value, property) and not member.startswith("_"):
                assert value.fget is not None
                found[member] = annotation(inspect.signature(value.fget).return_annotation)
        if is_dataclass(base):
            for field_name, written in vars(base).get("__annotations__", {}).items():
                field_default = base.__dataclass_fields__[field_name].default
                is_plain = field_default is None or isinstance(field_default, (int, str))
                found[field_name] = annotation(written) + (f" = {field_default!r}" if is_plain else "")
    if is_dataclass(cls) or getattr(cls, "_is_protocol", False):
        found.pop("__init__", None)
    return found


# What instances have and no class attribute shows.
ATTRIBUTES = {
    "EventRange": {"after", "upto"},
    "HashingEmbedder": {"dim", "name"},
    "Hits": {"position", "kind"},
    "VectorIndex": {"metric", "kind", "effort", "name"},
}
# Made by the product only: how is not the user's business.
NOT_MADE_BY_USERS = {"EventRange"}

WITH_STUBS = [
    (module, public)
    for module in PACKAGES
    for public in importlib.import_module(module).__all__
    if callable(value := getattr(importlib.import_module(module), public))
    and (inspect.isclass(value) or inspect.isfunction(value))
    and not (inspect.isclass(value) and issubclass(value, Exception))
]


@pytest.mark.parametrize(("module", "public"), WITH_STUBS, ids=lambda value: value)
def test_the_signatures_of_the_api_page_are_those_of_the_code(module: str, public: str) -> None:
    """Every method, property, field, argument, default and annotation is on the page as it is in the code."""
    value = getattr(importlib.import_module(module), public)
    if public in documented_names(module) and public not in sections(module):
        return  # a row in the table of types
    on_page = shown(sections(module)[public])
    if inspect.isfunction(value):
        assert on_page == {public: signature(value, method=False)}
    elif issubclass(value, BaseModel):
        fields = {key: field.default for key, field in value.model_fields.items() if key != "type"}
        optional = {key for key, written in on_page.items() if written.endswith(" = None")}
        assert set(on_page) == set(fields)
        assert optional == {key for key, default in fields.items() if default is None}
    else:
        expected = members_of(value)
        if public in NOT_MADE_BY_USERS:
            expected.pop("__init__")
        for attribute in ATTRIBUTES.get(public, set()):
            expected[attribute] = on_page.get(attribute, "missing")
        assert on_page == expected


def folded_sum(terms: list[float]) -> float:
    """A sum in the order that the page gives."""
    while len(terms) > 1:
        half = len(terms) // 2
        kept = len(terms) - half
        terms = [term + terms[kept + at] if at < half else term for at, term in enumerate(terms[:kept])]
    return terms[0]


@pytest.mark.parametrize("dimension", [1, 2, 7, 64, 129])
def test_scores_are_what_the_api_page_says(dimension: int) -> None:
    """The formulas of the page, one number at a time, give the scores of a search to the last bit."""
    drawn = random.Random(dimension)
    rows = [[struct.unpack("<f", struct.pack("<f", drawn.gauss(0, 1)))[0] for _ in range(dimension)] for _ in range(9)]
    query = rows.pop()
    length = {
        row: math.sqrt(folded_sum([number * number for number in vector])) for row, vector in enumerate([*rows, query])
    }
    with EventStore() as store:
        store.add_many([""] * len(rows), vectors=rows)
        for metric in get_args(Metric):
            expected = []
            for row, vector in enumerate(rows):
                if metric == "l2":
                    score = 0 - folded_sum([(x - q) * (x - q) for x, q in zip(vector, query)])
                else:
                    score = folded_sum([q * x for x, q in zip(vector, query)])
                if metric == "cosine":
                    score /= length[row] * length[len(rows)]
                expected.append((-score, row + 1))
            with VectorIndex(store, metric=metric) as index:
                hits = index.search(query, k=len(rows))
            assert [(-hit.score, hit.position) for hit in hits] == sorted(expected)


def test_the_errors_of_the_api_page_are_those_of_the_code() -> None:
    """Each row names the bases of its error."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", sections("eventstore")["Errors"], re.MULTILINE)
    for error, bases in rows:
        classes = getattr(eventstore, error).__bases__
        names = {base.__name__ for base in classes} - ({"AsofError"} if error != "AsofError" else set())
        assert set(re.findall(r"`(\w+)`", bases)) == names, error
    assert {error for error, _ in rows} == {
        public
        for public in eventstore.__all__
        if inspect.isclass(cls := getattr(eventstore, public)) and issubclass(cls, Exception)
    }


def test_the_api_page_lists_every_kind_of_fault() -> None:
    """What `verify` may report."""
    assert keys_of_table("`verify`", page=API) == list(get_args(FaultKind))


def test_the_api_page_lists_every_kind_of_gap() -> None:
    """What `salvage` may report."""
    section = sections("replay")["salvage"]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(get_args(GapKind))
