"""Run the contract of installed backends in pytest, and write the results to a file.

    pytest --pyargs metriplex.testing --metriplex-backend NAME [--metriplex-results FILE]

Without these options the plugin does nothing, and doesn't import metriplex.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, final

import pytest

GROUP = "metriplex.contracts"
"""Entry-point group: backend name to subclass of `metriplex.testing.BackendContract`."""

_BACKENDS = "--metriplex-backend"
_RESULTS = "--metriplex-results"
_MODULE = "metriplex.testing.test_backends"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the plugin."""
    group = parser.getgroup("metriplex")
    group.addoption(
        _BACKENDS,
        action="append",
        metavar="NAME",
        help="run the contract of this installed backend: pytest --pyargs metriplex.testing "
        f"{_BACKENDS} NAME; may be repeated",
    )
    group.addoption(
        _RESULTS,
        metavar="FILE",
        help="write what became of every contract test, as JSON",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the contracts of the named backends before tests are collected.

    Raises:
        pytest.UsageError: A backend or its contract is not installed, or no backend is named.
    """
    if config.getoption(_BACKENDS):
        config.stash[_CONTRACTS] = {name: _load(name) for name in config.getoption(_BACKENDS)}
    elif config.getoption("pyargs") and "metriplex.testing" in config.args:
        raise pytest.UsageError(
            f"name the backend whose contract is to be run: `pytest --pyargs metriplex.testing "
            f"{_BACKENDS} NAME`. Backends with a contract are {_listing(_installed())}"
        )
    if config.getoption(_RESULTS) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Results(Path(config.getoption(_RESULTS))))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the module of the contracts if no backend is named."""
    ours = collection_path.name == "test_backends.py" and collection_path.parts[-3:-1] == (
        "metriplex",
        "testing",
    )
    return True if ours and _CONTRACTS not in config.stash else None


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> Any:  # noqa: ARG001
    """Add the contracts to their module, `metriplex.testing.test_backends`."""
    module = yield
    if _CONTRACTS in parent.config.stash and module.obj.__name__ == _MODULE:
        for name, contract in parent.config.stash[_CONTRACTS].items():
            setattr(module.obj, f"Test_{name}", contract)
    return module


def pytest_itemcollected(item: pytest.Item) -> None:
    """Add backend, subject and demand to the properties of every contract test."""
    subject = getattr(getattr(item, "cls", None), "_metriplex_subject", None)
    if subject is not None and item.parent is not None:
        backend = re.sub("^Test_?", "", item.parent.name)
        about = {"backend": backend, **subject(item.name.partition("[")[0])}
        item.user_properties.append(("metriplex", about))


_CONTRACTS: pytest.StashKey[dict[str, type]] = pytest.StashKey()


@final
class _Results:
    """Collect the results of contract tests, also from the workers of pytest-xdist."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about: Any = dict(report.user_properties).get("metriplex")
        if about is None or (report.when != "call" and report.passed):
            return
        self._tests[report.nodeid] = {
            **about,
            "test": report.nodeid.rpartition("::")[2],
            "outcome": _outcome(report),
            "reason": _reason(report),
        }

    def pytest_sessionfinish(self) -> None:
        text = json.dumps(list(self._tests.values()), indent=1, ensure_ascii=False)
        self._path.write_text(f"{text}\n", encoding="utf-8")


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    return report.outcome


def _reason(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ")
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(getattr(getattr(report.longrepr, "reprcrash", None), "message", "") or "")


def _installed() -> dict[str, Any]:
    from importlib import metadata

    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


def _load(name: str) -> type:
    entry = _installed().get(name)
    if entry is None:
        from metriplex.errors import PluginError
        from metriplex.plugins.discovery import find

        try:
            brought = find("backend", name)
        except PluginError as error:
            raise pytest.UsageError(str(error)) from None
        raise pytest.UsageError(
            f"backend `{name}` ({brought.value}) brings no contract: its distribution names none "
            f"in the entry-point group `{GROUP}`. Backends with one are {_listing(_installed())}"
        )
    try:
        contract = entry.load()
    except Exception as error:
        raise pytest.UsageError(
            f"the contract of backend `{name}` ({entry.value}) can't be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(contract, type) or not hasattr(contract, "_metriplex_subject"):
        raise pytest.UsageError(
            f"the contract of backend `{name}` must be a subclass of "
            f"`metriplex.testing.BackendContract`; got {contract!r}"
        )
    return contract


def _listing(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"
