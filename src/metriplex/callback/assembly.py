"""Assembly of a run: the arguments of a callback become a plan, and the plan becomes a run."""

from __future__ import annotations

import collections
import functools
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, final

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
    from collections.abc import Mapping, Sequence

    from metriplex.plugins.backends import Backend
    from metriplex.plugins.scalar_transforms import Transforms
    from metriplex.records import Scalar
    from metriplex.run.nonfinite import NonFinite
    from metriplex.video.options import VideoOptions
    from metriplex.video.setup import Videos


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a run on the host: all checked and created, nothing opened."""

    spec: RunSpec
    backends: Sequence[Backend]
    transforms: Transforms
    hparams: Mapping[str, Scalar | str]
    nonfinite: NonFinite
    queue_size: int
    aggregate: bool
    provenance: bool | None
    system_seconds: float
    videos: Videos | None


def make_plan(
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
) -> Plan:
    """Check arguments of `MetricsCallback`, and create the plugins that they name.

    Raises:
        ConfigurationError: An argument is not usable.
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
    return Plan(
        spec=spec,
        backends=created,
        transforms=chain,
        hparams=flat,
        nonfinite=nonfinite,
        queue_size=queue_size,
        aggregate=aggregate,
        provenance=provenance,
        system_seconds=system_seconds,
        videos=videos,
    )


def assemble(plan: Plan, opened: Opened, *, in_parts: bool = False) -> Run:
    """Make the run of a plan, log its hyper-parameters and start its background threads.

    `in_parts` says that other processes may have some of the lanes. Raise `ConfigurationError` if
    `psutil`, which samples of the system need, is not installed.
    """
    run = Run(
        opened.info,
        plan.backends,
        plan.transforms,
        nonfinite=plan.nonfinite,
        queue_size=plan.queue_size,
        journal=opened.journal,
        aggregator=Aggregator(len(opened.info.lanes)) if plan.aggregate else None,
        make_recorder=None if plan.videos is None else plan.videos.make_recorder,
        background=make_background(
            name_devices, provenance=plan.provenance, system_seconds=plan.system_seconds
        ),
        in_parts=in_parts,
    )
    if plan.hparams or plan.spec.lanes:
        run.log_hparams(plan.hparams)
    run.start()
    return run


def start(plan: Plan, *, ring: bool) -> tuple[HostRun, Place]:
    """Open and assemble the run of a plan, in one process or as one of several.

    Return the run, and the place in the training at which it begins. Raise `ConfigurationError` if
    `log_dir` can't be written, there is no run to resume, or the processes don't agree.
    """
    cluster = join_cluster(abort=plan.nonfinite == "abort")
    if cluster is None:
        opened = open_run(plan.spec)
        return HostRun(assemble(plan, opened), ring=ring), opened.place
    run = ClusterRun(cluster, plan.spec, functools.partial(assemble, plan, in_parts=True))
    return HostRun(run, cluster.handle, ring=ring), run.place


def name_devices() -> str:
    """Return this process's devices, such as `8 x NVIDIA H100`; initialises jax."""
    kinds = collections.Counter(device.device_kind for device in jax.local_devices())
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
