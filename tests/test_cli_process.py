"""`replay` as a process of its own: signals, pipes, terminals, files that cannot be written."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_support import ROOT, files, grow, make_history, ok, ok_json, run, start, unchanged

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and terminals as POSIX has them")
IS_ROOT = os.name == "posix" and os.geteuid() == 0
not_root = pytest.mark.skipif(IS_ROOT, reason="root may write everything")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A small history."""
    path = tmp_path / "h.db"
    make_history(path)
    return path


def test_fine(db: Path) -> None:
    """Exit code 0, JSON alone on stdout, nothing on stderr."""
    code, out, err = run("head", db, "--json")
    assert (code, json.loads(out)["position"], err) == (0, 6, "")


def test_a_check_that_finds_something(db: Path) -> None:
    """Exit code 1, and what it found is on stdout."""
    code, out, err = run("verify", db, "--against", f"3:{'0' * 64}")
    assert (code, err) == (1, "")
    assert "against         3  the head at position 3" in out


def test_wrong_usage(tmp_path: Path) -> None:
    """Exit code 2, one line, and no file comes of it."""
    with unchanged(tmp_path):
        code, out, err = run("log", tmp_path / "nosuch.db")
    assert (code, out) == (2, "")
    assert (
        err
        == f"error: invalid value for 'DB': there is no file '{tmp_path}/nosuch.db': give the history's database file\n"
    )


def test_could_not_do_it(tmp_path: Path) -> None:
    """Exit code 3, one line."""
    (tmp_path / "notes.txt").write_text("not a database " * 10)
    code, out, err = run("log", tmp_path / "notes.txt")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith(f"error: {tmp_path}/notes.txt is not an SQLite database")


@pytest.mark.parametrize("arguments", [("--debug", "log"), ("log", "--debug")])
def test_a_traceback_only_with_debug(tmp_path: Path, arguments: tuple[str, str]) -> None:
    """Before the command or behind it; the line stays the last."""
    (tmp_path / "notes.txt").write_text("not a database " * 10)
    code, _, err = run(*arguments, tmp_path / "notes.txt")
    assert code == 3
    assert err.startswith("Traceback ")
    assert err.splitlines()[-1].startswith("error: ")


def test_the_installed_command() -> None:
    """`replay` is the same as `python -m replay`."""
    script = Path(sys.executable).with_name("replay")
    if not script.exists():
        pytest.skip("not installed")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("replay ")
    assert run("--version")[1] == done.stdout


@posix_only
def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    """`replay log DB | head`: quiet, and the exit code a signal would have given."""
    grow(tmp_path / "h.db", 20_000)
    for arguments in (("log",), ("log", "--json"), ("export",)):
        command = [*arguments[:1], tmp_path / "h.db", *(["-"] if arguments == ("export",) else arguments[1:])]
        with start(*command) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == ""
        assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("--json",), ()])
def test_a_full_disk_behind_stdout(db: Path, arguments: tuple[str, ...]) -> None:
    """Is an error: whoever reads the file must not take it for the whole answer."""
    with Path("/dev/full").open("w") as full:
        code, _, err = run("log", db, *arguments, stdout=full)
    assert (code, err) == (3, "error: standard output: No space left on device\n")


def test_an_export_through_a_pipe(db: Path, tmp_path: Path) -> None:
    """`replay export A - | replay import jsonl - B`."""
    with start("export", db, "-") as exporting:
        code, out, err = run("import", "jsonl", "-", tmp_path / "copy.db", "--json", stdin=exporting.stdout)
    assert (code, json.loads(out)["imported"], err) == (0, 6, "")
    assert ok("head", db) == ok("head", tmp_path / "copy.db")


