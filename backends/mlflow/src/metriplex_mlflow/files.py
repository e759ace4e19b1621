"""Records as files among the artifacts of an MLflow run.

The name of a file depends only on its record, so a record that is uploaded again replaces itself.
The name contains the timestamp because a record of a continued run must not replace an older one.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image as PillowImage

from metriplex import Artifact, Histogram, Image, Text, Video, encode_video

Files: TypeAlias = Mapping[str, bytes | Path]
"""Path among the artifacts to the content, or to a file with the content."""

TAG_BYTES = 150
"""Largest number of bytes of a tag in a path; most file systems allow 255 for a part of a path."""

PART_BYTES = 200

_THUMBNAIL = 256


def text_files(text: Text, folder: str, timestamp: int) -> Files:
    """Return a text as Markdown."""
    content = text.text.encode("utf-8", "surrogatepass")
    return {_path("texts", folder, text.step, timestamp, content, "md"): content}


def video_files(video: Video, folder: str, timestamp: int) -> Files:
    """Return a clip as MP4.

    Raises:
        VideoError: The clip can't be encoded.
    """
    content = encode_video(video, "mp4").data
    return {_path("videos", folder, video.step, timestamp, content, "mp4"): content}


def histogram_files(histogram: Histogram, folder: str, timestamp: int) -> Files:
    """Return a histogram as JSON: `counts` `[bins]` and `edges` `[bins + 1]`."""
    content = json.dumps(
        {
            "tag": histogram.tag,
            "step": histogram.step,
            "counts": np.asarray(histogram.counts).tolist(),
            "edges": np.asarray(histogram.edges).tolist(),
        }
    ).encode()
    path = _path("histograms", folder, histogram.step, timestamp, content, "json")
    return {path: content}


def image_files(image: Image, folder: str, timestamp: int) -> Files:
    """Return a picture as PNG, and a small copy for MLflow's image charts.

    The names are those of `MlflowClient.log_image`, with the picture's digest in place of the
    random part.
    """
    picture = PillowImage.fromarray(np.ascontiguousarray(image.pixels))
    content = _encoded(picture, "PNG")
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    key = folder.replace("/", "~")
    stem = f"images/{key}+step+{image.step}+timestamp+{timestamp}+{_digest(content)}"
    return {f"{stem}.png": content, f"{stem}+compressed.webp": _encoded(picture, "WEBP")}


def artifact_files(artifact: Artifact) -> Mapping[str, Path]:
    """Return a file, or the files in a directory, by name.

    Raises:
        OSError: The directory can't be read.
    """
    if not artifact.path.is_dir():
        return {artifact.name: artifact.path}
    found = sorted(path for path in artifact.path.rglob("*") if path.is_file())
    return {f"{artifact.name}/{path.relative_to(artifact.path).as_posix()}": path for path in found}


def artifact_folder(step: int) -> str:
    """Return the folder of a step's artifacts, named as in the run's directory."""
    return f"artifacts/{_step(step)}"


def _path(kind: str, folder: str, step: int, timestamp: int, content: bytes, suffix: str) -> str:
    return f"{kind}/{folder}/{_step(step)}_{timestamp}_{_digest(content)}.{suffix}"


def _step(step: int) -> str:
    return f"step_{step:012d}"  # names sort by step


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _encoded(picture: PillowImage.Image, format_: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_)
    return buffer.getvalue()
