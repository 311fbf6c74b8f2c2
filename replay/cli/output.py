"""Standard output: JSON objects, and tables that fit a terminal and lose nothing in a pipe."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import click
import orjson
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from replay.cli.failures import OutputClosed
from replay.cli.text import one_line, printable

__all__ = ["Column", "console", "facts", "flush", "print_json", "print_line", "say", "table"]

# A line in a pipe is as long as what it says: whoever reads it may look for a whole id.
_UNLIMITED = 100_000
_ROWS_AT_ONCE = 200
_GAP = 2
_NARROWEST = 8


class _Console(Console):
    @property
    def on_terminal(self) -> bool:
        # Not `is_terminal`: FORCE_COLOR asks for colours in a pipe, and not for lines to be cut there.
        return self.file.isatty()

    def on_broken_pipe(self) -> None:
        raise OutputClosed


def console() -> _Console:
    """The console on standard output as it is now. No markup: texts from a history are shown as they are."""
    stdout = _Console(markup=False, highlight=False, emoji=False)
    if not stdout.on_terminal and "COLUMNS" not in os.environ:
        stdout.width = _UNLIMITED
    return stdout


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise OutputClosed from error
        raise OSError(error.errno, error.strerror, "standard output") from error


def print_json(value: Mapping[str, Any]) -> None:
    """A JSON object: on one line, or indented where a person looks at it."""
    with _writing():
        style = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
        click.echo(orjson.dumps(value, option=style))


def print_line(value: Mapping[str, Any]) -> None:
    """A JSON object on one line."""
    with _writing():
        click.echo(orjson.dumps(value))


def flush() -> None:
    """Write out what is buffered, while an error can still be reported."""
    with _writing():
        sys.stdout.flush()


def say(text: str, style: str = "") -> None:
    """A sentence."""
    with _writing():
        console().print(Text(printable(text), style=style), soft_wrap=True)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    One without a share is as wide as its cells. Those with one divide what is left of a terminal's width: ids are
    folded where they do not fit; texts go on for `lines` lines and end in an ellipsis, or, where that is 0, keep
    the lines that they have. In a pipe all have the width that they need.
    """

    title: str
    style: str = ""
    right: bool = False
    share: int = 0
    is_id: bool = False
    lines: int = 1


Cell = str | Text | None


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> int:
    """Print a table as its rows come, and return how many there were.

    Some hundred rows are laid out at a time; columns never become narrower again, so that they stay in line.
    """
    out = console()
    natural = [cell_len(column.title) for column in columns]
    iterator = iter(rows)
    printed = 0
    while some := [[_cell(cell) for cell in row] for row in islice(iterator, _ROWS_AT_ONCE)]:
        natural = [
            max(width, *map(_width, cells)) for width, cells in zip(natural, zip(*some, strict=True), strict=True)
        ]
        if out.width == _UNLIMITED and not out.is_terminal:
            titles = [] if printed else [[Text(column.title) for column in columns]]
            with _writing():
                out.file.writelines(_plain_lines(columns, natural, [*titles, *some]))
        else:
            _print(out, _laid_out(out, columns, natural, some, header=not printed))
        printed += len(some)
    return printed


def _plain_lines(columns: Sequence[Column], widths: Sequence[int], rows: Iterable[Sequence[Text]]) -> Iterator[str]:
    """The rows as text, for a pipe: ten times as fast as a layout that has nothing to fit into."""
    for row in rows:
        for cells in zip_longest(*(cell.plain.split("\n") for cell in row), fillvalue=""):
            parts = []
            for column, width, cell in zip(columns, widths, cells, strict=True):
                blank = " " * (width - cell_len(cell))
                parts.append(blank + cell if column.right else cell + blank)
            yield (" " * _GAP).join(parts).rstrip() + "\n"


def _laid_out(
    out: _Console, columns: Sequence[Column], natural: Sequence[int], rows: Iterable[Sequence[Text]], *, header: bool
) -> Table:
    gaps = _GAP * (len(columns) - 1)
    widths = _fitted(columns, natural, out.width - gaps)
    # A terminal too narrow for that wraps lines; squashed columns could not be read at all.
    out.width = max(out.width, sum(widths) + gaps)
    lines = Table(
        box=box.SIMPLE_HEAD if out.on_terminal else None,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1 if out.on_terminal else _GAP, 0, 0),
        show_header=header,
        header_style="bold",
    )
    for column, width in zip(columns, widths, strict=True):
        lines.add_column(
            Text(column.title, overflow="ellipsis", no_wrap=True),
            style=column.style,
            justify="right" if column.right else "left",
            overflow="fold" if column.is_id else "ellipsis",
            width=width,
        )
    for row in rows:
        lines.add_row(*map(_shortened, columns, widths, row))
    return lines


def _cell(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(one_line(cell or ""))


def _width(cell: Text) -> int:
    return max(cell_len(line) for line in cell.plain.split("\n"))


def _fitted(columns: Sequence[Column], natural: Sequence[int], room: int) -> list[int]:
    """The columns' widths: the natural ones if they fit, else what is left is divided by shares."""
    widths = list(natural)
    open_ = [number for number, column in enumerate(columns) if column.share]
    room -= sum(widths[number] for number in range(len(columns)) if number not in open_)
    while open_:
        shares = sum(columns[number].share for number in open_)
        satisfied = [number for number in open_ if natural[number] <= room * columns[number].share // shares]
        if not satisfied:
            for number in open_:
                widths[number] = max(_NARROWEST, room * columns[number].share // shares)
            break
        for number in satisfied:
            room -= natural[number]
            open_.remove(number)
    return widths


def _shortened(column: Column, width: int, cell: Text) -> Text:
    if column.is_id:
        return Text("\n".join(_folded(cell.plain, width)), style=cell.style)
    if column.share and column.lines:
        # Lines break between words, so each but the last may stay a little short.
        cell.truncate(width * column.lines - (width // 5) * (column.lines - 1), overflow="ellipsis")
    return cell


def _folded(text: str, width: int) -> Iterator[str]:
    """Lines of at most `width` cells: broken after a space, slash or dash where one is near the end."""
    while cell_len(text) > width:
        line = set_cell_size(text, width).rstrip() or text[0]
        last = max((line.rfind(mark) for mark in " /-_"), default=-1) + 1
        line = line[:last] if last > len(line) // 2 else line
        yield line
        text = text[len(line) :]
    yield text


def facts(rows: Iterable[tuple[str, Cell]]) -> None:
    """Print what there is to say about one thing, a line each."""
    out = console()
    grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            grid.add_row(Text(name), _cell(value) if isinstance(value, str) else value)
    _print(out, grid)


def _print(out: _Console, lines: Table) -> None:
    with _writing():
        if out.on_terminal:
            out.print(lines)
            return
        # Rich fills every line up; in a pipe that is noise.
        with out.capture() as capture:
            out.print(lines)
        out.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
