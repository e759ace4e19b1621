"""Host objects are constructed outside of functions that jax transforms."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriplex import (
    JITSummaryWriter,
    MetricsCallback,
    MetriplexError,
    TensorBoardCallback,
    callback_with_numpy_wrapper,
)
from metriplex.bridge.tracing import is_tracing, require_host

if TYPE_CHECKING:
    from pathlib import Path

CONSTRUCTORS: dict[str, Callable[..., object]] = {
    "MetricsCallback": lambda log_dir: MetricsCallback("a", log_dir=log_dir, backends=[]),
    "TensorBoardCallback": lambda log_dir: TensorBoardCallback("a", log_dir=log_dir),
    "JITSummaryWriter": lambda log_dir: JITSummaryWriter(log_dir / "a", backends=[]),
    "callback_with_numpy_wrapper": lambda log_dir: callback_with_numpy_wrapper(print),
}

Transformation = Callable[[Any], object]

TRANSFORMATIONS: dict[str, Transformation] = {
    "jit": lambda f: jax.jit(f)(1.0),
    "scan": lambda f: jax.lax.scan(lambda c, x: (f(c), None), 1.0, jnp.arange(2.0)),
    "while": lambda f: jax.lax.while_loop(lambda _: False, f, 1.0),
    "vmap": lambda f: jax.vmap(f)(jnp.arange(2.0)),
    "grad": lambda f: jax.grad(f)(1.0),
    "jvp": lambda f: jax.jvp(f, (1.0,), (1.0,)),
    "jit of grad of vmap": lambda f: jax.jit(jax.grad(lambda x: jax.vmap(f)(x).sum()))(jnp.ones(2)),
    "checkpoint": lambda f: jax.checkpoint(f)(1.0),
    "eval_shape": lambda f: jax.eval_shape(f, 1.0),
    "pmap": lambda f: jax.pmap(f)(jnp.arange(2.0)),
}


@pytest.mark.parametrize("transform", TRANSFORMATIONS)
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_construction_inside_raises(tmp_path: Path, name: str, transform: str) -> None:
    def inside(x: jax.Array) -> jax.Array:
        CONSTRUCTORS[name](tmp_path)
        return x

    with pytest.raises(MetriplexError) as caught:
        TRANSFORMATIONS[transform](inside)
    for part in (f"`{name}` was constructed inside", "construct it outside", "as an argument"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("transform", TRANSFORMATIONS)
def test_tracing_is_detected_inside_and_outside(transform: str) -> None:
    seen = []

    def inside(x: jax.Array) -> jax.Array:
        seen.append(is_tracing())
        return x + 1

    assert not is_tracing()
    TRANSFORMATIONS[transform](inside)
    assert set(seen) == {True}
    assert not is_tracing()


def test_eager_code_is_not_tracing() -> None:
    with jax.disable_jit():
        assert jax.jit(lambda x: is_tracing())(1.0) is False
    with jax.ensure_compile_time_eval():
        require_host("x")
    with jax.default_device(jax.devices()[0]):
        require_host("x")
    with jax.named_scope("scope"):
        require_host("x")


def test_another_thread_is_not_tracing() -> None:
    seen = []

    def inside(x: jax.Array) -> jax.Array:
        thread = threading.Thread(target=lambda: seen.append(is_tracing()))
        thread.start()
        thread.join()
        return x

    jax.jit(inside)(1.0)
    assert seen == [False]


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize("callback", [jax.debug.callback, jax.pure_callback], ids=["debug", "pure"])
def test_a_host_function_of_a_program_may_construct(
    tmp_path: Path, name: str, callback: Callable[..., Any]
) -> None:
    made: list[Any] = []

    def host(x: np.ndarray) -> np.ndarray:
        made.append(CONSTRUCTORS[name](tmp_path))
        return np.asarray(2.0, np.float32)

    def program(x: jax.Array) -> object:
        if callback is jax.debug.callback:
            return callback(host, x)
        return callback(host, jax.ShapeDtypeStruct((), jnp.float32), x)

    jax.block_until_ready(jax.jit(program)(1.0))
    jax.effects_barrier()
    (one,) = made
    if name != "callback_with_numpy_wrapper":
        one.close()


def outputs(program: str, directory: Path) -> tuple[str, str]:
    """Return the standard output and error of a program in a new process."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=120
    )
    return result.stdout, result.stderr


@pytest.mark.parametrize("wrap", ["jax.jit(f)(1.0)", "jax.vmap(f)(jax.numpy.ones(2))"])
@pytest.mark.long
def test_the_first_import_may_be_inside_a_transformed_function(tmp_path: Path, wrap: str) -> None:
    program = f"""
        import jax
        def f(x):
            global metriplex
            import metriplex
            try:
                metriplex.MetricsCallback(backends=[])
            except metriplex.MetriplexError as error:
                print("refused" if "construct it outside" in str(error) else error)
            return x
        {wrap}
        with metriplex.MetricsCallback("a", backends=[]) as metrics:
            jax.jit(lambda m: m.on_training_end(m.init(1)))(metrics)
        print(metrics.directory.name)
    """
    assert outputs(program, tmp_path) == ("refused\na\n", "")


@pytest.mark.long
def test_programs_compiled_before_the_import_are_not_compiled_again(tmp_path: Path) -> None:
    program = """
        import jax
        import jax.numpy as jnp
        f = jax.jit(lambda x: x + 1)
        x = jnp.arange(3.0)
        f(x)
        import metriplex
        from metriplex.demo.cartpole import CartPole
        f(x)
        with metriplex.MetricsCallback("a", env=CartPole(), video_interval=1) as metrics:
            f(x)
            program = jax.jit(lambda m: m.on_iteration(m.init(1), training_log={"a": 1.0}))
            for _ in range(2):
                metrics.on_training_end(program(metrics))
            f(x)
        f(x)
        print(f._cache_size(), program._cache_size())
    """
    stdout, stderr = outputs(program, tmp_path)
    assert stdout == "1 1\n", stderr
