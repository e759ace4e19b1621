"""Clips in event files: as GIF or WebP, encoded already or not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from metriplex import Clip, ConfigurationError, Video
from metriplex_tensorboard import TensorBoardBackend

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)


def test_video_is_an_image_summary_with_the_tag_as_it_is(make_run, read_events, accumulate) -> None:
    """The event is that of `add_video` of tensorboardX 2.6.5, except for the GIF's bytes."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.log_video(run, Video(5_000_000_000, "eval/video", frames, fps=50.0, wall_time=1.7e9))
    backend.close_run(run, "finished")

    event = read_events(run.directory)[1]
    [value] = event.summary.value
    assert (event.step, value.tag, value.WhichOneof("value")) == (5 * 10**9, "eval/video", "image")
    assert not value.HasField("metadata")
    assert (value.image.height, value.image.width, value.image.colorspace) == (6, 8, 3)

    read = accumulate(run.directory)
    assert read.Tags()["images"] == ["eval/video"]
    [image] = read.Images("eval/video")
    assert (image.step, image.width, image.height) == (5_000_000_000, 8, 6)
    with Image.open(io.BytesIO(image.encoded_image_string)) as gif:
        assert (gif.format, gif.size) == ("GIF", (8, 6))
        assert len(list(ImageSequence.Iterator(gif))) == 4


def test_a_clip_that_is_encoded_already_is_stored_as_it_is(make_run, read_events) -> None:
    run = make_run()
    data = b"GIF89a of the render worker"
    clip = Clip(data, "gif", width=9, height=7, num_frames=4, fps=50.0, duration=0.08)
    backend = TensorBoardBackend()
    backend.open_run(run)
    backend.log_video(run, Video(4, "eval/video", None, 50.0, clips={"gif": clip}))
    backend.close_run(run, "finished")
    [value] = [value for event in read_events(run.directory) for value in event.summary.value]
    image = value.image
    assert (value.tag, image.width, image.height, image.colorspace) == ("eval/video", 9, 7, 3)
    assert image.encoded_image_string == data


def test_clips_may_be_stored_as_webp(make_run, read_events) -> None:
    run = make_run()
    backend = TensorBoardBackend(video_format="webp")
    backend.open_run(run)
    backend.log_video(run, Video(4, "eval/video", FRAMES, fps=20.0))
    backend.close_run(run, "finished")
    [value] = [value for event in read_events(run.directory) for value in event.summary.value]
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as webp:
        assert (webp.format, webp.size, getattr(webp, "n_frames", 1)) == ("WEBP", (8, 6), 3)


def test_a_format_that_tensorboard_does_not_show_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='`video_format` must be "gif" or "webp"'):
        TensorBoardBackend(video_format="mp4")  # ty: ignore[invalid-argument-type]
