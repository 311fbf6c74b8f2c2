"""Text from a history made fit for a terminal: it was written by others and may hold anything."""

from __future__ import annotations

import os
import re
from datetime import datetime

__all__ = ["counted", "instant", "one_line", "path_text", "preview", "printable"]

# Control characters could move the cursor, retitle the window or clear the screen; bidirectional overrides and
# invisible separators could make a line read as another one. Surrogates cannot be encoded.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters spelled out, `\\x1b`; line feeds and tabs stay."""
    return _UNFIT.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """The text with every run of white space made one space."""
    return printable(" ".join(text.split()))


def preview(text: str, length: int = 200) -> str:
    """The beginning of a text, on one line."""
    start = one_line(text[: 4 * length])
    cut = len(start) > length or len(text) > 4 * length
    return start[: length - 1].rstrip() + "…" if cut else start


def path_text(path: str | os.PathLike[str]) -> str:
    """A path as text that can be encoded: bytes that are not UTF-8 are spelled out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def instant(moment: datetime) -> str:
    """An instant for people, in UTC: `2026-11-24 06:50:00Z`.

    The fraction is shown whole where there is one: asked for again, a shorter one would mean an earlier instant.
    """
    return moment.isoformat(sep=" ").removesuffix("+00:00") + "Z"


def counted(number: int, one: str, several: str | None = None) -> str:
    """`1 event`, `1,932 events`."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
