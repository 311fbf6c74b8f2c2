"""How the demo looks: headings, facts, tables, bars; as wide as the terminal, and readable in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TextIO

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from examples.question import best_line
from projections import Hit, Hits
from replay.cli.text import one_line, printable

__all__ = ["Show"]

_WIDEST = 120


class Show:
    """Prints steps, facts and tables, as wide as the terminal is but no wider than can be read."""

    def __init__(self, stream: TextIO) -> None:
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a letter of somebody's file shows a question mark.
            stream.reconfigure(errors="replace")
        self.console = _Console(file=stream, markup=False, highlight=False, emoji=False)
        self.console.width = min(self.console.width, _WIDEST)
        self._steps = 0
        self.failed = False

    def print(self, what: object) -> None:
        self.console.print(what)

    def step(self, title: str, explained: str, call: str) -> None:
        """A heading, one line on what is shown, and the call that shows it."""
        self._steps += 1
        self.heading(f"{self._steps}  {title}")
        self.line(explained)
        self.code(f">>> {call}")
        self.console.print()

    def heading(self, title: str) -> None:
        self.console.print()
        self.console.rule(Text(one_line(title), "bold", overflow="ellipsis"), align="left", style="dim")

    def code(self, text: str) -> None:
        """Code or a command, left whole so that it can be copied."""
        self.console.print(Text(one_line(text), "cyan"), soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(printable(text), style, overflow="fold"))

    def facts(self, *rows: tuple[str, str | Text]) -> None:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True, min_width=11)
        grid.add_column(overflow="fold")
        for name, value in rows:
            grid.add_row(name, value if isinstance(value, Text) else Text(printable(value)))
        self.console.print(grid)

    def check(self, name: str, holds: bool, good: str, bad: str) -> tuple[str, Text]:
        """A fact that ought to hold; `failed` remembers if one did not."""
        self.failed |= not holds
        return name, Text(printable(good), "green") if holds else Text(printable(bad), "bold red")

    def table(self, *titles: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for title in titles:
            table.add_column(
                title,
                justify="right" if title in ("score", "v") else "left",
                no_wrap=title not in ("text", "by: why, and what changed"),
                overflow="ellipsis",
            )
        return table

    def hits(self, hits: Hits, query: str, became: Callable[[Hit], Text] | None = None) -> None:
        """Answers, best first, each with the line of it that fits the question best."""
        table = self.table("score", "memory", "v", "since", *(["today"] if became else []), "text")
        widest = self.console.width // (3 if became is None or self.console.width >= 100 else 4)
        rows = [[*self._answer(hit, widest), *([became(hit)] if became else [])] for hit in hits]
        taken = sum(max(cell.cell_len for cell in column) + 2 for column in zip(*rows))
        for hit, row in zip(hits, rows):
            text = Text(best_line(hit.content, query), overflow="fold")
            # Two lines of it; they break between words, so neither is quite full.
            text.truncate(max(20, int(1.8 * (self.console.width - taken))), overflow="ellipsis")
            table.add_row(*row, text)
        self.console.print(table if hits else Text("no answer: there was nothing to find", "dim"))

    @staticmethod
    def _answer(hit: Hit, widest: int) -> list[Text]:
        since = (hit.updated_at or hit.created_at).date().isoformat()
        name = Text(_end(one_line(hit.memory_id), widest), "bold")
        return [Text(f"{hit.score:.3f}"), name, Text(str(hit.version)), Text(since)]

    def waiting(self, doing: str) -> AbstractContextManager[object]:
        """Something that moves, on a terminal, while nobody knows how long it takes."""
        return self.console.status(doing) if self.console.is_terminal else nullcontext()

    @contextmanager
    def progress(self, doing: str, total: int, keep: bool = False) -> Iterator[Callable[[int, int], None]]:
        """A bar on a terminal, nothing in a pipe."""
        bar = Progress(
            TextColumn(doing),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=not keep,
            disable=not self.console.is_terminal,
        )
        with bar:
            task = bar.add_task(doing, total=total)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def _end(name: str, width: int) -> str:
    """A path that is too long loses its beginning."""
    return name if cell_len(name) <= width else "…" + set_cell_size(name[::-1], width - 1)[::-1]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
