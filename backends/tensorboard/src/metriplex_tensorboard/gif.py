"""Clips as animated GIFs (CompuServe's GIF89a): the one format that TensorBoard's IMAGES tab plays.

Pillow compresses the frames; the file around them is written here, because Pillow's own animation
writer merges frames that are alike.
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import GifImagePlugin, Image

_COLORS = 256
_SAMPLED_FRAMES = 16
_LARGEST = 0xFFFF
# Browsers show a frame of 1/100 s or less for 1/10 s.
_SHORTEST_DELAY = 2


def encode_gif(frames: np.ndarray, fps: float) -> bytes:
    """Encodes a clip that repeats for ever, every frame once and in order.

    Args:
        frames: uint8 `[time, height, width, 3]`, RGB. A clip of up to 256 colors is kept exactly;
            one of more gets one palette for all its frames.
        fps: Frames a second. Up to 50, every frame begins within 5 ms of its true time; a GIF
            that browsers play truly has no higher rate, so above that the clip takes longer.

    Returns:
        The file.

    Raises:
        ValueError: A frame is larger than a GIF can be, 65,535 pixels a side.
    """
    _, height, width, _ = frames.shape
    if max(height, width) > _LARGEST:
        raise ValueError(
            f"a GIF has at most {_LARGEST} pixels a side; got {width} x {height}: "
            f"render smaller frames"
        )
    palette = _exact_palette(frames)
    table = None if palette is None else _lookup_table(palette)
    if palette is None:
        palette = _octree_palette(frames)
    palette_image = _palette_image(palette)

    parts = [
        b"GIF89a",
        struct.pack("<HHBBB", width, height, 0xF7, 0, 0),
        palette.tobytes().ljust(3 * _COLORS, b"\0"),
        b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00",
    ]
    shown: np.ndarray | None = None
    for frame, delay in zip(frames, _delays(len(frames), fps), strict=True):
        if table is None:
            image = Image.fromarray(np.ascontiguousarray(frame))
            quantized = image.quantize(palette=palette_image, dither=Image.Dither.NONE)
            indices = np.asarray(quantized)
        else:
            indices = table[_packed(frame)]
        rows, columns = _changed_box(indices, shown)
        patch = Image.fromarray(np.ascontiguousarray(indices[rows, columns]))
        offset = (columns.start, rows.start)
        parts += GifImagePlugin.getdata(patch, offset, duration=10 * delay)
        shown = indices
    return b"".join((*parts, b";"))


def _delays(count: int, fps: float) -> list[int]:
    """Hundredths of a second for which each frame is shown; roundings don't add up."""
    starts = [round(100 * index / fps) for index in range(count + 1)]
    delays = np.diff(np.array(starts, dtype=object))
    return [min(max(int(delay), _SHORTEST_DELAY), _LARGEST) for delay in delays]


def _packed(colors: np.ndarray) -> np.ndarray:
    """uint8 `[..., 3]` to one int32 each."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _exact_palette(frames: np.ndarray) -> np.ndarray | None:
    """The colors of a clip, uint8 `[color, 3]`; None if there are too many of them."""
    colors: set[object] = set()
    for frame in frames:
        counted = Image.fromarray(np.ascontiguousarray(frame)).getcolors(_COLORS)
        if counted is None:
            return None
        colors.update(color for _, color in counted)
        if len(colors) > _COLORS:
            return None
    return np.array(sorted(colors, key=repr), dtype=np.uint8)


def _lookup_table(palette: np.ndarray) -> np.ndarray:
    table = np.zeros(1 << 24, dtype=np.uint8)
    table[_packed(palette)] = np.arange(len(palette))
    return table


def _octree_palette(frames: np.ndarray) -> np.ndarray:
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), _SAMPLED_FRAMES)).astype(int)
    montage = np.concatenate([frames[index] for index in chosen])
    quantized = Image.fromarray(montage).quantize(_COLORS, method=Image.Quantize.FASTOCTREE)
    return np.array(quantized.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)[:_COLORS]


def _palette_image(palette: np.ndarray) -> Image.Image:
    image = Image.new("P", (1, 1))
    image.putpalette(palette.tobytes())
    return image


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
