"""The plugin, and the renderer that it makes for an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from metriplex import ClosedError, Diagnosis, Renderer, hookimpl
from metriplex_pygame.arguments import Color, DrawingError, check_size, read_color
from metriplex_pygame.example import Ball, BallState
from metriplex_pygame.headless import WHITE, HeadlessPygameRenderer
from metriplex_pygame.sdl import load_pygame, nothing_opens
from metriplex_pygame.transform import Transform

if TYPE_CHECKING:
    import numpy as np


@final
class PygameRendererPlugin:
    """Renders environments that draw themselves in two dimensions.

    Those have `render(state, renderer)` and `default_renderer()`, and aren't MuJoCo's. With
    `to_draw(state)`, which is traced, an environment picks what `render` is given of a state.

    Args:
        background_color: Red, green and blue in [0, 1] of an empty picture; None for what the
            environment's `default_renderer()` has, and white if it has none.

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
    """Lets an environment draw its states into a picture of the asked size.

    It shows what the environment's `default_renderer()` shows, undistorted and centred. That is
    asked at the first `render`, while pygame can't open anything. Pickled, this is nothing but the
    environment and the size.

    Args:
        env: The environment.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        background_color: Of an empty picture; None for the environment's own.

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
        """What the environment's `to_draw(state)` gives, if it has that; else the whole state."""
        to_draw = getattr(self._env, "to_draw", None)
        return state if to_draw is None else to_draw(state)

    def render(self, selected: Any) -> np.ndarray:
        """Has the environment draw a state.

        Args:
            selected: The state, its leaves NumPy arrays.

        Returns:
            uint8 `[height, width, 3]`, RGB; a new array, read-only.

        Raises:
            DrawingError: The environment draws at NaN, or its `default_renderer()` doesn't say how
                world units become pixels.
            metriplex.ClosedError: After `close`.
            Exception: Whatever the environment's `render` raises.
        """
        if self._closed:
            raise ClosedError("`render` was called after `close`: make a new renderer")
        if self._canvas is None:
            self._canvas = self._make_canvas()
        self._canvas.clear()
        self._env.render(selected, self._canvas)
        return self._canvas.as_array()

    def close(self) -> None:
        """Lets go of the surface; may be called twice, and without a `render` before."""
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


def _view(default: Any, env: Any) -> tuple[Transform, Color]:
    if not hasattr(default, "transform"):
        raise DrawingError(
            f"`default_renderer()` of `{type(env).__name__}` must give an object with a "
            f"`transform`, which says how world units become pixels; got {default!r}"
        )
    return Transform.like(default.transform), getattr(default, "background_color", WHITE)


@final
class _StandIn:
    """A canvas that passes for an instance of the class of the environment's own renderer.

    Environments of lerax refuse to draw with anything else, and its classes can't be derived from.
    """

    def __init__(self, canvas: HeadlessPygameRenderer, kind: type) -> None:
        self._canvas = canvas
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._canvas, name)

    @property
    def __class__(self) -> type:
        return self._kind
