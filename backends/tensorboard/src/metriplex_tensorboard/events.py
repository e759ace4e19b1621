"""Serialized `Event` messages, one per record of an event file.

Scalars are encoded here, not by `SummaryWriter.add_scalar`, because a loop logs far more of them
than of anything else. Thousand scalars a second until they are durable in a closed file, with 1 /
20 values an event, on 2 cores (`benchmarks/event_files.py`): `SummaryWriter` 25 / 206 (`add_scalar`
always makes events of 1), tensorboardX's synchronous `EventsWriter` 175 / 773, this module and
`event_file` 386 / 3,274. All other events are made of tensorboardX's summaries and messages.

References:
    Protocol buffers' wire format: https://protobuf.dev/programming-guides/encoding/. The field
    numbers are those of TensorFlow's `event.proto` and `summary.proto`.
"""

from __future__ import annotations

import functools
import math
import struct
import time
from collections.abc import Callable, Mapping, Sequence  # noqa: TC003 - part of public annotations

import numpy as np
from tensorboardX import summary as summaries

from metriplex import Histogram, Image, LoggingError, Scalar, Scalars, Text, Video, encode_video
from metriplex_tensorboard.protos import (
    Event,
    HParamsPluginData,
    SessionEndInfo,
    SessionLog,
    Status,
    Summary,
    SummaryMetadata,
)

_FILE_VERSION = "brain.Event:2"
_STATUS = {"finished": "STATUS_SUCCESS", "failed": "STATUS_FAILURE"}

# Field keys: field number << 3 | wire type (0 varint, 1 eight bytes, 2 counted, 5 four bytes).
_EVENT_WALL_TIME = 1 << 3 | 1
_EVENT_STEP = 2 << 3 | 0
_EVENT_SUMMARY = bytes([5 << 3 | 2])
_SUMMARY_VALUE = bytes([1 << 3 | 2])
_VALUE_TAG = bytes([1 << 3 | 2])
_VALUE_SIMPLE = bytes([2 << 3 | 5])

_pack_head = struct.Struct("<BdB").pack


def scalar_event(record: Scalars) -> bytes:
    """Encode all the values of one step as one event.

    Values are rounded to float32, and to an infinity beyond its range, as by
    `SummaryWriter.add_scalar`. A `wall_time` of 0 stands for now. A step that is no int64 raises
    `LoggingError`.
    """
    parts, pack = _layout(tuple(record.values))
    parts = parts.copy()
    parts[1::2] = record.values.values()
    try:
        summary = pack(*parts)
    except (OverflowError, struct.error):  # the latter for some integers
        parts[1::2] = [_float32(value) for value in record.values.values()]
        summary = pack(*parts)
    head = _pack_head(_EVENT_WALL_TIME, record.wall_time or time.time(), _EVENT_STEP)
    return head + _varint(_int64(record.step)) + summary


@functools.lru_cache(maxsize=1024)
def _layout(tags: tuple[str, ...]) -> tuple[list[bytes | Scalar], Callable[..., bytes]]:
    """Return byte strings with room for a value after each, and the function that packs both.

    Cached, since a loop logs the same tags again and again.
    """
    prefixes = []
    for tag in tags:
        name = _utf8(tag)
        head = _VALUE_TAG + _varint(len(name)) + name + _VALUE_SIMPLE
        prefixes.append(_SUMMARY_VALUE + _varint(len(head) + 4) + head)
    size = sum(len(prefix) + 4 for prefix in prefixes)
    summary = _EVENT_SUMMARY + _varint(size)
    if not prefixes:
        return [summary], struct.Struct(f"<{len(summary)}s").pack
    prefixes[0] = summary + prefixes[0]
    parts: list[bytes | Scalar] = [part for prefix in prefixes for part in (prefix, 0.0)]
    return parts, struct.Struct("<" + "".join(f"{len(prefix)}sf" for prefix in prefixes)).pack


