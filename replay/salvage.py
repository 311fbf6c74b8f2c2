"""Salvage: a new, sound history of whatever can still be read from a damaged file, and a report of every gap.

As long as nothing is missing, events keep their positions and hashes: the new history is the old one. After the first
gap the chain cannot be the same, and what follows is recorded anew, in order, at the positions that come next: with
its own event_id, memory, times, actor and context; payloads keep their bytes, salts and digests. Nothing is made up:
an event that is not whole is left out, and its memory stays as it was last known. `replay.remake` has the rules.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from eventstore import CorruptHistory, Head
from eventstore.instants import from_microseconds
from replay.damaged import opened, require_file
from replay.evidence import Evidence, Header, Rows
from replay.newfile import filled, new_database
from replay.pages import PageFile, opened_pages
from replay.rebuild import Progress
from replay.remake import NewHistory, header_fault
from replay.report import Ranges
from replay.salvaged import Gaps, MemoryGap, SalvageReport
from replay.verify import verify

__all__ = ["salvage"]


def salvage(
    path: str | os.PathLike[str], *, to: str | os.PathLike[str], progress: Progress | None = None
) -> SalvageReport:
    """Write what can still be read from a damaged history to a new database file, and report every gap.

    `path` may be too damaged to be opened. It is only read, as is a `-wal` beside it, and no file is made beside it;
    nobody may have it open. What is taken is proven by the hash chain and the payloads' digests, or reported as
    unproven. `to` appears whole, verified and synced, or not at all. Memory: 16 bytes for each row, a small object
    for each memory that ever was and for each gap, and a page of events. `progress` is called with events gone
    through, then verified, of twice the number that is known of.

    Raises:
        CorruptHistory: nothing of a history can be found in the file.
        InvalidOperation: there is something at `to` already, or a store of this process has `path` open.
        StorageError: there is no file or no permission, or somebody writes to it.
        NotAStore: `path` is a directory or no regular file.
    """
    source = os.fsdecode(path)
    require_file(source)
    with new_database(to, source) as (part, target):
        with opened_pages(source) as pages, opened(source, live=False) as connection:
            rows = Rows(pages, connection)
            with filled(part, target) as new:
                history = NewHistory(new)
                work = _Salvage(rows, history, progress)
                work.run()
            if not history.count and not rows.is_empty_history():
                raise CorruptHistory(
                    f"nothing of a history can be salvaged from {source}: {target} was not written; bring back a copy"
                )
            work.look_at_file(pages)
        head = _require_sound(part, source, history.count, progress)
    return SalvageReport(
        path=source,
        to=str(target),
        head=head,
        last=work.last,
        events=history.count,
        kept=history.kept,
        gaps=list(work.gaps.listed()),
        memories=work.memory_gaps(),
        moved=history.moved,
    )


def _require_sound(part: Path, source: str, count: int, progress: Progress | None) -> Head:
    def shifted(done: int, total: int) -> None:
        assert progress is not None
        progress(count + done, count + total)

    report = verify(part, progress=None if progress is None else shifted)
    if not report.ok or report.head is None or report.events != count:
        found = report.faults[0].message if report.faults else f"it has {report.events} events, not {count}"
        raise CorruptHistory(f"what was salvaged from {source} is not sound ({found}): nothing was written")
    return report.head


@dataclass(slots=True)
class _Loss:
    """Versions of a memory that are lost, and the position from which it is not known."""

    first_version: int
    last_version: int
    since: int


class _Salvage:
    """Hands the events of a damaged file to a new history, and keeps account of what is missing."""

    def __init__(self, rows: Rows, history: NewHistory, progress: Progress | None) -> None:
        self.gaps = Gaps()
        self.last: Head | None = None
        self._rows = rows
        self._history = history
        self._progress = progress
        self._evidence = Evidence(rows)
        self._lost = Ranges()
        self._latest: dict[str, tuple[int, int]] = {}  # memory -> version and position of its last event that is known
        self._losses: dict[str, _Loss] = {}
        self._memory_gaps: list[MemoryGap] = []

    def run(self) -> None:
        """Go through all that there is."""
        position = 0
        for header in self._evidence.headers():
            self._lose(position + 1, header.position - 1)
            position = header.position
            self._take(header)
            if self._progress is not None:
                self._progress(position, 2 * max(position, self._rows.counter() or 0))
        self._lose_end(position)
        self._history.finish((self._rows.settings() or {}).get("embedder"))

    def look_at_file(self, pages: PageFile) -> None:
        """Note what is not known of the history as a whole."""
        counter, last = self._rows.counter(), 0 if self.last is None else self.last.position
        if counter is None or counter < last:
            cut = "the file is cut off, and " if pages.is_cut else ""
            where = f" after position {last}" if last else ""
            self.gaps.note(
                "end",
                f"whether more events were recorded{where} cannot be told: {cut}the number of events is lost",
            )
        if pages.frames.unfinished:
            words = "the log beside the file ends in what is not whole: an append under way, or what was recorded last"
            self.gaps.note("end", words)
        if self._rows.settings() is None:
            self.gaps.note("settings", "the settings are lost, and with them the name of the embedder if there was one")

    # What is lost

    def _lose(self, first: int, last: int) -> None:
        """Note that nothing is left of the headers from `first` to `last`."""
        if first > last:
            return
        self._lost.add(first, last)
        while first <= last:
            payload = self._rows.found.after("payloads", first - 1)
            if payload is None or payload > last:
                self.gaps.add("lost", "lost", first, last)
                return
            if payload > first:
                self.gaps.add("lost", "lost", first, payload - 1)
            self.gaps.add("lost", "lost but for the payload, and nothing says whose that is", payload)
            first = payload + 1

    def _lose_end(self, position: int) -> None:
        """Note what is known of events past the last one, and whose the lost events were."""
        counter = self._rows.counter()
        is_known = counter is not None and counter >= position
        if not self._lost and is_known and counter == position:
            return
        entries = [
            entry for entry in self._rows.found.memory_entries() if entry[2] > position or entry[2] in self._lost
        ]
        end = counter if counter is not None and is_known else 0
        if not is_known:
            end = max([position, self._rows.found.last("payloads"), *(seq for _, _, seq in entries)])
        self._lose(position + 1, end)
        for memory_id, version, seq in entries:
            if seq in self._lost and version > self._latest.get(memory_id, (0, 0))[0]:
                loss = self._losses.setdefault(memory_id, _Loss(version, version, seq))
                loss.first_version = min(version, loss.first_version)
                loss.last_version = max(version, loss.last_version)
                loss.since = min(seq, loss.since)

    def memory_gaps(self) -> list[MemoryGap]:
        """Every stretch in which a memory is not known, by where it begins."""
        to_the_end = [
            MemoryGap(memory_id, loss.first_version, loss.last_version, loss.since, None)
            for memory_id, loss in self._losses.items()
        ]
        return sorted([*self._memory_gaps, *to_the_end], key=lambda gap: (gap.since, gap.memory_id))

    # What is there

    def _take(self, header: Header) -> None:
        row, position = header.row, header.position
        why = header.why if row is None else header_fault(row, self._history.recorded_at)
        if row is None or why is not None:
            self.gaps.add("refused", f"left out: it {why}", position)
            self._lost.add(position, position)
            return
        self.last = Head(position, from_microseconds(row.recorded_at), row.hash.hex())
        self._notice_lost_versions(row.memory_id, row.version, row.prev_seq)
        outcome = self._history.take(row, self._evidence.payload(row))
        for kind, words in outcome.gaps:
            self.gaps.add(kind, words, position)
        if outcome.taken and header.why is not None:
            self.gaps.add("unproven", f"taken, but {header.why}", position)
        if not outcome.is_known:
            loss = self._losses.setdefault(row.memory_id, _Loss(row.version, row.version, position))
            loss.last_version = row.version
        elif (known := self._losses.pop(row.memory_id, None)) is not None:
            gap = MemoryGap(row.memory_id, known.first_version, known.last_version, known.since, position)
            self._memory_gaps.append(gap)
        self._latest[row.memory_id] = (row.version, position)

    def _notice_lost_versions(self, memory_id: str, version: int, prev_seq: int | None) -> None:
        before_version, before = self._latest.get(memory_id, (0, 0))
        if version <= before_version + 1:
            return
        since = self._lost.first_after(before)
        if version == before_version + 2 and prev_seq is not None:
            since = prev_seq  # the only one that is lost, and the event says where it was
        loss = self._losses.setdefault(memory_id, _Loss(before_version + 1, version - 1, since or before + 1))
        loss.last_version = version - 1
