"""The hooks that a plugin may implement.

A plugin is an object whose methods are marked with `metriplex.hookimpl`. It implements the hooks it
supports; the other hooks are never called. A method may leave out arguments it has no use for, but
not rename them: a hook that is misspelled, or asks for an unknown argument, is an error that names
the hook when the run is constructed.

Threads: for one run, all hooks of one backend are called one after another from one worker thread
that belongs to this backend and this run alone, never from the training thread. A backend object
that is given to two runs is called from two threads.

Failures: a hook that raises affects only its own backend. `OSError` (so also `ConnectionError`,
`TimeoutError` and `metriplex.TransientError`) means that a later call may succeed: the same call is
made again, with the same arguments, after a pause. The second call must not store again what the
first call stored. Any other exception loses the records of that call. Lost records are counted, and
after several failures in a row the backend is suspended.

A backend may have an attribute `flush_secs` (float, seconds, default 5.0): the longest time that
records wait for `flush`, whether more records arrive or not.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence  # noqa: TC003 - hook signatures are public

import pluggy

from metriplex.plugins.interfaces import Environment, Renderer  # noqa: TC001
from metriplex.records import (  # noqa: TC001
    Artifact,
    Diagnosis,
    Histogram,
    Image,
    RunInfo,
    Scalar,
    Scalars,
    Text,
    Video,
)

PROJECT = "metriplex"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class BackendSpec:
    """The hooks of a backend: `metriplex.backends` entry points name factories of such objects."""

    @hookspec
    def open_run(self, run: RunInfo) -> None:
        """Create files, connect. Called once a run, before every other hook.

        Args:
            run: The run; `run.directory` exists and belongs to this run alone.
        """

    @hookspec
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Log the run's hyper-parameters. Called usually once, before the first scalars.

        Args:
            run: The run.
            hparams: Flat: nested names are joined by `/`.
        """

    @hookspec
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Log all records since the last call, at least one.

        Args:
            run: The run.
            records: In the order in which the program logged them, lane by lane; steps may repeat
                or go back where the user's do. A read-only sequence, not always a tuple: its items
                are made when the first one is read. Values may be NaN or infinite only for
                `train/learning_rate` (NaN: unknown) or when the user asked to keep them.
        """

    @hookspec
    def log_text(self, run: RunInfo, text: Text) -> None:
        """Log a text.

        Args:
            run: The run.
            text: The record.
        """

    @hookspec
    def log_video(self, run: RunInfo, video: Video) -> None:
        """Log a clip.

        Args:
            run: The run.
            video: The record; `video.frames` is uint8 `[time, height, width, 3]`.
        """

    @hookspec
    def log_image(self, run: RunInfo, image: Image) -> None:
        """Log a picture.

        Args:
            run: The run.
            image: The record; `image.pixels` is uint8 `[height, width, 3]`.
        """

    @hookspec
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        """Log a histogram.

        Args:
            run: The run.
            histogram: The record: int64 `counts` `[bins]` between float64 `edges` `[bins + 1]`.
        """

    @hookspec
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        """Log a file or a directory that is to be kept with the run.

        Args:
            run: The run.
            artifact: The record; `artifact.path` does not change while the run is open.
        """

    @hookspec
    def flush(self, run: RunInfo) -> None:
        """Make everything durable. Called after a user's `flush`, and at least every `flush_secs`.

        When it returns, everything that was logged before must survive a SIGKILL of this process.

        Args:
            run: The run.
        """

    @hookspec
    def close_run(self, run: RunInfo, status: str) -> None:
        """Flush, then release files, threads and connections. Called once, last.

        Args:
            run: The run.
            status: `"finished"`, `"failed"` (an exception left the `with` block) or
                `"interrupted"` (Ctrl-C, SIGTERM).
        """


class TransformSpec:
    """The hook of a transform: `metriplex.transforms` entry points name factories of such objects.

    The thread that logs calls the hook (for compiled programs, the receiver thread), before the
    record goes anywhere else. The run accepts no other record during the call, so the hook must
    return soon and must not log.
    """

    @hookspec(firstresult=True)
    def transform_scalars(self, run: RunInfo, record: Scalars) -> Scalars | None:
        """Transform a record. Called for every record, in the order in which a lane logged them.

        If it raises, the record stays as it was.

        Args:
            run: The run.
            record: The record, or the result of the transform before; not to be changed.

        Returns:
            The record for the next transform, the same one or another, such as
            `dataclasses.replace(record, values=...)`; None drops it for all backends.
        """


class RendererSpec:
    """The hook of a renderer: `metriplex.renderers` entry points name factories of such objects."""

    @hookspec(firstresult=True)
    def make_renderer(self, env: object, width: int, height: int) -> Renderer | None:
        """Make a renderer for an environment, if this plugin can draw it.

        Called in the training process, when the run is constructed, from the user's thread.

        Args:
            env: The environment as the user gave it.
            width: Width of a frame in pixels.
            height: Height of a frame in pixels.

        Returns:
            The renderer; None leaves the environment to other plugins.
        """


class EnvironmentSpec:
    """The hook of an environment family, found in the group `metriplex.environments`."""

    @hookspec(firstresult=True)
    def adapt_environment(self, env: object) -> Environment | None:
        """Return the small protocol that a rollout needs of an environment of this family.

        Args:
            env: The environment as the user gave it.

        Returns:
            The adapted environment; None leaves it to other plugins.
        """


class DoctorSpec:
    """The hooks that `metriplex doctor` alone calls, in a process of its own."""

    @hookspec(firstresult=True)
    def diagnose(self) -> Diagnosis | None:
        """Find out whether a backend or a renderer works on this machine; may take a while.

        A renderer reports whether the machine has what drawing needs, such as OpenGL. A backend
        has it if its service would keep a trial's run: it asks the service for the account, or
        whether it answers, and no record is logged. A backend without it is tried in a temporary
        directory.

        Returns:
            A `metriplex.Diagnosis`, or an object with the same attributes; None for nothing.
        """

    @hookspec(firstresult=True)
    def example_environment(self) -> tuple[object, Sequence[object]] | None:
        """Return something small to draw, with which a renderer is tried.

        Returns:
            An environment for which `make_renderer` returns a renderer, and three or more of its
            states, as `Renderer.select` takes them, which all look different; None for nothing.
        """


SPECS = (BackendSpec, TransformSpec, RendererSpec, EnvironmentSpec, DoctorSpec)


def _hooks(spec: type) -> tuple[str, ...]:
    return tuple(name for name, value in vars(spec).items() if hasattr(value, f"{PROJECT}_spec"))


BACKEND_HOOKS = _hooks(BackendSpec)
"""The hooks of a backend that a run calls."""

HOOKS: Mapping[str, tuple[str, ...]] = {
    "backend": (*BACKEND_HOOKS, "diagnose"),
    "transform": _hooks(TransformSpec),
    "renderer": ("make_renderer", "diagnose", "example_environment"),
    "environment": _hooks(EnvironmentSpec),
}
"""Kind of plugin to the hooks that it may implement."""

_SPECIFIED = {hook: vars(spec)[hook] for spec in SPECS for hook in _hooks(spec)}


def spec_arguments(hook: str) -> list[str]:
    """Return the names of the arguments that a hook is offered."""
    return list(inspect.signature(_SPECIFIED[hook]).parameters)[1:]
