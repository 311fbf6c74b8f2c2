"""The built distribution works away from the checkout.

The default run builds the wheel with the setuptools at hand and installs it alone into an empty environment
that borrows this one's dependencies: a few seconds, no network. Resolving and fetching the dependencies too,
as `pip install .` does for a user, needs the package index and up to a minute, so
`test_pip_install_with_dependencies` is marked slow and left to `make test-long`.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("eventstore", "projections", "replay")

# Run in the other environment: every public name is there, and it comes from what was installed.
IMPORT_ALL = """
import importlib, pathlib, sys
for package in sys.argv[2:]:
    module = importlib.import_module(package)
    assert pathlib.Path(module.__file__).is_relative_to(sys.argv[1]), module.__file__
    for name in module.__all__:
        getattr(module, name)
"""


def written(package: str) -> bool:
    return (ROOT / package / "__init__.py").is_file()


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that knows nothing of the checkout; its output, or a failure that shows it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV", "PYTEST"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders behind, and would pick up an older one's."""
    work = tmp_path_factory.mktemp("build")
    source = work / "source"
    source.mkdir()
    for file in ("pyproject.toml", "README.md", "LICENSE", "pytest_asof.py"):
        shutil.copy(ROOT / file, source)
    for folder in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", work, source),
        cwd=work,
    )
    (built,) = work.glob("asof-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with only the wheel installed; it borrows the dependencies of the one we are in."""
    home = tmp_path_factory.mktemp("install") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    # A path named in a .pth file is searched, but its own .pth files, such as the checkout's, are not read.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in sorted(paths)), encoding="utf-8")
    run(
        *(
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ),
        *("--no-deps", "--no-index", "--ignore-installed", wheel),
        cwd=home,
    )
    return home


def test_the_wheel_holds_the_three_packages_and_the_plugin(wheel: Path) -> None:
    """Every module of the packages, pytest's plugin beside them, and neither tests nor documentation."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {entry for entry in archive.namelist() if ".dist-info/" not in entry}
    modules = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if written(package)}
    typed = {ROOT / package / "py.typed" for package in PACKAGES if written(package)}
    assert packed == {path.relative_to(ROOT).as_posix() for path in modules | typed} | {"pytest_asof.py"}


def test_the_wheel_carries_its_licence_and_its_extras(wheel: Path) -> None:
    """What an index shows, and what `pip install asof[...]` understands."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        fields = email.message_from_bytes(archive.read(metadata))
        assert any(entry.endswith("/LICENSE") for entry in archive.namelist())
    assert (fields["Name"], fields["License-Expression"]) == ("asof", "Apache-2.0")
    assert fields["Requires-Python"] == ">=3.10"
    assert set(fields.get_all("Provides-Extra")) == {"bench", "dev", "testing"}


def test_imports_work_away_from_the_checkout(environment: Path) -> None:
    """Every public name of every package can be had from the installed distribution."""
    packages = [package for package in PACKAGES if written(package)]
    if not packages:
        pytest.skip("no package is written yet")
    run(environment / "bin" / "python", "-c", IMPORT_ALL, environment, *packages, cwd=environment)


def test_the_command_works_away_from_the_checkout(environment: Path) -> None:
    """`replay --help` answers."""
    if not ((ROOT / "replay/cli/__init__.py").is_file() or (ROOT / "replay/cli.py").is_file()):
        pytest.skip("the command is not written yet")
    assert "Usage: replay" in run(environment / "bin" / "replay", "--help", cwd=environment)


@pytest.mark.slow
def test_pip_install_with_dependencies(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment, the wheel and what it asks for from the package index, and no more."""
    home = tmp_path / "venv"
    run(sys.executable, "-m", "venv", home, cwd=tmp_path)
    run(home / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    packages = [package for package in PACKAGES if written(package)]
    run(home / "bin" / "python", "-c", IMPORT_ALL, home, *packages, cwd=tmp_path)
    assert "Usage: replay" in run(home / "bin" / "replay", "--help", cwd=tmp_path)
