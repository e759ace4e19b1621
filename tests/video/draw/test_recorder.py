"""From a training to its videos: what can go wrong on the way, and that training never notices."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from memory import Memory
from metriplex import ConfigurationError, MetricsCallback, PluginError, hookimpl
from metriplex.run.run import Run
from video.cases import HEIGHT, WIDTH, Dot, Line, Walker, by_value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FRAMES = 6
LINE = Line(limit=FRAMES)


@pytest.fixture(autouse=True, scope="module")
def _cases_travel_by_value() -> Iterator[None]:
    with by_value():
        yield


@jax.jit
def train(metrics: MetricsCallback, weight: jax.Array) -> jax.Array:
    def turn(carry: Any, i: jax.Array) -> Any:
        state, weight = carry
        state = metrics.on_step(state, jnp.ones(2), jnp.zeros(2, bool))
        weight = jnp.sin(weight * 1.1) + 0.3
        policy = Walker(weight.mean())
        state = metrics.on_iteration(
            state, training_log={"w": weight.mean()}, policy=policy, key=jax.random.key(3)
        )
        return (state, weight), None

    return jax.lax.scan(turn, (metrics.init(2), weight), jnp.arange(4))[0][1]


WEIGHT = jnp.linspace(0.1, 0.9, 7)


def trained(log_dir: Path, **options: Any) -> tuple[np.ndarray, Any, Memory]:
    """A training whose iterations 0 and 2, of the steps 2 and 6, are to be shown."""
    memory = options.pop("backends", None) or Memory()
    settings: dict[str, Any] = {
        "video_interval": 2,
        "video_num_steps": FRAMES,
        "video_worker": "thread",
        "renderer": Dot(),
    }
    with MetricsCallback(
        "run", LINE, log_dir=log_dir, backends=memory, **{**settings, **options}
    ) as metrics:
        weight = np.asarray(train(metrics, WEIGHT))
        metrics.close(timeout=300)  # of a machine with every core busy
    return weight, metrics, memory


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The parameters of a training with working videos."""
    weight, _, memory = trained(tmp_path_factory.mktemp("working"))
    assert len(memory.videos) == 2
    return weight


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    return [one for one in said if not one.startswith("waiting for ")]  # on a busy machine


