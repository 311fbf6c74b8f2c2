"""The reference of the test kit has a place for every public name, and for every rule and option."""

from __future__ import annotations

import importlib
import re

import pytest

from replay.testing import MemoryMachine
from tests.pages import ROOT

PAGE = (ROOT / "docs/reference/testing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["eventstore.testing", "projections.testing", "replay.testing"])
def test_every_public_name_is_on_the_page(package: str) -> None:
    """In the section of its package."""
    section = re.search(rf"^## {re.escape(package)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    named = set(re.findall(r"`(\w+)", section[1])) | set(re.findall(r"^### (\w+)$", section[1], re.MULTILINE))
    assert set(importlib.import_module(package).__all__) - named == set()


def test_every_rule_of_the_machine_is_on_the_page() -> None:
    """So that one knows which to leave out; and none that is not there."""
    rules = {name for name in dir(MemoryMachine) if hasattr(getattr(MemoryMachine, name), "hypothesis_stateful_rule")}
    table = re.search(r"^\| rule \| does \|\n(.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert table is not None
    assert {name for row in table[1].splitlines()[1:] for name in re.findall(r"`(\w+)`", row.split("|")[1])} == rules
