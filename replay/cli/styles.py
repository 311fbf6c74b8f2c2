"""How things look: the colours of event types, and what changed in a text in a few lines."""

from __future__ import annotations

import difflib
from typing import Any

import orjson
from rich.text import Text

from eventstore import Event
from replay.cli.text import counted, one_line, preview

__all__ = ["added_text", "changed_metadata", "changed_text", "event_type", "explained", "removed_text"]

_COMPARED = 40_000  # lines times lines: beyond it whole blocks are shown as changed
_LEAD = 12
_STYLES = {"ADD": "green", "UPDATE": "yellow", "DELETE": "red"}


def event_type(type_: str) -> Text:
    """An event's type in its colour."""
    return Text(type_, style=_STYLES.get(type_, ""))


def added_text(content: str) -> Text:
    """The beginning of a text that is new."""
    return _lines([("+", preview(content), "green")])


def removed_text(content: str) -> Text:
    """The beginning of a text that is gone."""
    return _lines([("-", preview(content), "red")])


def changed_text(before: str, after: str, *, limit: int = 2) -> Text:
    """The first lines that differ between two texts: at most `limit` that went and as many that came."""
    gone, come = _differing(before.splitlines(), after.splitlines())
    pairs = [_from_difference(*pair) for pair in zip(gone[:limit], come[:limit], strict=False)]
    shown_gone = [pair[0] for pair in pairs] + gone[len(pairs) : limit]
    shown_come = [pair[1] for pair in pairs] + come[len(pairs) : limit]
    lines = [("-", preview(line), "red") for line in shown_gone] + [
        ("+", preview(line), "green") for line in shown_come
    ]
    more = len(gone[limit:]) + len(come[limit:])
    if more:
        lines.append(("…", counted(more, "more line"), "dim"))
    return _lines(lines)


def _differing(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """The lines that went and those that came, without blank ones."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    gone, come = old[start : len(old) - end], new[start : len(new) - end]
    if len(gone) * len(come) <= _COMPARED:
        blocks = difflib.SequenceMatcher(a=gone, b=come, autojunk=False).get_matching_blocks()
        same_old = {block.a + i for block in blocks for i in range(block.size)}
        same_new = {block.b + i for block in blocks for i in range(block.size)}
        gone = [line for number, line in enumerate(gone) if number not in same_old]
        come = [line for number, line in enumerate(come) if number not in same_new]
    return [line for line in map(one_line, gone) if line], [line for line in map(one_line, come) if line]


def _from_difference(old: str, new: str) -> tuple[str, str]:
    """Two lines, each from a little before the first character in which they differ."""
    same = next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    if same <= 2 * _LEAD:
        return old, new
    return f"…{old[same - _LEAD :].lstrip()}", f"…{new[same - _LEAD :].lstrip()}"


def changed_metadata(before: dict[str, Any], after: dict[str, Any]) -> Text:
    """The keys of metadata that differ, each with its old and its new value."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = _value(before, key), _value(after, key)
        if old != new:
            lines.append(("~", f"{key}: {preview(old, 18)} → {preview(new, 18)}", "yellow"))
    return _lines(lines)


def _value(metadata: dict[str, Any], key: str) -> str:
    return orjson.dumps(metadata[key], option=orjson.OPT_SORT_KEYS).decode() if key in metadata else "none"


def _lines(lines: list[tuple[str, str, str]]) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for number, (mark, line, style) in enumerate(lines):
        text.append("\n" if number else "")
        text.append(f"{mark} {line}", style=style)
    return text


def explained(event: Event, *, content: bool = True) -> Text:
    """Who, and why or else what, on one line."""
    said = Text(preview(event.reason)) if event.reason else Text()
    if content and not event.reason and event.content:
        said = Text(preview(event.content), style="dim")
    who = Text(preview(event.actor_id, 40), style="magenta") if event.actor_id else Text()
    return Text(": ").join([part for part in (who, said) if part])
