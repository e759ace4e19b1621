"""A constructor that raises leaves nothing behind, whatever it raises and wherever."""

from __future__ import annotations

import inspect
import re
import resource
import shutil
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import psutil
import pytest

import metriplex
from memory import Memory
from metriplex import ConfigurationError, MetricsCallback, MetriplexError, Renderer, hookimpl
from metriplex.bridge import registry
from metriplex.callback.host_run import HostRun
from metriplex.demo.pendulum import Pendulum

if TYPE_CHECKING:
    from collections.abc import Callable


WRONG: dict[str, list[dict[str, Any]]] = {
    "name": [{"name": "a/b"}, {"name": 3}, {"name": ""}],
    "env": [{"env": None, "video_interval": 1}],
    "policy": [],  # its name alone is used, and any object has one
    "alpha": [{"alpha": 0.0}, {"alpha": "x"}],
    "log_dir": [{"log_dir": ""}, {"log_dir": 3}, {"log_dir": "s3://bucket"}, {"log_dir": "a\0b"}],
    "resume": [{"resume": "none"}, {"resume": 3}, {"resume": ""}],
    "resume_step": [{"resume_step": 3}, {"resume": "old", "resume_step": -1}],
    "backends": [{"backends": 3}, {"backends": "no-such"}, {"backends": Memory}],
    "transforms": [{"transforms": 3}, {"transforms": "no-such"}],
    "hparams": [{"hparams": 3}, {"hparams": {1, 2}}],
    "mask_secrets": [],  # any object is true or false
    "provenance": [],
    "system_metrics": [{"system_metrics": -1.0}, {"system_metrics": "x"}],
    "total_steps": [{"total_steps": 0}, {"total_steps": 1.5}],
    "lanes": [{"lanes": 3}, {"lanes": {"lr": 1.0}}],
    "lane_names": [{"lane_names": ["a", "a"]}, {"lane_names": 3}],
    "aggregate": [{"aggregate": np.ones(2)}],
    "episode_stats": [{"episode_stats": np.ones(2)}],
    "reduce": [{"reduce": "sum"}],
    "learning_rate": [{"learning_rate": "x"}],
    "log_every": [{"log_every": 0}],
    "buffer": [{"buffer": -1}],
    "buffer_width": [{"buffer": 2, "buffer_width": 0}],
    "axis_name": [{"axis_name": 3.5}],
    "transport": [{"transport": "pigeon"}, {"transport": "drain"}],
    "nonfinite": [{"nonfinite": "ignore"}],
    "queue_size": [{"queue_size": 0}],
    "journal": [{"journal": 3}, {"journal": {"fsync": "x"}}, {"resume": "old", "journal": False}],
    "close_timeout": [{"close_timeout": 0}, {"close_timeout": "x"}],
    "video_interval": [{"video_interval": -1}],
    "video_num_steps": [{"video_interval": 1, "video_num_steps": 0}],
    "video_width": [{"video_interval": 1, "video_width": 0}],
    "video_height": [{"video_interval": 1, "video_height": 0}],
    "video_fps": [{"video_interval": 1, "video_fps": 0.0}],
    "video_worker": [{"video_interval": 1, "video_worker": "cloud"}],
    "renderer": [{"video_interval": 1, "env": Pendulum(), "renderer": "no-such"}],
}


@final
@dataclass
class Place:
    """The things that a run uses: files, threads, descriptors, handles."""

    folder: Path
    files: set[str] = field(init=False)
    threads: set[threading.Thread] = field(init=False)
    descriptors: int = field(init=False)
    handles: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.files, self.threads, self.descriptors, self.handles = self._used()

    def _used(self) -> tuple[set[str], set[threading.Thread], int, set[int]]:
        files = {str(path) for path in self.folder.rglob("*")}
        return files, set(threading.enumerate()), psutil.Process().num_fds(), set(registry._entries)

    def check(self) -> None:
        files, threads, descriptors, handles = self._used()
        assert files == self.files
        assert threads == self.threads
        assert descriptors <= self.descriptors
        assert handles == self.handles


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Directory of runs, with a run `old` of the steps 0, 10, ..., 90."""
    folder = tmp_path / "logs"
    with MetricsCallback("old", log_dir=folder, backends=[], provenance=False) as metrics:
        for step in range(0, 100, 10):
            metrics.log(step, {"a": 1.0})
    return folder


def steps(run: Path) -> list[int]:
    return metriplex.read(run).series("a").step.tolist()


def make(logs: Path, **options: Any) -> MetricsCallback:
    given: dict[str, Any] = {"log_dir": logs, "backends": [Memory()], **options}
    return MetricsCallback(**given)


def check_works(logs: Path, **options: Any) -> None:
    """A construction with right arguments gets the name, or the run, that the wrong one wanted."""
    with make(logs, provenance=False, **options) as metrics:
        metrics.log(100, {"a": 1.0})
    assert metrics.directory.name == options.get("name", "old")
    kept = [] if "name" in options else range(0, options.get("resume_step", 90) + 1, 10)
    assert steps(metrics.directory) == [*kept, 100]
    shutil.rmtree(metrics.directory)


def test_the_table_has_every_argument() -> None:
    assert list(WRONG) == list(inspect.signature(MetricsCallback).parameters)


def named(options: dict[str, Any]) -> str:
    return re.sub(r" object at 0x\w+", "", str(options))


@pytest.mark.parametrize("options", [one for many in WRONG.values() for one in many], ids=named)
def test_a_wrong_argument_leaves_nothing_behind(logs: Path, options: dict[str, Any]) -> None:
    before = Place(logs.parent)
    where = {"system_metrics": 0.1, "provenance": True}
    if "resume" not in options:
        where["name"] = "new"
    with pytest.raises((MetriplexError, ValueError)):
        make(logs, **{**where, **options})
    before.check()
    check_works(logs, name="new")
    assert steps(logs / "old") == list(range(0, 100, 10))


@pytest.mark.parametrize("folder", ["fresh", "fresh/deep"])
def test_directories_of_a_run_that_is_not_made_are_not_made(logs: Path, folder: str) -> None:
    before = Place(logs.parent)
    with pytest.raises(ConfigurationError, match="can't be pickled"):
        make(logs, log_dir=logs.parent / folder, name="new", **videos(Stuck()))
    before.check()


# ---- every stage that may fail -------------------------------------------------------------------


@final
class Stuck(Renderer):
    """A renderer that can't be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def select(self, state: Any) -> Any:
        return state

    def render(self, selected: Any) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)

    def close(self) -> None:
        pass


