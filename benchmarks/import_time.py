"""Measure the time that the import of metriplex adds to `import jax`, in fresh processes.

python benchmarks/import_time.py [--short]
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys

from _measure import is_short, print_machine, print_table, ratio, take_turns

BASE = "import jax"
STATEMENTS = [BASE, "import jax; from metriplex import MetricsCallback", "import jax; import optax"]
TIMED = """
import time
start = time.perf_counter()
{}
print(time.perf_counter() - start)
"""


def time_import(statement: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(statement)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    rounds = 2 if is_short(__doc__) else 25
    print_machine("jax", "jaxlib")
    results = take_turns(
        {statement: functools.partial(time_import, statement) for statement in STATEMENTS}, rounds
    )
    added = {
        name: statistics.median(
            ours - base for ours, base in zip(times, results[BASE], strict=True)
        )
        for name, times in results.items()
    }
    print(f"medians of {rounds} processes; what is added is the median of differences\n")
    print_table(
        ["", "ms", "ms added", "ratio"],
        [
            [
                f"`{name}`",
                f"{statistics.median(seconds) * 1e3:.0f}",
                f"{added[name] * 1e3:.0f}",
                f"{ratio(results, name, BASE):.2f}",
            ]
            for name, seconds in results.items()
        ],
    )


if __name__ == "__main__":
    main()
