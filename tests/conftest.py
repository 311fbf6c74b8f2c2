"""What all tests share: the Hypothesis profile and the number of threads, set before any test is read."""

from __future__ import annotations

import os

import pytest

import pytest_asof
from eventstore.testing import load_profile

# More OpenMP threads than cores, as when tests run side by side, make FAISS several times slower on small
# indexes. A test of what threads do sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The plugin loads the one that is asked for.
load_profile("dev")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Where asof is not installed, but on the path, nobody has told pytest of its plugin."""
    if not pluginmanager.has_plugin("asof"):
        pluginmanager.register(pytest_asof, "asof")
