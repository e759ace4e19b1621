"""The contract of backends for TensorBoard, which reads event files by TensorBoard's reader."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
    STORE_EVERYTHING_SIZE_GUIDANCE,
    EventAccumulator,
)
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util

from metriplex import Lane
from metriplex.testing import BackendContract, Stored, read_picture
from metriplex_tensorboard import TensorBoardBackend

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from metriplex import RunInfo, Scalar

_STATUS = ("interrupted", "finished", "failed", "running")  # by the protocol's number
_HPARAMS = pytest.mark.xfail(
    reason="TensorBoard shows a directory's first hyper-parameters for ever"
)
_TEXT = "/text_summary"
_PNG = b"\x89PNG"


@final
class Contract(BackendContract):
    """TensorBoard keeps values as float32, hyper-parameters as float64 or text, no iterations."""

    precision = np.float32
    stores_once: ClassVar[bool] = True

    def make_backend(self) -> TensorBoardBackend:
        """Return a backend with default options."""
        return TensorBoardBackend()

    def stored_iteration(self, iteration: int) -> None:
        """Return None: an event has no iteration."""

    def stored_hparams(self, hparams: Mapping[str, Scalar | str]) -> Mapping[str, Any]:
        """Return integers as floats, and values that are not finite as text."""
        return {
            name: value if isinstance(value, bool | str) else _stored_number(float(value))
            for name, value in hparams.items()
        }

    @_HPARAMS
    def test_hparams_of_several_calls(self) -> None:
        """Run the test of the contract."""
        super().test_hparams_of_several_calls()

    @_HPARAMS
    def test_hparams_of_a_resumed_run(self) -> None:
        """Run the test of the contract."""
        super().test_hparams_of_a_resumed_run()

    def read_back(self, run: RunInfo) -> Stored:
        """Read the directories of the run and of its lanes as TensorBoard does."""
        stored: Any = Stored()
        session: dict[str, bytes] = {}
        for lane, directory in _runs(run):
            read = EventAccumulator(str(directory), STORE_EVERYTHING_SIZE_GUIDANCE).Reload()
            tags = read.Tags()
            plugins = {one.plugin_data.plugin_name for one in read.summary_metadata.values()}
            contents = {}
            if metadata.PLUGIN_NAME in plugins:
                contents = read.PluginTagToContent(metadata.PLUGIN_NAME)
            if lane is None:
                session = contents
            else:
                own = _hparams(contents.get(metadata.SESSION_START_INFO_TAG))
                stored.lanes[lane] = Lane(directory.name, own)
            for tag in tags["scalars"]:
                stored.scalars[lane, tag] = [(e.step, e.value) for e in read.Scalars(tag)]
                stored.wall_times[lane, tag] = [(e.step, e.wall_time) for e in read.Scalars(tag)]
            for tag in tags["images"]:
                for event in read.Images(tag):
                    data, place = event.encoded_image_string, stored.videos
                    if data.startswith(_PNG):
                        data, place = read_picture(data), stored.images
                    place.setdefault((lane, tag), []).append((event.step, data))
                    times = stored.wall_times.setdefault((lane, tag), [])
                    times.append((event.step, event.wall_time))
            for tag in tags["tensors"]:
                series = (lane, tag.removesuffix(_TEXT))
                stored.wall_times[series] = [(e.step, e.wall_time) for e in read.Tensors(tag)]
                stored.texts[series] = [
                    (e.step, tensor_util.make_ndarray(e.tensor_proto).item().decode())
                    for e in read.Tensors(tag)
                ]
            for tag in tags["histograms"]:
                stored.wall_times[lane, tag] = [(e.step, e.wall_time) for e in read.Histograms(tag)]
                stored.histograms[lane, tag] = [
                    (e.step, np.array(held.bucket[1:]), np.array(held.bucket_limit))
                    for e in read.Histograms(tag)
                    for held in [e.histogram_value]
                ]
        return dataclasses.replace(
            stored,
            hparams=_hparams(session.get(metadata.SESSION_START_INFO_TAG)),
            status=_status(session.get(metadata.SESSION_END_INFO_TAG)),
        )


def _runs(run: RunInfo) -> list[tuple[int | None, Path]]:
    known = {lane.name: index for index, lane in enumerate(run.lanes)}
    lanes = [
        (known[path.name] if found is None else int(found[1]), path)
        for path in run.directory.iterdir()
        if (found := re.fullmatch(r"seed_(\d+)", path.name)) is not None or path.name in known
    ]
    return [(None, run.directory), *lanes]


def _hparams(content: bytes | None) -> dict[str, Any]:
    if content is None:
        return {}
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def _status(content: bytes | None) -> str | None:
    if content is None:
        return None
    return _STATUS[metadata.parse_session_end_info_plugin_data(content).status]


def _stored_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
