from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import pytest

from memory import Memory
from metriplex import (
    ConfigurationError,
    MetricsCallback,
    NonFiniteError,
    PluginError,
    RunInfo,
    Scalars,
    hookimpl,
)
from metriplex.commands.main import main
from metriplex.plugins.report import installed
from metriplex.plugins.scalar_transforms import Transforms, create_transforms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INFO = RunInfo(id="0f", name="walk", directory=Path("logs/walk"), start_time=0.0)
RECORDS = [
    Scalars(step, {"a": step, "b": -0.5}, iteration=step, lane=1, wall_time=9.0)
    for step in range(3)
]


@final
class Each:
    """Applies a function to each record."""

    def __init__(self, function: Callable[[Scalars], Any]) -> None:
        self.function = function

    @hookimpl
    def transform_scalars(self, record: Scalars) -> Any:
        return self.function(record)


@final
class Named:
    name = "given"

    @hookimpl
    def transform_scalars(self, run: RunInfo, record: Scalars) -> Scalars:
        return replace(record, values={f"{run.name}/{tag}": v for tag, v in record.values.items()})


def doubled(record: Scalars) -> Scalars:
    return replace(record, values={tag: 2 * value for tag, value in record.values.items()})


def odd_only(record: Scalars) -> Scalars | None:
    return record if record.step % 2 else None


def chain(*functions: Callable[[Scalars], Any]) -> Transforms:
    return Transforms([(f"t{i}", Each(function)) for i, function in enumerate(functions)])


def values(records: list[Scalars]) -> list[Mapping[str, Any]]:
    return [dict(record.values) for record in records]


# ---- the chain ----------------------------------------------------------------------------------


def test_without_a_transform_records_are_the_same_objects() -> None:
    found = Transforms().apply(INFO, RECORDS)
    assert list(map(id, found)) == list(map(id, RECORDS))
    assert Transforms().apply(INFO, []) == []


def test_transforms_are_applied_in_their_order_and_records_stay_in_theirs() -> None:
    def plus_one(record: Scalars) -> Scalars:
        return replace(record, values={"a": record.values["a"] + 1})

    assert values(chain(doubled, plus_one).apply(INFO, RECORDS)) == [{"a": 1}, {"a": 3}, {"a": 5}]
    assert values(chain(plus_one, doubled).apply(INFO, RECORDS)) == [{"a": 2}, {"a": 4}, {"a": 6}]
    (first, *_) = chain(doubled).apply(INFO, RECORDS)
    assert first == replace(RECORDS[0], values={"a": 0, "b": -1.0})


def test_none_drops_the_record_and_no_later_transform_sees_it() -> None:
    seen: list[int] = []

    def note(record: Scalars) -> Scalars:
        seen.append(record.step)
        return record

    assert chain(odd_only, note).apply(INFO, RECORDS) == [RECORDS[1]]
    assert seen == [1]


def test_tryfirst_and_trylast_change_the_order_of_transforms() -> None:
    order: list[str] = []

    @final
    class Last:
        @hookimpl(trylast=True)
        def transform_scalars(self, record: Scalars) -> Scalars:
            order.append("last")
            return record

    @final
    class First:
        @hookimpl(tryfirst=True)
        def transform_scalars(self, record: Scalars) -> Scalars:
            order.append("first")
            return record

    def note(name: str) -> Each:
        return Each(lambda record: order.append(name) or record)

    plugins = [Last(), note("a"), note("b"), First()]
    create_transforms(plugins).apply(INFO, RECORDS[:1])
    assert order == ["first", "a", "b", "last"]


def test_one_transform_may_be_applied_twice() -> None:
    double = Each(doubled)
    (first,) = create_transforms([double, double]).apply(INFO, RECORDS[1:2])
    assert dict(first.values) == {"a": 4, "b": -2.0}


def test_a_transform_gets_the_arguments_that_it_names() -> None:
    (first, *_) = Transforms([("given", Named())]).apply(INFO, RECORDS)
    assert dict(first.values) == {"walk/a": 0, "walk/b": -0.5}


