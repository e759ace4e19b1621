from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from metriplex import Viewport
from metriplex_pygame import DrawingError, HeadlessPygameRenderer


def read(transform):
    return HeadlessPygameRenderer(8, 6, transform=transform).transform


def test_arrays_without_dimension_are_read():
    arrays = SimpleNamespace(
        width=np.int32(4),
        height=np.array(3),
        scale=np.float32(0.5),
        offset=np.array([1, 2]),
        y_up=False,
    )
    assert read(arrays) == Viewport(4.0, 3.0, 0.5, (1.0, 2.0), y_up=False)


@pytest.mark.parametrize(
    "change",
    [{"scale": np.nan}, {"scale": 0.0}, {"height": -1}, {"offset": (1, 2, 3)}, {"offset": None}],
)
def test_what_is_no_transform_is_an_error(change):
    good = {"width": 4, "height": 3, "scale": 1.0, "offset": (0.0, 0.0), "y_up": True}
    with pytest.raises(DrawingError, match="scale"):
        read(SimpleNamespace(**{**good, **change}))
    with pytest.raises(DrawingError, match="has no attribute 'width'"):
        read(SimpleNamespace(offset=(0, 0)))
