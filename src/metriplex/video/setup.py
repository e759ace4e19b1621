"""What a callback sets up for its videos: the program for the device, the recorder for the host."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final

from metriplex.errors import ConfigurationError, MetriplexError, PluginError
from metriplex.plugins.renderers import adapt_environment, create_renderer
from metriplex.video.draw.recorder import TAG, VideoRecorder
from metriplex.video.play.environments import PatternEnvironment
from metriplex.video.play.program import VideoProgram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex.plugins.backends import Backend
    from metriplex.plugins.host import Host
    from metriplex.plugins.interfaces import Environment, Renderer
    from metriplex.run.run import Run

WorkerMode: TypeAlias = Literal["process", "thread"]


@final
@dataclass(frozen=True, slots=True)
class Videos:
    """The videos of one run.

    Attributes:
        program: Plays and sends rollouts.
        renderer: Draws them.
        fps: Frames a second.
        formats: What the run's backends play, such as `"gif"` and `"mp4"`.
        mode: Where drawing and encoding happen.
    """

    program: VideoProgram
    renderer: Renderer
    fps: float
    formats: tuple[str, ...]
    mode: WorkerMode

    def record(self, run: Run) -> None:
        """Has a run make videos of the rollouts that it receives."""
        run.recorder = VideoRecorder(
            self.renderer, run.log_media, fps=self.fps, formats=self.formats, mode=self.mode
        )


def prepare_videos(
    env: object,
    backends: Sequence[Backend],
    host: Host | None = None,
    *,
    renderer: object,
    interval: int,
    num_steps: int,
    width: int,
    height: int,
    fps: float,
    mode: WorkerMode,
) -> Videos | None:
    """Finds out how an environment is played and drawn.

    Returns:
        None, with a warning, if it can't be: videos never stop a training. Also None if no backend
        takes videos.

    Raises:
        PluginError: The renderer that was named is not installed, or broken.
        ConfigurationError: There is no environment.
    """
    if env is None:
        raise ConfigurationError(
            f"`video_interval={interval}` needs the environment that is to be shown: pass `env=`"
        )
    takers = [one for one in backends if "log_video" in one.hooks]
    takers = [one for one in takers if one.route is None or one.route.takes(TAG)]
    formats = tuple(sorted({one.video_format for one in takers}))
    if not formats:
        return None
    try:
        made = create_renderer(renderer, env, width, height, host)
        adapted = _adapt(env, host)
    except PluginError:
        raise
    except Exception as error:
        if renderer is not None and isinstance(error, MetriplexError):
            raise
        warnings.warn(
            f"no evaluation videos: {type(error).__name__}: {error}. Training goes on, and "
            f"everything else is logged",
            stacklevel=4,
        )
        return None
    identity = (_Same(env), _Same(renderer), type(made), width, height)
    program = VideoProgram(identity, interval, num_steps, adapted, made.select)
    return Videos(program, made, fps, formats, mode)


def _adapt(env: object, host: Host | None) -> Environment:
    adapted = adapt_environment(env, host)
    if adapted is not None:
        return adapted
    if PatternEnvironment.accepts(env):
        return PatternEnvironment(env)
    raise ConfigurationError(
        f"`{type(env).__name__}` can't be played: it has not the methods `initial`, `transition`, "
        f"`observation` and `terminal`, and no plugin of `metriplex.environments` knows it"
    )


@final
class _Same:
    """Equal for one and the same object, or equal plain values; hashable whatever it holds."""

    __slots__ = ("_it",)

    def __init__(self, it: object) -> None:
        self._it = it

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        plain = isinstance(self._it, str | dict) and type(self._it) is type(other._it)
        return self._it is other._it or (plain and self._it == other._it)

    def __hash__(self) -> int:
        return hash(type(self._it))
