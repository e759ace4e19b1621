from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest
from PIL import Image

import metriplex
from metriplex_mujoco import DrawingError, HeadlessMujocoRenderer
from metriplex_mujoco.context import import_mujoco

mujoco = import_mujoco()

Make = Callable[..., HeadlessMujocoRenderer]
Draw = Callable[..., np.ndarray]

GOLDEN = Path(__file__).with_name("golden.png")


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean distance of two pictures in levels of 255."""
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.long
def test_a_frame_has_the_size_that_was_asked_for(draw: Draw) -> None:
    frame = draw(80, 60)
    assert frame.shape == (60, 80, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    assert frame.std() > 20


def test_the_picture_is_the_golden_one(draw: Draw) -> None:
    frame = draw(camera="side")
    # To draw it anew: Image.fromarray(frame).save(GOLDEN)
    golden = np.asarray(Image.open(GOLDEN))
    assert difference(frame, golden) < 2
    assert np.mean(np.abs(frame.astype(int) - golden) > 24) < 0.02, "edges may differ, areas not"


def test_the_picture_moves_with_the_state_and_the_same_state_gives_the_same_pixels(
    make: Make, model: Any, data: Any
) -> None:
    renderer = make()
    here = {name: np.array(value) for name, value in renderer.select(data).items()}
    there = here | {"qpos": here["qpos"] + 0.3}
    first = renderer.render(here)
    kept = first.copy()
    assert difference(renderer.render(there), first) > 1
    np.testing.assert_array_equal(renderer.render(here), first)
    np.testing.assert_array_equal(first, kept, "a frame is the caller's own")
    np.testing.assert_array_equal(make().render(here), first)


@pytest.mark.parametrize("flags", [{}, {"contactforce": True, "contactpoint": True}])
def test_frames_do_not_depend_on_those_before(make: Make, data: Any, flags: Any) -> None:
    renderer = make(flags=flags)
    selected = {name: np.array(value) for name, value in renderer.select(data).items()}
    first = renderer.render(selected)
    thrown = selected | {"qpos": np.array([1.0, 2, 1, 1, 0.1, 1, 1, 0, 0])}
    renderer.render(thrown)
    np.testing.assert_array_equal(renderer.render(selected), first)


def test_a_mocap_body_is_drawn_where_the_state_has_it(make: Make, data: Any) -> None:
    renderer = make(camera="top")
    before = renderer.render(renderer.select(data))
    data.mocap_pos[0] = -0.8, -0.9, 0.2
    selected = renderer.select(data)
    assert selected["mocap_pos"].shape == (1, 3)
    assert difference(renderer.render(selected), before) > 0.5
    moved = renderer.render({"qpos": np.array(data.qpos)})
    np.testing.assert_array_equal(moved, before, "without it, the model's own place is taken")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 31), (63, 48), (1001, 3)])
@pytest.mark.long
def test_sizes_that_are_odd_and_tiny(draw: Draw, size: tuple[int, int]) -> None:
    width, height = size
    frame = draw(width, height)
    assert frame.shape == (height, width, 3)
    if size == (63, 48):  # not sheared by padded rows
        assert difference(frame, draw(64, 48)[:, :63]) < 12


def test_sizes_above_the_models_buffer_leave_the_users_model_alone(make: Make, model: Any) -> None:
    assert (model.vis.global_.offwidth, model.vis.global_.offheight) == (640, 480)
    before = pickle.dumps(model)
    renderer = make(800, 700)
    frame = renderer.render(renderer.select(mujoco.MjData(model)))
    assert frame.shape == (700, 800, 3)
    assert frame[:350].std() > 10
    assert frame[:, 650:].std() > 10
    assert pickle.dumps(model) == before


def test_a_size_that_opengl_can_not_draw_is_an_error_that_names_it(make: Make, data: Any) -> None:
    renderer = make(100_000, 1)
    with pytest.raises(metriplex.ConfigurationError, match=r"100000 x 1 pixels .* smaller frames"):
        renderer.render(renderer.select(data))
    other = make()
    assert other.render(other.select(data)).std() > 20


def test_quality(draw: Draw) -> None:
    fast, full = draw(camera="side"), draw(camera="side", quality="full")
    assert difference(fast, full) > 1, "shadows and reflections"
    assert len(np.unique(full.reshape(-1, 3), axis=0)) > len(np.unique(fast.reshape(-1, 3), axis=0))
    np.testing.assert_array_equal(draw(camera="side", quality="fast"), fast)
    shadows = draw(camera="side", flags={"shadow": True})
    assert difference(shadows, fast) > 0.3, "a flag is stronger than the quality"


def test_it_is_drawn_by_any_thread_and_closed_by_another(make: Make, data: Any) -> None:
    renderer, frames = make(), []

    def draw() -> None:
        frames.append(renderer.render(renderer.select(data)))

    for _ in range(2):
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
    draw()
    threads = [threading.Thread(target=renderer.close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(frames) == 3
    assert frames[0].std() > 20
    np.testing.assert_array_equal(frames[0], frames[1])
    np.testing.assert_array_equal(frames[0], frames[2])


def test_two_renderers_take_turns(make: Make, model: Any, data: Any) -> None:
    small, large = make(32, 24), make(64, 48, camera="top")
    selected = small.select(data)
    one, other = small.render(selected), large.render(selected)
    np.testing.assert_array_equal(small.render(selected), one)
    small.close()
    np.testing.assert_array_equal(large.render(selected), other)


def test_close_may_be_called_twice_and_before_any_frame(make: Make, data: Any) -> None:
    unused, used = make(), make()
    frame = used.render(used.select(data))
    for renderer in (unused, used):
        renderer.close()
        renderer.close()
        with pytest.raises(metriplex.ClosedError, match="`render` was called after `close`"):
            renderer.render(renderer.select(data))
    assert frame.std() > 20


def test_the_environment_variables_are_left_alone(draw: Draw) -> None:
    before = dict(os.environ)
    draw()
    assert dict(os.environ) == before


PROGRAM = """
import os, pickle, sys, threading
import numpy as np

