from __future__ import annotations

import importlib.metadata
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

import metriplex
from metriplex_mujoco import Diagnosis, HeadlessMujocoRenderer, MujocoRendererPlugin


def test_the_entry_point_names_the_plugin() -> None:
    entries = importlib.metadata.entry_points(group="metriplex.renderers", name="mujoco")
    assert [entry.load() for entry in entries] == [MujocoRendererPlugin]


@pytest.mark.parametrize("name", ["mujoco_model", "mj_model"])
def test_environments_with_a_model_are_drawn(model: Any, name: str) -> None:
    plain = SimpleNamespace(**{name: model})
    plugin = MujocoRendererPlugin(camera="side")
    for env in (plain, SimpleNamespace(unwrapped=plain)):
        renderer = plugin.make_renderer(env, 64, 48)
        assert isinstance(renderer, HeadlessMujocoRenderer)
        assert isinstance(renderer, metriplex.Renderer)


def test_other_environments_are_left_to_other_plugins() -> None:
    plugin = MujocoRendererPlugin()
    for env in (SimpleNamespace(unwrapped=SimpleNamespace()), SimpleNamespace(mujoco_model=None)):
        assert plugin.make_renderer(env, 64, 48) is None


def test_options_reach_the_renderer(model: Any, data: Any, gl: str) -> None:
    env = SimpleNamespace(mujoco_model=model)
    frames = []
    choices: list[dict[str, Any]] = [{}, {"quality": "full"}]
    choices += [{"camera": {"azimuth": 10}}, {"label": "body"}]
    for options in choices:
        plugin = pickle.loads(pickle.dumps(MujocoRendererPlugin(**options)))
        renderer = plugin.make_renderer(env, 64, 48)
        assert renderer is not None
        frames.append(renderer.render(renderer.select(data)).tobytes())
        renderer.close()
    assert len(set(frames)) == len(frames)


def test_options_that_can_not_be_used() -> None:
    with pytest.raises(metriplex.ConfigurationError, match="`quality`"):
        MujocoRendererPlugin(quality="")
    with pytest.raises(metriplex.ConfigurationError, match="`camera`"):
        MujocoRendererPlugin(camera={"zoom": 2})


def test_a_model_of_another_kind_is_an_error() -> None:
    env = SimpleNamespace(unwrapped=SimpleNamespace(mujoco_model="<mujoco/>"))
    with pytest.raises(
        metriplex.ConfigurationError, match=r"`mujoco\.MjModel`; got `builtins\.str"
    ):
        MujocoRendererPlugin().make_renderer(env, 64, 48)


def test_the_plugin_says_what_would_work(gl: str) -> None:
    diagnosis = MujocoRendererPlugin().diagnose()
    assert isinstance(diagnosis, Diagnosis)
    assert diagnosis.backend == gl
