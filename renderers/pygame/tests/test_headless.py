from __future__ import annotations

import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import jax.numpy as jnp
import numpy as np
import pytest

from metriplex import ConfigurationError, Viewport
from metriplex_pygame import DrawingError, HeadlessPygameRenderer
from metriplex_pygame.sdl import load_pygame

RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def red(canvas):
    return canvas.as_array()[..., 0] / 255


def test_an_empty_picture_has_the_background_color():
    canvas = HeadlessPygameRenderer(5, 3, (0.2, 0.5, 1.0))
    frame = canvas.as_array()
    assert (frame.shape, frame.dtype) == ((3, 5, 3), np.uint8)
    np.testing.assert_array_equal(frame, np.full((3, 5, 3), [51, 128, 255]))
    np.testing.assert_array_equal(HeadlessPygameRenderer(2, 2).as_array(), 255)


def test_frames_are_new_arrays(make_canvas):
    canvas = make_canvas()
    before = canvas.as_array()
    canvas.draw_rect((20, 15), 40, 30, RED)
    assert before.max() == 0
    assert canvas.as_array()[..., 0].min() == 255
    canvas.clear()
    assert canvas.as_array().max() == 0


@pytest.mark.parametrize(
    ("y_up", "rows"), [(False, slice(4, 8)), (True, slice(22, 26))], ids=["down", "up"]
)
@pytest.mark.parametrize(("scale", "offset"), [(1.0, (0.0, 0.0)), (2.0, (-6.0, 1.0))])
def test_a_rectangle_lies_where_the_transform_says(make_canvas, y_up, rows, scale, offset):
    canvas = make_canvas(scale=scale, offset=offset, y_up=y_up)
    corner, size = np.array([10.0, 4.0]), np.array([6.0, 4.0])
    center = (corner + size / 2 - offset) / scale
    canvas.draw_rect(center, w=size[0] / scale, h=size[1] / scale, color=RED)
    expected = np.zeros((30, 40, 3))
    expected[rows, 10:16] = (255, 0, 0)
    np.testing.assert_array_equal(canvas.as_array(), expected)


def test_without_a_transform_the_origin_is_the_lower_left_corner():
    canvas = HeadlessPygameRenderer(8, 6)
    canvas.draw_rect((0.5, 0.5), 1, 1, BLUE)
    frame = canvas.as_array()
    assert frame[5, 0].tolist() == [0, 0, 255]
    assert (frame == 255).all(-1).sum() == 47


def test_half_a_pixel_is_half_the_color(make_canvas):
    canvas = make_canvas()
    canvas.draw_rect((10.25, 10.5), 0.5, 1, RED)
    canvas.draw_rect((20.5, 10.5), 1, 1, (0.5, 0.0, 0.0))
    assert red(canvas)[10, 10] == pytest.approx(0.5, abs=0.005)
    assert red(canvas)[10, 20] == pytest.approx(128 / 255)
    assert red(canvas).sum() == pytest.approx(1.0, abs=0.01)


def test_a_circle_is_a_filled_disc(make_canvas):
    canvas = make_canvas(scale=4.0)
    canvas.draw_circle(center=(5.0, 3.5), radius=2.5, color=RED)
    y, x = np.mgrid[:30, :40] + 0.5
    distance = np.hypot(x - 20, y - 14)
    np.testing.assert_allclose(red(canvas), np.clip(10.5 - distance, 0, 1), atol=0.12)
    assert red(canvas)[distance < 9.2].min() == 1
    assert red(canvas)[distance > 10.8].max() == 0
    assert red(canvas).sum() == pytest.approx(100 * math.pi, rel=0.005)


def test_an_ellipse_is_filled_and_has_its_width_and_height(make_canvas):
    canvas = make_canvas()
    canvas.draw_ellipse(center=(20, 15), w=30, h=10, color=RED)
    filled = red(canvas)
    assert filled[15, 6:34].min() == 1
    assert filled[11:19, 20].min() == 1
    assert (
        filled[:10].max() == filled[20:].max() == filled[:, :5].max() == filled[:, 35:].max() == 0
    )
    assert filled.sum() == pytest.approx(75 * math.pi, rel=0.005)


def test_a_line_is_as_thick_as_it_says_in_world_units_and_has_round_ends(make_canvas):
    canvas = make_canvas(scale=2.0)
    canvas.draw_line(start=(5, 7), end=(15, 7), color=RED, width=3.0)
    filled = red(canvas)
    assert filled[11:17, 10:30].min() == 1
    assert filled[:11].max() == filled[17:].max() == 0
    assert filled[14, 7] == pytest.approx(1.0, abs=0.1)
    assert filled[14, :7].max() == 0
    assert filled[11, 7] < 0.1
    assert filled.sum() == pytest.approx(20 * 6 + 9 * math.pi, rel=0.01)


