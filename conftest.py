"""Settings of every test.

- Eight host devices, and code that XLA compiles quickly; a caller that sets `XLA_FLAGS` decides.
- Runs don't ask git where they come from.
- A doctest has a directory of its own to write to.
- Backends that are not installed are left out: they bring SDKs that not everybody wants.
- Services write into a directory of the tests, and use no settings of the user. Their clients read
  the variables once, when they are imported, so no conftest further down can set them.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

_DEVICES = "--xla_force_host_platform_device_count=8"
_QUICK = (  # to compile: a test runs most of its programs once
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
_QUICK_OF = {  # by version of jaxlib, as XLA aborts at flags that it doesn't know
    "0.10": f"{_QUICK} --xla_cpu_use_fusion_emitters=false",
    "0.12": _QUICK,
}
_flags = os.environ.get("XLA_FLAGS")
if _flags is None:
    _quick = _QUICK_OF.get(".".join(version("jaxlib").split(".")[:2]), "")
    os.environ["XLA_FLAGS"] = f"{_DEVICES} {_quick}".strip()
elif _DEVICES not in (_flags or ""):
    os.environ["XLA_FLAGS"] = f"{_flags or ''} {_DEVICES}".strip()

gc.set_threshold(200_000, 50, 100)  # jax's many objects make the default slow

os.environ["METRIPLEX_PROVENANCE"] = "0"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes that tests start compile nothing again

_services = Path(tempfile.mkdtemp(prefix="metriplex-services-"))
for _name in list(os.environ):
    if _name.startswith(("TRACKIO_", "WANDB_", "MLFLOW_")):
        del os.environ[_name]
os.environ |= {
    "HF_HOME": str(_services / "huggingface"),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_TRACKING_URI": f"sqlite:///{_services / 'mlflow.db'}",
    "TRACKIO_DIR": str(_services / "metriplex-trackio-tests"),
    "WANDB_CACHE_DIR": str(_services / "wandb"),
    "WANDB_CONFIG_DIR": str(_services / "wandb"),
    "WANDB_DATA_DIR": str(_services / "wandb"),
    "WANDB_ERROR_REPORTING": "false",
}

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


def pytest_unconfigure() -> None:
    """Remove the files of services; a handler of `atexit` would run in forked children too."""
    shutil.rmtree(_services, ignore_errors=True)


@pytest.fixture(autouse=True)
def _doctest_directory(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
