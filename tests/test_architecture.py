"""The design's rules about modules, read from the source and shown in fresh processes."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import final

import pytest

import metriplex

ROOT = Path(__file__).parent.parent
CORE = ROOT / "src" / "metriplex"
PLUGINS = sorted(path.parent for path in ROOT.glob("*/*/pyproject.toml"))
MAX_LINES = 400

NUMPY_ONLY = {"records", "errors"}
HOST = {
    *("aggregate", "cli", "hookcheck", "hookspecs", "hparams", "journal", "lanes", "naming"),
    *("acks", "columns", "commands", "finite", "opening", "reading", "recording", "replay"),
    *("sending", "tasks"),
    *("plugins", "routing", "run", "sequence", "shutdown", "transforms", "workers"),
}
"""Modules, and packages with all that is in them."""
PURE = {"counter", "episodes", "learning_rate", "training_log"}
TIES_BOTH_HALVES = {"callback", "pattern"}
CALLBACKS = {"io_callback", "pure_callback", "debug_callback"}
OUTSIDE_OF_THE_CORE = {"demo", "doctor", "testing", "integrations", "template"}
SDKS = {
    *("tensorboardX", "tensorboard", "tensorflow", "rich", "PIL", "google.protobuf", "crc32c"),
    *("wandb", "mlflow", "trackio", "mujoco", "pygame", "imageio_ffmpeg"),
}


@final
@dataclass(frozen=True)
class Import:
    """One imported module, and the name taken from it if it was `from module import name`."""

    module: str
    name: str | None
    lazy: bool


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


CORE_FILES = sources(CORE)
PLUGIN_FILES = [path for plugin in PLUGINS for path in sources(plugin / "src")]
PLUGIN_TESTS = [path for plugin in PLUGINS for path in sources(plugin / "tests")]
EVERY_FILE = pytest.mark.parametrize("path", CORE_FILES + PLUGIN_FILES, ids=relative)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[Import]:
    found = set()
    top_level = set(map(id, tree(path).body))
    for node in ast.walk(tree(path)):
        lazy = id(node) not in top_level
        if isinstance(node, ast.Import):
            found |= {Import(alias.name, None, lazy) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno} is a relative import"
            found |= {Import(node.module or "", alias.name, lazy) for alias in node.names}
    return frozenset(found)


def third_party(path: Path, lazy: bool = True) -> set[str]:
    """The packages that a file imports, also those that it imports only in a function."""
    found = {one for one in imports(path) if lazy or not one.lazy}
    roots = {imported.module.partition(".")[0] for imported in found}
    return roots - set(sys.stdlib_module_names)


def own(path: Path) -> str:
    """A core file's module, without `metriplex.`; the package itself is the empty string."""
    parts = path.relative_to(CORE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {own(path): path for path in CORE_FILES}
HOST_MODULES = sorted(name for name in FILES if HOST & {name, name.partition(".")[0]})


def internal(path: Path, lazy: bool = True) -> set[str]:
    """The core modules that a file imports, also those that it imports only in a function."""
    found = set()
    for imported in imports(path):
        package, _, module = imported.module.partition(".")
        if package == "metriplex" and (lazy or not imported.lazy):
            inner = ".".join(filter(None, (module, imported.name)))
            found.add(inner if inner in FILES else module)
    return found


def closure(path: Path) -> set[str]:
    found: set[str] = set()
    fresh = internal(path, lazy=False)
    while fresh:
        found |= fresh
        fresh = {m for name in fresh for m in internal(FILES[name], lazy=False)} - found
    return found


def in_core(path: Path) -> bool:
    return own(path).partition(".")[0] not in OUTSIDE_OF_THE_CORE | {"", "__main__"}


# Who may import whom --------------------------------------------------------------------------


def test_every_module_that_the_table_names_exists() -> None:
    assert sorted((NUMPY_ONLY | HOST | PURE | TIES_BOTH_HALVES | {"bridge"}) - set(FILES)) == []
    assert {plugin.name for plugin in PLUGINS} >= {"tensorboard", "console"}


@pytest.mark.parametrize("name", sorted(NUMPY_ONLY))
def test_records_and_errors_import_numpy_only(name: str) -> None:
    assert third_party(FILES[name]) <= {"numpy"}


@pytest.mark.parametrize("name", HOST_MODULES)
def test_the_host_half_never_imports_jax_also_not_by_way_of_another_module(name: str) -> None:
    for module in {name} | closure(FILES[name]):
        assert third_party(FILES[module], lazy=False) <= {"metriplex", "numpy", "pluggy"}, module
        assert third_party(FILES[module]).isdisjoint({"jax", "jaxlib", "optax"}), module


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_pure_half_knows_jax_and_the_records_only(name: str) -> None:
    assert third_party(FILES[name]) <= {"metriplex", "jax", "numpy", "optax"}
    assert internal(FILES[name]) <= NUMPY_ONLY


@pytest.mark.parametrize("path", [p for p in CORE_FILES if in_core(p)], ids=relative)
def test_core_modules_import_each_other_by_name_and_nothing_from_outside_of_the_core(
    path: Path,
) -> None:
    modules = internal(path, lazy=own(path) != "cli")
    assert "" not in modules, "imports the package itself, which imports everything"
    assert {m.partition(".")[0] for m in modules} & OUTSIDE_OF_THE_CORE == set()
    if own(path) not in TIES_BOTH_HALVES:
        assert not modules & TIES_BOTH_HALVES


def test_the_bridge_knows_a_run_only_by_its_handle() -> None:
    assert closure(FILES["bridge"]).isdisjoint({"run", "workers", "plugins", "callback", "naming"})


@pytest.mark.parametrize("path", CORE_FILES, ids=relative)
def test_only_the_bridge_calls_the_host(path: Path) -> None:
    if own(path) == "bridge":
        assert any(isinstance(n, ast.Attribute) and _is_debug(n) for n in ast.walk(tree(path)))
        return
    for node in ast.walk(tree(path)):
        assert not (isinstance(node, ast.Attribute) and _is_debug(node)), node.lineno
        assert getattr(node, "attr", None) not in CALLBACKS
    for imported in imports(path):
        assert not imported.module.startswith("jax.debug")
        assert (imported.module, imported.name) != ("jax", "debug")
        assert imported.name not in CALLBACKS


def _is_debug(node: ast.Attribute) -> bool:
    return node.attr == "debug" and isinstance(node.value, ast.Name) and node.value.id == "jax"


def _declared(pyproject: Path) -> set[str]:
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    required = [*project.get("dependencies", []), *(name for extra in extras for name in extra)]
    return {_normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in required}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", sources(CORE / "integrations"), ids=relative)
def test_an_integration_imports_no_training_library_but_its_own(path: Path) -> None:
    figures = {"matplotlib"} if path.stem == "stable_baselines3" else set()
    assert third_party(path) <= {"metriplex", "jax", "numpy", path.stem} | figures


@pytest.mark.parametrize("folder", [ROOT, *PLUGINS], ids=relative)
def test_what_a_distribution_imports_it_declares(folder: Path) -> None:
    declared = _declared(folder / "pyproject.toml")
    packages = {package.name for package in (folder / "src").iterdir() if package.is_dir()}
    owners = metadata.packages_distributions()
    for path in sources(folder / "src"):
        if folder == ROOT and (not path.is_relative_to(CORE) or not in_core(path)):
            continue
        for package in third_party(path) - packages:
            names = owners.get(package, [package])  # an editable install is not listed
            assert {_normal(name) for name in names} & declared, (path, package)


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=relative)
def test_plugins_know_neither_jax_nor_each_other_nor_private_metriplex(path: Path) -> None:
    package = path.relative_to(ROOT).parts[3]
    others = {p.name for plugin in PLUGINS for p in (plugin / "src").iterdir()} - {package}
    if path.is_relative_to(ROOT / "backends"):
        others |= {"jax", "jaxlib", "optax"}
    assert third_party(path) & others == set()
    private = _private_metriplex(path)
    if path.name == "contract.py":  # only pytest imports it
        private = {name for name in private if not name.startswith("metriplex.testing")}
    assert private == set()


