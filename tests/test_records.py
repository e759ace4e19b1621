"""Records are the same for every backend: nobody can change the one that the next will be given."""

from __future__ import annotations

import copy
import json
import operator
import pickle
from collections.abc import Callable  # noqa: TC003 - of a module-level annotation
from typing import Any

import numpy as np
import pytest

from metriplex import Clip, Histogram, Image, Lane, Scalars, Video
from metriplex.delivery import calls

FRAMES = np.zeros((2, 4, 4, 3), np.uint8)
CLIP = Clip(b"GIF89a", "gif", width=4, height=4, num_frames=2, fps=10.0, duration=0.2)

MAPPINGS: dict[str, Any] = {
    "Scalars.values": Scalars(0, {"a": 1.5, "b": -0.0}).values,
    "Lane.hparams": Lane("seed_000", {"a": 1.5, "b": "x"}).hparams,
    "Video.clips": Video(0, "eval/video", None, 10.0, clips={"gif": CLIP}).clips,
    "log_hparams": calls.log_hparams(0, {"a": 1.5, "b": True}).arguments["hparams"],
}

ARRAYS = {
    "Video.frames": Video(0, "eval/video", FRAMES, 10.0).frames,
    "Image.pixels": Image(0, "eval/image", FRAMES[0]).pixels,
    "Histogram.counts": Histogram(0, "h", np.ones(2, np.int64), np.arange(3.0)).counts,
    "Histogram.edges": Histogram(0, "h", np.ones(2, np.int64), np.arange(3.0)).edges,
}

CHANGES: dict[str, Callable[[Any], object]] = {
    "__setitem__": lambda mapping: operator.setitem(mapping, "a", 0),
    "__delitem__": lambda mapping: operator.delitem(mapping, next(iter(mapping))),
    "__ior__": lambda mapping: operator.ior(mapping, {"a": 0}),
    "clear": lambda mapping: mapping.clear(),
    "pop": lambda mapping: mapping.pop(next(iter(mapping))),
    "popitem": lambda mapping: mapping.popitem(),
    "setdefault": lambda mapping: mapping.setdefault("new", 0),
    "update": lambda mapping: mapping.update(a=0),
}


def test_every_way_to_change_a_dict_is_in_the_table() -> None:
    own = {name for name in dir(dict) if name not in dir(object)}
    reads = {"__contains__", "__getitem__", "__iter__", "__len__", "__reversed__", "__or__"}
    reads |= {"__ror__", "__class_getitem__", "copy", "fromkeys", "get", "items", "keys", "values"}
    assert own - reads == set(CHANGES)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", MAPPINGS)
def test_no_mapping_of_a_record_can_be_changed(name: str, change: str) -> None:
    mapping = MAPPINGS[name]
    before = dict(mapping)
    with pytest.raises(TypeError, match=r"read-only.*change a copy: `dict\(mapping\)`"):
        CHANGES[change](mapping)
    assert dict(mapping) == before


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mapping_of_a_record_is_a_dict_to_every_client(name: str) -> None:
    mapping = MAPPINGS[name]
    plain = dict(mapping)
    assert isinstance(mapping, dict)
    assert mapping == plain
    for same in (copy.copy(mapping), copy.deepcopy(mapping), pickle.loads(pickle.dumps(mapping))):
        assert same == plain
        with pytest.raises(TypeError, match="read-only"):
            same.clear()
    changed = mapping.copy()
    changed["new"] = 1
    assert changed == plain | {"new": 1} == mapping | {"new": 1}
    assert mapping == plain


@pytest.mark.parametrize("name", ["Scalars.values", "Lane.hparams", "log_hparams"])
def test_a_mapping_of_plain_values_is_json(name: str) -> None:
    mapping = MAPPINGS[name]
    assert json.dumps(mapping) == json.dumps(dict(mapping))


def test_a_record_keeps_what_its_maker_changes_later() -> None:
    values = {"a": 1.0}
    record = Scalars(0, values)
    values["a"] = 2.0
    assert record.values == {"a": 1.0}


@pytest.mark.parametrize("name", ARRAYS)
def test_no_array_of_a_record_can_be_changed(name: str) -> None:
    array = ARRAYS[name]
    assert array is not None
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
