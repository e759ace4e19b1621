"""The hooks of the Weights & Biases backend."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence  # noqa: TC003 - hook signatures are public
from dataclasses import dataclass, field
from typing import Any, Literal, final

from metriplex import (
    Artifact,
    ConfigurationError,
    Diagnosis,
    Histogram,
    Image,
    MetriplexError,
    OpenRuns,
    RunInfo,
    Scalar,
    Scalars,
    Text,
    TransientError,
    Video,
    encode_video,
    hookimpl,
    lane_name,
)
from metriplex_wandb.process import ClientDiedError, Process

logger = logging.getLogger("metriplex")

_EXIT_CODES = {"finished": 0, "failed": 1, "interrupted": 255}
"""Status of a run to the exit code that W&B stores for it; W&B's own for Ctrl-C is 255."""

_GRACE_SECONDS = 60.0
"""Seconds that a call may take beyond the client's own limits, since a busy machine is slow."""

_CALL_SECONDS = 150.0
"""Seconds after which a client that does not answer is killed, and another one is started."""

_REMEDY = (
    "Log in with `wandb login` or set `WANDB_API_KEY`, and see whether this machine reaches the "
    'server; or log with `mode="offline"` and upload later with `wandb sync`'
)

_LANE_FORMAT = lane_name(0)[:-3] + "{:03d}"


