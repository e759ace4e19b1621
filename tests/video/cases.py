"""Small environments, policies and a renderer for the tests of evaluation videos."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, final
from unittest.mock import patch

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np

from memory import Memory
from metriplex import MetricsCallback, Renderer
from metriplex.video.play.payloads import find

if TYPE_CHECKING:
    from collections.abc import Generator

    from metriplex.bridge.rows import Row

HEIGHT, WIDTH = 16, 32
LAST = 5


class State(NamedTuple):
    """Of `Line`, with leaves of every kind that states are made of."""

    x: Any
    age: Any
    fell: Any
    half: Any
    typed_key: Any
    raw_key: Any


class Line:
    """Walks to the right by the action; ends at `LAST`, or after `limit` steps.

    The callback pattern's protocol.
    """

    name = "Line"

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit

    @property
    def unwrapped(self) -> Line:
        return self

    def initial(self, *, key: jax.Array) -> State:
        first, second = jax.random.split(key)
        return State(
            x=jax.random.uniform(first),
            age=jnp.int32(0),
            fell=jnp.array(False),
            half=jnp.float16(0.5),
            typed_key=second,
            raw_key=jax.random.key_data(second),
        )

    def transition(self, state: State, action: jax.Array, *, key: jax.Array) -> State:
        typed_key, other = jax.random.split(state.typed_key)
        return State(
            x=state.x + action + 0.1 * jax.random.normal(key) + 0.1 * jax.random.uniform(other),
            age=state.age + 1,
            fell=state.x > 3,
            half=state.half * 2,
            typed_key=typed_key,
            raw_key=jax.random.key_data(typed_key),
        )

    def observation(self, state: State, *, key: jax.Array) -> jax.Array:
        return jnp.stack([state.x, 0.01 * jax.random.normal(key)])

    def action_mask(self, state: State, *, key: jax.Array) -> None:
        return None

    def terminal(self, state: State, *, key: jax.Array) -> jax.Array:
        return state.x > LAST

    def truncate(self, state: State) -> jax.Array:
        return state.age >= self.limit


class Walker(NamedTuple):
    """A policy of the callback pattern, with a state: how often it was asked in this episode."""

    speed: Any

    @property
    def name(self) -> str:
        return "Walker"

    def reset(self, *, key: jax.Array) -> jax.Array:
        return jnp.int32(jax.random.bits(key, dtype=jnp.uint8) % 2)

    def __call__(
        self, state: jax.Array, observation: jax.Array, *, key: jax.Array, action_mask: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        noise = 0.1 * jax.random.normal(key)
        return state + 1, self.speed * (1 + 0.1 * state) + noise + 0 * observation[0]


class Dot(Renderer):
    """Draws where `Line` stands, and does what `fault` says at frame `at` of each clip.

    `select` keeps `x` and `age`.
    """

    def __init__(self, fault: str = "", at: int = 3, marker: str = "") -> None:
        self.fault = fault
        self.at = at
        self.marker = marker
        self.count = 0

    def select(self, state: State) -> dict[str, Any]:
        return {"x": state.x, "age": state.age}

    def render(self, selected: dict[str, Any]) -> Any:
        frame = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        column = int(float(selected["x"]) / LAST * (WIDTH - 3)) % WIDTH
        frame[4:12, column : column + 3] = (200, 30, int(selected["age"]) % 200)
        self.count += 1
        if self.count - 1 == self.at and self.fault:
            self.fail()
            if self.fault == "float":
                return frame / 255.0
            if self.fault == "shape":
                return frame[:, :-1]
        return frame

    def fail(self) -> None:
        import os
        import signal
        from pathlib import Path

        if self.fault == "raise":
            raise ZeroDivisionError("no such angle")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "kill once" and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def close(self) -> None:
        self.count = 0


@contextmanager
def by_value() -> Generator[None]:
    """Lets the classes of this module travel to the drawing process, which can't import it."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


DOT = Dot()
"""One for all tests that draw nothing: they share compiled programs."""


@final
class Tape:
    """A video recorder that keeps the rollouts and draws nothing.

    Attributes:
        rows: As they came.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def submit(self, row: Row) -> None:
        self.rows.append(row)

    def close(self, timeout: float) -> None:
        pass

    @property
    def shown(self) -> list[tuple[int | None, int]]:
        """Iteration and step of each rollout."""
        return sorted((row.iteration or 0, row.step) for row in self.rows)

    def frames(self, index: int = 0) -> list[Any]:
        """The selected states of a rollout."""
        payload, arrays = find(self.rows[index].values)
        return list(payload.frames(arrays))

    def xs(self, index: int = 0) -> list[float]:
        """Where `Line` stood."""
        return [float(frame["x"]) for frame in self.frames(index)]


@contextmanager
def taping(log_dir: object, env: object, **options: Any) -> Generator[tuple[MetricsCallback, Tape]]:
    """A callback whose rollouts are kept as they come, not drawn."""
    settings: dict[str, Any] = {
        "video_interval": 2,
        "video_num_steps": 6,
        "renderer": DOT,
        "video_worker": "thread",
        "backends": Memory(),
    }
    tape = Tape()
    with patch("metriplex.video.setup.VideoRecorder", lambda *_, **__: tape):
        metrics = MetricsCallback("run", env, log_dir=str(log_dir), **{**settings, **options})
    with metrics:
        yield metrics, tape
