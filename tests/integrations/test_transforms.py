"""Every adapter logs the same under every transformation of jax as under `jit`, in every lane."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias, final

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from memory import logging_to_memory, plain
from metriplex.integrations.brax import BraxEnvironment
from metriplex.integrations.gymnasium import VectorEpisodes
from metriplex.integrations.rejax import eval_callback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metriplex import MetricsCallback

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the libraries' own code

LANES, ENVS, TIME, ITERATIONS = 4, 8, 10, 3
KEYS = jax.random.split(jax.random.key(7), LANES)

Train: TypeAlias = "Callable[[MetricsCallback, jax.Array], jax.Array]"

# ---- adapters: each trains a little with one key, and returns an array of it --------------------


@final
@dataclass(frozen=True)
class OwnLoop:
    """A training in the style of PureJaxRL of a policy with one weight per observation.

    Attributes:
        reset: Key to observation and state of an environment.
        step: Key, state and choice (bool `[]`) to observation, state, reward and done.
    """

    reset: Callable[[jax.Array], tuple[jax.Array, Any]]
    step: Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any, jax.Array, jax.Array]]

    def begin(self, metrics: MetricsCallback, key: jax.Array) -> Any:
        obs, env_state = jax.vmap(self.reset)(jax.random.split(key, ENVS))
        weight = jnp.zeros(obs.shape[-1])
        return (env_state, obs, weight), metrics.on_training_start(metrics.init(ENVS))

    def iterate(self, metrics: MetricsCallback, carry: Any, key: jax.Array) -> tuple[Any, None]:
        def step(carry: Any, key: jax.Array) -> Any:
            env_state, obs, weight = carry
            act, move = jax.random.split(key)
            choice = obs @ weight + jax.random.logistic(act, (ENVS,)) > 0
            keys = jax.random.split(move, ENVS)
            obs, env_state, reward, done = jax.vmap(self.step)(keys, env_state, choice)
            return (env_state, obs, weight), (reward, done)

        learner, state = carry
        learner, (reward, done) = lax.scan(step, learner, jax.random.split(key, TIME))
        env_state, obs, weight = learner
        weight = weight + 0.1 * obs.mean(0)
        state = metrics.on_step(state, reward, done)
        log = {"weight": weight[-2], "reward": reward.sum()}
        state = metrics.on_iteration(state, training_log=log, key=key)
        return ((env_state, obs, weight), state), None

    def __call__(self, metrics: MetricsCallback, key: jax.Array) -> jax.Array:
        start, run = jax.random.split(key)
        carry = self.begin(metrics, start)
        iterate = partial(self.iterate, metrics)
        (learner, state), _ = lax.scan(iterate, carry, jax.random.split(run, ITERATIONS))
        metrics.on_training_end(state)
        return learner[2]


def make_gymnax() -> OwnLoop:
    gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed")
    env, params = gymnax.make("CartPole-v1")

    def step(key: jax.Array, state: Any, choice: jax.Array) -> Any:
        # gymnax 1 tells terminated and truncated apart, gymnax 0 has one `done`
        obs, state, reward, *ends, _ = env.step(key, state, choice.astype(jnp.int32), params)
        return obs, state, reward, jnp.stack(ends).any(0)

    return OwnLoop(lambda key: env.reset(key, params), step)


def make_brax() -> OwnLoop:
    envs = pytest.importorskip("brax.envs", reason="brax is not installed")
    env = BraxEnvironment(envs.create("inverted_pendulum", backend="positional"))

    def reset(key: jax.Array) -> Any:
        state = env.initial(key=key)
        return env.observation(state, key=key), state

    def step(key: jax.Array, state: Any, choice: jax.Array) -> Any:
        state = env.transition(state, jnp.where(choice, 1.0, -1.0)[None], key=key)
        return (
            env.observation(state, key=key),
            state,
            state.state.reward,
            env.terminal(state, key=key),
        )

    return OwnLoop(reset, step)


def make_rejax() -> Train:
    rejax = pytest.importorskip("rejax", reason="rejax is not installed")
    sizes = {"num_envs": 4, "num_steps": 8, "num_epochs": 1, "num_minibatches": 2}
    algo = rejax.get_algo("ppo").create(
        env="CartPole-v1", total_timesteps=96, eval_freq=32, learning_rate=2e-3, **sizes
    )

    def evaluate(algo: Any, train_state: Any, key: jax.Array) -> dict[str, jax.Array]:
        """Take few steps, since eager code is slow for the whole episodes of rejax's evaluation."""
        leaves = jax.tree.leaves(train_state.actor_ts.params)
        return {"weights": jnp.stack([jnp.abs(leaf).sum() for leaf in leaves]).sum()}

    def train(metrics: MetricsCallback, key: jax.Array) -> jax.Array:
        logged = algo.replace(eval_callback=eval_callback(metrics, evaluate))
        return logged.train(key)[1]["weights"]

    return train


