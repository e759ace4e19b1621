"""Animated GIFs: durations of frames, and the animation around stills that imageio compresses.

Only the animation is assembled here, because neither animation writer of imageio 2.38 fits.
Measured with NumPy 2.4 and Pillow 13: the Pillow plugin stores 7 equal frames as one frame, and
holds the whole clip (158 MB more for a clip of 115 MB). The streaming writer `GIF-PIL` raises a
`TypeError` when it crops a frame. Without cropping it writes 2.5 MB for 64 frames of the MuJoCo
pendulum (0.2 MB here), and files that Pillow can't decode for frames of few colors.

References:
    CompuServe, Graphics Interchange Format, version 89a:
    https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from metriplex.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_EXTENSION, _CONTROL, _IMAGE, _TRAILER = 0x21, 0xF9, 0x2C, 0x3B
_HEADER_BYTES = 13
_REPEAT_FOR_EVER = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
_KEEP_SHOWN = b"\x21\xf9\x04\x04\x00\x00\x00\x00"
"""A graphic control extension: the next image is drawn over those before it; duration 0."""


def set_durations(gif: bytes, durations: Sequence[int]) -> bytes:
    """Replace the duration of each frame; durations are hundredths of a second, one a frame.

    Raise `VideoError` if the file doesn't have that many frames, each with a graphic control
    extension.
    """
    try:
        blocks = list(_blocks(gif))
    except IndexError:
        blocks = []
    controls = [start + 4 for label, start, _ in blocks if label == _CONTROL]
    images = sum(label == _IMAGE for label, *_ in blocks)
    if not len(controls) == images == len(durations):
        raise VideoError(
            f"the encoder was given {len(durations)} frames and made a GIF of {images}: its ffmpeg "
            f"may be too old or damaged; `pip install --force-reinstall imageio-ffmpeg`"
        )
    data = bytearray(gif)
    for control, duration in zip(controls, durations, strict=True):
        struct.pack_into("<H", data, control, duration)
    return bytes(data)


def start_animation(width: int, height: int) -> bytes:
    """Return the first bytes of a GIF that repeats for ever; frames and `;` must follow."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + _REPEAT_FOR_EVER


def animation_frame(frame: np.ndarray, shown: np.ndarray | None) -> bytes:
    """Encode one frame, uint8 `[height, width, 3]`, with a palette of its own of up to 256 colors.

    Only the part that differs from `shown`, the frame before, is encoded; up to 256 colors in that
    part are kept exactly. The duration in the blocks is 0.
    """
    import imageio.v3 as imageio

    rows, columns = _changed_box(frame, shown)
    patch = np.ascontiguousarray(frame[rows, columns])
    still = imageio.imwrite("<bytes>", patch, plugin="pillow", extension=".gif", interlace=False)
    [(start, end)] = [(start, end) for label, start, end in _blocks(still) if label == _IMAGE]
    palette = still[_HEADER_BYTES : _HEADER_BYTES + _table_size(still[10])]
    height, width, _ = patch.shape
    flags = still[10] & 0x87  # a palette follows, of this size
    place = struct.pack("<BHHHHB", _IMAGE, columns.start, rows.start, width, height, flags)
    return _KEEP_SHOWN + place + palette + still[start + len(place) : end]


def _blocks(gif: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield label, start and end of each extension and each image of a file."""
    start = _HEADER_BYTES + _table_size(gif[10])
    while gif[start] != _TRAILER:
        if gif[start] == _EXTENSION:
            label, data = gif[start + 1], start + 2
        else:
            label, data = _IMAGE, start + 11 + _table_size(gif[start + 9])
        end = _end_of_data(gif, data)
        yield label, start, end
        start = end


def _end_of_data(gif: bytes, position: int) -> int:
    """Return the end of the data blocks at a position, each of which starts with its length."""
    while gif[position]:
        position += gif[position] + 1
    return position + 1


def _table_size(flags: int) -> int:
    """Return the bytes of the color table that follows a descriptor with these flags."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _changed_box(frame: np.ndarray, shown: np.ndarray | None) -> tuple[slice, slice]:
    """Return the rows and columns that changed, at least one pixel: a frame can't be empty."""
    if shown is None:
        return slice(0, frame.shape[0]), slice(0, frame.shape[1])
    changed = frame != shown
    rows = np.flatnonzero(changed.reshape(len(frame), -1).any(axis=1))
    if not rows.size:
        return slice(0, 1), slice(0, 1)
    columns = np.flatnonzero(changed[rows[0] : rows[-1] + 1].any(axis=0).any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