with open(sys.argv[1], "rb") as file:
    renderer, selected = pickle.load(file)
assert "mujoco" not in sys.modules, "mujoco is imported when GL has been chosen"

def draw():
    np.save(sys.argv[2], renderer.render(selected))
    assert "MUJOCO_GL" not in os.environ and "PYOPENGL_PLATFORM" not in os.environ

thread = threading.Thread(target=draw)
thread.start()
thread.join()
globals().update(eval(sys.argv[3]))
"""


@pytest.mark.parametrize("at_exit", ["{}", "{'renderer': renderer.close()}"])
@pytest.mark.long
def test_a_pickled_renderer_draws_in_another_process_and_leaves_stderr_clean(
    make: Make, data: Any, draw: Draw, tmp_path: Path, at_exit: str
) -> None:
    renderer = make(camera={"azimuth": 30.0}, flags={"haze": False})
    selected = {name: np.array(value) for name, value in renderer.select(data).items()}
    again = pickle.loads(pickle.dumps(renderer))  # twice: a pickle's pickle
    (tmp_path / "pickle").write_bytes(cloudpickle.dumps((again, selected)))
    clean = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "pickle", tmp_path / "frame.npy", at_exit],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert difference(np.load(tmp_path / "frame.npy"), renderer.render(selected)) < 2
    assert difference(again.render(selected), renderer.render(selected)) == 0
    again.close()


DAEMON = """
import pickle, sys, threading
import metriplex

with open(sys.argv[1], "rb") as file:
    renderer, selected = pickle.load(file)
drawn = threading.Event()

def draw():
    try:
        while True:
            renderer.render(selected)
            drawn.set()
    except metriplex.ClosedError:
        sys.stdout.write("closed")
        sys.stdout.flush()
        threading.Event().wait()

threading.Thread(target=draw, daemon=True).start()
drawn.wait()
"""


@pytest.mark.long
def test_a_thread_that_draws_while_the_program_ends_crashes_nothing(
    make: Make, data: Any, tmp_path: Path
) -> None:
    renderer = make(320, 240)
    selected = {name: np.array(value) for name, value in renderer.select(data).items()}
    (tmp_path / "pickle").write_bytes(pickle.dumps((renderer, selected)))
    command = [sys.executable, "-c", DAEMON, tmp_path / "pickle"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("", "closed"), "which thread is first is left open"


def test_after_its_first_frame_it_can_not_be_pickled(make: Make, data: Any) -> None:
    renderer = make()
    renderer.render(renderer.select(data))
    for pickled in (pickle.dumps, cloudpickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="after its first `render`"):
            pickled(renderer)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("close", [True, False])
def test_a_hundred_renderers_in_a_row_leave_nothing_behind(
    draw: Draw, model: Any, data: Any, close: bool
) -> None:
    def one() -> None:
        renderer = HeadlessMujocoRenderer(model, 640, 480)
        assert renderer.render(renderer.select(data)).std() > 20
        if close:
            renderer.close()

    for _ in range(10):
        one()
    before = _resident_mib()
    for _ in range(100):
        one()
    # One frame buffer of 640x480 has 2.3 MiB.
    assert _resident_mib() - before < 40


@pytest.mark.parametrize("size", [(0, 48), (64, -1), (64.0, 48), (True, 48)])
def test_sizes_that_are_none(model: Any, size: tuple[Any, Any]) -> None:
    with pytest.raises(metriplex.ConfigurationError, match="whole number of pixels"):
        HeadlessMujocoRenderer(model, *size)


def test_what_is_no_model() -> None:
    with pytest.raises(metriplex.ConfigurationError, match=r"got `types\.SimpleNamespace`"):
        HeadlessMujocoRenderer(SimpleNamespace(nq=1), 64, 48)


def test_a_model_in_which_nothing_moves_is_drawn(gl: str) -> None:
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><geom size='1'/></worldbody></mujoco>"
    )
    renderer = HeadlessMujocoRenderer(model, 64, 48)
    selected = renderer.select(mujoco.MjData(model))
    assert {name: value.shape for name, value in selected.items()} == {"qpos": (0,)}
    assert renderer.render(selected).std() > 20
    renderer.close()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_an_error_and_the_next_one_is_drawn(
    make: Make, data: Any, bad: float
) -> None:
    renderer = make()
    good = renderer.select(data)
    wrong = np.array(data.qpos)
    wrong[1] = wrong[4] = bad
    message = rf"`qpos\[1\]` is {bad}, .*2 of 9 values are not finite\): the simulation"
    with pytest.raises(DrawingError, match=message):
        renderer.render(good | {"qpos": wrong})
    assert renderer.render(good).std() > 20
