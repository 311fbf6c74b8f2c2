"""The property-based test kit for applications: a state machine that drives store and projections together.

Part of `asof[testing]`. docs/reference/testing.md.
"""

import eventstore.testing  # noqa: F401  (first: it says what to install where Hypothesis is missing)
from replay.testing.machine import MemoryMachine, memory_machine

__all__ = ["MemoryMachine", "memory_machine"]
