"""Test the contract of renderers: the behaviour that every renderer must have."""

from __future__ import annotations

import abc
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriplex.testing.contract.base import raises
from metriplex.testing.drawing import DISPLAYS, draw_in_fresh_process, make_clip, to_host
from metriplex.testing.process import open_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from metriplex.plugins.interfaces import Renderer

_WIDTH, _HEIGHT = 64, 48
_PICTURE_BYTES = 640 * 480 * 3
_IN_A_ROW = 100
_WARM_UP = 10
_SECONDS = 120.0

_drawn: dict[type, tuple[str, list[str]]] = {}
"""Test class to the result of `draw_in_fresh_process`."""


class RendererContract(abc.ABC):
    """The tests that every renderer must pass; subclass it as `class TestMine(RendererContract)`.

    A renderer that passes makes videos with metriplex: in a training, in the drawing process, and
    on a machine without a display. The docstring of each test says what the test demands and how to
    fix a failure. A subclass implements `make_renderer` and `states`, and may override
    `bad_states` and `traceable`. Fixtures (such as one with `autouse=True` that skips without GL)
    work as in any test class.

    Attributes:
        traceable: True if states are pytrees of arrays, like those of environments in JAX. With
            False, for environments that jax can't trace, `select` is not tested under `jax.jit`.
    """

    traceable = True

    @abc.abstractmethod
    def make_renderer(self, width: int, height: int) -> Renderer:
        """Return a new renderer, whose methods have not been called.

        The renderer must be importable in another process: define its classes in a package or a
        module on Python's path, which the module of the test usually is not.

        Args:
            width: Width of a frame in pixels.
            height: Height of a frame in pixels.
        """

    @abc.abstractmethod
    def states(self) -> Sequence[Any]:
        """Return at least three arguments for `Renderer.select`, whose pictures all differ."""

    def bad_states(self) -> Sequence[Any]:
        """Return states that can't be drawn, such as one of another shape; none by default."""
        return ()

    @pytest.fixture(autouse=True)
    def _keeps_variables(self) -> Iterator[None]:
        """Restore the environment variables after each test."""
        before = dict(os.environ)
        yield
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)

    # ---- frames ---------------------------------------------------------------------------------

    def test_three_states_are_given(self) -> None:
        """`states` returns at least three states, which the other tests compare.

        To fix it, return three or more states from `states`.
        """
        assert len(self.states()) >= 3, f"`states` must give three or more; got {self.states()!r}"

    def test_a_frame_is_uint8_of_the_asked_size(self) -> None:
        """`render` returns a NumPy array, uint8 `[height, width, 3]`, RGB.

        To fix it, scale values to 0 to 255 and convert them to uint8, drop the alpha channel, and
        swap the axes if width is first.
        """
        with contextlib.closing(self.make_renderer(_WIDTH, _HEIGHT)) as renderer:
            frame = renderer.render(to_host(renderer.select(self.states()[0])))
            got = f"got {getattr(frame, 'dtype', type(frame))} {list(np.shape(frame))}"
        wanted = f"`render` must give a NumPy array, uint8 [{_HEIGHT}, {_WIDTH}, 3]; {got}"
        assert isinstance(frame, np.ndarray), wanted
        assert (frame.shape, frame.dtype) == ((_HEIGHT, _WIDTH, 3), np.uint8), wanted

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 5), (641, 479)])
    def test_frames_of_every_size(self, width: int, height: int) -> None:
        """Frames of every size are drawn exactly, from one pixel on, also odd sizes.

        To fix it, don't round sizes for a buffer or an encoder (encoders pad frames), and don't
        take sizes from the environment.
        """
        with contextlib.closing(self.make_renderer(width, height)) as renderer:
            shape = _draw(renderer, self.states()[0]).shape
        assert shape[:2] == (height, width), (
            f"a frame {width} pixels wide and {height} high was asked for; got {list(shape)}"
        )

    def test_a_picture_is_not_of_one_colour(self) -> None:
        """The picture of each state has at least two colours.

        To fix it, check the direction of the camera, the lights of the scene, and that the picture
        is drawn before it is read.
        """
        for index, frame in enumerate(self._frames()):
            colours = np.unique(frame.reshape(-1, frame.shape[-1]), axis=0)
            assert len(colours) > 1, f"all pixels of state {index} are {colours[0].tolist()}"

    def test_the_picture_moves_when_the_state_moves(self) -> None:
        """The pictures of any two of `states` differ.

        To fix it, check that `select` returns all parts that move, that `render` updates positions,
        and that `states` differ by more than a pixel.
        """
        frames = self._frames()
        for second in range(len(frames)):
            for first in range(second):
                same = np.array_equal(frames[first], frames[second])
                assert not same, f"states {first} and {second} give the same picture"

    def test_the_same_state_gives_the_same_pixels(self) -> None:
        """A frame depends on its state alone, not on earlier frames.

        To fix it, clear the picture first, and set all values that an earlier frame may have set.
        """
        states = list(self.states())
        order = [0, 0, *range(1, len(states)), 0, *reversed(range(len(states)))]
        first: dict[int, np.ndarray] = {}
        with contextlib.closing(self.make_renderer(_WIDTH, _HEIGHT)) as renderer:
            for number, index in enumerate(order):
                frame = _draw(renderer, states[index])
                known = first.setdefault(index, frame)
                assert np.array_equal(frame, known), (
                    f"state {index} was drawn otherwise as frame {number}, after the states "
                    f"{order[:number]}"
                )

    def test_two_renderers_draw_the_same_pixels(self) -> None:
        """Two renderers that draw in turns draw the same pixels.

        To fix it, remove values that differ between objects (random numbers, the time), and don't
        share state that drawing changes, such as a current GL context.
        """
        states = self.states()
        with (
            contextlib.closing(self.make_renderer(_WIDTH, _HEIGHT)) as first,
            contextlib.closing(self.make_renderer(_WIDTH, _HEIGHT)) as second,
        ):
            for index, state in enumerate(states):
                frames = _draw(first, state), _draw(second, state)
                assert np.array_equal(*frames), f"two renderers draw state {index} differently"

    # ---- life -----------------------------------------------------------------------------------

    def test_close_may_be_called_twice(self) -> None:
        """A second `close` does nothing.

        To fix it, forget resources once they are released.
        """
        renderer = self.make_renderer(_WIDTH, _HEIGHT)
        _draw(renderer, self.states()[0])
        renderer.close()
        renderer.close()

    def test_close_without_a_frame(self) -> None:
        """`close` works on a renderer that never drew.

        To fix it, release only resources that exist.
        """
        self.make_renderer(_WIDTH, _HEIGHT).close()

    def test_render_after_close_raises(self) -> None:
        """`render` after `close` raises, and neither crashes nor draws.

        To fix it, remember that the renderer is closed, and raise `metriplex.ClosedError`.
        """
        renderer = self.make_renderer(_WIDTH, _HEIGHT)
        selected = to_host(renderer.select(self.states()[0]))
        renderer.render(selected)
        renderer.close()
        raised = raises(lambda: renderer.render(selected))
        if not raised:
            renderer.close()
        assert raised, "`render` after `close` drew; raise `metriplex.ClosedError`"

    def test_a_hundred_renderers_in_a_row(self) -> None:
        """A hundred renderers that draw and are closed leave no file or thread open.

        To fix it, release in `close` all resources of `render`: contexts, files, threads.
        """
        state = self.states()[0]
        held: list[tuple[int, int]] = []
        for _ in range(_IN_A_ROW):
            with contextlib.closing(self.make_renderer(_WIDTH, _HEIGHT)) as renderer:
                _draw(renderer, state)
            held.append((len(open_files()), threading.active_count()))
        grown = _IN_A_ROW - _WARM_UP  # libraries may open files once, or a few times
        for kind, name in enumerate(("files", "threads")):
            more = held[-1][kind] - held[_WARM_UP - 1][kind]
            assert more < grown // 2, (
                f"{more} {name} stay open of the last {grown} renderers: `close` must release them"
            )

    def test_drawing_in_another_thread(self) -> None:
        """A renderer draws and is closed in another thread than the thread that made it.

        To fix it, acquire thread-bound resources at the first `render`, not before.
        """
        renderer = self.make_renderer(_WIDTH, _HEIGHT)
        states = [to_host(renderer.select(state)) for state in self.states()]
        drawn: list[np.ndarray] = []
        errors: list[BaseException] = []

        def draw() -> None:
            try:
                drawn.extend(np.array(renderer.render(selected)) for selected in states)
                renderer.close()
            except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
                errors.append(error)

        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        thread.join(_SECONDS)
        assert not thread.is_alive(), f"drawing in another thread hangs for {_SECONDS:g} s"
        if errors:
            raise errors[0]
        assert len(drawn) == len(states)

    def test_bad_states_raise_and_do_no_harm(self) -> None:
        """A bad state raises an exception, and later good states are drawn correctly.

        To fix it, check the arguments of `select` and `render` before any state is changed.
        """
        if not self.bad_states():
            pytest.skip("`bad_states` gives none")
        good = self.states()[0]
        with contextlib.closing(self.make_renderer(_WIDTH, _HEIGHT)) as renderer:
            before = _draw(renderer, good)
            for index, bad in enumerate(self.bad_states()):
                raised = raises(lambda bad=bad: _draw(renderer, bad))
                assert raised, f"bad state {index} raised no exception"
                after = _draw(renderer, good)
                assert np.array_equal(before, after), (
                    f"after bad state {index} a good one is drawn otherwise"
                )

    # ---- selection ------------------------------------------------------------------------------

    def test_select_works_in_compiled_programs(self) -> None:
        """`select` returns the same values with and without `jax.jit` and `jax.vmap`.

        To fix it, compute with `jax.numpy` only: no `float`, no `if` on values.
        """
        if not self.traceable:
            pytest.skip("`traceable` is False")
        renderer = self.make_renderer(_WIDTH, _HEIGHT)
        states = [jax.tree.map(jnp.asarray, state) for state in self.states()]
        plain = [renderer.select(state) for state in states]
        jitted = [jax.jit(renderer.select)(state) for state in states]
        batched = jax.vmap(renderer.select)(jax.tree.map(lambda *leaf: jnp.stack(leaf), *states))
        for index, expected in enumerate(plain):
            _compare(expected, jitted[index], "jax.jit")
            _compare(expected, jax.tree.map(lambda leaf, i=index: leaf[i], batched), "jax.vmap")

    def test_select_gives_arrays_in_plain_containers(self) -> None:
        """`select` returns the state itself, or at least one array in dicts, lists and tuples.

        To fix it, return the arrays of your own objects instead of the objects.
        """
        renderer = self.make_renderer(_WIDTH, _HEIGHT)
        for state in self.states():
            selected = renderer.select(state)
            if selected is not state:
                _check_plain(selected, "select(state)")
            leaves = jax.tree.leaves(selected)
            assert leaves, "`select` gave no array at all"
            for leaf in leaves:
                assert isinstance(leaf, np.ndarray | jax.Array | np.generic | int | float), (
                    f"`select` must give arrays; got a `{type(leaf).__name__}`"
                )

    def test_a_frame_sends_less_than_a_picture(self) -> None:
        """`select` returns fewer bytes than a picture of the default size, 640 by 480 pixels, has.

        They are sent from the device to the host for every frame; `pytest -rP` shows their number.
        To fix it, select only the values that are drawn, and none that stay the same.
        """
        renderer = self.make_renderer(_WIDTH, _HEIGHT)
        for index, state in enumerate(self.states()):
            leaves = jax.tree.leaves(to_host(renderer.select(state)))
            size = sum(leaf.nbytes for leaf in leaves)
            print(f"{type(renderer).__name__}: {size} bytes a frame")  # noqa: T201 - shown by -rP
            assert size < _PICTURE_BYTES, (
                f"`select` gives {size} bytes for state {index}; a picture has {_PICTURE_BYTES}"
            )

    # ---- processes ------------------------------------------------------------------------------

    def test_a_process_without_a_display_makes_a_clip(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A renderer that never drew is pickled, and makes a clip in the drawing process.

        To fix it, create objects that can't be pickled at the first `render`, not before, and draw
        off-screen: `DISPLAY` and `WAYLAND_DISPLAY` are not set.
        """
        for name in DISPLAYS:
            monkeypatch.delenv(name, raising=False)
        renderer = self.make_renderer(_WIDTH, _HEIGHT)
        states = [to_host(renderer.select(state)) for state in self.states()]
        result = make_clip(renderer, states, _SECONDS)
        assert result.error is None, f"{result.error}\n{result.details}"
        clip = result.clips["gif"]
        assert (clip.num_frames, clip.width, clip.height) == (len(states), _WIDTH, _HEIGHT)

    def test_a_fresh_process_prints_nothing(self, tmp_path: Path) -> None:
        """Neither the first import nor a frame prints to the standard output.

        To fix it, disable greetings of libraries, and log instead of printing.
        """
        printed, _ = self._draw_in_fresh_process(tmp_path)
        assert not printed, f"drawing printed {printed!r}"

    def test_a_fresh_process_keeps_its_environment_variables(self, tmp_path: Path) -> None:
        """Importing, drawing and closing leave `os.environ` unchanged.

        To fix it, restore a variable once the library that needs it is loaded, or start a process
        of your own with the variable.
        """
        _, changed = self._draw_in_fresh_process(tmp_path)
        assert not changed, f"drawing changed the environment variables {', '.join(changed)}"

    def _draw_in_fresh_process(self, directory: Path) -> tuple[str, list[str]]:
        """Return the effects of one process on itself; all tests of the class share the process."""
        suite = type(self)
        if suite not in _drawn:
            renderer = self.make_renderer(_WIDTH, _HEIGHT)
            selected = to_host(renderer.select(self.states()[0]))
            _drawn[suite] = draw_in_fresh_process(renderer, selected, directory, _SECONDS)
        return _drawn[suite]

    def _frames(self) -> list[np.ndarray]:
        with contextlib.closing(self.make_renderer(_WIDTH, _HEIGHT)) as renderer:
            return [_draw(renderer, state) for state in self.states()]


def _draw(renderer: Renderer, state: Any) -> np.ndarray:
    """Return a copy of a frame, since a renderer may reuse its array."""
    return np.array(renderer.render(to_host(renderer.select(state))))


def _compare(expected: Any, got: Any, how: str) -> None:
    structures = jax.tree.structure(expected), jax.tree.structure(got)
    assert structures[0] == structures[1], f"under `{how}` `select` gives {structures[1]}"
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(
            np.asarray(other), np.asarray(one), 1e-5, 1e-6, err_msg=f"`select` under `{how}`"
        )


def _check_plain(selected: Any, path: str) -> None:
    if isinstance(selected, dict):
        for key, value in selected.items():
            _check_plain(value, f"{path}[{key!r}]")
    elif isinstance(selected, (list, tuple)):
        for index, value in enumerate(selected):
            _check_plain(value, f"{path}[{index}]")
    else:
        plain = selected is None or isinstance(selected, np.ndarray | jax.Array | np.generic)
        assert plain, f"`{path}` is a `{type(selected).__name__}`, neither an array nor a container"
