"""Draw with a renderer in other processes, for the tests of a contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex.plugins.interfaces import Renderer
    from metriplex.video.draw.jobs import RenderResult

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
"""Environment variables that name a display."""


def to_host(selected: Any) -> Any:
    """Convert the result of `select` to the argument of `render`: NumPy arrays, PRNG key data."""

    def plain(leaf: Any) -> np.ndarray:
        is_key = jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(plain, selected)


def make_clip(renderer: Renderer, selected: Sequence[Any], timeout_secs: float) -> RenderResult:
    """Make a GIF, one frame per selected state, with the drawing process of metriplex."""
    from metriplex.video.draw.jobs import RenderJob
    from metriplex.video.draw.worker import RenderWorker

    results: list[RenderResult] = []
    worker = RenderWorker(renderer, on_result=results.append, nice=0, timeout_secs=timeout_secs)
    try:
        worker.submit(
            RenderJob(tag="contract", step=0, fps=10.0, formats=("gif",), states=tuple(selected))
        )
    finally:
        worker.close(timeout_secs)
    (result,) = results
    return result


def draw_in_fresh_process(
    renderer: Renderer, selected: Any, directory: Path, timeout_secs: float
) -> tuple[str, list[str]]:
    """Draw one frame in a fresh Python process without a display.

    Return its standard output, and the names of the environment variables that it changed.
    """
    import cloudpickle

    job, report = directory / "job", directory / "report"
    job.write_bytes(cloudpickle.dumps((renderer, selected)))
    environment = {name: value for name, value in os.environ.items() if name not in DISPLAYS}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
    }
    done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
        [sys.executable, "-P", "-m", "metriplex.testing.drawing", str(job), str(report)],
        env=environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout_secs,
        check=False,
    )
    complaints = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"drawing in a process of its own failed:\n{complaints}"
    return done.stdout.decode(errors="replace"), json.loads(report.read_text())


def _main(job: str, report: str) -> None:
    import pickle

    from metriplex.testing.process import changes

    before = dict(os.environ)
    renderer, selected = pickle.loads(Path(job).read_bytes())  # noqa: S301 - our parent's
    renderer.render(selected)
    renderer.close()
    Path(report).write_text(json.dumps(changes(before, dict(os.environ))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
