"""Draw the learning curves of runs, one panel a run, for docs/images.

python docs/generate_pictures.py OUTPUT.png "TITLE=RUN_DIRECTORY" ...
"""

from __future__ import annotations

import sys
from typing import Any

import metriplex

TAGS = ("episode/return", "eval/return")
"""Tags to draw; the first one that a run has is drawn."""


def draw(axes: Any, title: str, run_dir: str) -> None:
    """Draw one run, one line a lane.

    Args:
        axes: The panel.
        title: The panel's title.
        run_dir: The run's directory.
    """
    run = metriplex.read(run_dir)
    tag = next(tag for tag in TAGS if tag in run.tags)
    for lane in run.lanes:
        returns = run.series(tag, lane)
        axes.plot(returns.step, returns.value, linewidth=1.2)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("environment steps", fontsize=8)
    axes.set_ylabel(tag, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)


def main() -> None:
    """Write the picture of the runs on the command line."""
    import matplotlib.pyplot as plt

    output, *runs = sys.argv[1:]
    columns = min(len(runs), 3)
    rows = -(-len(runs) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 2.3 * rows), layout="constrained", squeeze=False
    )
    for panel in panels.flat[len(runs) :]:
        panel.remove()
    for panel, run in zip(panels.flat, runs, strict=False):
        title, _, run_dir = run.partition("=")
        draw(panel, title, run_dir)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()
