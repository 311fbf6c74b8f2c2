"""`make demo`: a git history in a vector memory, searched now and as of then, rebuilt, recovered and verified.

    python -m examples.demo [REPO] [--into DIR]

Without REPO it takes the repository that it stands in, and where that has no history a small one of its own. The
repository is only read. What it makes goes into `.demo/`, made anew each time, or into DIR.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from rich.text import Text

from eventstore import AsOf, AsofError, Event, EventStore, HashingEmbedder, Memory
from examples.question import K, Question, Survey, choose, choose_memory, key, survey, tell
from examples.show import Show
from examples.sources import Source, fill, git_source, small_source
from projections import Hit, VectorIndex
from replay import diff, recover, verify
from replay.cli.styles import changed_text, event_type
from replay.cli.text import counted, instant, one_line, path_text, preview
from replay.gitlog import NotARepository

ROOT = Path(__file__).resolve().parent.parent
FINE, FOUND, FAILED, INTERRUPTED, OUTPUT_CLOSED = 0, 1, 3, 130, 141  # those of the `replay` command

_TIMELINE = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return 0, 1 if something did not hold that it shows, 3 for what could not be done."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("repository", metavar="REPO", nargs="?", help="a git repository (default: the one around here)")
    parser.add_argument("--into", metavar="DIR", help="a new or empty folder for what the demo makes (default: .demo)")
    given = parser.parse_args(arguments)
    try:
        return _demo(given.repository, given.into)
    except BrokenPipeError:
        # Python flushes stdout once more as it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except KeyboardInterrupt:
        return _fail("interrupted: `make demo` begins anew", INTERRUPTED)
    except AsofError as error:
        return _fail(f"error: {error}", FAILED)
    except OSError as error:
        return _fail(f"error: {path_text(error.filename or 'the system')}: {error.strerror or error}", FAILED)


def _fail(message: str, code: int) -> int:
    print(one_line(message), file=sys.stderr)
    return code


def _demo(repository: str | None, into: str | None) -> int:
    show = Show(sys.stdout)
    if into is not None and os.path.isdir(into) and os.listdir(into):
        raise FileExistsError(0, "has something in it; give --into a new or an empty folder", into)
    with show.waiting("Reading the history"):
        source = _source(repository)
    show.line("asof: a vector memory that can be audited, rewound and rebuilt", "bold")
    show.line("Vectors are hashed words here (no model needed): they find words, not meanings.", "dim")
    for remark in source.remarks:
        show.line(remark, "yellow")
    folder = _fresh_folder(into)
    database = _shown(folder / "history.db")
    with EventStore(database, embedder=HashingEmbedder()) as store, VectorIndex(store) as index:
        found = the_history(show, store, source)
        question = tell(index, store, found, source.story) if source.story else choose(index, store, found)
        search_now(show, store, question, source)
        search_then(show, store, question, source)
        one_memory(show, store, source.story.memory_id if source.story else choose_memory(found, question))
        ways_back(show, store, question, folder)
        index.checkpoint()
        index.close()
        with rebuilt(show, store, question) as new_index:
            audited(show, store, new_index, folder)
    go_on(show, database, question)
    return FOUND if show.failed else FINE


def _source(repository: str | None) -> Source:
    """The history of a repository that was named, of the one around here, or the small one."""
    try:
        source = git_source(os.curdir if repository is None else repository)
    except NotARepository as error:
        if repository is not None:
            raise
        # What it says after the last colon is what to do with a path that was given.
        reason = str(error).rpartition(": ")[0].replace("'.'", "this folder")
        return small_source(f"No git history here: {reason}.")
    if source.moments < 2:
        where = "here" if repository is None else f"in {path_text(repository)}"
        what = f"{source.moments or 'no'} commit with text files, and it takes two to look back"
        rest = " (a shallow clone: `git fetch --unshallow` brings the rest)" if source.shallow else ""
        return small_source(f"No history {where}: {what}{rest}.")
    return source


def _fresh_folder(into: str | None) -> Path:
    """The folder for what the demo makes, without what an earlier run has left there."""
    if into is not None:
        folder = Path(into)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = ROOT / ".demo"
    try:
        folder.mkdir(exist_ok=True)
        for left in folder.glob("*.db*"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
    except OSError:
        # A checkout that may only be read.
        return Path(tempfile.mkdtemp(prefix="asof-demo-"))
    return folder


def _shown(path: Path) -> str:
    """A path relative to where the user is, if that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)


# The steps


def the_history(show: Show, store: EventStore, source: Source) -> Survey:
    """Import, and say what there is."""
    show.step(source.title[0].upper() + source.title[1:], source.explained, source.call)
    started = time.perf_counter()
    with show.progress("Importing", source.events) as update:
        fill(store, source, update)
    seconds = time.perf_counter() - started
    found = survey(store)
    first, last = found.moments[0], found.moments[-1]
    added, updated, deleted = (found.types[kind] for kind in ("ADD", "UPDATE", "DELETE"))
    live = store.count()
    show.facts(
        ("events", f"{store.position:,}: {added:,} added, {updated:,} updated, {deleted:,} deleted"),
        ("from, to", f"{instant(first.recorded_at)} to {instant(last.recorded_at)}, {len(found.moments):,} instants"),
        ("by", _names(found)),
        ("memories", f"{live:,} live now, {len(found.lives):,} ever"),
        ("imported", f"in {_seconds(seconds)} into {path_text(store.path)}, {_size(Path(store.path))}"),
    )
    return found


