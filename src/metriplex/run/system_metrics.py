"""Measure processor and memory use, and NVIDIA GPUs if `nvidia-ml-py` is installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
from typing import TYPE_CHECKING, Any, final

from metriplex.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metriplex.records import Scalar

logger = logging.getLogger("metriplex")

_MIB = 2**20


@final
class Probe:
    """Read the machine's processor, memory and GPU metrics. Not thread-safe."""

    def __init__(self) -> None:
        import psutil

        self._machine: Any = psutil
        self._process = psutil.Process()
        self._nvml = _start_nvml()
        self._machine.cpu_percent()  # rates are measured since the last call
        self._process.cpu_percent()

    def sample(self) -> dict[str, Scalar]:
        """Return the current value of every metric, by tag.

        `system/cpu_percent` (100 is all cores) and `system/process_cpu_percent` (100 is one core)
        are means since the last sample; `system/process_memory_mib` is the resident memory.
        """
        return {
            "system/cpu_percent": self._machine.cpu_percent(),
            "system/memory_percent": self._machine.virtual_memory().percent,
            "system/process_cpu_percent": self._process.cpu_percent(),
            "system/process_memory_mib": self._process.memory_info().rss / _MIB,
            **dict(self._gpus()),
        }

    def close(self) -> None:
        """Shut down NVIDIA's library; the second call does nothing."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def _gpus(self) -> Iterator[tuple[str, float]]:
        nvml = self._nvml
        if nvml is None:
            return
        metrics = {
            "utilization_percent": lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
            "memory_mib": lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used / _MIB,
            "temperature_celsius": lambda gpu: nvml.nvmlDeviceGetTemperature(gpu, 0),
            "power_watts": lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        }
        for index in range(nvml.nvmlDeviceGetCount()):
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            for name, read in metrics.items():
                with contextlib.suppress(nvml.NVMLError):  # not every GPU supports every metric
                    yield f"system/gpu{index}/{name}", float(read(gpu))


def check_installed() -> None:
    """Raise `ConfigurationError` if `psutil` isn't installed, which `Probe` needs."""
    if importlib.util.find_spec("psutil") is None:
        raise ConfigurationError(
            "`system_metrics` needs `psutil`, which is not installed: "
            "`pip install 'metriplex[system]'`, or leave `system_metrics` out"
        )


def _start_nvml() -> Any:
    """Return NVIDIA's library, from `nvidia-ml-py`; None without the package or a driver."""
    if importlib.util.find_spec("pynvml") is None:
        return None
    nvml: Any = importlib.import_module("pynvml")  # optional, unknown to the type checker
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml
