"""Records as files among the artifacts of an MLflow run.

The name of a file follows from its record alone, so a record that is uploaded again replaces
itself; `timestamp` is in it because what a continued run logs again must not replace anything.
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
"""Path among the artifacts to the content, or to the file that has it."""

TAG_BYTES = 150
"""Bytes of a tag in a path; the parts of a path have 255 on most file systems."""

PART_BYTES = 200

_THUMBNAIL = 256


def text_files(text: Text, folder: str, timestamp: int) -> Files:
    """A text as Markdown."""
    content = text.text.encode("utf-8", "surrogatepass")
    return {_path("texts", folder, text.step, timestamp, content, "md"): content}


def video_files(video: Video, folder: str, timestamp: int) -> Files:
    """A clip as MP4.

    Raises:
        VideoError: It can't be encoded.
    """
    content = encode_video(video, "mp4").data
    return {_path("videos", folder, video.step, timestamp, content, "mp4"): content}


def histogram_files(histogram: Histogram, folder: str, timestamp: int) -> Files:
    """A histogram as JSON: `counts` `[bins]` and `edges` `[bins + 1]`."""
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
    """A picture as PNG, with the small one that MLflow's image charts show beside it.

    The names are those of `MlflowClient.log_image`, except that what it draws by chance is the
    digest of the picture here.
    """
    picture = PillowImage.fromarray(np.ascontiguousarray(image.pixels))
    content = _encoded(picture, "PNG")
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    key = folder.replace("/", "~")
    stem = f"images/{key}+step+{image.step}+timestamp+{timestamp}+{_digest(content)}"
    return {f"{stem}.png": content, f"{stem}+compressed.webp": _encoded(picture, "WEBP")}


def artifact_files(artifact: Artifact) -> Mapping[str, Path]:
    """A file, or what is in a directory, by name.

    Raises:
        OSError: It can't be read.
    """
    if not artifact.path.is_dir():
        return {artifact.name: artifact.path}
    found = sorted(path for path in artifact.path.rglob("*") if path.is_file())
    return {f"{artifact.name}/{path.relative_to(artifact.path).as_posix()}": path for path in found}


def artifact_folder(step: int) -> str:
    """Where artifacts go: a folder for each step, as in the run's directory."""
    return f"artifacts/{_step(step)}"


def _path(kind: str, folder: str, step: int, timestamp: int, content: bytes, suffix: str) -> str:
    return f"{kind}/{folder}/{_step(step)}_{timestamp}_{_digest(content)}.{suffix}"


def _step(step: int) -> str:
    return f"step_{step:012d}"  # so that names are in order


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _encoded(picture: PillowImage.Image, format_: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_)
    return buffer.getvalue()