@final
class WandbBackend:
    """Log runs to Weights & Biases.

    Each run has a process of its own for the wandb client. A run is one W&B run; each lane of a
    vmapped axis is another, with the id `{run.id}-seed_000`, in the same group. Every row holds
    the step under `step_metric`, which is the x axis of all charts: rows may come late, repeat
    steps or go back.

    Args:
        project: W&B's project. None: the value of `WANDB_PROJECT`.
        entity: The user or team that the project belongs to. None: `WANDB_ENTITY`, or the account's
            default.
        mode: `"online"` uploads; `"offline"` only writes files, which `wandb sync` uploads. None:
            the value of `WANDB_MODE`, else online.
        group: The group of a run and its lanes. None: the run's name.
        tags: Tags of the runs.
        notes: A description of the runs.
        job_type: W&B's kind of job, `"train"` for example.
        step_metric: The key that holds the step in every row.
        init_timeout: Seconds to wait for W&B's answer when a run is opened.
        finish_timeout: Seconds that uploading may take when a run is closed.
        settings: Further fields of `wandb.Settings`, `{"base_url": ...}` for example.

    Raises:
        ConfigurationError: An argument is not usable.
    """

    flush_secs = 5.0
    video_format = "mp4"

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        mode: Literal["online", "offline"] | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        job_type: str | None = None,
        step_metric: str = "env_steps",
        init_timeout: float = 30.0,
        finish_timeout: float = 60.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if mode not in (None, "online", "offline"):
            raise ConfigurationError(
                f'`mode` must be "online", "offline" or None; got {mode!r}: to log nothing to W&B, '
                f"leave this backend out"
            )
        if isinstance(tags, str):
            raise ConfigurationError(
                f"`tags` must be a sequence of strings; got {tags!r}: write `[{tags!r}]`"
            )
        if not step_metric or step_metric.startswith("_"):
            raise ConfigurationError(
                f"`step_metric` must be a name that does not begin with `_`, as W&B keeps those "
                f"for itself; got {step_metric!r}"
            )
        for name, seconds in (("init_timeout", init_timeout), ("finish_timeout", finish_timeout)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ConfigurationError(
                    f"`{name}` must be a positive number of seconds; got {seconds!r}"
                )
        self.step_metric = step_metric
        self.init_timeout = float(init_timeout)
        self.finish_timeout = float(finish_timeout)
        self.mode = mode
        self.group = group
        self._init = {
            "project": project,
            "entity": entity,
            "tags": tuple(tags) or None,
            "notes": notes,
            "job_type": job_type,
        }
        self._settings = dict(settings or {})
        self._runs = OpenRuns[_OpenRun]()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Start the client's process and open the W&B run; an existing run of this id continues.

        The client's files go into `run.directory`.
        """
        self._connect(run, self._runs.open(run, lambda _: _OpenRun()))

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Store hyper-parameters in the config of the run and of its lanes, nested by `/`."""
        self._runs.find(run).hparams.update(hparams)
        self._call(run, "log_hparams", hparams=dict(hparams))

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Store each record as one row of its lane's run; all records, or none."""
        rows = [(one.lane, one.step, one.wall_time, dict(one.values)) for one in records]
        self._call(run, "log_scalars", rows=rows)

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        """Store a text as preformatted HTML."""
        self._log(run, "log_text", text, text=text.text)

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        self._log(run, "log_video", video, mp4=encode_video(video, "mp4").data)

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        self._log(run, "log_image", image, pixels=image.pixels)

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        """Store a histogram; W&B takes up to 512 bins, so neighbours of more bins are merged."""
        self._log(run, "log_histogram", histogram, counts=histogram.counts, edges=histogram.edges)

    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        """Store a file or a directory as a version of an artifact, with the alias `step_{step}`."""
        self._call(
            run,
            "log_artifact",
            lane=artifact.lane,
            step=artifact.step,
            name=artifact.name,
            path=str(artifact.path),
        )

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        """Write everything to the client's transaction logs; `wandb sync` uploads what is left."""
        self._call(run, "flush")

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """Upload everything, finish the runs and end the client's process.

        Raises:
            MetriplexError: Not everything was uploaded in time; the text has the command for later.
        """
        opened = self._runs.close(run, status)
        if opened is None or opened.process is None:
            return
        try:
            left = opened.process.call(
                "close", self.finish_timeout + _GRACE_SECONDS, exit_code=_EXIT_CODES[status]
            )
        finally:
            opened.process.end(_GRACE_SECONDS)
        if left:
            raise MetriplexError(
                f"not all data of run `{run.name}` could be uploaded to W&B within "
                f"{self.finish_timeout:g} s (`finish_timeout`); nothing is lost: "
                + ", ".join(f"`wandb sync {directory}`" for directory in left)
            )

    @hookimpl
    def diagnose(self) -> Diagnosis:
        """Ask W&B for the user who is logged in."""
        try:
            process = Process()
            try:
                said = process.call(
                    "diagnose", _GRACE_SECONDS, mode=self.mode, settings=self._all_settings()
                )
            finally:
                process.end(_GRACE_SECONDS)
        except (MetriplexError, OSError) as error:
            return Diagnosis(works=False, summary=str(error), remedy=_REMEDY)
        return Diagnosis(works=True, summary=said)

    def _connect(self, run: RunInfo, opened: _OpenRun) -> Process:
        """Return the run's process; start one if there is none."""
        if opened.process is not None:
            return opened.process
        process = Process()
        try:
            process.call(
                "open",
                self.init_timeout + _GRACE_SECONDS,
                name=run.name,
                run_id=run.id,
                lane_format=_LANE_FORMAT,
                lanes=[(lane.name, dict(lane.hparams)) for lane in run.lanes],
                step_metric=self.step_metric,
                init={
                    **self._init,
                    "mode": self.mode,
                    "group": self.group or run.name,
                    "dir": str(run.directory),
                    "resume": "allow",
                },
                settings=self._all_settings(),
                hparams=opened.hparams,
                resume_step=None if opened.superseded else run.resume_step,
            )
            for method, arguments in opened.unflushed:
                process.call(method, _CALL_SECONDS, **arguments)
        except BaseException as error:
            process.end(_GRACE_SECONDS)
            said = " ".join(str(error).split()).rstrip(".")
            if isinstance(error, ConfigurationError):
                raise ConfigurationError(f"W&B can't open the run: {said}. {_REMEDY}") from error
            if isinstance(error, TransientError | ClientDiedError):
                raise TransientError(f"W&B does not answer: {said}. {_REMEDY}") from error
            raise
        opened.process, opened.superseded = process, True
        return process

    def _log(self, run: RunInfo, method: str, record: Any, **content: Any) -> None:
        self._call(
            run,
            method,
            lane=record.lane,
            step=record.step,
            wall_time=record.wall_time,
            tag=record.tag,
            **content,
        )

    def _call(self, run: RunInfo, method: str, **arguments: Any) -> None:
        opened = self._runs.find(run)
        try:
            self._connect(run, opened).call(method, _CALL_SECONDS, **arguments)
        except ClientDiedError as error:
            logger.warning("%s; another one is started, and is given what it had not stored", error)
            opened.process = None
            try:
                self._connect(run, opened).call(method, _CALL_SECONDS, **arguments)
            except ClientDiedError:
                opened.process = None
                raise
        if method == "flush":
            opened.unflushed.clear()
        elif method != "log_hparams":  # which every process is given when it starts
            opened.unflushed.append((method, arguments))

    def _all_settings(self) -> dict[str, Any]:
        return {
            "init_timeout": self.init_timeout,
            "finish_timeout": self.finish_timeout,
            "x_stats_pid": os.getpid(),
            **self._settings,
        }


@final
@dataclass(slots=True)
class _OpenRun:
    """An open run.

    Attributes:
        process: The client's process; None if there is none now.
        superseded: True once the rows that a resumed run supersedes were removed.
        hparams: Hyper-parameters so far.
        unflushed: Methods and arguments of the calls since the last flush, in their order.
    """

    process: Process | None = None
    superseded: bool = False
    hparams: dict[str, Scalar | str] = field(default_factory=dict)
    unflushed: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
