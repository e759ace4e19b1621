"""Animated GIFs (CompuServe's GIF89a): the one format that TensorBoard's IMAGES tab plays.

Without ffmpeg, Pillow compresses the frames; the file around them is written here, because Pillow's
own animation writer merges frames that are alike.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from metriplex.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_COLORS = 256
_SAMPLED_FRAMES = 16
_EXTENSION, _CONTROL, _TRAILER = 0x21, 0xF9, 0x3B


def set_durations(gif: bytes, durations: Sequence[int]) -> bytes:
    """Replaces the duration of each frame.

    Args:
        gif: A file in which every frame has a graphic control extension.
        durations: In hundredths of a second, one a frame.

    Returns:
        The new file.

    Raises:
        VideoError: The file doesn't have that many frames.
    """
    data = bytearray(gif)
    try:
        controls, images = _frames(data)
    except IndexError:
        controls, images = [], 0
    if not len(controls) == images == len(durations):
        raise VideoError(
            f"the encoder was given {len(durations)} frames and made a GIF of {images}: its ffmpeg "
            f"may be too old or damaged; `pip install --force-reinstall imageio-ffmpeg`"
        )
    for control, duration in zip(controls, durations, strict=True):
        struct.pack_into("<H", data, control, duration)
    return bytes(data)


def _frames(data: bytearray) -> tuple[list[int], int]:
    """Where the duration of each frame stands, and how many frames there are."""
    durations, images = [], 0
    position = 13 + _table_size(data[10])
    while data[position] != _TRAILER:
        if data[position] == _EXTENSION:
            if data[position + 1] == _CONTROL:
                durations.append(position + 4)
            position += 2
        else:
            images += 1
            position += 11 + _table_size(data[position + 9])
        while data[position]:
            position += data[position] + 1
        position += 1
    return durations, images


def _table_size(flags: int) -> int:
    """Bytes of the color table that follows a descriptor with these flags."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def write_gif(
    read: Callable[[int], np.ndarray], durations: Sequence[int], colors: frozenset[int] | None
) -> bytes:
    """Makes a GIF that repeats for ever, every frame once and in order, by Pillow.

    Args:
        read: Gives frame `index`, uint8 `[height, width, 3]`.
        durations: How long each frame is shown, in hundredths of a second.
        colors: The colors of the clip as `0xRRGGBB`, if there are at most 256: it is then kept
            exactly. None: they are more, and one palette is found for all frames.

    Returns:
        The file.
    """
    from PIL import GifImagePlugin, Image

    height, width, _ = read(0).shape
    palette = _exact_palette(colors) if colors is not None else _octree_palette(read, durations)
    table = None if colors is None else _lookup_table(palette)
    palette_image = Image.new("P", (1, 1))
    palette_image.putpalette(palette.tobytes())

    parts = [
        b"GIF89a",
        struct.pack("<HHBBB", width, height, 0xF7, 0, 0),
        palette.tobytes().ljust(3 * _COLORS, b"\0"),
        b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00",
    ]
    shown: np.ndarray | None = None
    for index, duration in enumerate(durations):
        if table is None:
            image = Image.fromarray(read(index))
            quantized = image.quantize(palette=palette_image, dither=Image.Dither.NONE)
            indices = np.asarray(quantized)
        else:
            indices = table[_packed(read(index))]
        rows, columns = _changed_box(indices, shown)
        patch = Image.fromarray(np.ascontiguousarray(indices[rows, columns]))
        offset = (columns.start, rows.start)
        parts += GifImagePlugin.getdata(patch, offset, duration=10 * duration)
        shown = indices
    return b"".join((*parts, b";"))


def add_colors(colors: frozenset[int] | None, frame: np.ndarray) -> frozenset[int] | None:
    """Adds a frame's colors, as `0xRRGGBB`, to those of a clip; None as soon as they are over 256.

    Args:
        colors: The colors so far.
        frame: uint8 `[height, width, 3]`.
    """
    from PIL import Image

    if colors is None:
        return None
    counted = Image.fromarray(np.ascontiguousarray(frame)).getcolors(_COLORS)
    if counted is None:
        return None
    colors = colors.union(int(_packed(np.array(color, np.uint8))) for _, color in counted)
    return colors if len(colors) <= _COLORS else None


def _packed(colors: np.ndarray) -> np.ndarray:
    """uint8 `[..., 3]` to one int32 each."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _exact_palette(colors: frozenset[int]) -> np.ndarray:
    ordered = np.array(sorted(colors), dtype=">u4")
    return ordered.view(np.uint8).reshape(-1, 4)[:, 1:]


def _lookup_table(palette: np.ndarray) -> np.ndarray:
    table = np.zeros(1 << 24, dtype=np.uint8)
    table[_packed(palette)] = np.arange(len(palette))
    return table


def _octree_palette(read: Callable[[int], np.ndarray], durations: Sequence[int]) -> np.ndarray:
    from PIL import Image

    count = len(durations)
    chosen = np.linspace(0, count - 1, min(count, _SAMPLED_FRAMES)).astype(int)
    montage = np.concatenate([read(int(index)) for index in chosen])
    quantized = Image.fromarray(montage).quantize(_COLORS, method=Image.Quantize.FASTOCTREE)
    return np.array(quantized.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)[:_COLORS]


def _changed_box(indices: np.ndarray, shown: np.ndarray | None) -> tuple[slice, slice]:
    """Rows and columns that differ from what is shown, at least one pixel: a frame can't be empty.

    The result slices `indices`, int `[height, width]`.
    """
    if shown is None:
        return slice(0, indices.shape[0]), slice(0, indices.shape[1])
    changed = indices != shown
    rows = np.flatnonzero(changed.any(axis=1))
    if not rows.size:
        return slice(0, 1), slice(0, 1)
    columns = np.flatnonzero(changed[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
