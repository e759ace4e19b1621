"""For every test: eight host devices, and runs that don't ask git where they come from.

For every doctest: a directory of its own to write to.

Backends that are not installed are left out: they bring SDKs that not everybody wants.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

_FLAG = "--xla_force_host_platform_device_count=8"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()

collect_ignore_glob = [
    f"backends/{project.parent.name}/*"
    for project in Path(__file__).parent.glob("backends/*/pyproject.toml")
    if importlib.util.find_spec(f"metriplex_{project.parent.name}") is None
]
collect_ignore = ["tests/processes/cluster_program.py"]  # a program of several processes
collect_ignore += [
    f"src/metriplex/integrations/{library}.py"
    for library in ("lerax", "stable_baselines3")
    if importlib.util.find_spec(library) is None
]

os.environ["METRIPLEX_PROVENANCE"] = "0"


@pytest.fixture(autouse=True)
def _doctest_directory(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