def videos(renderer: object) -> dict[str, Any]:
    return {"env": Pendulum(), "video_interval": 1, "renderer": renderer}


NEW_AND_OLD = pytest.mark.parametrize(
    "place", [{"name": "new"}, {"resume": "old", "resume_step": 40, "total_steps": 7}], ids=str
)


@NEW_AND_OLD
def test_a_renderer_that_can_not_be_sent(logs: Path, place: dict[str, Any]) -> None:
    before = Place(logs.parent)
    with pytest.raises(ConfigurationError, match="can't be pickled"):
        make(logs, **place, **videos(Stuck()))
    before.check()
    check_works(logs, **place)


@NEW_AND_OLD
def test_samples_without_psutil(
    logs: Path, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Place(logs.parent)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "psutil", None)
        with pytest.raises(ConfigurationError, match="needs `psutil`"):
            make(logs, **place, system_metrics=5.0)
    before.check()
    check_works(logs, **place)


def test_damage_in_what_a_backend_has_acknowledged(logs: Path) -> None:
    place = {"resume": "old", "resume_step": 40}
    damaged = logs / "old" / "journal" / "other.ack"
    damaged.write_text("{")
    before = Place(logs.parent)
    with pytest.raises(ConfigurationError, match=r"other\.ack` is damaged"):
        make(logs, **place)
    before.check()
    damaged.unlink()
    check_works(logs, **place)


def test_a_run_that_another_callback_has_open(logs: Path) -> None:
    with make(logs, resume="old"):
        before = Place(logs.parent)
        with pytest.raises(ConfigurationError, match="another process writes the journal"):
            make(logs, resume="old", resume_step=40)
        before.check()
    check_works(logs, resume="old", resume_step=40)


@NEW_AND_OLD
def test_a_full_disk(logs: Path, place: dict[str, Any]) -> None:
    """The first bytes of a new journal, and those that supersede an old one, find no room."""
    room = (logs / "old/journal/000000.jsonl").stat().st_size if "resume" in place else 0
    for more in (0, 1, 20):
        before = Place(logs.parent)
        with limited(resource.RLIMIT_FSIZE, room + more), pytest.raises(ConfigurationError):
            make(logs, **{**place, "total_steps": None})
        before.check()
        assert steps(logs / "old") == list(range(0, 100, 10))
    check_works(logs, **place)


@NEW_AND_OLD
def test_threads_run_out(
    logs: Path, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first, the second, ... thread of the run can't be started."""
    start: Callable[[threading.Thread], None] = threading.Thread.start
    options = {**place, "backends": [Memory(), Memory()], "system_metrics": 5.0, "provenance": True}
    for failing in range(20):
        started: list[threading.Thread] = []

        def refuse(
            thread: threading.Thread, started: list[Any] = started, failing: int = failing
        ) -> None:
            started.append(thread)
            if len(started) > failing:
                raise RuntimeError("can't start new thread")
            start(thread)

        before = Place(logs.parent)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            try:
                metrics = make(logs, **options)
            except RuntimeError:
                pass
            else:
                metrics.close()
                break
        before.check()
        assert steps(logs / "old") == list(range(0, 100, 10))
    assert failing == 5  # the journal, two backends, provenance, samples


@NEW_AND_OLD
def test_descriptors_run_out(logs: Path, place: dict[str, Any]) -> None:
    """The first, the second, ... descriptor of the run can't be opened."""
    used = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    free = [descriptor for descriptor in range(1000) if descriptor not in used]
    failed = 0
    for limit in free:
        before = Place(logs.parent)
        with limited(resource.RLIMIT_NOFILE, limit):
            try:
                metrics = make(logs, **place, journal={"fsync": "never"}, provenance=False)
            except (MetriplexError, OSError):
                failed += 1
            else:
                metrics.close()
                break
        before.check()
        assert steps(logs / "old") == list(range(0, 100, 10))
    assert failed > 0


def test_a_backend_that_can_not_open_does_not_stop_the_constructor(logs: Path) -> None:
    class Broken:
        @hookimpl
        def open_run(self) -> None:
            raise OSError("mine")

    before = Place(logs.parent)
    metrics = make(logs, name="new", backends=[Broken()])
    metrics.close()
    shutil.rmtree(metrics.directory)
    host = HostRun.find(int(metrics._handle[0]))
    assert host is not None
    registry.remove(host.handle)
    before.check()


@final
class limited:  # noqa: N801 - a context manager
    """Lower a limit of this process for a while."""

    def __init__(self, kind: int, value: int) -> None:
        self.kind, self.value = kind, value

    def __enter__(self) -> None:
        self.before = resource.getrlimit(self.kind)
        resource.setrlimit(self.kind, (self.value, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(self.kind, self.before)