@pytest.mark.parametrize("width", [0.0, 0.2])
def test_a_line_is_never_thinner_than_a_pixel(make_canvas, width):
    canvas = make_canvas()
    canvas.draw_line((5, 10.5), (35, 10.5), RED, width)
    assert red(canvas)[10, 5:35].min() == 1
    assert red(canvas).sum() == pytest.approx(30 + math.pi / 4, abs=0.1)


def test_a_polygon_is_filled(make_canvas):
    canvas = make_canvas()
    canvas.draw_polygon([(5, 5), (25, 5), (5, 25)], GREEN)
    green = canvas.as_array()[..., 1]
    assert green[6, 6] == green[10, 18] == 255
    assert green[20, 20] == green[4, 10] == 0
    assert green.sum() / 255 == pytest.approx(200, abs=1)
    assert canvas.as_array()[..., [0, 2]].max() == 0


@pytest.mark.parametrize(("pixel_ratio", "thickness"), [(1.0, 2), (2.0, 4), (0.1, 1)])
def test_a_polyline_passes_its_points_and_is_thin(make_canvas, pixel_ratio, thickness):
    canvas = make_canvas(pixel_ratio=pixel_ratio)
    canvas.draw_polyline([(5.0, 6.0), (30.0, 6.0), (30.0, 26.0)], RED)
    filled = red(canvas)
    assert filled[:, 15].sum() == pytest.approx(thickness, abs=0.01)
    assert filled[16].sum() == pytest.approx(thickness, abs=0.01)
    assert filled[6 - 1 : 6 + 1, 30 - 1 : 30 + 1].max() > 0.9
    assert filled[16, 15] == 0


def test_later_shapes_lie_on_top(make_canvas):
    canvas = make_canvas()
    canvas.draw_rect((20, 15), 20, 20, RED)
    canvas.draw_circle((20, 15), 5, GREEN)
    frame = canvas.as_array()
    assert frame[15, 20].tolist() == [0, 255, 0]
    assert frame[7, 12].tolist() == [255, 0, 0]
    assert frame[2, 2].tolist() == [0, 0, 0]


def test_text_is_centred(make_canvas):
    canvas = make_canvas(120, 60)
    canvas.draw_text(center=(60, 30), text="HOH", color=RED, size=30)
    rows, columns = np.nonzero(red(canvas) > 0.5)
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(60, abs=1.5)
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(30, abs=4)
    assert 12 < np.ptp(rows) < 30
    np.testing.assert_array_equal(canvas.as_array()[..., 1:], 0)


def test_text_grows_with_the_picture_and_keeps_its_lines(make_canvas):
    def extent(text, **options):
        canvas = make_canvas(200, 100, **options)
        canvas.draw_text((100, 50), text, RED, 20)
        rows, columns = np.nonzero(red(canvas))
        return np.ptp(rows) + 1, np.ptp(columns) + 1

    one, two, large = extent("HH"), extent("HH\nH"), extent("HH", pixel_ratio=2.0)
    assert two[0] > 2 * one[0]
    assert two[1] == one[1]
    np.testing.assert_allclose(large, 2 * np.array(one), atol=2)


@pytest.mark.parametrize(("text", "size"), [("", 12), ("H", 0), ("H", 0.2), ("\n", 12)])
def test_no_text_draws_nothing(make_canvas, text, size):
    canvas = make_canvas()
    canvas.draw_text((20, 15), text, RED, size)
    assert canvas.as_array().max() == 0


def test_text_at_the_edge_is_cut_off(make_canvas):
    canvas = make_canvas()
    canvas.draw_text((0, 0), "MMMMMM", RED, 30)
    canvas.draw_text((1e9, 1e9), "MMMMMM", RED, 30)
    assert red(canvas)[:10, :10].max() == 1
    assert red(canvas)[20:].max() == 0


def test_text_leaves_no_font_module_behind(make_canvas):
    make_canvas().draw_text((20, 15), "never drawn before", RED, 11)
    assert not load_pygame().font.get_init()
    assert not load_pygame().get_init()


