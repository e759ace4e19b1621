"""The video arguments of a callback."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from memory import Memory
from metriplex import ConfigurationError, MetricsCallback, hookimpl
from metriplex.plugins.backends import Backend
from metriplex.plugins.renderers import create_renderer
from metriplex.video.options import VideoOptions
from metriplex.video.setup import prepare_videos
from video.cases import Dot, Line

if TYPE_CHECKING:
    from pathlib import Path


def prepare(env: object, backend: object | None = None, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "interval": 2,
        "num_steps": 6,
        "width": 32,
        "height": 16,
        "fps": 50.0,
        "mode": "thread",
    }
    renderer = options.pop("renderer") if "renderer" in options else Dot()
    video = VideoOptions(**{**settings, **options})
    return prepare_videos(env, [Backend("memory", backend or Memory())], renderer, video)


def test_equal_arguments_are_one_program() -> None:
    env, renderer = Line(), Dot()
    first, second = (prepare(env, renderer=renderer).program for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.parametrize("options", [{"interval": 3}, {"num_steps": 7}, {"width": 33}])
def test_other_arguments_are_another(options: dict[str, int]) -> None:
    env, renderer = Line(), Dot()
    assert (
        prepare(env, renderer=renderer).program
        != prepare(env, renderer=renderer, **options).program
    )


def test_another_environment_or_renderer_is_another() -> None:
    env, renderer = Line(), Dot()
    program = prepare(env, renderer=renderer).program
    assert program != prepare(Line(), renderer=renderer).program
    assert program != prepare(env, renderer=Dot()).program


def test_the_backends_decide_the_formats() -> None:
    class Gif:
        video_format = "gif"

        @hookimpl
        def log_video(self) -> None:
            pass

    class Deaf:
        @hookimpl
        def flush(self) -> None:
            pass

    assert prepare(Line(), Gif()).formats == ("gif",)
    assert prepare(Line(), Deaf()) is None
    assert prepare(Line()).formats == ("mp4",)


def test_an_interval_without_an_environment_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`video_interval=5` needs .*: pass `env=`"):
        MetricsCallback("run", log_dir=tmp_path, backends=Memory(), video_interval=5)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_played_is_a_warning_and_an_error_where_a_renderer_was_named() -> None:
    with pytest.warns(UserWarning, match=r"no renderer draws `object`"):
        assert prepare(object(), renderer=None) is None
    with pytest.raises(ConfigurationError, match=r"`object` can't be played: .*`initial`"):
        prepare(object())


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("gymnax", "GymnaxEnvironment(env, params)"),
        ("brax", "BraxEnvironment(env)"),
        ("mujoco_playground", "BraxEnvironment(env)"),
    ],
)
@pytest.mark.parametrize("layer", ["_env", "env", "unwrapped", None])
def test_the_adapter_of_a_known_family_is_named_and_no_renderer(
    package: str, call: str, layer: str | None
) -> None:
    family = type("Base", (), {"__module__": f"{package}.envs.base"})
    inner = type("Mine", (family,), {})()
    env = inner if layer is None else SimpleNamespace(**{layer: inner})
    with pytest.raises(ConfigurationError, match="can't be played: ") as unplayed:
        prepare(env)
    with pytest.warns(UserWarning, match="no renderer draws") as undrawn:
        assert prepare(env, renderer=None) is None
    (warning,) = undrawn
    for text in (str(unplayed.value), str(warning.message)):
        assert f"pass `env={call}`" in text
        assert "pip install" not in text


def test_an_environment_of_no_known_family_is_named_with_the_renderers_that_are_lacking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env: Any = SimpleNamespace()
    env.env = env  # a wrapper of itself
    entry = SimpleNamespace(name="mujoco")
    for installed, remedy in (
        ([], "`pip install metriplex-mujoco` or `pip install metriplex-pygame`, or pass"),
        ([entry], "Install one, `pip install metriplex-pygame`, or pass `renderer=`"),
        ([entry, SimpleNamespace(name="pygame")], "Pass `renderer=`"),
    ):
        monkeypatch.setattr("metriplex.plugins.renderers._plugins", lambda *_: [])
        monkeypatch.setattr(
            "metriplex.plugins.renderers.entry_points", lambda _, got=installed: got
        )
        with pytest.raises(ConfigurationError) as caught:
            create_renderer(None, env, 32, 16)
        assert remedy in str(caught.value)


def test_a_renderer_that_raises_while_it_is_made_is_a_warning_or_the_user_s_error() -> None:
    class Broken:
        @hookimpl
        def make_renderer(self) -> None:
            raise RuntimeError("no GL")

    with pytest.warns(UserWarning, match="RuntimeError: no GL"):
        assert prepare(Line(), renderer=Broken()) is None


def test_without_videos_nothing_of_them_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, metriplex\n"
        "with metriplex.MetricsCallback('run', log_dir=sys.argv[1], backends=[]): pass\n"
        "print(*[name for name in ('PIL', 'imageio', 'imageio_ffmpeg', "
        "'metriplex.video.setup') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.long
def test_without_cloudpickle_the_error_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['cloudpickle'] = None\n"
        "from metriplex import MetricsCallback, Renderer\n"
        "from metriplex.demo.cartpole import CartPole\n"
        "class Mine(Renderer):\n"
        "    def select(self, state): return state\n"
        "    def render(self, selected): pass\n"
        "    def close(self): pass\n"
        "MetricsCallback('run', CartPole(), log_dir=sys.argv[1], video_interval=1,\n"
        "    renderer=Mine(), video_worker=sys.argv[2])\n"
    )
    done = {
        mode: subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / mode), mode],
            capture_output=True,
            text=True,
            check=False,
        )
        for mode in ("process", "thread")
    }
    assert done["thread"].returncode == 0, done["thread"].stderr
    complaint = done["process"].stderr.strip().splitlines()[-1]
    assert complaint.startswith(
        "metriplex.errors.ConfigurationError: videos are drawn in a process"
    )
    assert "`pip install 'metriplex[video]'`" in complaint
    assert '`video_worker="thread"`' in complaint
