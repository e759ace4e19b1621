from __future__ import annotations

import dataclasses

import pytest

from metriplex.demo.environment import Transform, Viewport


@pytest.mark.parametrize(
    ("y_up", "point", "pixel"),
    [
        (True, (0.0, 0.0), (320.0, 460.0)),
        (True, (1.5, 2.0), (470.0, 260.0)),
        (False, (0.0, 0.0), (320.0, 20.0)),
        (False, (1.5, 2.0), (470.0, 220.0)),
    ],
)
def test_a_point_becomes_a_pixel(y_up, point, pixel):
    transform = Transform(width=640, height=480, scale=100.0, offset=(320.0, 20.0), y_up=y_up)
    assert transform.to_pixel(point) == pixel


def test_a_viewport_has_the_size_of_its_transform_and_cannot_be_changed():
    viewport = Viewport(Transform(width=320, height=200, scale=1.0))
    assert (viewport.width, viewport.height) == (320, 200)
    assert viewport.background_color == (1.0, 1.0, 1.0)
    assert viewport == Viewport(Transform(width=320, height=200, scale=1.0))
    assert len({viewport, Viewport(Transform(width=320, height=200, scale=1.0))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(viewport, "transform", viewport.transform)  # noqa: B010 - ty knows it can't be