@pytest.mark.parametrize("convert", [tuple, np.array, jnp.array], ids=["python", "numpy", "jax"])
def test_numbers_may_come_from_anywhere(make_canvas, convert):
    canvas, plain = make_canvas(), make_canvas()
    number = (lambda value: value) if convert is tuple else convert
    canvas.draw_circle(convert((12.5, 8.25)), number(4.5), convert((0.5, 0.25, 1.0)))
    canvas.draw_line(convert((1.0, 2.0)), (number(30.0), 20.0), BLUE, number(2.0))
    canvas.draw_polyline(convert(((1.0, 2.0), (3.0, 4.0))), convert(RED))
    plain.draw_circle((12.5, 8.25), 4.5, (0.5, 0.25, 1.0))
    plain.draw_line((1, 2), (30, 20), BLUE, 2)
    plain.draw_polyline([[1, 2], [3, 4]], RED)
    np.testing.assert_array_equal(canvas.as_array(), plain.as_array())


def test_a_color_may_be_an_object_and_is_cut_to_its_range(make_canvas):
    canvas = make_canvas()
    canvas.draw_rect((20, 15), 40, 30, SimpleNamespace(r=np.float32(1.5), g=-0.5, b=0.5))
    np.testing.assert_array_equal(canvas.as_array(), np.full((30, 40, 3), [255, 0, 128]))


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("draw_circle", ((20, 15), 0, RED)),
        ("draw_rect", ((20, 15), 0, 9, RED)),
        ("draw_ellipse", ((20, 15), 9, 0, RED)),
        ("draw_polygon", ([], RED)),
        ("draw_polygon", (np.empty((0, 2)), RED)),
        ("draw_polygon", ([(1, 2), (30, 20)], RED)),
        ("draw_polyline", ([], RED)),
        ("draw_circle", ((-50, 15), 20, RED)),
        ("draw_line", ((-9, 40), (90, 40), RED, 5)),
        ("draw", ()),
        ("open", ()),
    ],
)
def test_what_encloses_nothing_or_lies_outside_draws_nothing(make_canvas, call, arguments):
    canvas = make_canvas()
    getattr(canvas, call)(*arguments)
    assert canvas.as_array().max() == 0


def test_a_line_of_no_length_is_a_dot(make_canvas):
    canvas = make_canvas()
    canvas.draw_line((20, 15), (20, 15), RED, 10)
    assert red(canvas).sum() == pytest.approx(25 * math.pi, rel=0.05)


def test_what_reaches_beyond_the_picture_is_cut_off(make_canvas):
    canvas = make_canvas()
    canvas.draw_circle((0, 0), 10, RED)
    canvas.draw_line((-1e6, 20.5), (1e6, 20.5), GREEN, 1.0)
    frame = canvas.as_array()
    assert frame[0, 0].tolist() == [255, 0, 0]
    np.testing.assert_array_equal(frame[20, :, 1], 255)
    assert red(canvas).sum() == pytest.approx(25 * math.pi, rel=0.01)


@pytest.mark.parametrize(
    ("call", "arguments", "told"),
    [
        ("draw_circle", ((math.nan, 0), 1, RED), r"`center` of `draw_circle`.*finite.*nan"),
        ("draw_circle", ((1, 0), math.inf, RED), r"`radius` of `draw_circle`.*finite.*inf"),
        ("draw_circle", ((1, 0), -1, RED), r"`radius` of `draw_circle`.*0 or more.*-1"),
        ("draw_circle", ((1, 0), [1, 2], RED), r"`radius` of `draw_circle`.*shape \(2,\)"),
        ("draw_circle", ((1, 0, 2), 1, RED), r"`center` of `draw_circle`.*shape \(3,\)"),
        ("draw_circle", ((1, 0), 1, "red"), r"`color` of `draw_circle`.*got 'red'"),
        ("draw_circle", ((1, 0), 1, (1, 0)), r"`color` of `draw_circle`.*shape \(2,\)"),
        ("draw_circle", ((1, 0), 1, (1, 0, math.nan)), r"`color` of `draw_circle`.*nan"),
        ("draw_line", ((0, 0), (0, math.nan), RED, 1), r"`end` of `draw_line`.*nan"),
        ("draw_line", ((0, 0), None, RED, 1), r"`end` of `draw_line`"),
        ("draw_line", ((0, 0), (0, 1), RED, -1), r"`width` of `draw_line`.*-1"),
        ("draw_rect", ((0, 0), 1, math.nan, RED), r"`h` of `draw_rect`.*nan"),
        ("draw_ellipse", ((0, 0), -1, 1, RED), r"`w` of `draw_ellipse`.*-1"),
        ("draw_polygon", ([1, 2, 3], RED), r"`points` of `draw_polygon`.*shape \(3,\)"),
        ("draw_polygon", ([(1, 2), (3,)], RED), r"`points` of `draw_polygon`.*got \[\(1, 2\)"),
        ("draw_polyline", ([(1, 2), (3, math.inf)], RED), r"`points` of `draw_polyline`.*inf"),
        ("draw_text", ((math.nan, 0), "H", RED), r"`center` of `draw_text`.*nan"),
        ("draw_text", ((1, 0), "H", RED, -2), r"`size` of `draw_text`.*-2"),
        ("draw_circle", ((1e300, 0), 1, RED), r"`draw_circle`.*1e\+12 pixels.*diverged"),
        ("draw_line", ((0, 0), (1, 1), RED, 1e20), r"`draw_line`.*1e\+12 pixels"),
    ],
)
def test_what_can_t_be_drawn_is_an_error_that_names_it(make_canvas, call, arguments, told):
    canvas = make_canvas()
    with pytest.raises(DrawingError, match=told):
        getattr(canvas, call)(*arguments)
    assert canvas.as_array().max() == 0


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "640", None])
def test_sizes_are_whole_numbers(size):
    with pytest.raises(ConfigurationError, match="`width` of a picture must be a whole number"):
        HeadlessPygameRenderer(size, 10)
    with pytest.raises(ConfigurationError, match="`height` of a picture must be a whole number"):
        HeadlessPygameRenderer(10, size)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 5), (101, 33)])
