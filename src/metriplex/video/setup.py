"""Videos of a run: the program that plays on the device, and the video recorder of the host."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from metriplex.errors import ConfigurationError, MetriplexError, PluginError
from metriplex.messages import printable
from metriplex.plugins.families import adapter_hint
from metriplex.plugins.renderers import adapt_environment, create_renderer
from metriplex.video.draw.recorder import TAG, VideoRecorder
from metriplex.video.play.environments import PatternEnvironment
from metriplex.video.play.program import VideoProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metriplex.plugins.backends import Backend
    from metriplex.plugins.host import Host
    from metriplex.plugins.interfaces import Environment, Renderer
    from metriplex.records import Video
    from metriplex.video.options import VideoOptions


@final
@dataclass(frozen=True, slots=True)
class Videos:
    """The videos of one run."""

    program: VideoProgram
    renderer: Renderer
    formats: tuple[str, ...]  # that the run's backends play, such as `gif` and `mp4`
    options: VideoOptions

    def make_recorder(self, log_video: Callable[[Video], None]) -> VideoRecorder:
        """Make the video recorder of a run, which logs videos by `log_video`."""
        return VideoRecorder(
            self.renderer,
            log_video,
            fps=self.options.fps,
            formats=self.formats,
            mode=self.options.mode,
        )


def prepare_videos(
    env: object,
    backends: Sequence[Backend],
    renderer: object,
    options: VideoOptions,
    host: Host | None = None,
) -> Videos | None:
    """Prepare playing and drawing an environment in the formats that the backends play.

    `host=None` stands for a host of renderers and environments alone. The result is None if no
    backend takes videos, and, with a warning, if the environment can't be played or drawn: videos
    never stop a training.

    Raises:
        PluginError: The renderer that was named is not installed, or broken.
        ConfigurationError: There is no environment.
    """
    if env is None:
        raise ConfigurationError(
            f"`video_interval={options.interval}` needs the environment that is to be shown: pass "
            f"`env=`"
        )
    takers = [one for one in backends if "log_video" in one.hooks]
    takers = [one for one in takers if one.route is None or one.route.takes(TAG)]
    formats = tuple(sorted({one.video_format for one in takers}))
    if not formats:
        return None
    try:
        made = create_renderer(renderer, env, options.width, options.height, host)
        adapted = _adapt(env, host)
    except PluginError:
        raise
    except Exception as error:
        if renderer is not None and isinstance(error, MetriplexError):
            raise
        warnings.warn(
            f"no evaluation videos: {type(error).__name__}: {printable(str(error))}. Training "
            f"goes on, and everything else is logged",
            stacklevel=4,
        )
        return None
    identity = (_Same(env), _Same(renderer), type(made), options.width, options.height)
    program = VideoProgram(identity, options.interval, options.num_steps, adapted, made.select)
    return Videos(program, made, formats, options)


def _adapt(env: object, host: Host | None) -> Environment:
    adapted = adapt_environment(env, host)
    if adapted is not None:
        return adapted
    if PatternEnvironment.accepts(env):
        return PatternEnvironment(env)
    hint = adapter_hint(env)
    raise ConfigurationError(
        f"`{type(env).__name__}` can't be played: it has not the methods `initial`, `transition`, "
        f"`observation` and `terminal`, and no plugin of `metriplex.environments` knows it"
        f"{f'. {hint}' if hint else ''}"
    )


@final
class _Same:
    """Holds an object; equal for the same object or equal plain values, and always hashable."""

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
