"""Choosing a renderer and an environment plugin among those that are installed."""

from __future__ import annotations

import importlib
import itertools
import logging
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import pytest

from metriplex import ConfigurationError, Environment, PluginError, hookimpl
from metriplex.plugins.renderers import adapt_environment, create_renderer
from video.cases import Dot, Line, taping

if TYPE_CHECKING:
    from pathlib import Path

_numbers = itertools.count()
Install = Callable[[str, str, str], str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution: a module and a `.dist-info` folder on `sys.path`."""

    def install(kind: str, name: str, source: str) -> str:
        module = f"plugin_{next(_numbers)}_of_the_test"
        site = tmp_path / module
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[metriplex.{kind}s]\n{name} = {module}:Plugin\n")
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        return module

    return install


RENDERER = """
    import numpy as np
    from metriplex import Renderer, hookimpl

    class Blank(Renderer):
        def __init__(self, *made): self.made = made
        def select(self, state): return state
        def render(self, selected): return np.zeros((4, 4, 3), np.uint8)
        def close(self): pass

    class Plugin:
        def __init__(self, color="red"): self.color = color
        @hookimpl
        def make_renderer(self, env, width, height):
            if getattr(env, "family", None) == "{family}":
                return Blank(self.color, env, width, height)
"""


class Family:
    def __init__(self, family: str) -> None:
        self.family = family
        self.asked: list[str] = []


def test_the_first_plugin_that_answers_draws(install: Install) -> None:
    install("renderer", "a", RENDERER.replace("{family}", "none"))
    second = install("renderer", "b", RENDERER.replace("{family}", "mine"))
    install("renderer", "c", RENDERER.replace("{family}", "mine"))
    env = Family("mine")
    made: Any = create_renderer(None, env, 64, 48)
    assert type(made).__module__ == second
    assert made.made == ("red", env, 64, 48)


def _order_of(install: Install, kind: str, source: str, hook: str) -> list[str]:
    """Return the names of installed plugins, in the order in which they are asked."""
    for name, mark in (("a", "trylast=True"), ("b", ""), ("c", ""), ("d", "tryfirst=True")):
        text = source.replace("@hookimpl", f"@hookimpl({mark})").replace("NAME", name)
        install(kind, name, text.replace("HOOK", hook))
    env = Family("mine")
    if kind == "renderer":
        with pytest.raises(ConfigurationError, match="no renderer draws"):
            create_renderer(None, env, 2, 2)
    else:
        assert adapt_environment(env) is None
    return env.asked


@pytest.mark.parametrize(
    ("kind", "hook"), [("renderer", "make_renderer"), ("environment", "adapt_environment")]
)
def test_tryfirst_and_trylast_change_the_order_of_asking(
    install: Install, kind: str, hook: str
) -> None:
    source = """
        from metriplex import hookimpl

        class Plugin:
            @hookimpl
            def HOOK(self, env):
                if hasattr(env, "asked"):
                    env.asked.append("NAME")
    """
    assert _order_of(install, kind, source, hook) == ["d", "b", "c", "a"]


def test_a_name_and_options_force_one(install: Install) -> None:
    for name in "ab":
        module = install("renderer", name, RENDERER.replace("{family}", "mine"))
    made: Any = create_renderer({"b": {"color": "blue"}}, Family("mine"), 2, 2)
    assert type(made).__module__ == module
    assert made.made[0] == "blue"
    made = create_renderer("b", Family("mine"), 2, 2)
    assert type(made).__module__ == module


def test_one_that_was_forced_and_does_not_answer_is_an_error(install: Install) -> None:
    install("renderer", "a", RENDERER.replace("{family}", "mine"))
    with pytest.raises(ConfigurationError, match=r"offered to `a` \(installed: .*`a`"):
        create_renderer("a", Family("other"), 2, 2)


def test_a_broken_renderer_is_skipped_unless_it_is_named(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("renderer", "a", "raise ImportError('no GL')")
    module = install("renderer", "b", RENDERER.replace("{family}", "mine"))
    assert type(create_renderer(None, Family("mine"), 2, 2)).__module__ == module
    (warning,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert "renderer `a` is skipped" in warning.getMessage()
    assert "no GL" in warning.getMessage()
    with pytest.raises(PluginError, match="no GL"):
        create_renderer("a", Family("mine"), 2, 2)


def test_a_misspelled_hook_is_skipped_unless_it_is_named(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("renderer", "a", RENDERER.replace("def make_renderer", "def make_rendrer"))
    module = install("renderer", "b", RENDERER.replace("{family}", "mine"))
    assert type(create_renderer(None, Family("mine"), 2, 2)).__module__ == module
    assert "renderer `a` is skipped" in caplog.text
    with pytest.raises(PluginError, match="Did you mean `make_renderer`"):
        create_renderer("a", Family("mine"), 2, 2)


def test_an_object_with_the_hook_is_asked_and_a_renderer_taken() -> None:
    class Mine:
        @hookimpl
        def make_renderer(self, env: object, width: int) -> Dot:
            return Dot(f"{width}")

    made = create_renderer(Mine(), Line(), 7, 8)
    assert isinstance(made, Dot)
    assert made.fault == "7"
    dot = Dot()
    assert create_renderer(dot, Line(), 7, 8) is dot


def test_what_is_no_renderer_is_named() -> None:
    class Mine:
        @hookimpl
        def make_renderer(self) -> Any:
            return "picture"

    with pytest.raises(ConfigurationError, match=r"renderer `Mine` gave a `str` for `Line`"):
        create_renderer(Mine(), Line(), 7, 8)


def test_what_is_no_environment_is_named(install: Install) -> None:
    source = """
        from metriplex import hookimpl

        class Plugin:
            @hookimpl
            def adapt_environment(self, env):
                return "game" if getattr(env, "family", None) == "mine" else None
    """
    install("environment", "wrong", source)
    with pytest.raises(ConfigurationError, match=r"environment `wrong` gave a `str` for `Family`"):
        adapt_environment(Family("mine"))


ENVIRONMENT = """
    import jax, jax.numpy as jnp
    from metriplex import Environment, hookimpl

    class Adapted(Environment):
        def __init__(self, env): self.env = env
        def reset(self, key): return {{"x": jnp.float32(0), "age": jnp.int32(0)}}
        def step(self, state, action, key):
            x = state["x"] + self.env.pace * action
            return {{"x": x, "age": state["age"] + 1}}, x > 3
        def observe(self, state, key): return state["x"]

    class Plugin:
        @hookimpl
        def adapt_environment(self, env):
            return Adapted(env) if hasattr(env, "pace") else None
"""


class Paced:
    name = "Paced"
    pace = 1.5


def test_an_environment_of_another_family_is_played_by_its_plugin(
    install: Install, tmp_path: Path
) -> None:
    class Keys(Dot):
        def select(self, state: Any) -> Any:
            return state

    install("environment", "paced", ENVIRONMENT.replace("{{", "{").replace("}}", "}"))
    adapted = adapt_environment(Paced())
    assert isinstance(adapted, Environment)
    assert adapt_environment(object()) is None
    with taping(tmp_path, Paced(), renderer=Keys()) as (metrics, tape):
        policy = jax.tree_util.Partial(lambda observation: jnp.float32(1))
        jax.jit(lambda metrics: metrics.on_iteration(metrics.init(1), policy=policy))(metrics)
        metrics.flush()
        assert tape.xs() == [0.0, 1.5, 3.0, 0.0, 1.5, 3.0]


def test_an_adapted_environment_is_taken_as_it_is() -> None:
    class Mine(Environment):
        def reset(self, key: Any) -> Any:
            return 0

        def step(self, state: Any, action: Any, key: Any) -> Any:
            return state, False

        def observe(self, state: Any, key: Any) -> Any:
            return state

    env = Mine()
    assert adapt_environment(env) is env
    assert env.traceable
    assert env.action_mask(0, None) is None