def make_lerax() -> Train:
    pytest.importorskip("lerax", reason="lerax is not installed")
    from lerax.algorithm import PPO
    from lerax.env import CartPole
    from lerax.policy import MLPActorCriticPolicy

    from metriplex.integrations.lerax import LeraxCallback

    env = CartPole()
    policy = MLPActorCriticPolicy(env=env, key=jax.random.key(0))
    algo = PPO(num_envs=2, num_steps=16, num_epochs=1, num_batches=2)

    def train(metrics: MetricsCallback, key: jax.Array) -> jax.Array:
        callback = LeraxCallback(metrics)
        learned = algo.learn(env, policy, 32 * ITERATIONS, key=key, callback=callback)
        return learned.encoder.layers[0].bias

    return train


ADAPTERS: dict[str, Callable[[], Any]] = {
    "gymnax": cache(make_gymnax),
    "brax": cache(make_brax),
    "rejax": cache(make_rejax),
    "lerax": cache(make_lerax),
}

# ---- transformations: each runs a training for the first key, or for all keys -------------------


def seeds_mesh() -> jax.sharding.Mesh:
    return jax.make_mesh(
        (LANES,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:LANES]
    )


def eager(train: Train, metrics: MetricsCallback) -> Any:
    with jax.disable_jit():
        return train(metrics, KEYS[0])


def jitted_scan(train: Train, metrics: MetricsCallback) -> Any:
    def body(carry: int, key: jax.Array) -> tuple[int, jax.Array]:
        return carry, train(metrics, key)

    return jax.jit(lambda keys: lax.scan(body, 0, keys))(KEYS[:1])


def vmapped(train: Train, metrics: MetricsCallback) -> Any:
    return jax.jit(jax.vmap(partial(train, metrics)))(KEYS)


def vmapped_twice(train: Train, metrics: MetricsCallback) -> Any:
    return jax.jit(jax.vmap(jax.vmap(partial(train, metrics))))(KEYS.reshape(2, 2))


def vmapped_over_devices(train: Train, metrics: MetricsCallback) -> Any:
    keys = jax.device_put(KEYS, NamedSharding(seeds_mesh(), P("x")))
    return jax.jit(jax.vmap(partial(train, metrics)))(keys)


def shard_mapped(train: Train, metrics: MetricsCallback) -> Any:
    seeds = jax.vmap(partial(train, metrics))
    mapped = jax.shard_map(
        seeds, mesh=seeds_mesh(), in_specs=P("x"), out_specs=P("x"), check_vma=False
    )
    return jax.jit(mapped)(KEYS)


def pmapped(train: Train, metrics: MetricsCallback) -> Any:
    return jax.pmap(partial(train, metrics))(KEYS)


def iteration_by_iteration(train: Any, metrics: MetricsCallback) -> Any:
    """Run `jit` of one iteration in a Python loop; with environments over devices, or drained."""
    start, run = jax.random.split(KEYS[0])
    iterate = jax.jit(train.iterate)
    carry = train.begin(metrics, start)
    for key in jax.random.split(run, ITERATIONS):
        (learner, state), _ = iterate(metrics, carry, key)
        carry = learner, metrics.drain(state) if metrics.config.ring else state
    metrics.on_training_end(carry[1])
    return carry[0][2]


def environments_over_devices(train: Any, metrics: MetricsCallback) -> Any:
    start, run = jax.random.split(KEYS[0])
    (env_state, obs, weight), state = train.begin(metrics, start)
    mesh = jax.make_mesh((ENVS,), ("x",), axis_types=(AxisType.Auto,))
    env_state, obs = jax.device_put((env_state, obs), NamedSharding(mesh, P("x")))
    assert len(obs.sharding.device_set) == ENVS
    program = jax.jit(lambda carry, keys: lax.scan(partial(train.iterate, metrics), carry, keys))
    carry, _ = program(((env_state, obs, weight), state), jax.random.split(run, ITERATIONS))
    metrics.on_training_end(carry[1])
    return carry[0][2]


