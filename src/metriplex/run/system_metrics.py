"""What a run takes of its machine: processor, memory, and GPUs where NVIDIA's library is there."""

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
    """Reads the meters; for one thread.

    Raises:
        ConfigurationError: `psutil` is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("psutil") is None:
            raise ConfigurationError(
                "`system_metrics` needs `psutil`, which is not installed: "
                "`pip install 'metriplex[system]'`, or leave `system_metrics` out"
            )
        import psutil

        self._machine: Any = psutil
        self._process = psutil.Process()
        self._nvml = _start_nvml()
        self._machine.cpu_percent()  # rates are since the last call
        self._process.cpu_percent()

    def sample(self) -> dict[str, Scalar]:
        """Reads all of them.

        Returns:
            Tag to value. `system/cpu_percent` (all cores: 100) and `system/process_cpu_percent` (a
            core: 100) are means since the last sample; `system/memory_percent`;
            `system/process_memory_mib` is resident. For each GPU `system/gpu0/...`:
            `utilization_percent`, `memory_mib`, `temperature_celsius`, `power_watts`, of those that
            it tells.
        """
        return {
            "system/cpu_percent": self._machine.cpu_percent(),
            "system/memory_percent": self._machine.virtual_memory().percent,
            "system/process_cpu_percent": self._process.cpu_percent(),
            "system/process_memory_mib": self._process.memory_info().rss / _MIB,
            **dict(self._gpus()),
        }

    def close(self) -> None:
        """Lets go of NVIDIA's library; may be called twice."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def _gpus(self) -> Iterator[tuple[str, float]]:
        nvml = self._nvml
        if nvml is None:
            return
        meters = {
            "utilization_percent": lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
            "memory_mib": lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used / _MIB,
            "temperature_celsius": lambda gpu: nvml.nvmlDeviceGetTemperature(gpu, 0),
            "power_watts": lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        }
        for index in range(nvml.nvmlDeviceGetCount()):
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            for name, read in meters.items():
                with contextlib.suppress(nvml.NVMLError):  # not every GPU has every meter
                    yield f"system/gpu{index}/{name}", float(read(gpu))


def _start_nvml() -> Any:
    """NVIDIA's library, from `nvidia-ml-py`; None where there is no driver."""
    if importlib.util.find_spec("pynvml") is None:
        return None
    nvml: Any = importlib.import_module("pynvml")  # not everywhere, not even for a type checker
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml
