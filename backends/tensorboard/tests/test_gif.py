"""GIFs, read back by Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from metriplex_tensorboard.gif import encode_gif


def decode(gif: bytes) -> tuple[np.ndarray, list[int]]:
    """Frames uint8 `[time, height, width, 3]` and their durations in milliseconds."""
    with Image.open(io.BytesIO(gif)) as image:
        frames, durations = [], []
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB")))
            durations.append(int(image.info["duration"]))
        return np.stack(frames), durations


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_clip_of_few_colors_is_kept_exactly(time: int, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (rng.integers(1, 257), 3), dtype=np.uint8)
    frames = colors[rng.integers(0, len(colors), (time, height, width))]
    frames[1:][rng.random(time - 1) < 0.5] = frames[0]

    decoded, _ = decode(encode_gif(frames, 50.0))

    np.testing.assert_array_equal(decoded, frames)


def test_frames_that_are_alike_stay_frames() -> None:
    frames = np.full((7, 4, 5, 3), 9, dtype=np.uint8)

    decoded, durations = decode(encode_gif(frames, 50.0))

    np.testing.assert_array_equal(decoded, frames)
    assert durations == [20] * 7


def test_clip_of_many_colors_is_close_and_in_order() -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    base = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(0)), axis=-1)
    frames = np.stack([np.roll(base, 5 * index, axis=1) for index in range(10)])
    frames[..., 2] = rng.integers(0, 40, frames.shape[:3])

    decoded, _ = decode(encode_gif(frames, 50.0))

    error = np.abs(decoded[:, None].astype(int) - frames[None].astype(int)).mean((2, 3, 4))
    assert decoded.shape == frames.shape
    assert list(error.argmin(axis=1)) == list(range(10))
    assert error.diagonal().max() < 16


@pytest.mark.parametrize(
    ("fps", "count", "total"),
    [
        (50.0, 4, 80),
        (25.0, 3, 120),
        (30.0, 30, 1000),
        (48.0, 48, 1000),
        (15.0, 4, 270),
        (0.001, 2, 1_310_700),
    ],
)
def test_durations_add_up_to_the_length_of_the_clip(fps: float, count: int, total: int) -> None:
    frames = np.zeros((count, 2, 2, 3), dtype=np.uint8)

    _, durations = decode(encode_gif(frames, fps))

    assert sum(durations) == total
    assert max(durations) - min(durations) <= 10


def test_rate_above_fifty_is_played_at_fifty() -> None:
    _, durations = decode(encode_gif(np.zeros((5, 2, 2, 3), dtype=np.uint8), 240.0))

    assert durations == [20] * 5


def test_clip_repeats_for_ever() -> None:
    gif = encode_gif(np.zeros((2, 2, 2, 3), dtype=np.uint8), 50.0)

    with Image.open(io.BytesIO(gif)) as image:
        assert image.info["loop"] == 0


def test_clip_that_is_not_contiguous() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (3, 8, 9, 3), dtype=np.uint8)

    assert encode_gif(frames[::2, ::-1, ::2], 50.0) == encode_gif(
        np.ascontiguousarray(frames[::2, ::-1, ::2]), 50.0
    )


def test_frame_too_large_for_a_gif_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match=r"at most 65535 pixels a side; got 65536 x 1"):
        encode_gif(np.zeros((1, 1, 65536, 3), dtype=np.uint8), 50.0)