@pytest.mark.parametrize("error", [ValueError("bad luck"), SystemExit(3), OSError("gone")])
def test_one_that_raises_leaves_the_record_and_is_told_of_once(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(record: Scalars) -> Scalars:
        if record.step != 1:
            raise error
        return replace(record, values={"c": 1})

    found = chain(doubled, fails, doubled).apply(INFO, [*RECORDS, *RECORDS])
    assert values(found) == 2 * [{"a": 0, "b": -2.0}, {"c": 2}, {"a": 8, "b": -2.0}]
    (entry,) = caplog.records
    assert entry.levelno == logging.ERROR
    assert entry.getMessage().startswith(
        f"transform `t1` failed at step 0 ({type(error).__name__}: {error})"
    )
    assert isinstance(entry.exc_info, tuple)
    assert entry.exc_info[1] is error


def test_each_transform_that_fails_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    def fails(record: Scalars) -> Scalars:
        raise ValueError(record.step)

    plugins: list[tuple[str, object]] = [("one", Each(fails)), ("one", Each(fails))]
    assert Transforms(plugins).apply(INFO, RECORDS) == RECORDS
    failed = [entry.getMessage().partition(" failed")[0] for entry in caplog.records]
    assert failed == ["transform `one`", "transform `one_2`"]


def test_ctrl_c_is_not_the_transforms_fault() -> None:
    def stopped(record: Scalars) -> Scalars:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chain(stopped).apply(INFO, RECORDS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": {"a": "text"}}, "got 'a': 'text': pass for example `value.item()`"),
        ({"values": {"a": jnp.float32(1)}}, "got 'a': Array(1., dtype=float32)"),
        ({"values": {"": 1.0}}, "got '': 1.0"),
        ({"step": -1}, "`step` of a record must be an int from 0 on; got -1"),
        ({"step": 1.5}, "`step` of a record must be an int from 0 on; got 1.5"),
        (None, "must give a `metriplex.Scalars` or None; got {'a': 1}"),
    ],
)
def test_what_no_backend_could_take_is_a_failure(
    change: dict[str, Any] | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"a": 1} if change is None else replace(RECORDS[0], **change)
    assert chain(lambda _: given).apply(INFO, RECORDS) == RECORDS
    (entry,) = caplog.records
    assert words in entry.getMessage()


# ---- asking for one -----------------------------------------------------------------------------


def test_names_of_objects_and_none(caplog: pytest.LogCaptureFixture) -> None:
    assert create_transforms().apply(INFO, RECORDS) == RECORDS
    assert create_transforms([]).apply(INFO, RECORDS) == RECORDS

    @final
    class ScaleTransform:
        @hookimpl
        def transform_scalars(self) -> Scalars:
            raise ValueError("no scale")

    create_transforms([ScaleTransform(), Named()]).apply(INFO, RECORDS)
    assert caplog.records[0].getMessage().startswith("transform `scale` failed")


@pytest.mark.parametrize("form", [3, True, {"a"}, [None], ["a", [1]]])
def test_what_is_no_transform_is_rejected(form: object) -> None:
    with pytest.raises(
        (ConfigurationError, PluginError), match=r"`transforms` takes the name of an|`a` is not"
    ):
        create_transforms(form)


def test_what_is_wrong_with_a_transform_is_told_at_construction(tmp_path: Path) -> None:
    @final
    class Typo:
        @hookimpl
        def transform_scalers(self, record: Scalars) -> Scalars:
            return record

    @final
    class Unmarked:
        def transform_scalars(self, record: Scalars) -> Scalars:
            return record

    wrong: list[tuple[object, str]] = [
        (Typo(), "transform `typo` .* Did you mean `transform_scalars`"),
        (Unmarked(), "`transform_scalars` would never be called"),
        (Named, r"transform `given` is the class `Named`: .*`Named\(...\)`"),
        (Memory(), r"there is no hook `close_run`\. The hooks are `transform_scalars`"),
        ("nothing", "transform `nothing` is not installed. Installed: none$"),
    ]
    for plugin, words in wrong:
        with pytest.raises(PluginError, match=words):
            MetricsCallback("run", log_dir=tmp_path, backends=[], transforms=[plugin])
    assert list(tmp_path.iterdir()) == []


