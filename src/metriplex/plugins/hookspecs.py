"""What a plugin may implement.

A plugin is an object whose methods are marked with `metriplex.hookimpl`. It implements the hooks it
supports; what it doesn't implement, it isn't asked. A method may leave out arguments it has no use
for, but not rename them: a hook that is misspelled, or asks for an unknown argument, is an error
that names it when the run is constructed.

Threads: for one run, all hooks of one backend are called one after another from one worker thread
that belongs to this backend and this run alone, never from the training thread. A backend object
that is given to two runs is called from two threads.

Failures: a hook that raises hurts nobody but its own backend. `OSError` (so also `ConnectionError`,
`TimeoutError` and `metriplex.TransientError`) means that the failure may pass: the same call is
made again, with the same arguments, after a pause; a backend makes sure that the second call does
not store twice what the first one stored. Any other exception loses the records of that call; they
are counted, and after several failures in a row the backend is suspended.

A backend may have an attribute `flush_secs` (float, seconds, default 5.0): the longest time that
records wait for `flush` while more of them keep arriving, or none do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - hook signatures are public

import pluggy

from metriplex.plugins.interfaces import Environment, Renderer  # noqa: TC001
from metriplex.records import (
    Artifact,
    Diagnosis,
    Histogram,
    Image,
    Media,
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
        """Called once a run, before every other hook: create files, connect.

        Args:
            run: The run; `run.directory` exists and belongs to this run alone.
        """

    @hookspec
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Called for the run's hyper-parameters, usually once, before the first scalars.

        Args:
            run: The run.
            hparams: Flat: nested names are joined by `/`.
        """

    @hookspec
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Called with all the records that have come since the last call, at least one.

        Args:
            run: The run.
            records: In the order in which the program logged them, lane by lane; steps may repeat
                or go back where the user's do. Values may be NaN or infinite only for
                `train/learning_rate` (NaN: unknown) or when the user asked to keep them.
        """

    @hookspec
    def log_text(self, run: RunInfo, text: Text) -> None:
        """Called for a piece of text.

        Args:
            run: The run.
            text: The record.
        """

    @hookspec
    def log_video(self, run: RunInfo, video: Video) -> None:
        """Called for a clip.

        Args:
            run: The run.
            video: The record; `video.frames` is uint8 `[time, height, width, 3]`.
        """

    @hookspec
    def log_image(self, run: RunInfo, image: Image) -> None:
        """Called for a picture.

        Args:
            run: The run.
            image: The record; `image.pixels` is uint8 `[height, width, 3]`.
        """

    @hookspec
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        """Called for a histogram.

        Args:
            run: The run.
            histogram: The record: int64 `counts` `[bins]` between float64 `edges` `[bins + 1]`.
        """

    @hookspec
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        """Called for a file or a directory that is to be kept with the run.

        Args:
            run: The run.
            artifact: The record; `artifact.path` stays as it is as long as the run is open.
        """

    @hookspec
    def flush(self, run: RunInfo) -> None:
        """Called after a user's `flush`, and at least every `flush_secs` while records come.

        When it returns, everything that was logged before must survive a SIGKILL of this process.

        Args:
            run: The run.
        """

    @hookspec
    def close_run(self, run: RunInfo, status: str) -> None:
        """Called once, last: flush, then release files, threads and connections.

        Args:
            run: The run.
            status: `"finished"`, `"failed"` (an exception left the `with` block) or
                `"interrupted"` (Ctrl-C, SIGTERM).
        """

    @hookspec(firstresult=True)
    def diagnose(self) -> Diagnosis | None:
        """Called by `metriplex doctor`, which then logs no record: what stands in the way?

        For services that would keep a trial's run: ask them for the account, or whether they
        answer. It may take a while. A backend without it is tried in a temporary directory.

        Returns:
            A `metriplex.Diagnosis`, or an object with the same attributes; None for nothing.
        """


def spec_hooks(spec: type) -> tuple[str, ...]:
    """The names of the hooks that a spec class declares, in its order."""
    return tuple(name for name, value in vars(spec).items() if hasattr(value, f"{PROJECT}_spec"))


BACKEND_HOOKS = tuple(hook for hook in spec_hooks(BackendSpec) if hook != "diagnose")
"""Those that a run calls."""


MEDIA_HOOKS: Mapping[type[Media], tuple[str, str]] = {
    Text: ("log_text", "text"),
    Video: ("log_video", "video"),
    Image: ("log_image", "image"),
    Histogram: ("log_histogram", "histogram"),
    Artifact: ("log_artifact", "artifact"),
}
"""Type of a record to the hook that takes it, and the name of the hook's argument."""


class TransformSpec:
    """The hook of a transform: `metriplex.transforms` entry points name factories of such objects.

    It is called from whichever thread logs (for compiled programs, one that decodes their rows),
    while the run takes no other record, and before anything else sees the record: so it returns
    soon, and logs nothing itself.
    """

    @hookspec(firstresult=True)
    def transform_scalars(self, run: RunInfo, record: Scalars) -> Scalars | None:
        """Called for every record, in the order in which they were logged.

        If it raises, the record goes on as it was.

        Args:
            run: The run.
            record: What was logged, or what the transform before made of it; not to be changed.

        Returns:
            The record that goes on, the same one or another, such as
            `dataclasses.replace(record, values=...)`; None drops it for all backends.
        """


class RendererSpec:
    """The hooks of a renderer: `metriplex.renderers` entry points name factories of such objects.

    `make_renderer` is called in the training process, when the run is constructed, from the user's
    thread; the others by `metriplex doctor` alone, in a process of its own.
    """

    @hookspec(firstresult=True)
    def make_renderer(self, env: object, width: int, height: int) -> Renderer | None:
        """Makes a renderer for an environment, if this plugin can draw it.

        Args:
            env: The environment as the user gave it.
            width: Width of a frame in pixels.
            height: Height of a frame in pixels.

        Returns:
            The renderer; None leaves the environment to other plugins.
        """

    @hookspec(firstresult=True)
    def diagnose(self) -> Diagnosis | None:
        """Finds out whether this machine has what drawing needs, such as OpenGL.

        Returns:
            A `metriplex.Diagnosis`, or an object with the same attributes; None for nothing.
        """

    @hookspec(firstresult=True)
    def example_environment(self) -> tuple[object, Sequence[object]] | None:
        """Gives something small to draw, with which the renderer is tried.

        Returns:
            An environment for which `make_renderer` gives a renderer, and three or more of its
            states, as `Renderer.select` takes them, which all look different; None for nothing.
        """


class EnvironmentSpec:
    """The hook of an environment family, found in the group `metriplex.environments`."""

    @hookspec(firstresult=True)
    def adapt_environment(self, env: object) -> Environment | None:
        """Gives the small protocol that a rollout needs of an environment of this family.

        Args:
            env: The environment as the user gave it.

        Returns:
            The adapted environment; None leaves it to other plugins.
        """


SPECS: Mapping[str, type] = {
    "backend": BackendSpec,
    "transform": TransformSpec,
    "renderer": RendererSpec,
    "environment": EnvironmentSpec,
}
"""Kind of plugin to the class that declares its hooks."""
