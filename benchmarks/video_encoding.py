"""Measure the seconds, bytes and quality of an encoded clip: 256 frames, 640 x 480, 50 a second.

The contestants are the encoders of metriplex, `SummaryWriter.add_video` of tensorboardX with
moviepy (`pip install moviepy`), and PyAV with the same filters (`pip install av`); contestants that
are not installed are skipped. The scenes are a cart-pole of few colors, the demo's pendulum drawn
by MuJoCo, and a shaded scene that moves everywhere and has more colors than a palette. Each file is
decoded: the results are the PSNR over all frames, the number of distinct frames (all frames were
distinct), and the number of frames whose nearest frame in the given clip is at another place.

    python benchmarks/video_encoding.py [--short]
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import io
import math
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from _measure import is_short, print_machine, print_table, ratio, take_turns
from _states import states_of
from PIL import Image, ImageSequence
from tensorboardX import SummaryWriter

from metriplex.demo.pendulum import Pendulum
from metriplex.plugins.renderers import create_renderer
from metriplex.video.encode.clip import encode
from metriplex.video.encode.ffmpeg import find_ffmpeg
from metriplex_tensorboard.protos import Event

PEER = "`add_video` (moviepy)"
FPS = 50
HEIGHT, WIDTH = 480, 640

Encode: TypeAlias = Callable[[np.ndarray], bytes]


def cart_pole(count: int) -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    frames = np.full((count, HEIGHT, WIDTH, 3), 255, np.uint8)
    frames[:, 300:302] = 0
    for index, frame in enumerate(frames):
        x, angle = WIDTH * (0.5 + 0.3 * math.sin(index / 20)), 0.4 * math.sin(index / 7)
        frame[280:310, int(x) - 30 : int(x) + 30] = 0
        along = (columns - x) * math.sin(angle) - (rows - 280) * math.cos(angle)
        across = (columns - x) * math.cos(angle) + (rows - 280) * math.sin(angle)
        frame[(np.abs(across) < 5) & (along > 0) & (along < 200)] = (204, 153, 102)
    return frames


def pendulum(count: int) -> np.ndarray:
    renderer = create_renderer("mujoco", Pendulum(), WIDTH, HEIGHT)
    frames = [renderer.render(state) for state in states_of(Pendulum(), renderer, count)]
    renderer.close()
    return np.stack(frames)


def shaded(count: int) -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    sky = np.stack([60 + rows / 4, 90 + rows / 4, 160 + rows / 6], axis=-1)
    depth = 2000 / np.maximum(rows - 239, 1)
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    for index, frame in enumerate(frames):
        tiles = np.floor((columns - 320) * depth / 400 + index / 24) + np.floor(depth + index / 15)
        floor = (70 + 60 * (tiles % 2)) * np.clip(1 - depth / 200, 0.3, 1)
        image = np.where((rows > 240)[..., None], floor[..., None] * [0.8, 1.0, 1.2], sky)
        for ball in range(6):
            x = 320 + 150 * math.sin(index / 15 + ball)
            y = 250 + 80 * math.cos(index / 11 + 2 * ball)
            radius = 30 + 5 * ball
            right, up = (columns - x) / radius, (y - rows) / radius
            toward = np.sqrt(np.clip(1 - right**2 - up**2, 0, 1))
            light = 0.2 + 0.8 * np.clip(0.3 * up - 0.5 * right + 0.8 * toward, 0, 1)
            color = np.array([220 - 20 * ball, 150 + 10 * ball, 90 + 25 * ball])
            image = np.where((toward > 0)[..., None], light[..., None] * color, image)
        frame[...] = image.clip(0, 255)
    return frames


def add_video(frames: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        writer = SummaryWriter(directory)
        writer.add_video("eval/video", frames.transpose(0, 3, 1, 2)[None], 0, fps=FPS)
        writer.close()
        [path] = Path(directory).iterdir()
        data, clip, position = path.read_bytes(), b"", 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            event = Event.FromString(data[position + 12 : position + 12 + length])
            clip = next((v.image.encoded_image_string for v in event.summary.value), clip)
            position += 16 + length
        return clip


def metriplex_clip(kind: str, frames: np.ndarray) -> bytes:
    return encode(frames, fps=FPS, format=kind).data


def pyav_gif(frames: np.ndarray) -> bytes:
    """Encode a GIF with PyAV in this process, with the filters that metriplex passes to ffmpeg."""
    av: Any = importlib.import_module("av")

    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=WIDTH, height=HEIGHT, format="rgb24", time_base=Fraction(1, FPS)
    )
    split, palette = graph.add("split"), graph.add("palettegen")
    use = graph.add("paletteuse", "dither=none:diff_mode=rectangle")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    file = io.BytesIO()
    with av.open(file, "w", format="gif") as container:
        stream = container.add_stream("gif", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "pal8"
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, FPS)
            source.push(picture)
        source.push(None)
        for _ in frames:
            container.mux(stream.encode(sink.pull()))
        container.mux(stream.encode())
    return file.getvalue()


def decode(clip: bytes) -> np.ndarray:
    if clip[4:8] == b"ftyp":
        command = [find_ffmpeg() or "ffmpeg", "-v", "error", "-i", "-", "-fps_mode", "passthrough"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        raw = subprocess.run(command, input=clip, capture_output=True, check=True).stdout
        return np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    with Image.open(io.BytesIO(clip)) as image:
        return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])


def quality(clip: bytes, frames: np.ndarray) -> tuple[str, str, str]:
    """Return the PSNR in dB, the number of distinct frames, and that of misplaced frames."""
    decoded = decode(clip)
    got, given = (
        part[:, ::4, ::4].reshape(len(part), -1).astype(int) for part in (decoded, frames)
    )
    misplaced = 0
    for index, frame in enumerate(got):
        distances = np.abs(given - frame).mean(axis=1)
        misplaced += bool(index >= len(given) or distances[index] > distances.min() + 1e-3)
    squares = [
        np.square(np.float32(one) - two).mean() for one, two in zip(decoded, frames, strict=False)
    ]
    error = float(np.mean(squares))
    psnr = f"{10 * math.log10(255**2 / error):.1f}" if error else "exact"
    return psnr, str(distinct(decoded)), str(misplaced)


def distinct(frames: np.ndarray) -> int:
    return len({hashlib.blake2b(frame.tobytes()).digest() for frame in frames})


def measure(scene: str, frames: np.ndarray, encoders: dict[str, Encode], rounds: int) -> None:
    clips: dict[str, bytes] = {}

    def run(name: str) -> float:
        start = time.perf_counter()
        clips[name] = encoders[name](frames)
        return time.perf_counter() - start

    seconds = take_turns({name: functools.partial(run, name) for name in encoders}, rounds)
    titles = [
        f"{scene}, {distinct(frames)} distinct frames",
        "seconds",
        "times faster",
        "MB",
        "PSNR, dB",
    ]
    rows = []
    for name, clip in clips.items():
        faster = f"{ratio(seconds, PEER, name):.1f}" if PEER in encoders else "?"
        median = f"{statistics.median(seconds[name]):.2f}"
        rows.append((name, median, faster, f"{len(clip) / 1e6:.2f}", *quality(clip, frames)))
    print_table([*titles, "distinct", "misplaced"], rows)


def main() -> None:
    short = is_short(__doc__)
    count, rounds = (24, 1) if short else (256, 5)
    encoders: dict[str, Encode] = {}
    if importlib.util.find_spec("moviepy") is not None:
        encoders[PEER] = add_video
    encoders |= {
        f"metriplex, {kind}": functools.partial(metriplex_clip, kind)
        for kind in ("gif", "webp", "mp4")
    }
    if importlib.util.find_spec("av") is not None:
        encoders["PyAV, gif"] = pyav_gif
    print_machine("numpy", "pillow", "imageio-ffmpeg", "tensorboardX")
    if PEER not in encoders:
        print(f"{PEER} is not measured: moviepy is not installed\n")
    print(f"{count} frames, median of {rounds} rounds\n")
    for scene in (cart_pole, pendulum, shaded):
        measure(scene.__name__, scene(count), encoders, rounds)


if __name__ == "__main__":
    main()
