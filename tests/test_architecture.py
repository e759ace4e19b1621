"""The rules about rooms and modules, read from the source and shown in fresh processes."""

from __future__ import annotations

import ast
import builtins
import doctest
import graphlib
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

import metriplex
import metriplex.testing.faults

ROOT = Path(__file__).parent.parent
CORE = ROOT / "src" / "metriplex"
PLUGINS = sorted(path.parent for path in ROOT.glob("*/*/pyproject.toml"))
MAX_LINES = 400

FLOORS = (
    {"messages", "files", "records", "errors", "naming", "validation"},
    {"plugins", "journal", "bridge"},
    {"device", "delivery"},
    {"run", "reading"},
    {"replay", "cluster", "video"},
    {"event_files", "callback"},
    {"integrations", "testing", "doctor", "demo", "commands", "template"},
)
"""The rooms, from the ground up: a room imports from lower floors, or its own without a circle."""

TOP = FLOORS[-1]
FREE_OF_JAX = FLOORS[0] | {"plugins", "journal", "delivery", "run", "reading", "replay"}
FREE_OF_JAX |= {"event_files", "bridge.rows", "bridge.registry"}
"""Prefixes of modules that never import jax, also not by way of another module."""

PUBLIC = {
    "metriplex": {*metriplex.__all__, "testing", "integrations"},
    "metriplex.testing": {*metriplex.testing.__all__, "faults"},
    "metriplex.testing.faults": set(vars(metriplex.testing.faults)),
}
"""Public modules and their names; every module of `metriplex.integrations` is public too."""

