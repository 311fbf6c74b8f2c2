"""Results as Markdown: tables between the markers of a page, and plots beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import MissingMatplotlib, draw
from benchmarks.results import Result, Row

__all__ = ["markdown", "write"]

_MARKED = re.compile(r"(<!-- results: (?P<name>[a-z-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
_HEAD = (
    "| what | against | ours | theirs | ratio | of rounds | at least | aim | |\n"
    "| --- | --- | ---: | ---: | ---: | :---: | ---: | ---: | --- |\n"
)
_VERDICTS = {"aim": "at the aim", "reached": "reached", "missed": "missed"}


def _number(value: float) -> str:
    """Three significant digits, or whole where there are more."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _limit(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:g}"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of rows."""
    lines = []
    for row in rows:
        sign = {"rate": "×", "amount": ""}.get(row.kind, "")
        theirs = "" if row.theirs is None else f"{_number(row.theirs)} {row.unit}"
        spread = "" if row.low == row.high else f"{_number(row.low)} to {_number(row.high)}"
        last = "; ".join(part for part in (_VERDICTS.get(row.verdict, ""), row.note) if part)
        lines.append(
            f"| {row.what} | {row.against} | {_number(row.ours)} {row.unit} | {theirs} "
            f"| {_number(row.ratio)}{sign} | {spread} | {_limit(row.at_least)} | {_limit(row.aim)} | {last} |\n"
        )
    return _HEAD + "".join(lines)


def _measured(result: Result) -> str:
    """A line on when, where and with what."""
    where, options = result.conditions, result.options
    machine, versions = where["machine"], where["versions"]
    commit = where["commit"] or "no commit"
    changed = " with changes" if where["changed"] else ""
    cores = ", ".join(f"{name} {share:g}" for name, share in result.cores.items())
    lines = [
        f"Measured {where['date'][:10]} at {commit}{changed}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']:g} GiB, {machine['system']}, {machine['file_system']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". {options['rounds']} rounds, {options['dims']} dimensions, "
        f"{where['threads']['limit']} thread(s) for every library; {result.data}.",
        f"Checked: {result.checked}." if result.checked else "",
        f"Cores in use, as measured: {cores}." if cores else "",
    ]
    lines += [f"{name}: {text}." for name, text in result.settings.items()]
    lines += [f"Note: {note}." for note in result.notes]
    return "".join(f"- {line}\n" for line in lines if line)


def markdown(results: Sequence[Result]) -> str:
    """Tables of results of one command, each with what it was measured with."""
    parts = []
    for result in results:
        rows = table(result.rows) + "\n" if result.rows else ""
        parts.append(f"**{result.title}**\n\n{rows}{_measured(result)}")
    return "\n".join(parts)


def summary(results: Sequence[Result]) -> str:
    """One table of all rows that have a goal."""
    rows = [row for result in results for row in result.rows if row.at_least is not None]
    return table(rows) if rows else "No goal was measured.\n"


def write(results: Sequence[Result], page: Path, images: Path) -> list[str]:
    """Put results between the markers of a page and draw their plots; return what was done, in lines.

    Of a marker whose command is not among the results nothing is changed. `ValueError` where the page has no
    marker for a command: nothing is written then.
    """
    text = page.read_text("utf-8")
    by_command: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda each: (each.options["rows"], each.options["dims"])):
        by_command.setdefault(result.command, []).append(result)
    markers = {match["name"] for match in _MARKED.finditer(text)}
    if lost := sorted(set(by_command) - markers):
        raise ValueError(f"{page} has no marker for {', '.join(lost)}: add '<!-- results: {lost[0]} -->' and its end")
    order = [match["name"] for match in _MARKED.finditer(text)]
    inside = {name: markdown(found) for name, found in by_command.items()}
    inside["summary"] = summary([result for name in order for result in by_command.get(name, [])])
    done = []
    for name, found in by_command.items():
        try:
            for image in draw(found, images):
                link = Path(os.path.relpath(image, page.parent)).as_posix()
                inside[name] += f"\n![{image.stem}]({link})\n"
                done.append(f"drawn {image}")
        except MissingMatplotlib as error:
            done.append(f"no plots of {name}: {error}")

    def filled(match: re.Match[str]) -> str:
        name = match["name"]
        return match[0] if name not in inside else f"{match[1]}\n{inside[name]}\n{match[3]}"

    page.write_text(_MARKED.sub(filled, text), "utf-8")
    return [*done, f"{page}: {', '.join(sorted(by_command))}"]