def test_ids_are_whole_in_a_pipe(tmp_path: Path) -> None:
    """However long: no ellipsis, no line break, no escape sequence, no trailing blanks."""
    name = "an/id/" + "x" * 300
    (tmp_path / "f").write_text(json.dumps({"memory_id": name, "content": "y " * 400, "vector": [1.0]}) + "\n")
    ok("import", "jsonl", tmp_path / "f", tmp_path / "s.db")
    for command in (("log",), ("search", "--vector", "[1]")):
        code, out, err = run(command[0], tmp_path / "s.db", *command[1:])
        assert (code, err) == (0, "")
        assert name in out
        assert "\x1b" not in out
        assert all(line == line.rstrip() for line in out.splitlines())


def test_a_locale_without_unicode(tmp_path: Path) -> None:
    """Spells out what it cannot show instead of failing."""
    (tmp_path / "f").write_text(json.dumps({"memory_id": "tö", "content": "日本", "vector": [1.0]}) + "\n")
    ok("import", "jsonl", tmp_path / "f", tmp_path / "s.db")
    code, out, err = run("log", tmp_path / "s.db", env={"PYTHONIOENCODING": "ascii"})
    assert (code, err) == (0, "")
    assert "t\\xf6" in out


def wait_for_bytes(path: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.stat().st_size < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


SLOW = """
import time
from pathlib import Path

class Slow:
    name = "slow"
    def __call__(self, texts):
        Path("started").touch()
        time.sleep(60)
        return [[1.0]] * len(texts)
"""


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Processes that are started hear of Ctrl-C, also where these tests run in the background and do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@posix_only
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("already_there", [False, True])
def test_ctrl_c_leaves_everything_as_it_was(tmp_path: Path, already_there: bool) -> None:
    """Exit code 130, one line; no half of an import, and no new store where none was."""
    (tmp_path / "slow_embedder.py").write_text(SLOW)
    (tmp_path / "f").write_text(json.dumps({"content": "x"}) + "\n")
    if already_there:
        make_history(tmp_path / "s.db")
    flags = ("--embedder", "slow_embedder:Slow", "--accept-embedder-change")
    before = set(files(tmp_path))
    with start("import", "jsonl", "f", "s.db", *flags, cwd=tmp_path, env={"PYTHONDONTWRITEBYTECODE": "1"}) as process:
        wait_for_bytes(tmp_path / "started", 0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted: nothing is left half done\n")
    assert set(files(tmp_path)) == before | {"started"}
    if already_there:
        assert ok_json("head", tmp_path / "s.db")["position"] == 6


@posix_only
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_waiting_for_input(tmp_path: Path) -> None:
    """Also in a read from a pipe that nobody writes to."""
    reading, writing = os.pipe()
    with start("import", "jsonl", "-", tmp_path / "s.db", stdin=reading) as process:
        wait_for_bytes(tmp_path / "s.db", 1)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    os.close(reading)
    os.close(writing)
    assert (process.returncode, err) == (130, "interrupted: nothing is left half done\n")
    assert files(tmp_path) == {}


@posix_only
@not_root
def test_a_read_only_file(db: Path) -> None:
    """Reading works; what would write says so."""
    _refused_where_read_only(db)


@posix_only
@pytest.mark.skipif(not IS_ROOT or not Path("/usr/bin/setpriv").exists(), reason="needs root and setpriv")
def test_a_read_only_file_for_another_user(db: Path) -> None:
    """The same where the tests are run by root."""
    other = ("setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
    if subprocess.run([*other, sys.executable, "-c", f"open({str(ROOT / 'pyproject.toml')!r})"]).returncode:
        pytest.skip("another user cannot read this checkout")
    # Not in pytest's folder: every other run of pytest closes that one to other users again.
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder, "inner")
        inner.mkdir()
        Path(folder).chmod(0o755)
        _refused_where_read_only(Path(shutil.copy(db, inner / "h.db")), *other)


def _refused_where_read_only(db: Path, *prefix: str) -> None:
    db.chmod(0o444)
    db.parent.chmod(0o555)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def replay(*arguments: object) -> tuple[int, str, str]:
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "replay", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            cwd="/",
        )
        return done.returncode, done.stdout, done.stderr

    try:
        for command in (("log",), ("verify",), ("search", "tea")):
            code, out, err = replay(command[0], db, *command[1:])
            assert (code, err) == (0, ""), err
            assert out
        code, out, err = replay("restore", db, "--as-of", 2)
        assert (code, out) == (3, "")
        assert err.startswith("error: ")
        assert "can only be read" in err
        assert err.count("\n") == 1
        assert sorted(path.name for path in db.parent.iterdir()) == ["h.db"]
    finally:
        db.parent.chmod(0o755)


def on_terminal(*arguments: object, columns: int = 80, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a run whose stdout and stderr are a terminal each."""
    import fcntl
    import pty
    import struct
    import termios

    pairs = [pty.openpty() for _ in range(2)]
    for _, inner in pairs:
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {"TERM": "xterm-256color", **(env or {})}
    with start(*arguments, stdout=pairs[0][1], stderr=pairs[1][1], env=environment) as process:
        for _, inner in pairs:
            os.close(inner)
        texts = {outer: b"" for outer, _ in pairs}
        still_open = set(texts)
        while still_open:
            for outer in select.select(list(still_open), [], [], 30)[0]:
                try:
                    some = os.read(outer, 65536)
                except OSError:
                    some = b""
                texts[outer] += some
                if not some:
                    still_open.remove(outer)
    for outer, _ in pairs:
        os.close(outer)
    out, err = (texts[outer].decode().replace("\r\n", "\n") for outer, _ in pairs)
    return process.returncode, out, err


@posix_only
@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_is_never_overrun(tmp_path: Path, columns: int) -> None:
    """Lines fit, ids are folded and not cut, colours are there."""
    from rich.text import Text

    name = "notes/" + "long-name-" * 20 + "end"
    record = {
        "memory_id": name,
        "content": "words and more " * 50,
        "vector": [1.0],
        "actor_id": "Ann",
        "reason": "why " * 50,
    }
    (tmp_path / "f").write_text(json.dumps(record) + "\n")
    ok("import", "jsonl", tmp_path / "f", tmp_path / "s.db")
    for command in (("log",), ("search", "--vector", "[1]")):
        code, out, err = on_terminal(command[0], tmp_path / "s.db", *command[1:], columns=columns)
        assert (code, err) == (0, "")
        assert "\x1b[" in out
        lines = Text.from_ansi(out).plain.splitlines()
        table = lines[: next((at for at, line in enumerate(lines) if not line.strip()), len(lines))]
        assert max(map(len, table)) <= columns
        assert "end" in out


@posix_only
def test_json_on_a_terminal_is_indented(db: Path) -> None:
    """A person looks at it; the object is the same."""
    _, out, _ = on_terminal("head", db, "--json")
    assert out.startswith("{\n  ")
    assert json.loads(out) == ok_json("head", db)


@posix_only
def test_no_progress_for_what_is_quick(db: Path) -> None:
    """A bar that flashes up tells nobody anything."""
    code, out, err = on_terminal("rebuild", db)
    assert (code, err) == (0, "")
    assert "rebuilt from 6 events" in out


@posix_only
def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """A bar on stderr for what takes longer, gone at the end; stdout knows nothing of it."""
    (tmp_path / "slowly.py").write_text(
        "import time\n"
        "class Slowly:\n"
        "    name = 'slowly'\n"
        "    def __call__(self, texts):\n"
        "        time.sleep(1)\n"
        "        return [[1.0]] * len(texts)\n"
    )
    (tmp_path / "f").write_text('{"content": "x"}\n' * 2500)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    code, out, err = on_terminal(
        "import", "jsonl", tmp_path / "f", tmp_path / "s.db", "--embedder", "slowly:Slowly", env=environment
    )
    assert (code, "Importing" in err, "of 2,500 lines" in err) == (0, True, True)
    assert "Importing" not in out
    assert out.startswith("imported 2,500 events")
