"""Assembly of a run: the arguments of a callback become a plan, and the plan becomes a run."""

from __future__ import annotations

import collections
import contextlib
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
from metriplex.naming import local_directory, run_name
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
    from metriplex.run.background import BackgroundThread
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
    close_timeout: float | None
    aggregate: bool
    background: Sequence[BackgroundThread]
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
    close_timeout: float | None,
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
    if close_timeout is not None:
        close_timeout = check_positive("close_timeout", close_timeout)
    if total_steps is not None:
        total_steps = check_count("total_steps", total_steps, least=1)
    check_resume(resume, name, resume_step, journal)
    flat = flatten_hparams(check_hparams(hparams), mask_secrets=mask_secrets)
    described = make_lanes(lanes, lane_names)
    system_seconds = system_metrics and check_positive("system_metrics", system_metrics)
    background = make_background(name_devices, provenance=provenance, system_seconds=system_seconds)
    now = time.time()
    local_directory(log_dir)  # checks it; messages name it as it was given
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
    host = Host()
    created = create_backends(backends, host)
    chain = create_transforms(transforms, host)
    videos = None
    if video.interval:
        from metriplex.video.setup import prepare_videos  # only those who want videos need it

        videos = prepare_videos(env, created, renderer, video, host)
    return Plan(
        spec=spec,
        backends=created,
        transforms=chain,
        hparams=flat,
        nonfinite=nonfinite,
        queue_size=queue_size,
        close_timeout=close_timeout,
        aggregate=aggregate,
        background=background,
        videos=videos,
    )


def assemble(plan: Plan, opened: Opened, *, in_parts: bool = False) -> Run:
    """Make the run of a plan, which is still to be started, and log its hyper-parameters.

    `in_parts` says that other processes may have some of the lanes. Raise `ConfigurationError` if
    the renderer can't be sent to the drawing process.
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
        background=plan.background,
        in_parts=in_parts,
        held=True,
    )
    if plan.hparams or plan.spec.lanes:
        run.log_hparams(plan.hparams)
    return run


def open_and_start(plan: Plan, spec: RunSpec) -> Run:
    """Open, assemble and start the run of one of several processes, or leave nothing behind."""
    with contextlib.ExitStack() as undo:
        opened = open_run(spec)
        undo.callback(opened.discard)
        run = assemble(plan, opened, in_parts=True)
        undo.callback(run.discard)
        run.start()
        undo.pop_all()
    return run


def start(plan: Plan, *, buffer: int, ring: bool) -> tuple[HostRun, Place]:
    """Open and assemble the run of a plan, in one process or as one of several.

    Return the run, and the place in the training at which it begins. Raise `ConfigurationError` if
    `log_dir` can't be written, there is no run to resume, or the processes don't agree. Whatever is
    raised, nothing is left: no thread, file, lock or handle, and no run is superseded.
    """
    cluster = join_cluster(abort=plan.nonfinite == "abort")
    if cluster is not None:
        shared = ClusterRun(cluster, plan.spec, functools.partial(open_and_start, plan))
        timeout = plan.close_timeout
        host = HostRun(shared, cluster.handle, buffer=buffer, ring=ring, close_timeout=timeout)
        return host, shared.place
    with contextlib.ExitStack() as undo:
        opened = open_run(plan.spec)
        undo.callback(opened.discard)
        run = assemble(plan, opened)
        undo.callback(run.discard)
        host = HostRun(run, buffer=buffer, ring=ring, close_timeout=plan.close_timeout)
        undo.callback(host.discard)
        run.start()  # the last step that can fail, and the first that can't be undone
        undo.pop_all()
    return host, opened.place


def name_devices() -> str:
    """Return this process's devices, such as `8 x NVIDIA H100`; initialises jax."""
    kinds = collections.Counter(device.device_kind for device in jax.local_devices())
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
