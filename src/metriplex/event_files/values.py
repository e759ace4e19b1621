"""Convert the summaries of event files to records."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import Any, TypeAlias, final

import numpy as np

from metriplex.event_files.pictures import read_picture
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
from metriplex.records import Histogram, Scalar, Scalars, Text

Change: TypeAlias = Callable[[str], None]
"""A function that gets a sentence about a part of a value that its record has not."""

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
        self._unknown: collections.Counter[tuple[str, str]] = collections.Counter()

    def records(self, summary: Message, step: int, time: float, where: str) -> Iterator[Record]:
        """Yield the records of one event of a file, whose name `where` is for reports of damage.

        `time` is in seconds since the Unix epoch.
        """
        scalars: dict[str, Scalar] = {}
        others: list[Record] = []
        for data in summary.get(1, ()):
            tag = ""
            try:
                value = parse_message(data)
                tag = text(value, _TAG)
                if not tag:
                    raise ValueError("a value has no tag")
                found = self._read(tag, value, step, time)
            except _UnknownError as error:
                self._unknown[tag, str(error)] += 1
            except (ValueError, RecursionError) as error:
                self._damage(f"{where}: a value at step {step} is left out: {error}")
            else:
                if isinstance(found, list):
                    others += found
                else:
                    if tag in scalars:  # a second value of one event
                        yield Scalars(step, scalars, None, self._lane, time)
                        scalars = {}
                    scalars[tag] = found
        if scalars:
            yield Scalars(step, scalars, None, self._lane, time)
        yield from others

    def report_unknown(self, directory: Path) -> None:
        """Report the values of each tag for which there is no record, with their number."""
        for (tag, kind), count in self._unknown.items():
            self._damage(
                f"{directory}: {count} value(s) of `{tag}` left out: metriplex has no record for "
                f"{kind}"
            )
        self._unknown.clear()

    def _report_change(self, tag: str, step: int, change: str) -> None:
        self._damage(f"`{tag}` at step {step} is changed: {change}")

    def _read(self, tag: str, value: Message, step: int, time: float) -> list[Record] | Scalar:
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
        change = functools.partial(self._report_change, tag, step)
        if _IMAGE in value:
            return [read_picture(last(inner(value, _IMAGE), 4, b""), stamp, change)]
        if _HISTOGRAM in value:
            return [_old_histogram(inner(value, _HISTOGRAM), stamp, change)]
        if _TENSOR in value:
            return _of_tensor(name, inner(value, _TENSOR), stamp, change)
        raise _UnknownError("sound" if _AUDIO in value else f"plugin {name!r}")


@final
class _UnknownError(Exception):
    """A value is whole, and of a kind for which there is no record, which the text names."""


def _of_tensor(
    name: str, tensor: Message, stamp: dict[str, Any], change: Change
) -> list[Record] | Scalar:
    if last(tensor, 1, 0) == _STRING:
        strings: list[Any] = tensor.get(_STRINGS, [])
        if not all(isinstance(one, bytes) for one in strings):
            raise ValueError("a string is none")
        if name == "images":
            return _images(strings, stamp, change)
        if name not in ("", "text"):
            raise _UnknownError("sound" if name == "audio" else f"plugin {name!r}")
        text = "\n\n".join(one.decode("utf-8", "replace") for one in strings)
        if b"\n\n".join(strings) != text.encode():
            change("its bytes that are no UTF-8 are replaced")
        return [Text(text=text, **stamp)]
    array = _tensor(tensor)
    if name == "histograms":
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"`{stamp['tag']}` is no histogram")
        edges = np.append(array[:, 0], array[-1:, 1])
        return [_histogram(edges, array[:, 2], stamp, change)]
    if array.size != 1:
        raise _UnknownError(f"tensors of plugin {name!r}")
    return array.reshape(-1)[0].item()


def _images(strings: list[bytes], stamp: dict[str, Any], change: Change) -> list[Record]:
    """Return the images of one tag, which follow their width and height; later ones as `TAG/1`."""
    if len(strings) < 3:
        raise ValueError(f"`{stamp['tag']}` has no image")
    tags = [stamp["tag"], *(f"{stamp['tag']}/{index}" for index in range(1, len(strings) - 2))]
    return [
        read_picture(data, stamp | {"tag": tag}, change)
        for tag, data in zip(tags, strings[2:], strict=True)
    ]


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


def _old_histogram(message: Message, stamp: dict[str, Any], change: Change) -> Histogram:
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
    return _histogram(edges, counts[first:end], stamp, change)


def _histogram(
    edges: np.ndarray, counts: np.ndarray, stamp: dict[str, Any], change: Change
) -> Histogram:
    """Return a histogram; a bin of zero width, of equal values, becomes the narrowest bin."""
    edges, counts = np.asarray(edges, np.float64), np.asarray(counts, np.float64)
    if not np.isfinite(edges).all() or not np.isfinite(counts).all():
        raise ValueError(f"`{stamp['tag']}` is a histogram that is not finite")
    if not (counts >= 0).all() or not (counts < 2**62).all():
        raise ValueError(f"`{stamp['tag']}` is a histogram with counts that are none")
    edges = edges.copy()
    for index in np.flatnonzero(edges[1:] <= edges[:-1]):
        edges[index + 1] = np.nextafter(edges[index], np.inf)
    whole = np.round(counts)
    if (whole != counts).any():
        change("its counts are rounded to integers")
    return Histogram(counts=whole.astype(np.int64), edges=edges, **stamp)


def _hparams(content: bytes) -> list[Record]:
    """Return the hyper-parameters or the status in the plugin data of a session.

    What describes an experiment's columns, which the data of its sessions repeat, is no record.
    """
    data = parse_message(content)
    if 3 in data:
        found: dict[str, Scalar | str] = {}
        for item in inner(data, 3).get(1, ()):
            entry = parse_message(item)
            if name := text(entry, 1):
                found[name] = _hparam(inner(entry, 2))
        return [Hparams(found)]
    if 4 in data:
        return [Close(_STATUS.get(last(inner(data, 4), 1, 0), "interrupted"))]
    return []


def _hparam(value: Message) -> Scalar | str:
    """Return a `google.protobuf.Value`; its lists, structures and nulls as text."""
    if 2 in value:
        return double(value, 2)
    if 3 in value:
        return text(value, 3)
    if 4 in value:
        return bool(last(value, 4, 0))
    return str(_nested(value))


def _nested(value: Message) -> Any:
    if 5 in value:
        items = map(parse_message, inner(value, 5).get(1, ()))
        pairs = [(text(item, 1), _nested(inner(item, 2))) for item in items]
        return dict(sorted(pairs, key=lambda pair: pair[0]))  # a map of protobuf has no order
    if 6 in value:
        return [_nested(parse_message(item)) for item in inner(value, 6).get(1, ())]
    return _hparam(value) if value.keys() & {2, 3, 4} else None
