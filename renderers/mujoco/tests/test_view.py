from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import metriplex
from metriplex_mujoco import FreeCamera, HeadlessMujocoRenderer
from metriplex_mujoco.context import import_mujoco

mujoco = import_mujoco()

Draw = Callable[..., np.ndarray]


def test_a_camera_is_named_or_numbered(draw: Draw) -> None:
    side = draw(camera="side")
    np.testing.assert_array_equal(draw(camera=0), side)
    np.testing.assert_array_equal(draw(camera=1), draw(camera="top"))
    assert (draw(camera="top") != side).mean() > 0.3


def test_a_free_camera_looks_from_where_it_is_put(draw: Draw) -> None:
    default = draw()
    np.testing.assert_array_equal(draw(camera=FreeCamera()), default)
    assert (draw(camera={"azimuth": 0.0}) != default).mean() > 0.2
    ball = draw(camera={"lookat": (-0.8, 0, 0.3), "distance": 0.9, "elevation": -5.0})
    red, green, blue = (int(level) for level in ball[24, 32])
    assert green > 2 * red
    assert green > 2 * blue
    flat = draw(camera=FreeCamera(orthographic=True))
    assert (flat != default).mean() > 0.2


def test_a_tracking_camera_follows(model: Any, data: Any, draw: Draw) -> None:
    followed = draw(camera=FreeCamera(track="cart", distance=2.0))
    data.qpos[0] += 1.0
    model.geom_rgba[model.geom("floor").id] = 0.5
    left = draw(camera=FreeCamera(distance=2.0))
    still = draw(camera=FreeCamera(track="cart", distance=2.0))

    def reds(frame: np.ndarray) -> float:
        red = (frame[..., 0] > 100) & (frame[..., 1] < 60)
        return float(np.argwhere(red)[:, 1].mean()) if red.any() else np.inf

    assert abs(reds(still) - reds(followed)) < 3
    assert abs(reds(left) - reds(followed)) > 10


def test_a_camera_named_track_is_the_default() -> None:
    model = mujoco.MjModel.from_xml_string("""
        <mujoco><worldbody><camera name="other"/><camera name="track" mode="trackcom"/>
        <geom size="1"/></worldbody></mujoco>""")
    view = HeadlessMujocoRenderer(model, 64, 48)._view
    assert view.make_camera(model).fixedcamid == 1


@pytest.mark.long
def test_flags_and_groups_choose_what_is_seen(draw: Draw) -> None:
    default = draw(camera="side")
    no_sky = draw(camera="side", flags={"skybox": False})
    assert no_sky[0, 0].max() == 0
    assert default[0, 0].max() > 50
    assert (draw(camera="side", flags={"transparent": True}) != default).mean() > 0.05
    all_groups = draw(camera="side", groups={"geom": [0, 3]})
    assert ((all_groups != default).any(-1)).sum() > 10, "the sphere of group 3"
    np.testing.assert_array_equal(draw(camera="side", groups={"geom": range(3)}), default)
    nothing = draw(camera="side", groups={"geom": []})
    assert nothing[-1].std() < no_sky.std()


@pytest.mark.long
def test_labels_frames_and_contacts_are_drawn(draw: Draw) -> None:
    glass = {"transparent": True}
    default = draw(160, 120, flags=glass)
    for options in (
        {"label": "body", "flags": glass},
        {"frame": "world", "flags": glass},
        {"flags": {"contactpoint": True, **glass}},
        {"flags": {"CONTACTFORCE": True, **glass}},
    ):
        assert (draw(160, 120, **options) != default).any(-1).sum() > 10, options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": "best"}, "`quality` .* 'fast', 'full'; got 'best'"),
        ({"camera": "front"}, r"the camera 'front', which .* it has \['side', 'top'\]"),
        ({"camera": 2}, "the camera 2, which"),
        ({"camera": -1}, "the camera -1, which"),
        ({"camera": True}, "`camera` .* got True"),
        ({"camera": {"height": 3}}, "`camera` .* 'lookat', .* got 'height'"),
        ({"camera": FreeCamera(track="dog")}, r"the body 'dog', which .*'world', 'cart'"),
        ({"flags": {"shadows": False}}, "`flags` .* 'transparent', .* 'shadow', .* got 'shadows'"),
        ({"flags": 7}, "`flags` .* must be a mapping; got 7"),
        ({"groups": {"geoms": [0]}}, "`groups` .* 'geom', .* got 'geoms'"),
        ({"groups": {"geom": [6]}}, r"`groups\['geom'\]` .* from 0 to 5.* got \[6\]"),
        ({"label": "bodies"}, "`label` .* 'body', .* got 'bodies'"),
        ({"frame": "frame"}, "`frame` .* 'world'; got 'frame'"),
    ],
)
def test_names_that_nobody_knows_are_errors_at_once(
    model: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(metriplex.ConfigurationError, match=message):
        HeadlessMujocoRenderer(model, 64, 48, **options)
