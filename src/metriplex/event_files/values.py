"""Convert the summaries of event files to records."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping  # noqa: TC003 - part of public annotations
from typing import Any, final

import numpy as np

from metriplex.event_files.protobuf import (
    Message,
    double,
    inner,
    last,
    parse_message,
    signed,
    text,
    unpack,
    varints,
)
from metriplex.journal.entries import Close, Hparams, Record
from metriplex.records import Clip, Histogram, Image, Scalar, Scalars, Text, Video

# Fields of Summary.Value.
_TAG, _SIMPLE, _IMAGE, _HISTOGRAM, _AUDIO, _TENSOR, _METADATA = 1, 2, 4, 5, 6, 8, 9

# Types of TensorProto: NumPy's dtype, and the repeated field that holds the values.
_TENSORS: Mapping[int, tuple[str, int]] = {
    1: ("<f4", 5),
    2: ("<f8", 6),
    3: ("<i4", 7),
    4: ("u1", 7),
    5: ("<i2", 7),
    6: ("i1", 7),
    9: ("<i8", 10),
    10: ("?", 11),
    17: ("<u2", 7),
    19: ("<f2", 13),
    22: ("<u4", 16),
    23: ("<u8", 17),
}
_STRING, _STRINGS = 7, 8
_STATUS = {1: "finished", 2: "failed", 0: "interrupted"}


@final
class Values:
    """Converter of the summaries of one directory to records of one lane.

    The converter remembers the plugin of each tag, as event files name it only once.

    Args:
        lane: The lane of all records.
        damage: Called with a sentence for each value that can't be read.
    """

    def __init__(self, lane: int | None, damage: Callable[[str], None]) -> None:
        self._lane = lane
        self._damage = damage
        self._plugins: dict[str, str] = {}

    def records(self, summary: Message, step: int, time: float, where: str) -> Iterator[Record]:
        """Yield the records of one event of a file, whose name `where` is for reports of damage.

        `time` is in seconds since the Unix epoch.
        """
        scalars: dict[str, Scalar] = {}
        others: list[Record] = []
        for data in summary.get(1, ()):
            try:
                value = parse_message(data)
                tag = text(value, _TAG)
                if not tag:
                    raise ValueError("a value has no tag")
                found = self._read(tag, value, step, time)
            except ValueError as error:
                self._damage(f"{where}: a value at step {step} is left out: {error}")
                continue
            if isinstance(found, bool | int | float):
                scalars[tag] = found
            elif found is not None:
                others.append(found)
        if scalars:
            yield Scalars(step, scalars, None, self._lane, time)
        yield from others

    def _read(self, tag: str, value: Message, step: int, time: float) -> Record | Scalar | None:
        plugin = inner(inner(value, _METADATA), 1)
        name = text(plugin, 1)
        if name:
            self._plugins[tag] = name
        name = name or self._plugins.get(tag, "")
        stamp = {"step": step, "tag": tag, "lane": self._lane, "wall_time": time}
        if name == "hparams":
            return _hparams(last(plugin, 2, b""))
        if _SIMPLE in value:
            return unpack("<f", last(value, _SIMPLE, b""))
        if _IMAGE in value:
            return _picture(last(inner(value, _IMAGE), 4, b""), stamp)
        if _HISTOGRAM in value:
            return _old_histogram(inner(value, _HISTOGRAM), stamp)
        if _TENSOR in value:
            return _of_tensor(name, inner(value, _TENSOR), stamp)
        kind = "sound" if _AUDIO in value or name == "audio" else f"a value of plugin {name!r}"
        raise ValueError(f"`{tag}` is {kind}, which metriplex has no record for")


def _of_tensor(name: str, tensor: Message, stamp: dict[str, Any]) -> Record | Scalar:
    if last(tensor, 1, 0) == _STRING:
        strings: list[Any] = tensor.get(_STRINGS, [])
        if not all(isinstance(one, bytes) for one in strings):
            raise ValueError("a string is none")
        if name == "images":
            if len(strings) < 3:
                raise ValueError(f"`{stamp['tag']}` has no image")
            return _picture(strings[2], stamp)
        if name == "audio":
            raise ValueError(f"`{stamp['tag']}` is sound, which metriplex has no record for")
        return Text(text="\n\n".join(s.decode("utf-8", "replace") for s in strings), **stamp)
    array = _tensor(tensor)
    if name == "histograms":
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"`{stamp['tag']}` is no histogram")
        edges = np.append(array[:, 0], array[-1:, 1])
        return _histogram(edges, array[:, 2], stamp)
    if array.size != 1:
        raise ValueError(f"`{stamp['tag']}` is a tensor of plugin {name!r} of {array.size} values")
    return array.reshape(-1)[0].item()


def _tensor(tensor: Message) -> np.ndarray:
    kind, field = _TENSORS.get(last(tensor, 1, 0), ("", 0))
    if not kind:
        raise ValueError(f"tensors of type {last(tensor, 1, 0)} are unknown")
    shape = [signed(last(parse_message(one), 1, 0)) for one in inner(tensor, 2).get(2, ())]
    size = math.prod(shape)
    content = last(tensor, 4, b"")
    if content:
        array = np.frombuffer(content, kind)
    else:
        array = _numbers(tensor.get(field, []), kind, field)
        if array.size == 1 < size <= 2**20:  # the last value is repeated
            array = np.full(size, array[0])
    return array.reshape(shape)


def _numbers(found: list[Any], kind: str, field: int) -> np.ndarray:
    """Return the values of a repeated field, packed or unpacked."""
    dtype = np.dtype(kind)
    if field in (5, 6):  # float_val and double_val, of fixed size
        return np.frombuffer(b"".join(map(_bytes, found)), dtype)
    numbers: list[int] = []
    for one in found:
        numbers += varints(one) if isinstance(one, bytes) else [one]
    bits = np.array(numbers, np.uint64)
    # half_val holds the bits of float16
    return bits.astype(np.uint16).view(dtype) if field == 13 else bits.astype(dtype)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number is of another type")  # noqa: TRY004 - the file is wrong
    return value


def _old_histogram(message: Message, stamp: dict[str, Any]) -> Histogram:
    """Return the histogram of a `HistogramProto`, whose buckets have only upper limits."""
    limits = np.frombuffer(b"".join(map(_bytes, message.get(6, []))), "<f8")
    counts = np.frombuffer(b"".join(map(_bytes, message.get(7, []))), "<f8")
    if len(limits) != len(counts) or not len(limits):
        raise ValueError(f"`{stamp['tag']}` is no histogram")
    least, most = double(message, 1), double(message, 2)
    filled = np.flatnonzero(counts)
    if not filled.size:
        raise ValueError(f"`{stamp['tag']}` is an empty histogram")
    first, end = filled[0], filled[-1] + 1
    lower = limits[first - 1] if first else min(least, limits[0])
    edges = np.concatenate([[lower], limits[first:end]])
    edges[0] = max(edges[0], least) if least < edges[1] else edges[0]
    edges[-1] = min(edges[-1], most) if most > edges[-2] else edges[-1]
    return _histogram(edges, counts[first:end], stamp)


def _histogram(edges: np.ndarray, counts: np.ndarray, stamp: dict[str, Any]) -> Histogram:
    """Return a histogram; a bin of zero width, of equal values, becomes the narrowest bin."""
    edges, counts = np.asarray(edges, np.float64), np.asarray(counts, np.float64)
    if not np.isfinite(edges).all() or not np.isfinite(counts).all():
        raise ValueError(f"`{stamp['tag']}` is a histogram that is not finite")
    if not (counts >= 0).all() or not (counts < 2**62).all():
        raise ValueError(f"`{stamp['tag']}` is a histogram with counts that are none")
    edges = edges.copy()
    for index in np.flatnonzero(edges[1:] <= edges[:-1]):
        edges[index + 1] = np.nextafter(edges[index], np.inf)
    return Histogram(counts=np.round(counts).astype(np.int64), edges=edges, **stamp)


def _picture(data: bytes, stamp: dict[str, Any]) -> Image | Video:
    """Return an image, or a video if the picture is animated."""
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise ValueError(
            "pictures need Pillow, which is not installed; to install it: `pip install "
            "'metriplex[event-files]'`"
        ) from error
    try:
        with Pillow.open(io.BytesIO(data)) as picture:
            kind, frames = str(picture.format).lower(), getattr(picture, "n_frames", 1)
            if frames == 1 or kind not in ("gif", "webp"):
                return Image(pixels=np.array(picture.convert("RGB"), np.uint8), **stamp)
            duration = 0.0
            for index in range(frames):
                picture.seek(index)
                duration += picture.info.get("duration", 0) / 1000 or 0.1
            fps = frames / duration
            clip = Clip(data, kind, picture.width, picture.height, frames, fps, duration)
    except Exception as error:
        raise ValueError(f"`{stamp['tag']}` is a picture that can't be read: {error}") from error
    return Video(frames=None, fps=fps, clips={kind: clip}, **stamp)


def _hparams(content: bytes) -> Hparams | Close | None:
    """Return the hyper-parameters or the status in the plugin data of a session."""
    data = parse_message(content)
    if 3 in data:
        found: dict[str, Scalar | str] = {}
        for item in inner(data, 3).get(1, ()):
            entry = parse_message(item)
            value = _hparam(inner(entry, 2))
            if value is not None and (name := text(entry, 1)):
                found[name] = value
        return Hparams(found)
    if 4 in data:
        return Close(_STATUS.get(last(inner(data, 4), 1, 0), "interrupted"))
    return None


def _hparam(value: Message) -> Scalar | str | None:
    if 2 in value:
        return double(value, 2)
    if 3 in value:
        return text(value, 3)
    if 4 in value:
        return bool(last(value, 4, 0))
    return None
