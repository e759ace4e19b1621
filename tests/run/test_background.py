from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jax
import pytest

from memory import Memory
from metriplex import MetricsCallback
from metriplex.errors import ClosedError, ConfigurationError
from metriplex.run import system_metrics
from metriplex.run.background import ProvenanceReport, SystemSampler

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from metriplex.records import Scalar, Text

LONG = 60.0


class Logs(SimpleNamespace):
    """The run that a background thread logs by, without the methods that it must not call."""

    newest_step = 7
    log_scalars: Any
    log_media: Any


def test_provenance_is_logged_once_with_the_devices_of_the_program() -> None:
    texts: list[Text] = []
    report = ProvenanceReport(lambda: "2 x TFRT_CPU")
    report.start(Logs(log_media=texts.append))
    report.program_started()
    report.close(LONG)
    report.close(LONG)
    [text] = texts
    assert (text.step, text.tag) == (0, "run/provenance")
    assert "| devices | 2 x TFRT_CPU |" in text.text
    assert "| python | " in text.text


def test_devices_are_not_asked_for_without_a_program() -> None:
    texts: list[Text] = []
    report = ProvenanceReport(lambda: pytest.fail("initialises jax"))
    report.start(Logs(log_media=texts.append))
    report.close(LONG)
    assert "devices" not in texts[0].text


def test_a_run_that_is_closed_and_a_report_that_fails_stop_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def closed(_: Text) -> None:
        raise ClosedError("closed")

    def broken() -> str:
        raise RuntimeError("no devices")

    report = ProvenanceReport(str)
    report.start(Logs(log_media=closed))
    report.close(LONG)
    assert caplog.records == []
    report = ProvenanceReport(broken)
    report.start(Logs(log_media=closed))
    report.program_started()
    report.close(LONG)
    (entry,) = caplog.records
    assert (entry.levelno, "metriplex-provenance" in entry.getMessage()) == (logging.ERROR, True)


def test_the_system_is_sampled_until_the_end() -> None:
    samples: list[Mapping[str, Scalar]] = []
    sampled = threading.Event()

    def take(step: int, sample: Mapping[str, Scalar]) -> None:
        assert step == 7
        samples.append(sample)
        sampled.set()

    sampler = SystemSampler(system_metrics.Probe, 1e-3)
    sampler.start(Logs(log_scalars=take))
    assert sampled.wait(LONG)
    sampler.close(LONG)
    count = len(samples)
    assert {name for name in samples[0] if "gpu" not in name} == {
        "system/cpu_percent",
        "system/memory_percent",
        "system/process_cpu_percent",
        "system/process_memory_mib",
    }
    assert 0 < samples[0]["system/memory_percent"] <= 100
    assert samples[0]["system/process_memory_mib"] > 10
    assert len(samples) == count


class Nvml:
    """The `pynvml` of a machine with two GPUs, one without a power meter."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self) -> None:
        self.open = True

    def nvmlShutdown(self) -> None:  # noqa: N802 - NVIDIA's name
        self.open = False

    nvmlDeviceGetCount = staticmethod(lambda: 2)  # noqa: N815
    nvmlDeviceGetHandleByIndex = staticmethod(lambda index: index)  # noqa: N815
    nvmlDeviceGetUtilizationRates = staticmethod(lambda gpu: SimpleNamespace(gpu=50 + gpu))  # noqa: N815
    nvmlDeviceGetMemoryInfo = staticmethod(lambda _: SimpleNamespace(used=3 * 2**20))  # noqa: N815
    nvmlDeviceGetTemperature = staticmethod(lambda _gpu, sensor: 40 + sensor)  # noqa: N815

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:  # noqa: N802
        if gpu:
            raise self.NVMLError("Not Supported")
        return 70_500


def test_what_the_gpus_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setattr(system_metrics, "_start_nvml", lambda: nvml)
    probe = system_metrics.Probe()
    gpus = {name: value for name, value in probe.sample().items() if "gpu" in name}
    probe.close()
    probe.close()
    assert not nvml.open
    assert gpus == {
        "system/gpu0/utilization_percent": 50.0,
        "system/gpu0/memory_mib": 3.0,
        "system/gpu0/temperature_celsius": 40.0,
        "system/gpu0/power_watts": 70.5,
        "system/gpu1/utilization_percent": 51.0,
        "system/gpu1/memory_mib": 3.0,
        "system/gpu1/temperature_celsius": 40.0,
    }


def test_without_psutil_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find: Any = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "psutil" else find(name)
    )
    with pytest.raises(ConfigurationError, match=r"pip install 'metriplex\[system\]'"):
        system_metrics.check_installed()


def test_a_run_tells_where_it_comes_from_and_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    options: Any = {"log_dir": tmp_path, "backends": memory, "system_metrics": 1e-3}
    with MetricsCallback("run", provenance=True, **options) as metrics:
        jax.jit(lambda state: metrics.on_iteration(state, training_log={"x": 1.0}))(metrics.init(1))
        metrics.log(7, {"y": 1.0})
        metrics.flush()
        while not any("system/cpu_percent" in record.values for record in memory.records):
            metrics.flush()
    [text] = memory.texts
    assert (text.step, text.tag) == (0, "run/provenance")
    assert "| devices | 8 x cpu |" in text.text
    steps = {r.step for r in memory.records if "system/cpu_percent" in r.values}
    assert steps <= {0, 7}
    with pytest.raises(ConfigurationError, match="`system_metrics` must be a number above 0"):
        MetricsCallback("run", log_dir=tmp_path, backends=[], system_metrics=-1.0)
    for value, count in (("0", 0), ("1", 1)):
        monkeypatch.setenv("METRIPLEX_PROVENANCE", value)
        memory = Memory()
        with MetricsCallback("run", log_dir=tmp_path, backends=memory):
            pass
        assert len(memory.texts) == count
