"""Where a run comes from: the code, the packages, the command, the machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from metriplex.run.hparams import MASK, is_secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GIT_SECONDS = 20.0
"""How long git may take; a work tree on a slow file system is given up then."""

_PACKAGES = {
    "metriplex": "metriplex",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "numpy": "numpy",
    "optax": "optax",
    "flax": "flax",
    "equinox": "equinox",
    "haiku": "dm-haiku",
    "gymnax": "gymnax",
    "brax": "brax",
    "mujoco": "mujoco",
    "mujoco_playground": "playground",
    "rejax": "rejax",
    "lerax": "lerax",
    "gymnasium": "gymnasium",
}
"""Module to the distribution that brings it, of what decides how a training goes."""


def collect() -> dict[str, str]:
    """Finds out what can be known without jax; calls git, so it may take seconds.

    Returns:
        Name to text: `command`, `directory`, `host`, `platform`, `python`, `packages`, and in a
        work tree of git `git commit` and `git state`.
    """
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
    """The commit of a work tree, and whether tracked files differ from it.

    Args:
        directory: Somewhere in the work tree.

    Returns:
        `git commit` and `git state`; empty without git, or outside of a work tree.
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
    # `--no-optional-locks`: a commit that the user makes meanwhile must not meet a lock of ours.
    command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - whatever git the user has
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
    """Versions of the packages that this process has imported, of those that matter."""
    versions = {}
    for module, distribution in _PACKAGES.items():
        if module in sys.modules:
            try:
                versions[distribution] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
    return versions


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line in which the values of secrets are `***`.

    Args:
        arguments: As `sys.argv`: secrets are `--api-key VALUE`, `--api-key=VALUE`, `api_key=VALUE`.
    """
    masked: list[str] = []
    follows = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = is_secret(name.lstrip("-"))
        if follows and not argument.startswith("-"):
            masked.append(MASK)
        else:
            masked.append(f"{name}={MASK}" if secret and equals else argument)
        follows = secret and not equals and argument.startswith("-")
    return masked


def to_markdown(facts: Mapping[str, str]) -> str:
    """A table of facts, as backends show text."""
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
