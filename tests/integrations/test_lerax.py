"""lerax: its own algorithms train with the callback, alone and in a list."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, final

import jax
import numpy as np
import pytest
from PIL import Image, ImageSequence

from memory import Memory, host_calls, logging_to_memory, plain
from metriplex.errors import ConfigurationError

if TYPE_CHECKING:
    from metriplex import Video

pytest.importorskip("lerax", reason="lerax is not installed")
algorithms = pytest.importorskip("lerax.algorithm")
lerax_callbacks = pytest.importorskip("lerax.callback")
base_callback = pytest.importorskip("lerax.callback.base_callback")
lerax_env = pytest.importorskip("lerax.env")
lerax_policy = pytest.importorskip("lerax.policy")
adapter = pytest.importorskip("metriplex.integrations.lerax")

ENVS, STEPS, ITERATIONS = 2, 16, 4
TOTAL = ENVS * STEPS * ITERATIONS
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def env():
    return lerax_env.CartPole()


@pytest.fixture(scope="module")
def policy(env):
    return lerax_policy.MLPActorCriticPolicy(env=env, key=jax.random.key(0))


@pytest.fixture(scope="module")
def algo():
    return algorithms.PPO(
        num_envs=ENVS, num_steps=STEPS, num_epochs=1, num_batches=2, learning_rate=1e-3
    )


@final
class Notes:
    """The records of a `Witness`; an object, so that lerax treats it as a constant."""

    def __init__(self):
        self.logs = []
        self.traces = 0


@final
class Witness(lerax_callbacks.AbstractIterationCallback):
    """A callback that stores the arguments of lerax."""

    notes: Notes

    def reset(self, ctx, *, key):
        return base_callback.EmptyCallbackState()

    def on_iteration(self, ctx, *, key):
        self.notes.traces += 1
        jax.debug.callback(self.notes.logs.append, dict(ctx.training_log), ordered=True)
        return ctx.state


def test_one_record_an_iteration_with_all_that_lerax_reports_and_one_program_for_all_runs(
    tmp_path, env, policy, algo
):
    notes = Notes()
    runs, traces = [], []
    for turn in range(2):
        notes.logs.clear()
        with logging_to_memory(tmp_path / str(turn)) as (metrics, memory):
            callbacks = [adapter.LeraxCallback(metrics), Witness(notes)]
            algo.learn(env, policy, TOTAL, key=KEY, callback=callbacks)
        assert memory.steps() == [ENVS * STEPS * (i + 1) for i in range(ITERATIONS)]
        assert len(notes.logs) == ITERATIONS
        for name in ("loss", "policy_loss", "value_loss", "entropy_loss", "approx_kl"):
            np.testing.assert_array_equal(
                memory.values(f"train/{name}"), [float(log[name]) for log in notes.logs]
            )
        np.testing.assert_allclose(memory.values("train/learning_rate"), [1e-3] * ITERATIONS)
        # a step of CartPole gives 1
        assert memory.values("episode/return") == memory.values("episode/length")
        assert float(memory.values("episode/return")[-1]) > 8
        runs.append(plain(memory.records))
        traces.append(notes.traces)
    assert runs[0] == runs[1]
    assert traces[0] == traces[1]  # the second training was not traced again


def test_one_host_call_an_iteration_and_parameters_are_the_same(
    tmp_path, env, policy, algo, monkeypatch
):
    blocks = host_calls(monkeypatch)
    with logging_to_memory(tmp_path) as (metrics, _):
        ours = algo.learn(env, policy, TOTAL, key=KEY, callback=adapter.LeraxCallback(metrics))
    assert len(blocks) == ITERATIONS + 2  # start and end
    plainly = algo.learn(env, policy, TOTAL, key=KEY)
    arrays = [jax.tree.leaves(one) for one in (ours, plainly)]
    for mine, theirs in zip(*arrays, strict=True):
        if isinstance(mine, jax.Array):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_seeds_are_lanes(tmp_path, env, policy, algo):
    with logging_to_memory(tmp_path) as (metrics, memory):
        callback = adapter.LeraxCallback(metrics)

        def loss(key):
            algo.learn(env, policy, TOTAL, key=key, callback=callback)
            return jax.random.uniform(key)

        jax.vmap(loss)(jax.random.split(KEY, 3))
    assert memory.lanes == [0, 1, 2]
    assert memory.steps(2) == [ENVS * STEPS * (i + 1) for i in range(ITERATIONS)]
    assert len({memory.values("train/loss", lane)[-1] for lane in range(3)}) == 3


def test_one_environment_and_a_buffer(tmp_path, env, policy):
    algo = algorithms.PPO(num_envs=1, num_steps=STEPS, num_epochs=1, num_batches=2)
    with logging_to_memory(tmp_path, buffer=3) as (metrics, memory):
        algo.learn(env, policy, 4 * STEPS, key=KEY, callback=adapter.LeraxCallback(metrics))
    assert memory.steps() == [STEPS * (i + 1) for i in range(4)]


def test_hyper_parameters_of_algorithm_and_policy(tmp_path, policy, algo):
    with logging_to_memory(tmp_path, hparams={"ppo": algo, "policy": policy}) as (_, memory):
        pass
    (hparams,) = memory.hparams
    assert hparams["ppo/num_steps"] == STEPS
    assert hparams["ppo/gamma"] == 0.99
    assert hparams["policy/encoder/width_size"] == policy.encoder.width_size
    assert hparams["policy/encoder/layers/0/weight"] == "float32[64, 4]"
    assert {name: value for name, value in hparams.items() if len(str(value)) > 300} == {}


SHOWN: dict[str, Any] = {"video_num_steps": 48, "video_width": 160, "video_height": 120}


def frames(video: Video) -> np.ndarray:
    """Return the frames of a clip at 50 fps, int16 `[time, height, width, 3]`."""
    shown = []
    with Image.open(io.BytesIO(video.clips["webp"].data)) as image:
        for page in ImageSequence.Iterator(image):
            pixels = np.asarray(page.convert("RGB"), np.int16)
            shown += [pixels] * round(page.info["duration"] / 20)  # equal frames are one page
    assert len(shown) == video.clips["webp"].num_frames
    return np.stack(shown)


def assert_moves(clip: np.ndarray) -> None:
    """Check that every frame shows a picture, and that the picture moves."""
    assert clip.shape == (48, 120, 160, 3)
    assert (np.ptp(clip, axis=(1, 2, 3)) > 100).all()
    assert np.abs(clip - clip[0]).max() > 50


def make_policy(env: Any) -> Any:
    return lerax_policy.MLPActorCriticPolicy(env=env, key=jax.random.key(0))


CLASSIC = ["CartPole", "Acrobot", "MountainCar", "ContinuousMountainCar", "Pendulum"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIC)
def test_classic_control_is_shown(tmp_path, algo, name):
    pytest.importorskip("metriplex_pygame")
    env = getattr(lerax_env, name)()
    policy = make_policy(env)
    options = {"env": env, "policy": policy, "video_interval": 4, "video_worker": "thread"}
    with logging_to_memory(tmp_path, Memory("webp"), **options, **SHOWN) as (metrics, memory):
        algo.learn(env, policy, TOTAL, key=KEY, callback=adapter.LeraxCallback(metrics))
        metrics.close(timeout=300)
    assert memory.steps() == [ENVS * STEPS * (i + 1) for i in range(ITERATIONS)]
    (video,) = memory.videos
    assert (video.tag, video.step) == ("eval/video", ENVS * STEPS)
    clip = frames(video)
    assert_moves(clip)
    assert (np.median(clip, axis=(1, 2)) == 255).all()  # most of the picture is white


FALLING = """
<mujoco>
  <option timestep="0.02"><flag contact="disable" constraint="disable"/></option>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".3 .5 .8" rgb2=".1 .1 .2"
      width="32" height="32"/>
  </asset>
  <worldbody>
    <light pos="0 -2 4" dir="0 .4 -1" directional="true"/>
    <geom type="plane" size="5 5 .1" rgba=".5 .6 .5 1"/>
    <body name="torso" pos="0 0 1.4">
      <camera name="beside" mode="fixed" pos="0 -3 0" xyaxes="1 0 0 0 0 1"/>
      <freejoint/>
      <geom type="capsule" fromto="0 0 -.2 0 0 .2" size=".1" rgba=".8 .3 .2 1"/>
      <body name="leg" pos="0 0 -.3">
        <joint name="hip" axis="0 1 0" damping="1" armature=".05"/>
        <geom type="capsule" fromto="0 0 0 0 0 -.6" size=".06" rgba=".2 .3 .8 1"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="hip" gear="30" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""  # lerax 0.0.5 has the class and no model; this one is compiled in half a minute


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of lerax's own code
def test_its_mujoco_environments_are_shown(tmp_path):
    pytest.importorskip("mujoco.mjx")
    gl = pytest.importorskip("metriplex_mujoco.gl")
    if gl.diagnose().backend is None:
        pytest.skip("no OpenGL")
    lerax_mujoco = pytest.importorskip("lerax.env.mujoco")
    model = tmp_path / "falling.xml"
    model.write_text(FALLING)
    env = lerax_mujoco.Humanoid(xml_file=model, frame_skip=2)
    policy = make_policy(env)
    algo = algorithms.PPO(num_envs=2, num_steps=16, num_epochs=1, num_batches=2, learning_rate=1e-3)
    options = {"env": env, "policy": policy, "hparams": {"ppo": algo, "policy": policy}}
    camera = {"mujoco": {"camera": {"lookat": (0.0, 0.0, 1.0), "distance": 4.0, "elevation": -10}}}
    options |= {"video_interval": 2, "renderer": camera}
    with logging_to_memory(tmp_path, Memory("webp"), **options, **SHOWN) as (metrics, memory):
        algo.learn(env, policy, 4 * 32, key=KEY, callback=adapter.LeraxCallback(metrics))
        metrics.close(timeout=300)
    assert memory.steps() == [32, 64, 96, 128]
    assert [video.step for video in memory.videos] == [32, 96]
    for video in memory.videos:
        clip = frames(video)
        assert_moves(clip)
        red = clip[..., 0] > clip[..., 1:].max(-1) + 60  # the torso
        heights = [np.nonzero(page)[0].mean() for page in red]
        assert min(heights) < max(heights) - 10
    for record in memory.records:
        assert set(record.values) - {"time/steps_per_second"} == {
            "episode/return",
            "episode/length",
            *(
                f"train/{name}"
                for name in (
                    *("approx_kl", "entropy_loss", "explained_variance", "learning_rate"),
                    *("loss", "policy_loss", "value_loss"),
                )
            ),
        }
    # without contacts the body falls 0.4 m, until it counts as unhealthy, under any policy
    np.testing.assert_allclose(memory.values("episode/length"), 8, atol=1)
    np.testing.assert_allclose(memory.values("train/learning_rate"), [1e-3] * 4)
    (hparams,) = memory.hparams
    assert (hparams["ppo/num_steps"], hparams["ppo/num_envs"]) == (16, 2)
    assert (
        hparams["policy/encoder/layers/0/weight"]
        == f"float32[64, {env.observation_space.shape[0]}]"
    )
    assert hparams["policy/action_space/high"] == 1.0


def test_episode_stats_raises(tmp_path):
    with (
        logging_to_memory(tmp_path, episode_stats=True) as (metrics, _),
        pytest.raises(ConfigurationError, match="`episode_stats=True` can't be had from lerax"),
    ):
        adapter.LeraxCallback(metrics)


def test_transport_drain_raises(tmp_path):
    with (
        logging_to_memory(tmp_path, transport="drain", buffer=4) as (metrics, _),
        pytest.raises(ConfigurationError, match='`transport="drain"` can\'t be had from lerax'),
    ):
        adapter.LeraxCallback(metrics)
