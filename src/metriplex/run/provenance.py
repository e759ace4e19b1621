"""Collect the provenance of a run: the code, the packages, the command, the machine."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from metriplex.run.hparams import MASK, is_secret, mask_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GIT_SECONDS = 20.0
"""Timeout of a git command, for work trees on slow file systems."""

_MODULES = (
    *("metriplex", "jax", "jaxlib", "numpy", "optax", "flax", "equinox", "haiku", "gymnax"),
    *("brax", "mujoco", "mujoco_playground", "rejax", "lerax", "gymnasium"),
)
"""Modules of packages that affect a training."""

_DISTRIBUTIONS = {"haiku": "dm-haiku", "mujoco_playground": "playground"}
"""Module to distribution, where the names differ."""


def collect() -> dict[str, str]:
    """Return the facts that are available without jax; calls git, which may take seconds."""
    return {
        "command": shlex.join(mask_arguments(sys.orig_argv)),
        "directory": str(Path.cwd()),
        **git_state(Path.cwd()),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name, version in packages().items()),
    }


def git_state(directory: Path) -> dict[str, str]:
    """Return the commit of the work tree at `directory`, and the number of changed tracked files.

    The result is empty without git, or outside of a work tree.
    """
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
    if changed is None:
        return {"git commit": commit}
    count = len(changed.splitlines())
    state = "clean" if not count else f"{count} tracked file(s) changed"
    return {"git commit": commit, "git state": state}


def _git(directory: Path, *arguments: str) -> str | None:
    # `--no-optional-locks`: a concurrent commit of the user must not fail at a lock of ours.
    command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - the user's git
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def packages() -> dict[str, str]:
    """Return the versions of the packages of `_MODULES` that this process has imported."""
    versions = {}
    for module in filter(sys.modules.__contains__, _MODULES):
        distribution = _DISTRIBUTIONS.get(module, module)
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[distribution] = metadata.version(distribution)
    return versions


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line with `***` for secrets, as in `--api-key VALUE` and `api_key=VALUE`.

    After the option of one secret its value is masked, also if that begins with a single dash;
    after a plural, as in `--tokens A B`, all arguments up to the next option.
    """
    masked: list[str] = []
    expected = 0.0  # values of secrets
    for argument in arguments:
        is_option = argument.startswith("--") or (argument.startswith("-") and not expected)
        if expected and not is_option:
            masked.append(MASK)
            expected -= 1
            continue
        name, equals, _ = argument.partition("=")
        secret = is_secret(name.lstrip("-"))
        masked.append(f"{name}={MASK}" if secret and equals else mask_text(argument))
        expected = 0.0
        if secret and not equals and argument.startswith("-"):
            expected = math.inf if name.endswith("s") else 1.0
    return masked


def to_markdown(facts: Mapping[str, str]) -> str:
    """Return facts as a Markdown table, the format in which backends show text."""
    cells = str.maketrans({"|": "\\|", "\n": " "})
    rows = [f"| {name} | {value.translate(cells)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])
