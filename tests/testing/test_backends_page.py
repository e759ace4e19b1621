"""docs/backends.md agrees with the results of the contract."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metriplex.testing import BackendContract

ROOT = Path(__file__).parents[2]
BACKENDS = ("console", "tensorboard")


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate_backends.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page() -> dict[str, dict[str, str]]:
    """Return the word of each demand by backend."""
    found: dict[str, dict[str, str]] = {}
    backends: list[str] = []
    for line in (ROOT / "docs/backends.md").read_text().splitlines():
        first, *words = [cell.strip() for cell in line.split("|")[1:-1]] or [""]
        if not words or first == "---":
            continue
        if not first.endswith("."):
            backends = words
            continue
        for backend, word in zip(backends, words, strict=True):
            found.setdefault(backend, {})[first] = word
    return found


def test_every_demand_of_the_contract_has_a_row() -> None:
    demands = {
        BackendContract._metriplex_subject(name)["demand"]
        for name in dir(BackendContract)
        if name.startswith("test_")
    }
    assert set(page()) >= set(BACKENDS)
    for backend, rows in page().items():
        assert rows.keys() == demands, backend


def test_failures_are_never_a_word() -> None:
    test = {"backend": "mine", "test": "test_texts", "outcome": "failed", "reason": ""}
    with pytest.raises(ValueError, match="mine: test_texts failed"):
        generator().cells([{**test, "subject": "media", "demand": "Texts."}])


@pytest.mark.slow
def test_the_words_are_those_of_the_results(tmp_path: Path) -> None:
    chosen = [part for name in BACKENDS for part in ("--metriplex-backend", name)]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(tmp_path), "--pyargs", "metriplex.testing", *chosen]
    command += ["--metriplex-results", str(tmp_path / "results.json")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    results = json.loads((tmp_path / "results.json").read_text())
    found = {
        backend: {demand: word for (_, demand), word in row.items()}
        for backend, row in generator().cells(results).items()
    }
    assert found == {backend: page()[backend] for backend in BACKENDS}
    for reason in generator().reasons(results):
        assert reason in (ROOT / "docs/backends.md").read_text()
