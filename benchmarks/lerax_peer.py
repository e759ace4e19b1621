"""Measure the cost of metriplex's callback and of lerax's own callback for lerax's PPO.

The same training runs without a callback, with `LeraxCallback` to a TensorBoard backend, and with
lerax's callback to its TensorBoard writer. The results are the times per iteration that each adds
to the training without a callback, until its result is ready and until all records are on disk.

    pip install lerax
    python benchmarks/lerax_peer.py [--short]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import jax
from _measure import is_short, print_machine, print_table, take_turns

from metriplex import MetricsCallback

if TYPE_CHECKING:
    from collections.abc import Callable

BARE, OURS, THEIRS = "no callback", "metriplex", "lerax's own"
NUM_ENVS, NUM_STEPS = 4, 32


def main() -> None:
    short = is_short(__doc__)
    if find_spec("lerax") is None:
        print("lerax is not installed (it needs Python 3.13): nothing is measured")
        return
    import lerax.callback
    from lerax.algorithm import PPO
    from lerax.env import CartPole
    from lerax.policy import MLPActorCriticPolicy

    from metriplex.integrations.lerax import LeraxCallback

    print_machine("jax", "lerax")
    their_callback = getattr(lerax.callback, "LoggingCallback", lerax.callback.TensorBoardCallback)
    iterations = 30 if short else 300
    env = CartPole()
    policy = MLPActorCriticPolicy(env=env, feature_width=16, key=jax.random.key(0))
    algo = PPO(num_envs=NUM_ENVS, num_steps=NUM_STEPS, num_epochs=1, num_batches=2)
    delivered: dict[str, list[float]] = {}

    def learn(name: str, callback: Any, finish: Callable[[], object]) -> float:
        steps = NUM_ENVS * NUM_STEPS * iterations
        start = time.perf_counter()
        trained = algo.learn(env, policy, steps, key=jax.random.key(1), callback=callback)
        jax.block_until_ready(jax.tree.leaves(trained))
        seconds = time.perf_counter() - start
        finish()
        delivered.setdefault(name, []).append((time.perf_counter() - start) / iterations)
        return seconds / iterations

    with tempfile.TemporaryDirectory() as log_dir:
        theirs = their_callback(env=env, policy=policy, log_dir=log_dir)
        with MetricsCallback(log_dir=log_dir) as metrics:
            ours = LeraxCallback(metrics)

            def flush_theirs() -> None:
                jax.effects_barrier()
                theirs.tb_writer.summary_writer.flush()

            results = take_turns(
                {
                    BARE: lambda: learn(BARE, None, jax.effects_barrier),
                    OURS: lambda: learn(OURS, ours, metrics.flush),
                    THEIRS: lambda: learn(THEIRS, theirs, flush_theirs),
                },
                rounds=3 if short else 15,
            )
    medians = {name: statistics.median(seconds) for name, seconds in results.items()}
    disk = {name: statistics.median(seconds[1:]) for name, seconds in delivered.items()}
    print_table(
        ("callback", "µs an iteration", "added", "µs until on disk", "added"),
        [
            (
                name,
                f"{medians[name] * 1e6:,.0f}",
                f"{(medians[name] - medians[BARE]) * 1e6:,.0f}",
                f"{disk[name] * 1e6:,.0f}",
                f"{(disk[name] - disk[BARE]) * 1e6:,.0f}",
            )
            for name in (BARE, OURS, THEIRS)
        ],
    )
    share = (medians[OURS] - medians[BARE]) / max(medians[THEIRS] - medians[BARE], 1e-9)
    on_disk = (disk[OURS] - disk[BARE]) / max(disk[THEIRS] - disk[BARE], 1e-9)
    print(f"\nmetriplex adds {share:.2f} of what lerax's own adds; until on disk {on_disk:.2f}")


if __name__ == "__main__":
    main()