def test_installed_transforms_are_asked_for_by_name_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "metriplex_scaling-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: metriplex-scaling\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[metriplex.transforms]\nscaling = scaling_x:Scaling\n")
    (tmp_path / "scaling_x.py").write_text(
        "import dataclasses\n"
        "from metriplex import hookimpl\n"
        "class Scaling:\n"
        "    def __init__(self, factor=2):\n"
        "        self.factor = factor\n"
        "    @hookimpl\n"
        "    def transform_scalars(self, record):\n"
        "        values = {tag: self.factor * v for tag, v in record.values.items()}\n"
        "        return dataclasses.replace(record, values=values)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    asked: list[tuple[object, float]] = [
        ("scaling", -1.0),
        ({"scaling": {"factor": 3}}, -1.5),
        (["scaling", {"scaling": {"factor": 5}}], -5.0),
    ]
    for requested, expected in asked:
        (first, *_) = create_transforms(requested).apply(INFO, RECORDS)
        assert first.values["b"] == expected
    with pytest.raises(PluginError, match=r"transform `scaling` .*It accepts `factor`"):
        create_transforms({"scaling": {"scale": 3}})
    (report,) = [found for found in installed() if found.kind == "transform"]
    assert (report.name, report.hooks, report.error) == ("scaling", ("transform_scalars",), None)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["plugins"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "scaling" in line)
    assert line.split() == ["transform", "scaling", "metriplex-scaling", "1.2", "transform_scalars"]


# ---- in a run -----------------------------------------------------------------------------------


def test_every_backend_gets_what_the_transforms_made(tmp_path: Path) -> None:
    first, second = Memory(), Memory()
    with MetricsCallback(
        "run", log_dir=tmp_path, backends=[first, second], transforms=[Named(), Each(odd_only)]
    ) as metrics:

        @jax.jit
        def train(metrics: MetricsCallback) -> jax.Array:
            for step in (2, 3):
                metrics.log(step, {"x": jnp.float32(step)})
            return jnp.zeros(())

        train(metrics)
        metrics.flush()
        for step in (4, 5):
            metrics.log(step, {"y": step})
    for memory in (first, second):
        assert [(r.step, dict(r.values)) for r in memory.records] == [
            (3, {"run/x": 3.0}),
            (5, {"run/y": 5}),
        ]
    assert metrics.deliveries()[0].delivered == 2


def test_a_nan_can_be_mended_and_one_that_is_made_is_rejected(tmp_path: Path) -> None:
    def logarithms(record: Scalars) -> Scalars:
        return replace(
            record, values={k: math.log(v) if v > 0 else math.nan for k, v in record.values.items()}
        )

    def finite(record: Scalars) -> Scalars:
        return replace(record, values={k: v for k, v in record.values.items() if math.isfinite(v)})

    memory = Memory()
    with MetricsCallback(
        "a", log_dir=tmp_path, backends=memory, transforms=Each(finite)
    ) as metrics:
        metrics.log(1, {"x": math.nan, "y": 1.0})
    assert [dict(record.values) for record in memory.records] == [{"y": 1.0}]
    memory = Memory()
    with (
        pytest.raises(NonFiniteError, match="`x` is nan at step 1"),
        MetricsCallback(
            "b",
            log_dir=tmp_path,
            backends=memory,
            transforms=Each(logarithms),
            nonfinite="raise",
        ) as metrics,
    ):
        metrics.log(1, {"x": -1.0, "y": 1.0})
    assert [dict(record.values) for record in memory.records] == [{"y": 0.0}]
