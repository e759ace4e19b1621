"""The W&B runs of one metriplex run and its lanes."""

from __future__ import annotations

import html
import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import PIL.Image
import wandb

from metriplex_wandb_client.earlier import EarlierRows, find_logs, hold, supersede
from metriplex_wandb_client.run import LOG_SECONDS, Run

_AT_ONCE = 16
"""Largest number of runs that are finished at the same time."""

_SETTINGS = {
    "silent": True,
    "console": "off",
    "symlink": False,
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": LOG_SECONDS,
}

_LANE_SETTINGS = {"x_disable_stats": True, "x_save_requirements": False}
"""Settings of lanes' runs: only the run itself describes the machine."""


@final
class Client:
    """The W&B runs of one metriplex run and its lanes, each opened by its first record.

    Args:
        name: The run's name.
        run_id: The run's id; a lane's id is `{run_id}-seed_000`, whatever the lane's name.
        lane_format: `str.format` template for the name of a lane without a name.
        lanes: Names and hyper-parameters of the lanes that were described.
        step_metric: The key that holds the step in every row, the x axis of all other keys.
        init: Arguments of `wandb.init` for all of the runs.
        settings: Fields of `wandb.Settings`.
        hparams: Hyper-parameters known so far.
        resume_step: The first step that supersedes what earlier processes have stored, if any.

    Raises:
        TimeoutError: The client of an earlier process still writes.
    """

    def __init__(
        self,
        name: str,
        run_id: str,
        lane_format: str,
        lanes: list[tuple[str, dict[str, Any]]],
        step_metric: str,
        init: dict[str, Any],
        settings: dict[str, Any],
        hparams: dict[str, Any],
        resume_step: int | None,
    ) -> None:
        self._name, self._run_id, self._lane_format = name, run_id, lane_format
        self._lanes = lanes
        self._step_metric = step_metric
        self._init, self._settings = init, settings
        self._hparams = hparams
        self._runs: dict[int | None, Run] = {}
        directory = Path(init["dir"], "wandb")
        self._held = hold(directory, run_id)
        self._logs = find_logs(directory, run_id)
        if resume_step is not None:
            for log in self._logs:
                supersede(log, step_metric, resume_step)
        self._opened = time.time()
        self._run(None)

    def log_hparams(self, hparams: dict[str, Any]) -> None:
        """Add to the config of every run."""
        self._hparams |= hparams
        for lane, run in self._runs.items():
            run.update_config(self._hparams | self._lane(lane)[1])

    def log_scalars(self, rows: list[tuple[int | None, int, float, dict[str, Any]]]) -> None:
        """Log rows of lane, step, wall time and values: all of them, or none if it raises."""
        runs = {lane: self._run(lane) for lane in dict.fromkeys(row[0] for row in rows)}
        for lane, step, wall_time, values in rows:
            runs[lane].log(step, wall_time, values)

    def log_text(self, lane: int | None, step: int, wall_time: float, tag: str, text: str) -> None:
        """Log a text as preformatted HTML, which W&B shows with a slider over the steps."""
        page = wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False, data_is_not_path=True)
        self._run(lane).log(step, wall_time, {tag: page})

    def log_video(
        self, lane: int | None, step: int, wall_time: float, tag: str, mp4: bytes
    ) -> None:
        """Log an encoded clip."""
        video = wandb.Video(io.BytesIO(mp4), format="mp4")
        self._run(lane).log(step, wall_time, {tag: video})

    def log_image(
        self, lane: int | None, step: int, wall_time: float, tag: str, pixels: Any
    ) -> None:
        """Log a picture, uint8 `[height, width, 3]`."""
        image = wandb.Image(PIL.Image.fromarray(pixels), file_type="png")
        self._run(lane).log(step, wall_time, {tag: image})

    def log_histogram(
        self, lane: int | None, step: int, wall_time: float, tag: str, counts: Any, edges: Any
    ) -> None:
        """Log counts between edges; bins are merged if there are more than W&B accepts."""
        width = -(-len(counts) // wandb.Histogram.MAX_LENGTH)
        if width > 1:
            merged = [int(counts[i : i + width].sum()) for i in range(0, len(counts), width)]
            edges = [*edges[:-1:width], edges[-1]]
        else:
            merged = [int(count) for count in counts]
        bounds = [float(edge) for edge in edges]
        histogram = wandb.Histogram(np_histogram=(merged, bounds))
        self._run(lane).log(step, wall_time, {tag: histogram})

    def log_artifact(self, lane: int | None, step: int, name: str, path: str) -> None:
        """Log a file or directory, which does not change any more, as an artifact."""
        self._run(lane).log_artifact(step, name, path)

    def flush(self) -> None:
        """Wait until the transaction logs hold everything that was logged before."""
        for run in self._runs.values():
            run.wait_for_log()

    def close(self, exit_code: int) -> list[str]:
        """Finish every run.

        Returns:
            The directories of runs whose data could not be uploaded in time.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            ended = list(pool.map(lambda run: run.finish(exit_code), self._runs.values()))
        self._held.close()
        return [directory for directory in ended if directory is not None]

    def _run(self, lane: int | None) -> Run:
        if lane not in self._runs:
            of_lane = lane is not None
            name, hparams = self._lane(lane)
            run = wandb.init(
                id=f"{self._run_id}-{self._lane_format.format(lane)}" if of_lane else self._run_id,
                name=f"{self._name}-{name}" if of_lane else self._name,
                reinit="create_new",
                settings=wandb.Settings(
                    **(_SETTINGS | self._settings | (_LANE_SETTINGS if of_lane else {}))
                ),
                **self._init,
            )
            logs = [log for log in self._logs if log.stem == f"run-{run.id}"]
            earlier = EarlierRows(logs, self._opened)
            self._runs[lane] = Run(run, self._step_metric, earlier)
            self._runs[lane].update_config(self._hparams | hparams)
        return self._runs[lane]

    def _lane(self, lane: int | None) -> tuple[str, dict[str, Any]]:
        """Return a lane's name and its own hyper-parameters."""
        if lane is None:
            return "", {}
        if 0 <= lane < len(self._lanes):
            return self._lanes[lane]
        return self._lane_format.format(lane), {}
