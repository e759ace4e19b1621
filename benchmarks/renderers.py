"""Measure the frames a second of every installed renderer at 640 x 480, and of the encoders.

Each renderer draws an environment of the demo if it can (the cart-pole for pygame, the pendulum for
MuJoCo, in low and full quality), else its own example. The frames are compared with the speed of
the GIF and MP4 encoders, through which they pass in the drawing process.

    python benchmarks/renderers.py [--short]
"""

from __future__ import annotations

import functools
import statistics
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from _measure import is_short, print_machine, print_table, take_turns
from _states import states_of

from metriplex.demo.cartpole import CartPole
from metriplex.demo.pendulum import Pendulum
from metriplex.plugins.renderers import create_renderer
from metriplex.video.encode.clip import encode

if TYPE_CHECKING:
    from metriplex import Renderer

WIDTH, HEIGHT = 640, 480


def draw(renderer: Renderer, states: list[Any]) -> float:
    """Return seconds to draw all states."""
    start = time.perf_counter()
    for state in states:
        renderer.render(state)
    return time.perf_counter() - start


def encode_all(frames: list[np.ndarray], format_: str) -> float:
    """Return seconds to encode all frames."""
    start = time.perf_counter()
    encode(frames, fps=50.0, format=format_)
    return time.perf_counter() - start


def main() -> None:
    short = is_short(__doc__)
    count, rounds = (8, 1) if short else (100, 5)
    print_machine("jax", "mujoco", "pygame", "imageio-ffmpeg")
    cases: dict[str, tuple[Any, Any]] = {
        "pygame, cart-pole": (CartPole(), "pygame"),
        "mujoco, pendulum": (Pendulum(), "mujoco"),
        "mujoco, pendulum, full quality": (Pendulum(), {"mujoco": {"quality": "full"}}),
    }
    rows = []
    for name, (env, requested) in cases.items():
        renderer = create_renderer(requested, env, WIDTH, HEIGHT)
        states = states_of(env, renderer, count)
        frames = [np.array(renderer.render(state)) for state in states]
        shipped = sum(leaf.nbytes for leaf in jax.tree.leaves(states[0]))
        results = take_turns(
            {
                "draw": functools.partial(draw, renderer, states),
                "gif": functools.partial(encode_all, frames, "gif"),
                "mp4": functools.partial(encode_all, frames, "mp4"),
            },
            rounds,
        )
        rates = [f"{count / statistics.median(results[what]):,.0f}" for what in results]
        rows.append([name, *rates, str(shipped)])
        renderer.close()
    print(f"{count} frames of {WIDTH} x {HEIGHT}; medians of {rounds} round(s); frames a second\n")
    print_table(["", "drawn", "into a GIF", "into an MP4", "bytes sent a frame"], rows)


if __name__ == "__main__":
    jnp.zeros(())  # starts jax before anything is timed
    main()
