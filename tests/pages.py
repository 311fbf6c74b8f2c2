"""The pages of the documentation, and the fenced blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(
    r"(?P<mark><!-- not run: .+? -->\n)?^(?P<ticks>`{3,})(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the number of its first line."""

    language: str
    body: str
    line: int
    skipped: bool
    start: int
    end: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            match["language"].strip(),
            match["body"],
            text.count("\n", 0, match.start("body")) + 1,
            match["mark"] is not None,
            match.start("ticks"),
            match.end(),
        )
        for match in FENCE.finditer(text)
    ]


def bodies(page: Path, language: str) -> list[str]:
    return [block.body for block in blocks(page) if block.language == language]