def test_odd_and_tiny_pictures(size):
    width, height = size
    canvas = HeadlessPygameRenderer(width, height, (0, 0, 0), Viewport(width, height))
    canvas.draw_circle((width / 2, height / 2), 200, RED)
    canvas.draw_line((0, 0), size, GREEN, 1)
    canvas.draw_text((0, 0), "H", BLUE)
    assert canvas.as_array().shape == (height, width, 3)
    assert np.max(canvas.as_array()) > 100


def test_closing_twice_and_drawing_again(make_canvas):
    canvas = make_canvas()
    canvas.close()
    canvas.draw_rect((20, 15), 40, 30, RED)
    canvas.close()
    canvas.close()
    assert canvas.as_array().max() == 0
    canvas.open()
    canvas.draw_rect((20, 15), 40, 30, RED)
    assert red(canvas).min() == 1


@pytest.mark.parametrize("library", [pickle, cloudpickle])
def test_it_can_be_pickled_and_is_empty_then(make_canvas, library):
    canvas = make_canvas(pixel_ratio=2.0)
    canvas.draw_rect((20, 15), 40, 30, RED)
    copy = library.loads(library.dumps(canvas))
    assert copy.as_array().max() == 0
    assert (copy.width, copy.height, copy.transform, copy.pixel_ratio) == (
        40,
        30,
        canvas.transform,
        2.0,
    )


def draw_everything(canvas):
    canvas.clear()
    canvas.draw_ellipse((2.0, 1.5), 3.6, 2.6, (0.85, 0.9, 0.95))
    canvas.draw_circle((1.0, 2.0), 0.6, (0.9, 0.3, 0.2))
    canvas.draw_rect((3.0, 0.75), 1.1, 0.7, (0.2, 0.3, 0.5))
    canvas.draw_polygon([(2.5, 1.3), (3.7, 1.5), (3.2, 2.6), (2.9, 1.8)], (0.3, 0.6, 0.3))
    canvas.draw_line((0.4, 0.4), (2.2, 1.0), (0.85, 0.56, 0.3), 0.2)
    x = np.linspace(0.2, 3.8, 40)
    canvas.draw_polyline(np.stack([x, 1.4 + 0.4 * np.sin(3 * x)], 1), (0.1, 0.1, 0.1))
    canvas.draw()


def test_a_picture_of_all_shapes_is_as_it_was_when_somebody_looked(golden):
    canvas = HeadlessPygameRenderer(
        160, 120, (0.97, 0.97, 0.98), Viewport(160, 120, scale=40.0, offset=(0.0, 0.0))
    )
    draw_everything(canvas)
    golden(canvas.as_array(), "shapes")


def test_texts_that_differ_from_frame_to_frame_leave_no_file_open():
    canvas = HeadlessPygameRenderer(40, 20)

    def draw(number):
        canvas.draw_text((0, 0), f"{number} steps", (0, 0, 0), 12)
        return len(list(Path("/proc/self/fd").iterdir()))

    first = draw(-1)
    assert [draw(number) for number in range(20)] == [first] * 20
