"""The pygame plugin, and its renderer of one environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from metriplex import ClosedError, Diagnosis, Renderer, Viewport, hookimpl
from metriplex_pygame.arguments import Color, DrawingError, check_size, read_color, read_viewport
from metriplex_pygame.example import Ball, BallState
from metriplex_pygame.headless import WHITE, HeadlessPygameRenderer
from metriplex_pygame.sdl import load_pygame, nothing_opens

if TYPE_CHECKING:
    import numpy as np


@final
class PygameRendererPlugin:
    """Render environments that draw themselves in two dimensions.

    These environments have `render(state, renderer)` and `default_renderer()`, and no
    `mujoco_model`. An environment's `to_draw(state)`, which is traced, selects the part of a state
    that `render` gets.

    Args:
        background_color: Red, green and blue in [0, 1] of an empty picture; None for the colour of
            the environment's `default_renderer()`, or white without such a colour.

    Raises:
        DrawingError: The colour isn't three finite numbers.
    """

    def __init__(self, *, background_color: Color | None = None) -> None:
        if background_color is not None:
            read_color("PygameRendererPlugin", "background_color", background_color)
        self._background_color = background_color

    @hookimpl
    def make_renderer(self, env: object, width: int, height: int) -> Renderer | None:
        """Return a renderer if `env` has `render` and `default_renderer`; call neither yet.

        An environment whose `unwrapped` has a `mujoco_model` is left to other plugins.
        """
        draws = all(callable(getattr(env, name, None)) for name in ("render", "default_renderer"))
        if not draws or hasattr(getattr(env, "unwrapped", env), "mujoco_model"):
            return None
        return PygameRenderer(env, width, height, background_color=self._background_color)

    @hookimpl
    def diagnose(self) -> Diagnosis:
        try:
            pygame = load_pygame()
        except Exception as error:  # noqa: BLE001 - a library that it needs may be missing
            summary = f"pygame can't be imported: {type(error).__name__}: {error}"
            return Diagnosis(False, summary, "`pip install --force-reinstall pygame`")
        sdl = ".".join(map(str, pygame.version.SDL))
        return Diagnosis(True, f"pygame {pygame.version.ver} with SDL {sdl}, without a display")

    @hookimpl
    def example_environment(self) -> tuple[Ball, list[BallState]]:
        ball = Ball()
        return ball, ball.states()


@final
class PygameRenderer(Renderer):
    """Draw the states of an environment with the environment's own `render`.

    The frames show the view of the environment's `default_renderer()`, undistorted and centred.
    `default_renderer()` is called at the first `render`, while pygame can't open a window. A pickle
    of the renderer holds only its arguments.

    Args:
        env: The environment.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        background_color: Colour of an empty picture; None for the environment's own.

    Raises:
        metriplex.ConfigurationError: A size isn't a whole number from 1.
    """

    def __init__(
        self, env: Any, width: int, height: int, *, background_color: Color | None = None
    ) -> None:
        self._env = env
        self._width = check_size("width", width)
        self._height = check_size("height", height)
        self._background_color = background_color
        self._canvas: _StandIn | None = None
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_canvas": None}

    def select(self, state: Any) -> Any:
        """Return the environment's `to_draw(state)`, or the whole state without that method."""
        to_draw = getattr(self._env, "to_draw", None)
        return state if to_draw is None else to_draw(state)

    def render(self, selected: Any) -> np.ndarray:
        """Draw a state with the environment.

        Args:
            selected: Result of `select`, with NumPy arrays as leaves.

        Returns:
            uint8 `[height, width, 3]`, RGB; a new array, read-only.

        Raises:
            DrawingError: The environment draws at NaN, or `default_renderer()` returns no valid
                `transform`.
            metriplex.ClosedError: After `close`.
            Exception: Any exception of the environment's `render`.
        """
        if self._closed:
            raise ClosedError("`render` was called after `close`: make a new renderer")
        if self._canvas is None:
            self._canvas = self._make_canvas()
        self._canvas.clear()
        self._env.render(selected, self._canvas)
        return self._canvas.as_array()

    def close(self) -> None:
        """Release the surface; may be called twice, and without a `render` before."""
        self._closed = True
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None

    def _make_canvas(self) -> _StandIn:
        with nothing_opens():
            default = self._env.default_renderer()
            transform, color = _view(default, self._env)
        fitted = transform.fitted(self._width, self._height)
        canvas = HeadlessPygameRenderer(
            self._width,
            self._height,
            color if self._background_color is None else self._background_color,
            fitted,
            pixel_ratio=fitted.scale / transform.scale,
        )
        return _StandIn(canvas, type(default))


def _view(default: Any, env: Any) -> tuple[Viewport, Color]:
    if not hasattr(default, "transform"):
        raise DrawingError(
            f"`default_renderer()` of `{type(env).__name__}` must give an object with a "
            f"`transform`, which says how world units become pixels; got {default!r}"
        )
    return read_viewport(default.transform), getattr(default, "background_color", WHITE)


@final
class _StandIn:
    """A canvas that looks like an instance of the class of the environment's own renderer.

    Environments of lerax accept no other class, and classes of lerax can't be subclassed.
    """

    def __init__(self, canvas: HeadlessPygameRenderer, kind: type) -> None:
        self._canvas = canvas
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._canvas, name)

    @property
    def __class__(self) -> type:
        return self._kind
