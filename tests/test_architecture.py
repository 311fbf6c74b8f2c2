"""The shape of the house, read from the source: nothing here imports the packages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("eventstore", "projections", "replay")
LONGEST_MODULE = 500

# What a package may not import, and its reason.
FORBIDDEN = {
    "eventstore": {
        "projections": "the history knows no projection",
        "replay": "imports run replay -> projections -> eventstore",
        "faiss": "the history can be read and written where no index is",
        "click": "the command line is replay's",
        "rich": "the command line is replay's",
    },
    "projections": {
        "replay": "imports run replay -> projections -> eventstore",
        "click": "the command line is replay's",
        "rich": "the command line is replay's",
    },
    "replay": {},
}
# What can run code from a file that was only meant to hold data.
UNSAFE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import in a module, whether or not it would run."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value.split(".")[0]


def exported(init: Path) -> list[str] | None:
    """The names in a package's `__all__`; None if it has none."""
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return None


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_run_one_way(path: Path) -> None:
    """replay may import projections and eventstore, projections eventstore, eventstore neither."""
    forbidden = FORBIDDEN[path.relative_to(ROOT).parts[0]]
    found = [f"{name(path)}:{line} imports {top}: {forbidden[top]}" for line, top in imports(path) if top in forbidden]
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_loads_code_as_data(path: Path) -> None:
    """No pickle, nor what is pickle by another name."""
    assert [(line, top) for line, top in imports(path) if top in UNSAFE] == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_has_one_subject(path: Path) -> None:
    """A module that outgrows the limit has two subjects: split it."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed(package: str) -> None:
    """Type checkers read our annotations only where py.typed says so."""
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=name)
def test_a_folder_of_modules_is_a_package(folder: Path) -> None:
    """Without __init__.py a folder is left out of the distribution."""
    assert (folder / "__init__.py").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_is_public(package: str) -> None:
    """`__all__` lists the public names, each once, and no private one."""
    init = ROOT / package / "__init__.py"
    if not list(init.parent.rglob("*.py")):
        pytest.skip(f"{package} has no modules yet")
    names = exported(init)
    assert names, f"{name(init)} defines no __all__"
    assert len(names) == len(set(names))
    assert [each for each in names if each.startswith("_") and not each.startswith("__")] == []


# -- nothing that is read is run ----------------------------------------------------------------------------

SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE|CREATE|DROP|ALTER|PRAGMA|WITH|ATTACH|VACUUM|AND|WHERE)\b")
# What may stand in a statement's text: constants, question marks, and names that this code gives itself. Anything
# else, a value above all, goes in by a parameter.
CONSTANT = re.compile(r"_?[A-Z][A-Z_]*|', '\.join\(([A-Z_]+|columns)\)|','\.join\('\?' \* len\(\w+\)\)")
OUR_NAMES = {"table", "columns", "places", "select", "pragma", "by", "order", "way", "name", "' AND '.join(conditions)"}
PARTS_OF_A_VIEW = {"_iso('born.recorded_at')", "_iso('e.recorded_at')"}


def interpolated(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and expression of whatever is put into the text of SQL."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            values = node.values
            first = values[0] if values else None
            leads = isinstance(first, ast.Constant) and SQL.match(str(first.value))
            names = isinstance(first, ast.FormattedValue) and any(
                isinstance(each, ast.Constant) and re.search(r"\b(WHERE|FROM|ORDER BY)\b", str(each.value))
                for each in values
            )
            if leads or names:
                for each in values:
                    if isinstance(each, ast.FormattedValue):
                        yield node.lineno, ast.unparse(each.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mod, ast.Add)):
            left = node.left
            if isinstance(left, ast.Constant) and isinstance(left.value, str) and SQL.match(left.value):
                yield node.lineno, ast.unparse(node.right)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_values_go_into_sql_by_parameters(path: Path) -> None:
    """No statement's text is made of a value: only of constants, question marks, and names of our own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {
        (line, text)
        for line, text in interpolated(tree)
        if text not in OUR_NAMES | PARTS_OF_A_VIEW and not CONSTANT.fullmatch(text)
    }
    assert found == set()


def test_a_value_in_sql_is_noticed() -> None:
    """The check above, on what it is there for."""
    for line in (
        "x = f\"SELECT * FROM events WHERE memory_id = '{memory_id}'\"",
        'x = f"{HEADERS} WHERE e.seq = {seq}"',
        'x = "DELETE FROM events WHERE seq = %d" % seq',
        'x = "SELECT * FROM " + given',
    ):
        texts = [text for _, text in interpolated(ast.parse(line))]
        assert any(not CONSTANT.fullmatch(text) and text not in OUR_NAMES for text in texts), line


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_that_is_read_is_run(path: Path) -> None:
    """No eval, exec or compile, no shell, no extension of SQLite's, no array that could be a pickle."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            found.append((node.lineno, called))
        if called.endswith((".enable_load_extension", ".load_extension", ".loads_pickle")):
            found.append((node.lineno, called))
        if called in ("np.load", "numpy.load"):
            pickles = given.get("allow_pickle")
            if not (isinstance(pickles, ast.Constant) and pickles.value is False):
                found.append((node.lineno, f"{called} without allow_pickle=False"))
        shell = given.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            found.append((node.lineno, f"{called} with a shell"))
    assert found == []