WAYS: dict[str, tuple[Callable[[Any, MetricsCallback], Any], dict[str, Any], int]] = {
    "eager": (eager, {}, 1),
    "jit of scan": (jitted_scan, {}, 1),
    "jit of an iteration": (iteration_by_iteration, {}, 1),
    "vmap": (vmapped, {}, LANES),
    "vmap of vmap": (vmapped_twice, {}, LANES),
    "vmap over devices": (vmapped_over_devices, {}, LANES),
    "shard_map": (shard_mapped, {"axis_name": ()}, LANES),
    "pmap": (pmapped, {"axis_name": ()}, LANES),
    "environments over devices": (environments_over_devices, {}, 1),
    "drain": (iteration_by_iteration, {"transport": "drain", "buffer": ITERATIONS}, 1),
}

OWN_LOOP = "its `train` or `learn` is one program, which makes its environments and keeps all state"
CANNOT = {
    (adapter, way): OWN_LOOP
    for adapter in ("rejax", "lerax")
    for way in ("jit of an iteration", "environments over devices", "drain")
}
CANNOT["brax", "eager"] = "the operations of its physics take minutes, one by one"
CASES = [(one, way) for one in ADAPTERS for way in WAYS if (one, way) not in CANNOT]


@cache
def expected(adapter: str) -> list[list[Any]]:
    """Return the records of plain `jit`, with a run per key."""
    program = jax.jit(ADAPTERS[adapter]())
    found = []
    for key in KEYS:
        with (
            tempfile.TemporaryDirectory() as log_dir,
            logging_to_memory(log_dir) as (metrics, memory),
        ):
            program(metrics, key)
        assert memory.lanes == [None]
        assert len(memory.records) >= ITERATIONS
        found.append(plain(memory.records))
    assert found[0] != found[1]
    return found


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    """Check that steps, iterations and tags are equal, and values up to the order of float sums."""
    assert [one[1:3] for one in found] == [one[1:3] for one in wanted]
    for (*_, values), (*_, others) in zip(found, wanted, strict=True):
        assert values == pytest.approx(others, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("adapter", "way"), CASES)
def test_records_are_those_of_plain_jit(tmp_path: Path, adapter: str, way: str) -> None:
    train = ADAPTERS[adapter]()
    run, options, lanes = WAYS[way]
    wanted = expected(adapter)
    with logging_to_memory(tmp_path, **options) as (metrics, memory):
        jax.block_until_ready(run(train, metrics))
    found = plain(memory.records)
    assert memory.lanes == ([None] if lanes == 1 else list(range(lanes)))
    for lane, of_lane in zip(memory.lanes, wanted, strict=False):
        assert_same([one for one in found if one[0] == lane], of_lane)


def test_gymnasium_s_python_loop_logs_what_compiled_code_does(tmp_path: Path) -> None:
    gym = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    same_step = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    envs = gym.make_vec("CartPole-v1", ENVS, "sync", vector_kwargs=same_step)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    episodes, rewards, dones = VectorEpisodes(envs), [], []
    with logging_to_memory(tmp_path / "loop") as (metrics, loop):
        for _ in range(ITERATIONS):
            for _ in range(2 * TIME):
                _, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
                episodes.update(reward, terminated, truncated)
                rewards.append(reward)
                dones.append(terminated | truncated)
            metrics.log(episodes.steps, {"episode": episodes.averages()})
    envs.close()
    shape = (ITERATIONS, 2 * TIME, ENVS)
    rollouts = jnp.asarray(np.reshape(rewards, shape), jnp.float32), np.reshape(dones, shape)

    @jax.jit
    def program(metrics: MetricsCallback, rollouts: Any) -> Any:
        def iterate(state: Any, rollout: Any) -> tuple[Any, None]:
            return metrics.on_iteration(metrics.on_step(state, *rollout)), None

        return lax.scan(iterate, metrics.init(ENVS), rollouts)[0]

    with logging_to_memory(tmp_path / "jit") as (metrics, compiled):
        program(metrics, jax.tree.map(jnp.asarray, rollouts))
    assert loop.steps() == compiled.steps() == [ENVS * 2 * TIME * i for i in (1, 2, 3)]
    for tag in ("episode/return", "episode/length"):
        assert loop.values(tag) == pytest.approx(compiled.values(tag), rel=1e-5)
        assert len(loop.values(tag)) == ITERATIONS