def _varint(value: int) -> bytes:
    """Encode a value, which is not negative, in base 128, least significant group first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _int64(step: int) -> int:
    if not -(2**63) <= step < 2**63:
        raise LoggingError(
            f"`step` must fit into a signed 64-bit integer, which is what an event file stores; "
            f"got {step}"
        )
    return step & 0xFFFF_FFFF_FFFF_FFFF


def _float32(value: Scalar) -> float:
    try:
        rounded = float(value)
        struct.pack("<f", rounded)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return rounded


def _utf8(text: str) -> bytes:
    """Encode a text as UTF-8; escape lone surrogates, which UTF-8 lacks, to keep the record."""
    return text.encode("utf-8", "backslashreplace")


def _text(text: str) -> str:
    return _utf8(text).decode("utf-8")


def head_events(purge_step: int | None) -> list[bytes]:
    """Return the events at the start of every file: the format's version, and a session's start.

    The start makes TensorBoard drop the records at `purge_step` and beyond in earlier files of the
    directory. It comes twice: TensorBoard's Python loader takes the first start in a directory as
    the start of the whole run, and purges at the second.
    """
    events = [Event(wall_time=time.time(), file_version=_FILE_VERSION)]
    if purge_step is not None:
        start = SessionLog(status=SessionLog.START)
        events += 2 * [Event(wall_time=time.time(), step=purge_step, session_log=start)]
    return [bytes(event.SerializeToString()) for event in events]


def text_event(text: Text) -> bytes:
    """Encode a text for TensorBoard's TEXT tab, as `SummaryWriter.add_text` does."""
    summary = summaries.text(_text(text.tag), _text(text.text))
    return _summary_event(summary, text.step, text.wall_time)


def video_event(video: Video, format: str) -> bytes:  # noqa: A002 - the name of `encode_video`
    """Encode a clip for TensorBoard's IMAGES tab, as `SummaryWriter.add_video` does."""
    clip = encode_video(video, format)
    image = Summary.Image(
        height=clip.height, width=clip.width, colorspace=3, encoded_image_string=clip.data
    )
    summary = Summary(value=[Summary.Value(tag=_text(video.tag), image=image)])
    return _summary_event(summary, video.step, video.wall_time)


def image_event(image: Image) -> bytes:
    """Encode a picture for TensorBoard's IMAGES tab, as `SummaryWriter.add_image` does."""
    summary = summaries.image(_text(image.tag), image.pixels, dataformats="HWC")
    return _summary_event(summary, image.step, image.wall_time)


def histogram_event(histogram: Histogram) -> bytes:
    """Encode a histogram for the HISTOGRAMS tab, as `SummaryWriter.add_histogram_raw` does.

    For the sums that the format requires, every value counts as the middle of its bin.
    """
    counts, edges = np.asarray(histogram.counts, float), np.asarray(histogram.edges, float)
    middles = (edges[:-1] + edges[1:]) / 2
    summary = summaries.histogram_raw(
        _text(histogram.tag),
        min=edges[0],
        max=edges[-1],
        num=counts.sum(),
        sum=counts @ middles,
        sum_squares=counts @ middles**2,
        bucket_limits=edges.tolist(),
        bucket_counts=[0.0, *counts.tolist()],
    )
    return _summary_event(summary, histogram.step, histogram.wall_time)


def hparams_events(hparams: Mapping[str, Scalar | str], metrics: Sequence[str]) -> list[bytes]:
    """Encode hyper-parameters for TensorBoard's HPARAMS tab, as `add_hparams` does.

    The two events describe the experiment and start the session. The tab shows the scalars whose
    tags are `metrics` beside the hyper-parameters.
    """
    clean = {_text(name): _hparam(value) for name, value in hparams.items()}
    experiment, start, _ = summaries.hparams(clean, dict.fromkeys(metrics, 0.0))
    return [_summary_event(summary, 0, 0.0) for summary in (experiment, start)]


def _hparam(value: Scalar | str) -> bool | float | str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)  # the tab takes finite numbers only


def session_end_event(status: str) -> bytes:
    """Encode the end of the session that `hparams_events` started.

    An interrupted run may be continued, so its status is unknown to TensorBoard.
    """
    end = SessionEndInfo(status=Status.Value(_STATUS.get(status, "STATUS_UNKNOWN")))
    content = HParamsPluginData(session_end_info=end, version=0).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    value = Summary.Value(
        tag="_hparams_/session_end_info", metadata=SummaryMetadata(plugin_data=plugin)
    )
    return _summary_event(Summary(value=[value]), 0, 0.0)


def _summary_event(summary: Summary, step: int, wall_time: float) -> bytes:
    _int64(step)
    event = Event(wall_time=wall_time or time.time(), step=step, summary=summary)
    return bytes(event.SerializeToString())