@pytest.mark.parametrize("path", PLUGIN_TESTS, ids=relative)
def test_tests_of_plugins_use_what_a_stranger_has(path: Path) -> None:
    private = {
        name
        for name in _private_metriplex(path)
        if not name.startswith(("metriplex.testing", "metriplex.demo"))  # also for strangers' tests
    }
    assert private == set()


def _private_metriplex(path: Path) -> set[str]:
    public = set(metriplex.__all__)
    found: set[str] = set()
    for imported in imports(path):
        if imported.module.startswith("metriplex."):
            found.add(imported.module)
        elif imported.module == "metriplex" and imported.name not in {None, *public}:
            found.add(f"metriplex.{imported.name}")
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "metriplex":
            found |= {f"metriplex.{node.attr}"} - {f"metriplex.{name}" for name in public}
    return found


# What a module looks like ---------------------------------------------------------------------


@EVERY_FILE
def test_no_module_is_longer_than_a_reader_can_hold(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@EVERY_FILE
def test_every_class_is_abstract_or_final(path: Path) -> None:
    classes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    assert [node.name for node in classes if not _settled(node)] == []


def _settled(node: ast.ClassDef) -> bool:
    """Abstract, final, an exception, an enumeration (final by itself) or a list of hooks."""
    bases = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
    marks = {_last(mark) for mark in node.decorator_list}
    methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
    specification = any("hookspec" in map(_last, method.decorator_list) for method in methods)
    return (
        "final" in marks
        or specification
        or bool(bases & {"ABC", "Protocol", "IntEnum", "StrEnum", "Enum"})
        or any(_is_exception(base) for base in bases)
    )


def _is_exception(name: str) -> bool:
    known = getattr(metriplex, name, getattr(builtins, name, None))
    return isinstance(known, type) and issubclass(known, BaseException)


def _last(node: ast.expr) -> str:
    plain = node.func if isinstance(node, ast.Call) else node
    return ast.unparse(plain).rpartition(".")[2]


@EVERY_FILE
def test_everything_public_has_a_docstring(path: Path) -> None:
    documented = [("the module itself", tree(path)), *_public(tree(path))]
    assert [name for name, node in documented if ast.get_docstring(node) is None] == []


def _public(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    found: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]] = []
    for child in node.body:
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        marks = set(map(_last, child.decorator_list))
        if child.name.startswith("_") or marks & {"overload", "override", "setter"}:
            continue
        found.append((prefix + child.name, child))
        if isinstance(child, ast.ClassDef):
            found += _public(child, f"{child.name}.")
    return found


# What a process loads -------------------------------------------------------------------------


def run_python(program: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_import_metriplex_loads_no_sdk() -> None:
    loaded = run_python("import sys, metriplex; print(*sys.modules)").split()
    assert "metriplex" in loaded
    assert set(loaded) & SDKS == set()
    assert [m for m in loaded if m.startswith("metriplex_")] == []
    assert [
        m
        for m in loaded
        if m.partition(".")[2].partition(".")[0] in OUTSIDE_OF_THE_CORE
        and m.startswith("metriplex.")
    ] == []


def test_the_host_half_works_where_jax_is_not_installed() -> None:
    program = f"""
        import importlib, sys, types
        package = types.ModuleType("metriplex")
        package.__path__ = [{str(CORE)!r}]
        sys.modules |= {{"metriplex": package, "jax": None, "jaxlib": None, "optax": None}}
        for name in {[*sorted(NUMPY_ONLY), *HOST_MODULES]!r}:
            importlib.import_module("metriplex." + name)
        print(len([m for m in sys.modules if m.startswith("metriplex.")]))
    """
    assert int(run_python(program)) >= len(NUMPY_ONLY) + len(HOST_MODULES)