def frames_of(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    return np.stack([np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(image)])


# ---- what comes out -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_backend_gets_every_video_as_an_mp4(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    _, _, memory = trained(tmp_path, video_worker=mode)
    assert [video.step for video in memory.videos] == [2, 6]
    for video in memory.videos:
        assert (video.tag, video.fps, video.lane, video.frames) == ("eval/video", 50.0, None, None)
        assert list(video.clips) == ["mp4"]
        clip = video.clips["mp4"]
        assert (clip.num_frames, clip.width, clip.height) == (FRAMES, WIDTH, HEIGHT)
        assert clip.data[4:8] == b"ftyp"
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("format_", ["gif", "webp"])
@pytest.mark.long
def test_tensorboard_gets_a_clip_that_moves(tmp_path: Path, format_: str) -> None:
    drawn: list[np.ndarray] = []

    class Noted(Dot):
        def render(self, selected: dict[str, Any]) -> Any:
            drawn.append(super().render(selected))
            return drawn[-1]

    backends = {"tensorboard": {"video_format": format_}}
    trained(tmp_path, backends=backends, renderer=Noted())
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["eval/video"]
    images = events.Images("eval/video")
    assert [image.step for image in images] == [2, 6]
    shown = np.concatenate([frames_of(image.encoded_image_string) for image in images])
    assert shown.shape == (2 * FRAMES, HEIGHT, WIDTH, 3)  # every frame ...
    columns = [first_column(frame) for frame in shown]
    assert columns == [first_column(frame) for frame in drawn]  # ... in the order of time
    assert len(set(columns)) > 3
    assert {(image.width, image.height) for image in images} == {(WIDTH, HEIGHT)}


def first_column(frame: np.ndarray) -> int:
    """Return the first column of the dot."""
    return int(np.flatnonzero((frame[8] < 220).any(-1))[0])


@pytest.mark.long
def test_backends_of_several_formats_each_get_theirs(tmp_path: Path) -> None:
    mp4, gif = Memory(), Memory(video_format="gif")
    trained(tmp_path, backends=[mp4, gif])
    for memory in (mp4, gif):
        assert [sorted(video.clips) for video in memory.videos] == [["gif", "mp4"]] * 2


def test_the_user_s_own_clips_go_the_same_way(tmp_path: Path) -> None:
    memory = Memory()
    frames = np.random.default_rng(0).integers(0, 255, (3, HEIGHT, WIDTH, 3), np.uint8)
    backends = [memory, "tensorboard"]
    with MetricsCallback("run", log_dir=tmp_path, backends=backends) as metrics:
        metrics.log_video("mine", frames, fps=10, step=7)
    (video,) = memory.videos
    np.testing.assert_array_equal(video.frames, frames)
    (image,) = EventAccumulator(str(tmp_path / "run")).Reload().Images("mine")
    assert image.step == 7
    assert frames_of(image.encoded_image_string).shape == frames.shape


def test_without_a_backend_that_takes_videos_nothing_is_set_up(tmp_path: Path) -> None:
    class Deaf:
        @hookimpl
        def log_scalars(self, records: Any) -> None:
            pass

    with MetricsCallback(
        "run", LINE, log_dir=tmp_path, backends=Deaf(), video_interval=2, renderer="no such"
    ) as metrics:
        assert isinstance(metrics.run, Run)
        assert metrics.run.video_recorder is None


# ---- what goes wrong ----------------------------------------------------------------------------

FAULTS = {
    "raise": "the renderer raised `ZeroDivisionError: no such angle` at frame 3 of 6",
    "float": "a frame must be a NumPy array of uint8; frame 3 is float64",
    "shape": "all frames of a clip must have the size of the first, [16, 32, 3]; frame 3 is "
    "[16, 31, 3]",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.long
def test_a_renderer_that_fails_is_one_warning_a_video(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, working: np.ndarray, fault: str
) -> None:
    class Ill(Dot):  # counts the frames of all clips: the first one fails alone
        def close(self) -> None:
            pass

    weight, _, memory = trained(tmp_path, renderer=Ill(fault))
    (warning,) = warnings_of(caplog)
    assert "no evaluation video of iteration 0 (step 2): " in warning
    assert FAULTS[fault] in warning
    assert [video.step for video in memory.videos] == [6]
    assert len(memory.values("train/w")) == 4
    np.testing.assert_array_equal(weight, working)


@pytest.mark.long
def test_a_drawing_process_that_is_killed_costs_one_video(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, working: np.ndarray
) -> None:
    renderer = Dot("kill once", marker=str(tmp_path / "killed"))
    weight, _, memory = trained(tmp_path, renderer=renderer, video_worker="process")
    (warning,) = warnings_of(caplog)
    assert "no evaluation video of iteration 0 (step 2): the drawing process died" in warning
    assert str(signal.strsignal(signal.SIGKILL)) in warning
    assert [video.step for video in memory.videos] == [6]
    np.testing.assert_array_equal(weight, working)


@pytest.mark.long
def test_an_environment_that_raises_on_the_host_is_one_warning_a_video(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Line):
        traceable = False

        def transition(self, *arguments: Any, **keys: Any) -> Any:
            raise RuntimeError("no such road")

    memory = Memory()
    with MetricsCallback(
        "run",
        Broken(),
        log_dir=tmp_path,
        backends=memory,
        video_interval=2,
        renderer=Dot(),
        video_worker="thread",
    ) as metrics:
        train(metrics, WEIGHT)
    said = warnings_of(caplog)
    assert len(said) == 2
    assert "no evaluation video of iteration 0 (step 2): " in said[0]
    assert "no evaluation video of iteration 2 (step 6): " in said[1]
    assert all("the rollout raised `RuntimeError: no such road`" in one for one in said)
    assert memory.videos == []


def test_no_renderer_is_one_warning(tmp_path: Path, working: np.ndarray) -> None:
    with pytest.warns(UserWarning, match=r"no renderer draws `Line`.*Training goes on") as caught:
        weight, _, memory = trained(tmp_path, renderer=None)
    assert len(caught) == 1
    assert memory.videos == []
    assert len(memory.values("train/w")) == 4
    np.testing.assert_array_equal(weight, working)


def test_a_renderer_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(
        PluginError,
        match=r"renderer `blender` is not installed\. Installed: .*`pygame`",
    ):
        trained(tmp_path, renderer="blender")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_renderer_that_cannot_be_pickled_says_what_to_do(
    tmp_path: Path, working: np.ndarray
) -> None:
    renderer = Dot()
    renderer.marker = threading.Lock()  # ty: ignore[invalid-assignment] - that is the fault
    with pytest.raises(ConfigurationError, match=r'can\'t be pickled.*`video_worker="thread"`'):
        trained(tmp_path, renderer=renderer, video_worker="process")
    weight, _, memory = trained(tmp_path, renderer=renderer, video_worker="thread")
    assert len(memory.videos) == 2
    np.testing.assert_array_equal(weight, working)


# ---- the end ------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, threading, time
import jax, jax.numpy as jnp, numpy as np
from metriplex import MetricsCallback, Renderer

class Env:
    name = "Env"
    def initial(self, *, key): return jnp.zeros(())
    def transition(self, state, action, *, key): return state + 1
    def observation(self, state, *, key): return state
    def terminal(self, state, *, key): return False

class Slow(Renderer):
    def __init__(self, told): self.told = told
    def select(self, state): return state
    def render(self, state):
        if state == 0:
            with open(self.told, "w") as file:
                file.write(str(os.getpid()))
        if {hangs}:
            threading.Event().wait()
        return np.full((16, 16, 3), int(state) * 20, np.uint8)
    def close(self): pass

if __name__ == "__main__":
    metrics = MetricsCallback("run", Env(), log_dir=sys.argv[2], video_interval=1,
        video_num_steps=5, renderer=Slow(sys.argv[1]), backends="tensorboard")
    jax.jit(lambda m: m.on_iteration(m.init(1), policy=lambda obs: obs))(metrics)
    {then}
"""


def start(tmp_path: Path, then: str, hangs: bool) -> tuple[subprocess.Popen[str], Path]:
    script, told = tmp_path / "script.py", tmp_path / "pid"
    os.mkfifo(told)
    script.write_text(textwrap.dedent(SCRIPT).format(then=then, hangs=hangs))
    process = subprocess.Popen(
        [sys.executable, str(script), str(told), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    return process, told


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_at_exit_clips_under_way_are_finished(tmp_path: Path) -> None:
    process, told = start(tmp_path, then="pass", hangs=False)
    pid = int(told.read_text())
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == 0
    assert complaints == ""
    (image,) = EventAccumulator(str(tmp_path / "run")).Reload().Images("eval/video")
    assert frames_of(image.encoded_image_string).shape[0] == 5
    assert ended(pid)


@pytest.mark.slow
def test_sigterm_ends_a_process_whose_renderer_hangs(tmp_path: Path) -> None:
    process, told = start(tmp_path, then="threading.Event().wait()", hangs=True)
    pid = int(told.read_text())
    process.terminate()
    _, complaints = process.communicate(timeout=90)
    assert process.returncode == -signal.SIGTERM
    assert "the run was closed before the clip was done" in complaints
    said = complaints.strip().splitlines()
    assert len([line for line in said if not line.startswith("waiting for ")]) == 1
    assert ended(pid)
    assert EventAccumulator(str(tmp_path / "run")).Reload().Tags()["images"] == []


@pytest.mark.slow
def test_a_killed_training_leaves_no_drawing_process(tmp_path: Path) -> None:
    process, told = start(tmp_path, then="threading.Event().wait()", hangs=False)
    pid = int(told.read_text())
    process.kill()
    process.communicate()
    while not ended(pid):  # it looks for its parent every few seconds
        os.sched_yield()


MEMORY = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from metriplex import MetricsCallback
from metriplex.demo.cartpole import CartPole

if __name__ == "__main__":
    steps = int(sys.argv[1])
    with MetricsCallback("run", CartPole(), log_dir=sys.argv[2], video_interval=1,
            video_num_steps=steps, backends="tensorboard") as metrics:
        program = lambda m: m.on_iteration(m.init(1), policy=lambda obs: jnp.int32(0))
        jax.jit(program)(metrics)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_the_memory_of_training_does_not_grow_with_a_clip(tmp_path: Path) -> None:
    peaks = []
    for steps in (20, 500):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(steps), str(tmp_path / str(steps))],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        peaks.append(int(done.stdout))
    frame = 640 * 480 * 3 / 1024  # kilobytes
    assert peaks[1] - peaks[0] < 30 * frame  # of 480 more
