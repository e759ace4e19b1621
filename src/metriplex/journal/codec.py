"""Encode records as lines of a journal, and decode lines as records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping  # noqa: TC003 - part of public annotations
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import Any, TypeVar

import numpy as np

from metriplex.errors import ConfigurationError
from metriplex.journal import media
from metriplex.journal.entries import Close, Hparams, Record, Resume
from metriplex.journal.lines import (
    DamagedLineError,
    decode_values,
    encode_json,
    encode_values,
    is_count,
)
from metriplex.naming import check_name
from metriplex.records import Artifact, Clip, Histogram, Image, Lane, RunInfo, Scalars, Text, Video

VERSION = 1
"""Version of the format; a reader rejects a later one."""

HEADERS = ("run", "segment")
_Part = TypeVar("_Part")


def encode_header(run: RunInfo, kind: str, first: int, steps: Mapping[int | None, int]) -> str:
    """Return the first line of a segment, without its checksum.

    Args:
        run: The run.
        kind: `run` for the first segment, `segment` for all later ones.
        first: Number of the first record after the header.
        steps: The newest step of every lane before the header.
    """
    fields = {
        "n": first,
        "type": kind,
        "version": VERSION,
        "id": run.id,
        "name": run.name,
        "start_time": _time(run.start_time),
        "total_steps": run.total_steps,
        "steps": [[lane, step] for lane, step in steps.items()],
    }
    lanes = (
        f'{{"name":{encode_json(lane.name)},{encode_values(lane.hparams)}}}' for lane in run.lanes
    )
    return f'{encode_json(fields)[:-1]},"lanes":[{",".join(lanes)}]'


def decode_header(fields: Mapping[str, Any], run_dir: Path) -> RunInfo:
    """Return the run of a segment from its first line.

    Raises:
        DamagedLineError: The line is no header, or its version of the format is a later one.
    """
    if fields.get("type") not in HEADERS:
        raise DamagedLineError("it is no header")
    if fields.get("version") != VERSION:
        raise DamagedLineError(
            f"it is of version {fields.get('version')!r} of the format, and this is "
            f"{VERSION}: read it with a newer metriplex"
        )
    return RunInfo(
        id=_text(fields, "id"),
        name=_name(fields),
        directory=run_dir,
        start_time=_number(fields, "start_time"),
        total_steps=_optional(fields, "total_steps", _integer),
        lanes=_lanes(fields.get("lanes")),
    )


def _lanes(found: Any) -> tuple[Lane, ...]:
    if not isinstance(found, list) or not all(isinstance(lane, dict) for lane in found):
        raise DamagedLineError("its `lanes` are no list")
    return tuple(Lane(_name(lane), decode_values(lane, strings=True)) for lane in found)


def _name(fields: Mapping[str, Any]) -> str:
    """Return the member `name`, checked to be one path component."""
    name = _text(fields, "name")
    try:
        check_name(name)
    except ConfigurationError as error:
        raise DamagedLineError(str(error)) from error
    return name


def header_steps(fields: Mapping[str, Any]) -> dict[int | None, int]:
    """Return the newest step of every lane before a segment; raise `DamagedLineError` without."""
    try:
        steps = {lane: step for lane, step in fields["steps"]}  # noqa: C416 - checks the pairs
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedLineError("it has no steps") from error
    if not all((lane is None or is_count(lane)) and type(s) is int for lane, s in steps.items()):
        raise DamagedLineError("it has no steps")
    return steps


def encode(number: int, record: Record, run_dir: Path, *, sync: bool) -> str:
    """Return a record as a line without its checksum, after writing the record's media files.

    With `sync`, the files survive a power cut.

    Raises:
        OSError: A media file can't be written, or an artifact can't be read.
        ValueError: An artifact is outside of the run's directory.
    """
    if isinstance(record, Scalars):
        return (
            f'{{"n":{number},"type":"scalars","step":{record.step:d},'
            f'"iteration":{_null(record.iteration)},"lane":{_null(record.lane)},'
            f'"time":{_time(record.wall_time)!r},{encode_values(record.values)}'
        )
    head = f'{{"n":{number},"type":"{_KINDS[type(record)]}",'
    if isinstance(record, Hparams):
        return head + encode_values(record.values)
    if isinstance(record, Resume):
        return f'{head}"step":{record.step:d}'
    if isinstance(record, Close):
        return f'{head}"status":{encode_json(record.status)}'
    fields = _encode_media(number, record, run_dir, sync=sync)
    stamp = f'"step":{record.step:d},"lane":{_null(record.lane)},"time":{_time(record.wall_time)!r}'
    return f"{head}{stamp},{encode_json(fields)[1:-1]}"


_KINDS: Mapping[type, str] = {
    Scalars: "scalars",
    Hparams: "hparams",
    Resume: "resume",
    Close: "close",
    Text: "text",
    Video: "video",
    Image: "image",
    Histogram: "histogram",
    Artifact: "artifact",
}


def _encode_media(
    number: int,
    record: Text | Video | Image | Histogram | Artifact,
    run_dir: Path,
    *,
    sync: bool,
) -> dict[str, Any]:
    if isinstance(record, Text):
        return {"tag": record.tag, "text": record.text}
    if isinstance(record, Histogram):
        counts, edges = np.asarray(record.counts).tolist(), np.asarray(record.edges).tolist()
        return {"tag": record.tag, "counts": counts, "edges": edges}
    if isinstance(record, Artifact):
        return {
            "name": record.name,
            "path": record.path.relative_to(run_dir).as_posix(),
            "directory": record.path.is_dir(),
            "files": media.refer(record.path, run_dir, sync=sync),
        }
    paths = media.numbered(run_dir, number)
    if isinstance(record, Image):
        path = next(paths).with_suffix(".npz")
        data = media.pack_pixels(record.pixels)
        return {"tag": record.tag, "pixels": media.store(path, run_dir, data, sync=sync)}
    frames = None
    if record.frames is not None:
        path = next(paths).with_suffix(".npz")
        frames = media.store(path, run_dir, media.pack_pixels(record.frames), sync=sync)
    clips = []
    for name, clip in record.clips.items():
        path = next(paths).with_suffix(
            f".{clip.format}" if clip.format in media.FORMATS else ".bin"
        )
        shape = {
            "format": name,
            "width": clip.width,
            "height": clip.height,
            "num_frames": clip.num_frames,
            "fps": clip.fps,
            "duration": clip.duration,
        }
        clips.append(shape | media.store(path, run_dir, clip.data, sync=sync))
    return {"tag": record.tag, "fps": record.fps, "frames": frames, "clips": clips}


def decode(fields: Mapping[str, Any], run_dir: Path) -> Record:
    """Return the record of a line, with its media files from below the run's directory.

    Raises:
        DamagedLineError: The line is no record, or its file is missing, changed, or outside of the
            run's directory.
    """
    kind = fields.get("type")
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        raise DamagedLineError(f"its type {kind!r:.80} is unknown")
    return decoder(fields, run_dir)


def _scalars(fields: Mapping[str, Any], _: Path) -> Scalars:
    step, iteration, lane = fields.get("step"), fields.get("iteration"), fields.get("lane")
    if type(step) is not int or (iteration is not None and type(iteration) is not int):
        raise DamagedLineError("its step or iteration is no integer")
    if lane is not None and not is_count(lane):
        raise DamagedLineError("its lane is no integer")
    return Scalars(step, decode_values(fields), iteration, lane, _number(fields, "time"))


def _stamp(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": _integer(fields, "step"),
        "lane": _optional(fields, "lane", _count),
        "wall_time": _number(fields, "time"),
    }


def _histogram(fields: Mapping[str, Any], _: Path) -> Histogram:
    try:
        counts = np.array(fields.get("counts"), np.int64)
        edges = np.array(fields.get("edges"), np.float64)
        return Histogram(tag=_text(fields, "tag"), counts=counts, edges=edges, **_stamp(fields))
    except (TypeError, ValueError, OverflowError) as error:
        raise DamagedLineError(f"its histogram is none: {error}") from error


def _image(fields: Mapping[str, Any], run_dir: Path) -> Image:
    pixels = media.unpack_pixels(media.load(fields.get("pixels"), run_dir))
    try:
        return Image(tag=_text(fields, "tag"), pixels=pixels, **_stamp(fields))
    except ValueError as error:
        raise DamagedLineError(f"its image is none: {error}") from error


def _video(fields: Mapping[str, Any], run_dir: Path) -> Video:
    frames, clips = fields.get("frames"), fields.get("clips")
    if not isinstance(clips, list):
        raise DamagedLineError("its clips are no list")
    pixels = None if frames is None else media.unpack_pixels(media.load(frames, run_dir))
    loaded = [_clip(clip, run_dir) for clip in clips]
    try:
        return Video(
            tag=_text(fields, "tag"),
            frames=pixels,
            fps=_number(fields, "fps"),
            clips={clip.format: clip for clip in loaded},
            **_stamp(fields),
        )
    except ValueError as error:
        raise DamagedLineError(f"its video is none: {error}") from error


def _clip(fields: Any, run_dir: Path) -> Clip:
    data = media.load(fields, run_dir)
    return Clip(
        data=data,
        format=_text(fields, "format"),
        width=_integer(fields, "width"),
        height=_integer(fields, "height"),
        num_frames=_integer(fields, "num_frames"),
        fps=_number(fields, "fps"),
        duration=_number(fields, "duration"),
    )


def _artifact(fields: Mapping[str, Any], run_dir: Path) -> Artifact:
    name, files = _text(fields, "name"), fields.get("files")
    media.inside(name, run_dir)
    path = media.inside(fields.get("path"), run_dir)
    if not isinstance(files, list):
        raise DamagedLineError("its files are no list")
    found = {media.check(file, run_dir) for file in files}
    if not all(file.is_relative_to(path) for file in found):
        raise DamagedLineError("a file of it is elsewhere")
    if path.is_dir():
        media.check_directory(path, found)
    elif path not in found:
        raise DamagedLineError(f"`{path}` is missing")
    return Artifact(name=name, path=path, **_stamp(fields))


_DECODERS: Mapping[str, Callable[[Mapping[str, Any], Path], Record]] = {
    "scalars": _scalars,
    "hparams": lambda fields, _: Hparams(decode_values(fields, strings=True)),
    "resume": lambda fields, _: Resume(_integer(fields, "step")),
    "close": lambda fields, _: Close(_text(fields, "status")),
    "text": lambda fields, _: Text(
        tag=_text(fields, "tag"), text=_text(fields, "text"), **_stamp(fields)
    ),
    "video": _video,
    "image": _image,
    "histogram": _histogram,
    "artifact": _artifact,
}


# ---- members --------------------------------------------------------------------------------


def _null(value: int | None) -> str:
    return "null" if value is None else f"{value:d}"


def _time(value: float) -> float:
    """Return a time, or 0.0 for a NaN or an infinity, which JSON can't hold."""
    return float(value) if math.isfinite(value) else 0.0


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise DamagedLineError(f"its `{name}` is no string")
    return value


def _integer(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise DamagedLineError(f"its `{name}` is no integer")
    return value


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = _integer(fields, name)
    if value < 0:
        raise DamagedLineError(f"its `{name}` is negative")
    return value


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DamagedLineError(f"its `{name}` is no number")
    try:
        return float(value)
    except OverflowError as error:
        raise DamagedLineError(f"its `{name}` is too large") from error


def _optional(
    fields: Mapping[str, Any], name: str, read: Callable[[Mapping[str, Any], str], _Part]
) -> _Part | None:
    return None if fields.get(name) is None else read(fields, name)