def _names(found: Survey) -> str:
    names = sorted(found.actors)
    return ", ".join(preview(name, 30) for name in names) if len(names) <= 6 else f"{len(names):,} authors"


def search_now(show: Show, store: EventStore, question: Question, source: Source) -> None:
    """A search over what is known now."""
    show.step(
        "Search: what is known now",
        f"FAISS compares embeddings; each answer is a {source.memory} as it is today.",
        f"index.search({_literal(preview(question.text, 80))}, k={K})",
    )
    show.hits(question.now, question.text)


def search_then(show: Show, store: EventStore, question: Question, source: Source) -> None:
    """The same search over what was known at an earlier moment, and what has become of the answers."""
    moment = question.moment
    show.step(
        "The same search, as of then",
        "The index knows when each version was born and died, so it can answer for then.",
        f"index.search({_literal(preview(question.text, 80))}, k={K}, as_of={_literal(moment.as_of)})",
    )
    when = f"{instant(moment.recorded_at)}, {preview(moment.actor or 'somebody', 40)} {source.did}: "
    show.line(when + preview(moment.reason or "", max(30, show.console.width - len(when))))
    if source.story:
        show.line(source.story.before, "bold")
    show.console.print()
    show.hits(question.then, question.text, became=lambda hit: _became(store.get(hit.memory_id), hit))
    later = [hit for hit in question.now if store.get(hit.memory_id, as_of=moment.position) is None]
    same, most = len(set(key(question.now)) & set(key(question.then))), max(len(question.now), len(question.then))
    names = ", ".join(preview(hit.memory_id, 60) for hit in later[:3]) + (" ..." if later[3:] else "")
    show.console.print()
    show.line(
        f"The same then and now: {same} of {counted(most, 'answer')}." + (f" Not there yet: {names}" if later else ""),
        "bold",
    )
    if source.story:
        show.line(source.story.after, "bold")


def _literal(value: AsOf) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def _became(memory: Memory | None, hit: Hit) -> Text:
    if memory is None:
        return Text("deleted", "red")
    if memory.version == hit.version:
        return Text("as it was", "dim")
    return Text(f"changed, v{memory.version}", "yellow")


def one_memory(show: Show, store: EventStore, memory_id: str) -> None:
    """The timeline of one memory."""
    show.step(
        f"One memory's history: {preview(memory_id, 60)}",
        "Nothing is overwritten: each change keeps its time, author, reason and content.",
        f"store.events(memory_id={_literal(memory_id)})",
    )
    total = sum(1 for _ in store.events(memory_id=memory_id))
    skipped = range(2, total - _TIMELINE + 3) if total > _TIMELINE else range(0)
    table = show.table("when", "v", "event", "by: why, and what changed")
    before: Event | None = None
    for number, event in enumerate(store.events(memory_id=memory_id)):
        if number not in skipped:
            table.add_row(
                instant(event.recorded_at), str(event.version), event_type(event.type), _change(before, event)
            )
        elif number == skipped[0]:
            table.add_row("...", "", "", Text(f"{len(skipped):,} more", "dim"))
        before = event
    show.print(table)


def _change(before: Event | None, event: Event) -> Text:
    why = f": {preview(event.reason)}" if event.reason else ""
    text = Text(preview(event.actor_id or "?", 40), "magenta", no_wrap=True, overflow="ellipsis").append(why, "default")
    old, new = (before.content if before else None) or "", event.content or ""
    if event.type != "DELETE":
        text.append("\n").append_text(changed_text(old, new, limit=1))
    return text


def ways_back(show: Show, store: EventStore, question: Question, folder: Path) -> None:
    """What has changed since, and the past as a database of its own."""
    then, target = question.moment, _shown(folder / "then.db")
    as_of = _literal(then.as_of)
    show.step(
        "What changed since, and the past as a database of its own",
        "Two instants compared, and the history up to one taken out as a new database.",
        f'diff(store, {as_of}, None); recover(store, {as_of}, "{target}")',
    )
    changes = diff(store, then.as_of, None)
    head = recover(store, then.as_of, target)
    with EventStore(target, embedder=HashingEmbedder()) as past, VectorIndex(past) as index:
        agrees = index.search(question.text, K) == question.then
    show.facts(
        (
            "since then",
            f"{len(changes.added):,} added, {len(changes.updated):,} changed, {len(changes.deleted):,} deleted",
        ),
        ("new file", f"{target}: {counted(head.position, 'event')}, head hash {head.hash[:16]}..."),
        show.check("asked there", agrees, "the answers of step 3, bit for bit", "OTHER ANSWERS than in step 3"),
    )


