"""A backend of your own: an object whose methods are marked with `hookimpl`.

python examples/custom_backend.py
cat logs/jsonl/scalars.jsonl
"""

from __future__ import annotations

import json

import jax
from ppo_cartpole import Config, train

from metriplex import MetricsCallback, hookimpl


class JsonLines:
    @hookimpl
    def open_run(self, run):
        self.file = (run.directory / "scalars.jsonl").open("w")

    @hookimpl
    def log_scalars(self, records):
        for record in records:
            self.file.write(json.dumps({"step": record.step, **record.values}) + "\n")

    @hookimpl
    def close_run(self):
        self.file.close()


def main() -> None:
    config = Config(num_envs=8, num_iterations=10)
    with MetricsCallback("jsonl", backends=[JsonLines()]) as metrics:
        train(metrics, jax.random.key(0), config)
        directory = metrics.directory
    print((directory / "scalars.jsonl").read_text().splitlines()[-1])


if __name__ == "__main__":
    main()