CALLBACKS = {"io_callback", "pure_callback", "debug_callback"}
SDKS = {
    *("tensorboardX", "tensorboard", "tensorflow", "rich", "PIL", "google.protobuf", "crc32c"),
    *("wandb", "mlflow", "trackio", "mujoco", "pygame", "imageio", "imageio_ffmpeg"),
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
EVERY_FILE = CORE_FILES + PLUGIN_FILES


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> frozenset[Import]:
    return _imports(tree(path))


@cache
def _imports(module: ast.Module) -> frozenset[Import]:
    found = set()
    top_level = set(map(id, module.body))
    for node in ast.walk(module):
        lazy = id(node) not in top_level
        if isinstance(node, ast.Import):
            found |= {Import(alias.name, None, lazy) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
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


def room(module: str) -> str:
    return module.partition(".")[0]


def floor(module: str) -> int:
    (found,) = (number for number, rooms in enumerate(FLOORS) if room(module) in rooms)
    return found


def internal(path: Path, lazy: bool = True) -> set[str]:
    """The core modules that a file imports, also those that it imports only in a function."""
    found = set()
    for imported in imports(path):
        package, _, module = imported.module.partition(".")
        if package == "metriplex" and (lazy or not imported.lazy):
            inner = ".".join(filter(None, (module, imported.name)))
            found.add(inner if inner in FILES else module)
    return found


def closure(module: str) -> set[str]:
    """The modules that are imported with a module, itself and packages on the way included."""
    found: set[str] = set()
    fresh = {module}
    while fresh:
        found |= fresh
        packages = {name.rpartition(".")[0] for name in fresh} - {""}
        fresh = packages | {m for name in fresh for m in internal(FILES[name], lazy=False)}
        fresh -= found
    return found


def free_of_jax(module: str) -> bool:
    prefixes = {module, *(module[: at.start()] for at in re.finditer(r"\.", module))}
    return bool(prefixes & FREE_OF_JAX)


# Who may import whom --------------------------------------------------------------------------


def test_every_module_stands_in_a_room_of_the_table() -> None:
    rooms = {room(module) for module in FILES} - {"", "__main__"}
    assert rooms == set().union(*FLOORS)
    assert {plugin.name for plugin in PLUGINS} >= {"tensorboard", "console"}


def test_a_room_imports_from_lower_floors_and_from_its_own() -> None:
    breaches = [
        (module, imported)
        for module, path in FILES.items()
        if module not in {"", "__main__"}
        for imported in internal(path)
        if (imported == "" and room(module) not in TOP)
        or (imported and room(imported) != room(module) and floor(imported) > floor(module))
    ]
    assert breaches == []


def test_no_circle() -> None:
    modules = {name: internal(path) - {name} for name, path in FILES.items()}
    tuple(graphlib.TopologicalSorter(modules).static_order())
    rooms: dict[str, set[str]] = {}
    for name, imported in modules.items():
        here = rooms.setdefault(room(name), set())
        here |= {room(one) for one in imported} - {room(name), ""}
    tuple(graphlib.TopologicalSorter(rooms).static_order())


def test_the_host_half_never_imports_jax_also_not_by_way_of_another_module() -> None:
    breaches = [
        (module, imported)
        for module in FILES
        if free_of_jax(module)
        for imported in closure(module) - {""}
        if not third_party(FILES[imported], lazy=False) <= {"metriplex", "numpy", "pluggy"}
        or third_party(FILES[imported]) & {"jax", "jaxlib", "optax"}
    ]
    assert breaches == []
    ground = [third_party(FILES[module]) for module in FLOORS[0]]
    assert set().union(*ground) <= {"metriplex", "numpy"}


def test_the_device_half_knows_jax_alone() -> None:
    files = [path for module, path in FILES.items() if room(module) == "device"]
    assert set().union(*map(third_party, files)) <= {"metriplex", "jax", "numpy", "optax"}


def test_only_the_bridge_calls_the_host() -> None:
    breaches = []
    for path in CORE_FILES:
        debug = [node for node in ast.walk(tree(path)) if _calls_back(node)]
        taken = {one.module for one in imports(path) if one.module.startswith("jax.debug")}
        taken |= {one.name for one in imports(path) if one.name in CALLBACKS}
        taken |= {
            "jax.debug" for one in imports(path) if (one.module, one.name) == ("jax", "debug")
        }
        if own(path) in {"bridge.emit", "bridge.execution", "bridge.stop"}:
            assert debug
        elif debug or taken:
            breaches.append(relative(path))
    assert breaches == []


def _calls_back(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute):
        return False
    is_debug = node.attr == "debug" and ast.unparse(node.value) == "jax"
    return is_debug or node.attr in CALLBACKS


def _declared(pyproject: Path) -> set[str]:
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    required = [*project.get("dependencies", []), *(name for extra in extras for name in extra)]
    return {_normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in required}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_a_distribution_imports_it_declares() -> None:
    owners = metadata.packages_distributions()
    breaches = []
    for folder in [ROOT, *PLUGINS]:
        declared = _declared(folder / "pyproject.toml")
        packages = {package.name for package in (folder / "src").iterdir() if package.is_dir()}
        for path in sources(folder / "src"):
            if folder == ROOT and (not path.is_relative_to(CORE) or room(own(path)) in TOP):
                continue
            for package in third_party(path) - packages:
                names = owners.get(package, [package])  # an editable install is not listed
                if not {_normal(name) for name in names} & declared:
                    breaches.append((relative(path), package))
    assert breaches == []


def test_an_integration_imports_no_training_library_but_its_own() -> None:
    for path in sources(CORE / "integrations"):
        figures = {"matplotlib"} if path.stem == "stable_baselines3" else set()
        allowed = {"metriplex", "jax", "numpy", path.stem} | figures
        assert third_party(path) <= allowed, relative(path)


# What is public -------------------------------------------------------------------------------


def test_plugins_know_neither_jax_nor_each_other() -> None:
    packages = {package.name for plugin in PLUGINS for package in (plugin / "src").iterdir()}
    for path in PLUGIN_FILES:
        others = packages - {path.relative_to(ROOT).parts[3]}
        if path.is_relative_to(ROOT / "backends"):
            others |= {"jax", "jaxlib", "optax"}
        assert third_party(path) & others == set(), relative(path)


def test_plugins_docs_and_examples_import_what_is_public() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    documents += ROOT.glob("*/*/README.md")
    examples = sources(ROOT / "examples")
    breaches = [
        (relative(path), name)
        for path in [*PLUGIN_FILES, *PLUGIN_TESTS, *examples, *documents]
        for name in _private_metriplex(_module(path))
    ]
    assert breaches == []


def _module(path: Path) -> ast.Module:
    """The code of a file; of a page, that of its examples."""
    if path.suffix == ".py":
        return tree(path)
    return ast.parse(doctest.script_from_examples(path.read_text()))


def _private_metriplex(module: ast.Module) -> set[str]:
    found: set[str] = set()
    for imported in _imports(module):
        package, name = imported.module, imported.name
        if room(package) != "metriplex" or f"{package}.".startswith("metriplex.integrations."):
            continue
        if package not in PUBLIC:
            found.add(package)
        elif name is not None and name not in PUBLIC[package]:
            found.add(f"{package}.{name}")
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "metriplex":
            found |= {f"metriplex.{node.attr}"} - {
                f"metriplex.{name}" for name in PUBLIC["metriplex"]
            }
    return found


# What a module looks like ---------------------------------------------------------------------


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in EVERY_FILE}
    assert [name for name, length in lengths.items() if length > MAX_LINES] == []


def test_every_class_is_abstract_or_final() -> None:
    classes = [
        (relative(path), node)
        for path in EVERY_FILE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
    ]
    assert [(path, node.name) for path, node in classes if not _settled(node)] == []


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


RIDDLES = ("What", "How", "Whether", "Where", "Which", "Gives", "Tells")


def test_everything_public_has_a_docstring_that_says_what_it_does() -> None:
    missing, riddles = [], []
    for path in EVERY_FILE:
        for name, node in [("the module itself", tree(path)), *_public(tree(path))]:
            text = ast.get_docstring(node)
            if text is None:
                missing.append((relative(path), name))
            elif text.partition(" ")[0] in RIDDLES:
                riddles.append((relative(path), name, text.partition("\n")[0]))
    assert missing == []
    assert riddles == []


def _public(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Public functions and classes; an implementation of a hook is documented by its spec."""
    found: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]] = []
    for child in node.body:
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        marks = set(map(_last, child.decorator_list))
        if child.name.startswith("_") or marks & {"overload", "override", "setter", "hookimpl"}:
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
    assert set(loaded) & {*SDKS, "jax", "optax"} == set()
    assert [module for module in loaded if module.startswith("metriplex_")] == []
    rooms = {room(module.partition(".")[2]) for module in loaded if module.startswith("metriplex.")}
    assert rooms & (TOP | {"replay"}) == set()
    assert "metriplex.video.encode" not in loaded
    assert [name for name in metriplex.__all__ if not hasattr(metriplex, name)] == []
    assert set(dir(metriplex)) >= set(metriplex.__all__)


def test_the_host_half_works_where_jax_is_not_installed() -> None:
    host = sorted(module for module in FILES if free_of_jax(module))
    program = f"""
        import importlib, sys, types
        package = types.ModuleType("metriplex")
        package.__path__ = [{str(CORE)!r}]
        sys.modules |= {{"metriplex": package, "jax": None, "jaxlib": None, "optax": None}}
        for name in {host!r}:
            importlib.import_module("metriplex." + name)
        print(*[m for m in sys.modules if m.startswith("metriplex.")])
    """
    assert set(run_python(program).split()) >= {f"metriplex.{module}" for module in host}
