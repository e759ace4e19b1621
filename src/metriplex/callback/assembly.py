"""Check the arguments of a callback, and start the run that they describe."""

from __future__ import annotations

import collections
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jax

from metriplex.callback.host_run import HostRun
from metriplex.cluster.processes import join_cluster
from metriplex.cluster.run import ClusterRun
from metriplex.delivery.run_journal import check_journal
from metriplex.naming import run_name
from metriplex.plugins.backends import create_backends
from metriplex.plugins.host import Host
from metriplex.plugins.scalar_transforms import create_transforms
from metriplex.run.aggregate import Aggregator
from metriplex.run.background import make_background
from metriplex.run.hparams import check_hparams, flatten_hparams
from metriplex.run.lanes import make_lanes
from metriplex.run.opening import Opened, Place, RunSpec, check_resume, open_run
from metriplex.run.run import Run
from metriplex.validation import check_count, check_positive

if TYPE_CHECKING:
    import os

    from metriplex.run.nonfinite import NonFinite
    from metriplex.video.options import VideoOptions
    from metriplex.video.play.program import VideoProgram


def start_run(
    name: str | None,
    env: object,
    policy: object,
    log_dir: str | os.PathLike[str],
    *,
    resume: object,
    resume_step: int | None,
    backends: object,
    transforms: object,
    hparams: object,
    mask_secrets: bool,
    provenance: bool | None,
    system_metrics: float,
    total_steps: int | None,
    lanes: Any,
    lane_names: Any,
    aggregate: bool,
    nonfinite: NonFinite,
    queue_size: int,
    journal: Any,
    video: VideoOptions,
    renderer: object,
    ring: bool,
) -> tuple[HostRun, Place, VideoProgram | None]:
    """Start a run from arguments of `MetricsCallback`, in one process or as one of several.

    Everything is checked, and all plugins are created, before the run's directory is made.

    Returns:
        The run, the place in the training at which it begins, and the program of its videos; None
        without videos.

    Raises:
        ConfigurationError: An argument is not usable, or the processes don't agree.
        PluginError: A plugin is not installed, or broken.
    """
    queue_size = check_count("queue_size", queue_size, least=1)
    journal = check_journal(journal)
    if total_steps is not None:
        total_steps = check_count("total_steps", total_steps, least=1)
    check_resume(resume, name, resume_step, journal)
    flat = flatten_hparams(check_hparams(hparams), mask_secrets=mask_secrets)
    described = make_lanes(lanes, lane_names)
    system_seconds = system_metrics and check_positive("system_metrics", system_metrics)
    host = Host()
    created = create_backends(backends, host)
    chain = create_transforms(transforms, host)
    videos = None
    if video.interval:
        from metriplex.video.setup import prepare_videos  # only those who want videos need it

        videos = prepare_videos(env, created, renderer, video, host)
    now = time.time()
    spec = RunSpec(
        log_dir,
        run_name(name, env, policy, datetime.fromtimestamp(now)),
        now,
        total_steps,
        described,
        resume,
        resume_step,
        journal,
    )
    cluster = join_cluster(abort=nonfinite == "abort")

    def assemble(opened: Opened) -> Run:
        run = Run(
            opened.info,
            created,
            chain,
            nonfinite=nonfinite,
            queue_size=queue_size,
            journal=opened.journal,
            aggregator=Aggregator(len(opened.info.lanes)) if aggregate else None,
            make_recorder=None if videos is None else videos.make_recorder,
            background=make_background(
                name_devices, provenance=provenance, system_seconds=system_seconds
            ),
            in_parts=cluster is not None,
        )
        if flat or described:
            run.log_hparams(flat)
        run.start()
        return run

    program = None if videos is None else videos.program
    if cluster is None:
        opened = open_run(spec)
        return HostRun(assemble(opened), ring=ring), opened.place, program
    run = ClusterRun(cluster, spec, assemble)
    return HostRun(run, cluster.handle, ring=ring), run.place, program


def name_devices() -> str:
    """Return this process's devices, such as `8 x NVIDIA H100`; initialises jax."""
    kinds = collections.Counter(device.device_kind for device in jax.local_devices())
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
