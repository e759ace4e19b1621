"""Write a distribution with a new, working backend: `metriplex new-backend`."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metriplex.errors import ConfigurationError
from metriplex.plugins.discovery import PUBLISHED, entry_points

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
_GENERATED = ("__pycache__", ".pyc")


def add_parser(commands: Any) -> None:
    """Add the subcommand with its arguments."""
    parser = commands.add_parser(
        "new-backend", help="write a distribution with a backend of your own"
    )
    parser.set_defaults(function=run)
    parser.add_argument("name", help="by which runs ask for it, such as my-tracker")
    parser.add_argument(
        "--directory", default=".", help="where it is written (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the distribution, and print the next steps."""
    try:
        target = new_backend(arguments.name, arguments.directory)
    except OSError as error:
        raise ConfigurationError(
            f"nothing can be written to {arguments.directory!r}: {error}; choose another "
            f"`--directory`"
        ) from error
    print(f"{target} is a distribution with a backend that works. Next:")
    print(f"  pip install -e '{target}[testing]'")
    print(f"  pytest {target}")
    return 0


def new_backend(name: str, directory: str | Path = ".") -> Path:
    """Write a distribution whose backend passes the contract of backends, and return its directory.

    The new directory `metriplex-NAME` lies in `directory`.

    Raises:
        ConfigurationError: The name is invalid or taken, or the directory exists.
        OSError: A file can't be written.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigurationError(
            f"the name of a backend must be lower-case letters and digits, with `-` or `_` between "
            f"words; got {name!r}: pass for example `my-tracker`"
        )
    project = f"metriplex-{name.replace('_', '-')}"
    module = name.replace("-", "_")
    if _is_taken(module):
        raise ConfigurationError(
            f"`{name}` is taken: a package `{project}` would replace the one of that name that "
            f"metriplex publishes or that is installed here; choose another name, or uninstall the "
            f"package if it is yours"
        )
    target = Path(directory) / project
    if target.exists():
        raise ConfigurationError(
            f"`{target}` exists already: remove it, or choose another name or `--directory`"
        )
    title = "".join(word.capitalize() for word in module.split("_"))
    for path, content in _files(resources.files("metriplex") / "template", ""):
        file = target / _renamed(path, name, module, title)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_renamed(content, name, module, title), encoding="utf-8")
    return target


def _is_taken(module: str) -> bool:
    """Return True if a plugin, a distribution or a module of the new name is known already."""
    names = {name for published in PUBLISHED.values() for name in published}
    names |= {entry.name for entry in entry_points("backend")}
    if module in {name.replace("-", "_") for name in names}:
        return True
    try:
        metadata.distribution(f"metriplex-{module}")
    except metadata.PackageNotFoundError:
        return importlib.util.find_spec(f"metriplex_{module}") is not None
    return True


def _renamed(text: str, name: str, module: str, title: str) -> str:
    """Return text of the template with the names of the new backend."""
    text = text.replace("metriplex-template", f"metriplex-{name.replace('_', '-')}")
    text = text.replace("metriplex_template", f"metriplex_{module}")
    text = text.replace("TemplateBackend", f"{title}Backend")
    return re.sub(r"(?<![-\w])template(?=\.jsonl|\b)", name, text)


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the content of every file of the template."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(_GENERATED):
            continue
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.read_text(encoding="utf-8")
