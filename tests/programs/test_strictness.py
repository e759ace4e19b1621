"""A program that is clean under a strict or debugging flag of jax stays clean with metriplex."""

from __future__ import annotations

import contextlib
import enum
import logging
import re
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memory import Memory
from metriplex import MetricsCallback
from metriplex.demo.pendulum import Pendulum

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

STRICT: dict[str, tuple[Any, ...]] = {
    "jax_array_garbage_collection_guard": ("log", "fatal"),
    "jax_captured_constants_warn_bytes": (1,),
    "jax_check_static_indices": (True,),
    "jax_check_tracer_leaks": (True,),
    "jax_debug_infs": (True,),
    "jax_debug_key_reuse": (True,),
    "jax_debug_nans": (True,),
    "jax_disable_jit": (True,),
    "jax_disallow_mesh_context_manager": (True,),
    "jax_distributed_debug": (True,),
    "jax_enable_checks": (True,),
    "jax_enable_custom_prng": (True,),
    "jax_enable_x64": (True,),
    "jax_error_checking_behavior_divide": ("raise",),
    "jax_error_checking_behavior_nan": ("raise",),
    "jax_error_checking_behavior_oob": ("raise",),
    "jax_explain_cache_misses": (True,),
    "jax_explicit_x64_dtypes": ("error", "allow"),
    "jax_legacy_prng_key": ("error",),
    "jax_log_compiles": (True,),
    "jax_mutable_array_checks": (True,),
    "jax_numpy_dtype_promotion": ("strict",),
    "jax_numpy_rank_promotion": ("raise", "warn"),
    "jax_threefry_partitionable": (False,),
    "jax_traceback_filtering": ("off",),
    "jax_transfer_guard": ("disallow", "log"),
    "jax_transfer_guard_device_to_device": ("disallow", "disallow_explicit"),
    "jax_transfer_guard_device_to_host": ("disallow", "disallow_explicit"),
    "jax_transfer_guard_host_to_device": ("disallow", "log"),
}

SUSPECT = re.compile(
    "guard|check|strict|promotion|debug|nans|infs|leak|raise|explicit|legacy|disallow"
)

EXEMPT = {
    "jax_check_proxy_envs": "of the environment's proxies",
    "jax_compilation_cache_check_contents": "of the compilation cache",
    "jax_debug_leaked_clients_on_clear_backends": "of jax's own clients",
    "jax_debug_log_modules": "chooses log messages of jax",
    "jax_disable_bwd_checks": "makes jax less strict",
    "check_vma": "of the body of shard_map",
    "jax_include_debug_info_in_dumps": "of dumps",
    "jax_log_checkpoint_residuals": "prints more",
    "jax_mosaic_unzip_debug_locations": "of dumps",
    "jax_pallas_enable_debug_checks": "of Pallas",
    "jax_raise_on_ppermute_sort_diff": "of a collective that metriplex never uses",
    "jax_raise_persistent_cache_errors": "of the compilation cache",
    "jax_remove_custom_partitioning_ptr_from_cache_key": "of the compilation cache",
    "jax_thread_guard": "forbids host calls of any kind from the threads of jax",
}


def test_every_strictness_flag_of_jax_is_known() -> None:
    flags = {name for name in jax.config.values if SUSPECT.search(name)}
    assert flags <= {*STRICT, *EXEMPT}


@contextlib.contextmanager
def set_flag(name: str, value: Any) -> Generator[None]:
    """Set a flag for all threads, as at the start of a program."""
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.effects_barrier()
        is_choice = isinstance(before, enum.Enum)
        jax.config.update(name, before.name.lower() if is_choice else before)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"aggregate": True, "episode_stats": True, "learning_rate": 1e-3},
    "every": {
        "buffer": 2,
        "log_every": 2,
        "reduce": "mean",
        "learning_rate": optax.linear_schedule(1.0, 0.0, 10),
    },
    "ring": {"transport": "drain", "buffer": 4},
}


