"""The pytest plugin and the optional dependency: there for who asks, and out of the way of everybody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore import EventStore
from projections import VectorIndex

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "ASOF"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_fixtures_are_a_store_and_its_index(event_store: EventStore, vector_index: VectorIndex) -> None:
    """An empty store with an embedder, and an index that follows it."""
    assert event_store.position == 0
    event_store.add("Alice prefers tea", memory_id="tea")
    assert [hit.memory_id for hit in vector_index.search("what does Alice drink?")] == ["tea"]


class TestOptions:
    """A test that wants another store overrides one fixture."""

    @pytest.fixture
    def event_store_options(self) -> dict[str, object]:
        return {"allow_zero_vectors": True}

    def test_the_store_is_opened_as_asked(self, event_store: EventStore) -> None:
        """With these keywords and no others."""
        assert event_store.add("x", vector=[0.0, 0.0]).position == 1
        assert event_store.embedder_name is None


def test_a_run_that_does_not_use_the_plugin_imports_nothing(tmp_path: Path) -> None:
    """Neither Hypothesis nor FAISS nor the packages: pytest loads the plugin wherever asof is installed."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    heavy = {'hypothesis', 'faiss', 'numpy', 'eventstore', 'projections', 'replay'}\n"
        "    assert 'pytest_asof' in sys.modules\n"
        "    assert heavy & set(sys.modules) == set()\n"
    )
    plugins = ("-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-p", "pytest_asof")
    done = run("-m", "pytest", "-q", *plugins, cwd=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("given", "examples"), [("ci", 100), ("dev", 100), ("long", 2000)])
def test_the_profile_is_chosen_by_option_or_environment(given: str, examples: int, tmp_path: Path) -> None:
    """Before any test is read, so that `scaled` knows it."""
    (tmp_path / "test_it.py").write_text(
        "from hypothesis import settings\n"
        "from eventstore.testing import scaled\n"
        f"def test_it():\n    assert (settings().max_examples, scaled(50)) == ({examples}, {examples // 2})\n"
    )
    plugins = ("-q", "-p", "no:cacheprovider", "-p", "pytest_asof")
    if given == "long":
        done = run("-m", "pytest", *plugins, cwd=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", ASOF_PROFILE=given)
    else:
        option = f"--asof-profile={given}"
        done = run("-m", "pytest", *plugins, option, cwd=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unknown_profile_is_refused(tmp_path: Path) -> None:
    """And the known ones are named."""
    plugins = ("-q", "-p", "pytest_asof")
    done = run("-m", "pytest", *plugins, cwd=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", ASOF_PROFILE="fast")
    assert done.returncode == 4
    assert "ASOF_PROFILE is 'fast': give one of ci, dev, long" in done.stderr


WITHOUT = "import sys; sys.modules['hypothesis'] = None\n"


def test_the_packages_do_not_need_hypothesis(tmp_path: Path) -> None:
    """It is an extra: who does not test by properties need not install it."""
    done = run("-W", "error", "-c", WITHOUT + "import eventstore, projections, replay, pytest_asof", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["eventstore", "projections", "replay"])
def test_the_kit_without_hypothesis_says_what_to_install(package: str, tmp_path: Path) -> None:
    """The command, and not a traceback's riddle."""
    done = run("-c", f"{WITHOUT}import {package}.testing", cwd=tmp_path)
    assert done.returncode == 1
    assert "needs hypothesis, which is not installed: pip install 'asof[testing]'" in done.stderr