@contextmanager
def rebuilt(show: Show, store: EventStore, question: Question) -> Iterator[VectorIndex]:
    """The index is deleted and made again from the history; the answers are compared, then and now."""
    with VectorIndex(store) as index:
        before = _digest(index, question)
        directory = index.directory
    assert directory is not None
    size = _size(directory)
    shown = _shown(directory)
    show.step(
        "The index is lost, and made again",
        "An index is only a projection: deleted, it comes back from history bit for bit.",
        f'shutil.rmtree("{shown}"); index = VectorIndex(store); index.rebuild()',
    )
    shutil.rmtree(directory)
    show.line(f"Deleted {shown}, {size}.")
    with VectorIndex(store) as index:
        assert index.position == 0
        started = time.perf_counter()
        with show.progress("Rebuilding", store.position, keep=True) as update:
            index.rebuild(progress=update)
        seconds = time.perf_counter() - started
        after = _digest(index, question)
        show.facts(
            ("rebuilt", f"{counted(index.position, 'event')} in {_seconds(seconds)}"),
            ("before", f"sha256 {before[:16]}... of all vectors and both answers"),
            show.check(
                "after", before == after, f"sha256 {after[:16]}... the same", f"sha256 {after[:16]}... DIFFERENT"
            ),
        )
        yield index


def _digest(index: VectorIndex, question: Question) -> str:
    """SHA-256 of all that the index holds, then and now, and of what it answers, scores to the last bit."""
    digest = hashlib.sha256()
    for as_of in (None, question.moment.as_of):
        positions, vectors = index.contents(as_of)
        digest.update(positions.tobytes() + vectors.tobytes())
        for hit in index.search(question.text, K, as_of=as_of):
            digest.update(f"{hit.position}:".encode() + np.float64(hit.score).tobytes())
    return digest.hexdigest()


def audited(show: Show, store: EventStore, index: VectorIndex, folder: Path) -> None:
    """Verify the history and the index; then falsify a copy and verify that."""
    forged = _shown(folder / "forged.db")
    show.step(
        "Audit: is it what was recorded?",
        "Each event is chained to the one before: a change behind the store's back shows.",
        f'verify(store, index); verify("{forged}")',
    )
    started = time.perf_counter()
    report = verify(store, index)
    seconds = time.perf_counter() - started
    what = f"{counted(report.checked, 'event')} and the index checked in {_seconds(seconds)}, no fault"
    fault = f"{counted(len(report.faults), 'fault')}: {'; '.join(fault.message for fault in report.faults[:3])}"
    show.facts(show.check("history", report.ok, what, fault))
    position = _forge(folder / "then.db", Path(forged))
    faults = verify(forged).faults
    show.line(f"Now a copy, one letter of event {position} changed past the triggers that forbid it:")
    for each in faults[:3]:
        show.line(f"  {each.kind}: {each.message}", "red")
    if not faults:
        show.facts(show.check("forgery", False, "", "NOT FOUND"))


def _forge(original: Path, forged: Path) -> int:
    """A copy of a history with one letter changed in the middle, as nobody but its owner could; the position."""
    shutil.copyfile(original, forged)
    with closing(sqlite3.connect(forged)) as database, database:
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f'DROP TRIGGER "{name}"')
        ((position, content),) = database.execute(
            "SELECT seq, content FROM payloads WHERE content IS NOT NULL"
            " ORDER BY abs(seq * 2 - (SELECT max(seq) FROM payloads)) LIMIT 1"
        )
        changed = ("x" if content[:1] != "x" else "y") + content[1:]
        database.execute("UPDATE payloads SET content = ? WHERE seq = ?", (changed, position))
        for _, sql in triggers:
            database.execute(sql)
    return int(position)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{max(1, round(1000 * seconds))} ms"


def _size(path: Path) -> str:
    """The size of a folder, or of a database with its log."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    kilobytes = sum(file.stat().st_size for file in files if file.is_file()) / 1000
    return f"{kilobytes / 1000:,.1f} MB" if kilobytes >= 1000 else f"{kilobytes:.0f} kB"


def go_on(show: Show, database: str, question: Question) -> None:
    """Commands to try next."""
    script = Path(sys.executable).with_name("replay")
    command = f"{_shown(Path(sys.executable))} -m replay"
    if script.exists():
        command = "replay" if shutil.which("replay") == str(script) else _shown(script)
    path, as_of = shlex.quote(database), question.moment.as_of
    text = shlex.quote(question.text) if len(question.text) <= 80 else "'...'"
    show.heading("Go on with it")
    show.line(f"All of it is in {path_text(database)}; `make demo` begins anew.")
    show.console.print()
    for arguments in (
        f"log {path} --reverse -n 10",
        f"search {path} {text} --as-of {as_of}",
        f"diff {path} {as_of}",
        f"restore {path} --as-of {as_of} --dry-run",
        f"verify {path}",
        "--help",
    ):
        show.code(f"{command} {arguments}")


if __name__ == "__main__":
    sys.exit(main())
