"""An epsilon-greedy bandit in NumPy, logged from a Python loop without compiled code.

python examples/python_loop.py
tensorboard --logdir logs
"""

from __future__ import annotations

import numpy as np

from metriplex import MetricsCallback

ARMS, STEPS, EPSILON = 10, 2000, 0.1


def main() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=ARMS)
    estimates, pulls = np.zeros(ARMS), np.zeros(ARMS, int)
    best_arm, regret = int(np.argmax(means)), 0.0
    with MetricsCallback("bandit", total_steps=STEPS) as metrics:
        for step in range(1, STEPS + 1):
            arm = rng.integers(ARMS) if rng.random() < EPSILON else int(np.argmax(estimates))
            reward = rng.normal(means[arm])
            pulls[arm] += 1
            estimates[arm] += (reward - estimates[arm]) / pulls[arm]
            regret += means[best_arm] - means[arm]
            if step % 100 == 0:
                share = pulls[best_arm] / step
                metrics.log(step, {"bandit": {"regret": regret, "best_arm": share}})
        print(f"regret {regret:.1f} after {STEPS} steps, logged to {metrics.directory}")


if __name__ == "__main__":
    main()