def iterate(metrics: MetricsCallback, state: Any, xs: Any, **more: Any) -> Any:
    reward, done, loss = xs
    state = metrics.on_step(state, reward, done)
    log = {"loss": loss, "n": loss.astype(jnp.int32)}
    return metrics.on_iteration(state, training_log=log, **more), loss


def train(metrics: MetricsCallback, xs: Any) -> Any:
    state = metrics.on_training_start(metrics.init(2))
    state, loss = jax.lax.scan(lambda state, x: iterate(metrics, state, x), state, xs)
    return metrics.on_training_end(state), loss


def eager(metrics: MetricsCallback, parts: list[Any]) -> Any:
    state = metrics.on_training_start(metrics.init(2))
    for part in parts:
        state, _ = iterate(metrics, state, part)
    return metrics.on_training_end(state), None


COUNT = 4


def inputs(*lanes: int) -> Any:
    shape = (*lanes, COUNT, 2)
    return (
        jnp.ones(shape, jnp.float32),
        jnp.ones(shape, bool),
        jnp.arange(int(np.prod(shape[:-1])), dtype=jnp.float32).reshape(shape[:-1]),
    )


def closed(metrics: MetricsCallback, xs: Any) -> Any:
    return jax.jit(lambda xs: train(metrics, xs))(xs)


WAYS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "argument": (jax.jit(train), ()),
    "closed over": (closed, ()),
    "vmapped": (jax.jit(jax.vmap(train, (None, 0))), (3,)),
    "vmapped jit": (jax.vmap(jax.jit(train), (None, 0)), (3,)),
    "eager": (eager, ()),
}

FLAGS = [(name, value) for name, values in STRICT.items() for value in values]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "value"), FLAGS, ids=lambda one: str(one))
def test_a_program_is_clean_under_a_flag(
    tmp_path: Path, name: str, value: Any, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name not in jax.config.values:
        pytest.skip("this version of jax has no such flag")
    call, lanes = WAYS[way]
    xs: Any = inputs(*lanes)
    if way == "eager":
        xs = [jax.tree.map(lambda x, index=index: x[index], xs) for index in range(COUNT)]
    caplog.set_level(logging.ERROR)
    for label, options in OPTIONS.items():
        memory = Memory()
        with (
            MetricsCallback(
                label, log_dir=tmp_path, backends=memory, provenance=False, **options
            ) as metrics,
            set_flag(name, value),
        ):
            state, _ = call(metrics, xs)
            if metrics.config.ring:
                state = metrics.drain(state)
            metrics.log(COUNT * 2, {"a": 1.0})
            metrics.log_histogram("h", [1.0, 2.0], step=1)
            metrics.flush()
        losses = sorted(
            record.values["train/loss"]
            for record in memory.records
            if "train/loss" in record.values
        )
        count = COUNT * int(np.prod(lanes, dtype=int))
        expected = [float(index) for index in range(count)]
        if label == "every":
            expected = [one for one in expected if int(one) % COUNT % 2 == 1]
        assert losses == expected, label


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), FLAGS, ids=lambda one: str(one))
def test_videos_are_clean_under_a_flag(tmp_path: Path, name: str, value: Any) -> None:
    if name not in jax.config.values:
        pytest.skip("this version of jax has no such flag")
    env = Pendulum()
    memory = Memory()
    options: Any = {"env": env, "video_interval": 2, "video_num_steps": 3, "renderer": None}
    metrics = MetricsCallback("v", log_dir=tmp_path, backends=memory, **options)
    xs = inputs()
    with metrics, set_flag(name, value):
        jax.jit(train)(metrics, xs)
        metrics.flush()
    assert len(memory.records) >= COUNT


def test_a_second_call_traces_nothing(tmp_path: Path) -> None:
    program = jax.jit(train)
    # Under this flag jax refuses the second call of any program with a callback to the host.
    options: Any = {"transport": "drain", "buffer": COUNT}
    for index in range(2):
        memory = Memory()
        with MetricsCallback(f"{index}", log_dir=tmp_path, backends=memory, **options) as metrics:
            xs = inputs()
            with set_flag("jax_no_tracing", bool(index)):
                state, _ = program(metrics, xs)
            metrics.drain(state)
        assert len(memory.records) == COUNT
