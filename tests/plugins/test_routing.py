from __future__ import annotations

import contextlib
import itertools
import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriplex import (
    Artifact,
    ConfigurationError,
    Histogram,
    Image,
    MetricsCallback,
    Route,
    RunInfo,
    Scalars,
    Text,
    TransientError,
    Video,
    hookimpl,
)
from metriplex.delivery.calls import close_run, flush, log_media, log_scalars
from metriplex.plugins.backends import Backend, create_backends
from metriplex.plugins.routing import Router
from metriplex.run.run import Run
from metriplex.video.options import VideoOptions
from metriplex.video.setup import prepare_videos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

INFO = RunInfo(id="0f", name="walk", directory=Path("logs/walk"), start_time=0.0)
LONG = 60.0


@final
class Keeper:
    """Keeps records; first raises the next of `failures`."""

    flush_secs = 3600.0

    def __init__(self) -> None:
        self.records: list[Scalars] = []
        self.media: list[Any] = []
        self.hparams: dict[str, Any] = {}
        self.order: list[str] = []
        self.failures: list[BaseException] = []

    @hookimpl
    def log_hparams(self, hparams: Mapping[str, Any]) -> None:
        self.hparams.update(hparams)

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        self.order.append("scalars")
        if self.failures:
            raise self.failures.pop(0)
        assert records
        self.records += records

    @hookimpl
    def log_text(self, text: Text) -> None:
        self.media.append(text)

    @hookimpl
    def log_video(self, video: Video) -> None:
        self.media.append(video)

    @hookimpl
    def log_image(self, image: Image) -> None:
        self.media.append(image)

    @hookimpl
    def log_histogram(self, histogram: Histogram) -> None:
        self.media.append(histogram)

    @hookimpl
    def log_artifact(self, artifact: Artifact) -> None:
        self.media.append(artifact)

    @hookimpl
    def flush(self) -> None:
        self.order.append("flush")

    @hookimpl
    def close_run(self, status: str) -> None:
        self.order.append(status)

    @property
    def rows(self) -> list[tuple[int | None, int, dict[str, Any]]]:
        return [(record.lane, record.step, dict(record.values)) for record in self.records]


def send(route: Route, *records: Scalars) -> list[tuple[int, dict[str, Any]]]:
    """Return step and values of the records that a router sends before the run closes."""
    router = Router(route, "mine")
    selection = router.select(records)
    return [(record.step, dict(record.values)) for record in selection.records]


def at(step: int, *, lane: int | None = None, wall: float = 0.0, **values: Any) -> Scalars:
    named = {tag.replace("__", "/"): value for tag, value in values.items()}
    return Scalars(step, named, lane=lane, wall_time=wall)


# ---- which tags ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ("*", (), "episode/return episode/length train/loss train/net/norm return"),
        ("episode/*", (), "episode/return episode/length"),
        (["episode/r*", "return"], [], "episode/return return"),
        (("train/*",), "train/net/*", "train/loss"),
        ("*", ["*/*"], "return"),
        ("*return", "episode/return", "return"),
        ("[et]*/l?ss", (), "train/loss"),
        ("Episode/*", (), ""),
        ("episode", (), ""),
    ],
)
def test_patterns_fit_whole_tags_case_and_all(include: Any, exclude: Any, taken: str) -> None:
    tags = ["episode/return", "episode/length", "train/loss", "train/net/norm", "return"]
    route = Route("x", include=include, exclude=exclude)
    assert [tag for tag in tags if route.takes(tag)] == taken.split()
    expected = [(3, dict.fromkeys(taken.split(), 1.0))] if taken else []
    assert send(route, Scalars(3, dict.fromkeys(tags, 1.0))) == expected


def test_a_record_keeps_all_else_that_is_known_of_it() -> None:
    record = Scalars(2**40, {"a": 1, "b": True}, iteration=7, lane=3, wall_time=12.5)
    (sent,) = Router(Route("x", exclude="b"), "mine").select([record]).records
    assert sent == replace(record, values={"a": 1})
    assert type(sent.values["a"]) is int


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "tag", "name"),
    [
        ({"a/b": "c"}, "a/b", "c"),
        ({"a/b": "c"}, "a/bb", "a/bb"),
        ({"train/*": "loss/*"}, "train/net/norm", "loss/net/norm"),
        ({"train/*": "loss/*"}, "train/", "train/"),
        ({"train/*": "loss/*"}, "eval/train/x", "eval/train/x"),
        ({"train/*": "*"}, "train/loss", "loss"),
        ({"*": "agent/*"}, "train/loss", "agent/train/loss"),
        ({"train/*": "t/*", "train/net/*": "n/*"}, "train/net/norm", "n/norm"),
        ({"train/*": "t/*", "train/net/*": "n/*"}, "train/net", "t/net"),
        ({"train/*": "t/*", "train/loss": "loss"}, "train/loss", "loss"),
    ],
)
def test_a_rule_for_the_tag_comes_before_prefixes_a_longer_one_before_a_shorter(
    rules: Mapping[str, str], tag: str, name: str
) -> None:
    for order in itertools.permutations(rules.items()):
        assert Route("x", rename=dict(order)).name(tag) == name
    assert send(Route("x", rename=rules), Scalars(1, {tag: 2})) == [(1, {name: 2})]


def test_patterns_see_the_names_from_before_and_names_can_be_swapped() -> None:
    route = Route("x", include=["a", "b"], rename={"a": "b", "b": "a"})
    assert send(route, at(1, a=1, b=2, c=3)) == [(1, {"b": 1, "a": 2})]


@pytest.mark.parametrize("names", [["a", "c"], ["c", "a"]])
def test_a_name_that_is_taken_is_told_once_and_the_first_keeps_it(
    names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = names
    route = Route("x", rename={"a": "c"})
    rows = [Scalars(1, {first: 1}), Scalars(2, {second: 2}), Scalars(3, {second: 3, "d": 4})]
    assert send(route, *rows) == [(1, {"c": 1}), (3, {"d": 4})]
    (entry,) = caplog.records
    assert entry.levelno == logging.ERROR
    assert entry.getMessage().startswith(
        f"backend `mine`: `{second}` would have the name `c`, which is that of `{first}` already"
    )


# ---- how often ----------------------------------------------------------------------------------


def test_the_first_record_of_every_so_many_steps_is_sent() -> None:
    steps = [3, 5, 9, 10, 19, 25, 60, 61, 2**40, 2**40 + 1]
    sent = send(Route("x", every=10), *(at(step, a=step) for step in steps))
    assert [step for step, _ in sent] == [3, 10, 25, 60, 2**40]


def test_time_is_that_of_the_records() -> None:
    walls = [100.0, 100.2, 100.5, 100.9, 101.1, 104.0]
    route = Route("x", every=timedelta(milliseconds=500))
    sent = send(route, *(at(i, wall=wall, a=i) for i, wall in enumerate(walls)))
    assert [step for step, _ in sent] == [0, 2, 4, 5]


def test_a_step_that_goes_back_is_in_another_span_and_sent() -> None:
    steps = [5, 15, 16, 0, 1, 11]
    sent = send(Route("x", every=10), *(at(step, a=step) for step in steps))
    assert [step for step, _ in sent] == [5, 15, 0, 11]


def test_a_rare_tag_is_not_lost_among_frequent_ones() -> None:
    records = [at(step, a=step) for step in range(100)]
    records.insert(51, at(50, eval__return=7.0))  # behind a record that was sent at this step
    sent = send(Route("x", every=50), *records)
    assert sent == [(0, {"a": 0}), (50, {"a": 50}), (50, {"eval/return": 7.0})]


def test_lanes_are_thinned_out_apart() -> None:
    records = [at(step, lane=lane, a=10 * step + lane) for step in range(6) for lane in (0, 1, 2)]
    selection = Router(Route("x", every=3), "mine").select(records)
    assert [(r.lane, r.step) for r in selection.records] == [
        (lane, step) for step in (0, 3) for lane in (0, 1, 2)
    ]


def thinned(records: Iterable[Scalars], span: Callable[[Scalars], Any]) -> list[tuple[Any, ...]]:
    """Return the values of each series by the definition: the first of each span, and the last."""
    series: dict[tuple[int | None, str], list[Scalars]] = {}
    for record in records:
        for tag in record.values:
            series.setdefault((record.lane, tag), []).append(record)
    sent = []
    for (lane, tag), rows in series.items():
        spans = [span(row) for row in rows]
        due = [i == 0 or spans[i] != spans[i - 1] for i in range(len(rows))]
        due[-1] = True
        sent += [
            (lane, tag, row.step, row.values[tag])
            for row, yes in zip(rows, due, strict=True)
            if yes
        ]
    return sent


RECORDS = st.lists(
    st.builds(
        Scalars,
        step=st.integers(0, 60),
        values=st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1),
        lane=st.sampled_from([None, 0, 1]),
        wall_time=st.floats(0, 60),
    ),
    max_size=30,
)


@given(
    records=RECORDS,
    every=st.integers(1, 40),
    timed=st.booleans(),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    fails=st.lists(st.booleans(), max_size=8),
)
def test_the_selection_is_that_of_the_definition_however_the_records_arrive(
    records: list[Scalars], every: int, timed: bool, cuts: list[int], fails: list[bool]
) -> None:
    """Records arrive in any blocks; calls fail and are made again."""
    keeper = Keeper()
    route = Route(keeper, every=timedelta(seconds=every) if timed else every)
    (backend,) = create_backends(route)
    edges = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    calls = [log_scalars(low, records[low:high]) for low, high in itertools.pairwise(edges)]
    failing = iter(fails)
    for call in calls:
        if next(failing, False):
            keeper.failures = [OSError("busy")]
            with contextlib.suppress(OSError):
                backend.call(call, INFO)
            if keeper.failures:  # nothing was due, so the backend was not called
                keeper.failures = []
                continue
        backend.call(call, INFO)
    backend.call(close_run(0, "finished"), INFO)

    def span(record: Scalars) -> float:
        return (record.wall_time if timed else record.step) // every

    found = [(lane, tag, step, v) for lane, step, row in keeper.rows for tag, v in row.items()]
    assert sorted(found, key=repr) == sorted(thinned(records, span), key=repr)


# ---- through a backend --------------------------------------------------------------------------


def test_the_newest_value_of_every_lane_is_sent_when_the_run_closes() -> None:
    keeper = Keeper()
    backend = Backend("mine", keeper, Route("x", every=100, rename={"a": "b"}))
    records = [at(step, lane=lane, a=step) for step in range(7) for lane in (1, 0)]
    backend.call(log_scalars(0, [*records, at(7, lane=1, c=1)]), INFO)
    backend.call(flush(0), INFO)
    assert keeper.rows == [(1, 0, {"b": 0}), (0, 0, {"b": 0}), (1, 7, {"c": 1})]
    backend.call(close_run(0, "failed"), INFO)
    assert keeper.rows[3:] == [(0, 6, {"b": 6}), (1, 6, {"b": 6})]
    assert keeper.order == ["scalars", "flush", "scalars", "failed"]


def test_a_backend_without_close_run_gets_the_newest_value_when_the_run_closes(
    tmp_path: Path,
) -> None:
    @final
    class Last:
        def __init__(self) -> None:
            self.steps: list[int] = []

        @hookimpl
        def log_scalars(self, records: Sequence[Scalars]) -> None:
            self.steps += [record.step for record in records]

    last = Last()
    with MetricsCallback("run", log_dir=tmp_path, backends=Route(last, every=100)) as metrics:
        for step in (0, 1, 2):
            metrics.log(step, {"a": 1.0})
    assert last.steps == [0, 2]


def test_what_is_held_back_together_is_sent_together() -> None:
    keeper = Keeper()
    backend = Backend("mine", keeper, Route("x", every=100, exclude="d"))
    backend.call(log_scalars(0, [at(0, a=0, b=0), at(1, a=1, b=1, d=1), at(2, a=2)]), INFO)
    backend.call(close_run(0, "finished"), INFO)
    assert keeper.rows[1:] == [(None, 1, {"b": 1}), (None, 2, {"a": 2})]


def test_nothing_is_sent_again_that_was_the_last_already() -> None:
    keeper = Keeper()
    backend = Backend("mine", keeper, Route("x", every=10))
    backend.call(log_scalars(0, [at(0, a=0), at(1, a=1), at(10, a=2)]), INFO)
    backend.call(close_run(0, "finished"), INFO)
    assert keeper.rows == [(None, 0, {"a": 0}), (None, 10, {"a": 2})]
    assert keeper.order == ["scalars", "finished"]


@pytest.mark.parametrize(
    ("failures", "calls", "last", "raised"),
    [
        ([TransientError("busy")], 2, [(None, 1, {"a": 1})], [TransientError, None]),
        ([OSError("a"), OSError("b")], 2, [], [OSError, OSError]),
        ([ValueError("full")], 1, [], [ValueError]),
        ([SystemExit(3)], 1, [], [SystemExit]),
    ],
)
def test_a_backend_that_fails_at_the_last_values_is_closed_all_the_same(
    failures: list[BaseException], calls: int, last: list[Any], raised: list[Any]
) -> None:
    keeper = Keeper()
    backend = Backend("mine", keeper, Route("x", every=10))
    backend.call(log_scalars(0, [at(0, a=0), at(1, a=1)]), INFO)
    keeper.failures = failures
    for error in raised[:calls]:
        if error is None:
            backend.call(close_run(0, "finished"), INFO)
        else:
            with pytest.raises(error):
                backend.call(close_run(0, "finished"), INFO)
    assert keeper.rows[1:] == last
    assert keeper.order[-1] == "finished"
    assert keeper.order.count("finished") == 1
    backend.call(close_run(0, "finished"), INFO)  # a worker may try again
    assert keeper.order[-2:] == ["finished", "finished"]


PIXELS = np.zeros((4, 6, 3), np.uint8)
MEDIA: list[Any] = [
    Text(1, "eval/x", "hello", lane=2, wall_time=3.0),
    Video(1, "eval/x", PIXELS[None], 30.0),
    Image(1, "eval/x", PIXELS),
    Histogram(1, "eval/x", np.array([3]), np.array([0.0, 1.0])),
    Artifact(1, "eval/x", Path("somewhere")),
]


@pytest.mark.parametrize("record", MEDIA, ids=[type(record).__name__ for record in MEDIA])
def test_media_are_selected_and_renamed_but_not_thinned_out(record: Any) -> None:
    every = timedelta(days=1)
    for route, names in [
        (Route("x", every=every), ["eval/x", "eval/x"]),
        (Route("x", every=every, rename={"eval/*": "*"}), ["x", "x"]),
        (Route("x", exclude="eval/*"), []),
        (Route("x", include="train/*"), []),
    ]:
        keeper = Keeper()
        backend = Backend("mine", keeper, route)
        for _ in range(2):
            backend.call(log_media(0, record), INFO)
        assert [getattr(r, "tag", None) or r.name for r in keeper.media] == names
        assert all(type(r) is type(record) and r.step == 1 for r in keeper.media)
        assert all(r.lane == record.lane and r.wall_time == record.wall_time for r in keeper.media)


def test_a_route_that_lets_nothing_through_is_told_when_the_run_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keeper = Keeper()
    backend = Backend("mine", keeper, Route("x", include="epsiode/*"))
    backend.call(log_scalars(0, [Scalars(1, {"episode/return": 1.0, "a": 2})]), INFO)
    backend.call(close_run(0, "finished"), INFO)
    assert keeper.order == ["finished"]
    (entry,) = caplog.records
    message = entry.getMessage()
    assert "backend `mine` was sent nothing: its `Route` with include=('epsiode/*',)" in message
    assert "none of the 2 tag(s) that were logged, such as `episode/return`" in message
    assert message.endswith("Did you mean `episode/return`?")


def test_what_a_route_leaves_out_counts_as_delivered() -> None:
    thin, full = Keeper(), Keeper()
    backends = create_backends([Route(thin, include="b", every=1000), full])
    run = Run(INFO, backends)
    run.log_hparams({"rate": 0.5})
    for step in range(100):
        run.log_scalars(step, {"a": step, "b": -step})
    run.log_media(Text(3, "a", "left out"))
    run.close("finished", LONG)
    assert [(d.delivered, d.undelivered) for d in run.deliveries()] == [(102, 0), (102, 0)]
    assert thin.rows == [(None, 0, {"b": 0}), (None, 99, {"b": -99})]
    assert (thin.hparams, thin.media) == ({"rate": 0.5}, [])
    assert len(full.records) == 100
    assert len(full.media) == 1


# ---- as an argument -----------------------------------------------------------------------------


def test_a_route_stands_wherever_a_backend_does(tmp_path: Path) -> None:
    first, second = Keeper(), Keeper()
    with MetricsCallback(
        "routed",
        log_dir=tmp_path,
        backends=[
            Route(first, include="eval/*"),
            second,
            Route({"tensorboard": {"flush_secs": 1}}, exclude="eval/*"),
            Route("tensorboard", rename={"train/*": "*"}),
        ],
    ) as metrics:
        metrics.log(64, {"eval/return": 1.0, "train/loss": 0.5})
        names = [delivery.backend for delivery in metrics.deliveries()]
    assert names == ["keeper", "keeper_2", "tensorboard", "tensorboard_2"]
    assert first.rows == [(None, 64, {"eval/return": 1.0})]
    assert second.rows == [(None, 64, {"eval/return": 1.0, "train/loss": 0.5})]


def test_one_route_alone_and_a_dictionary_of_two_backends() -> None:
    route = Route({"tensorboard": {}, "console": {}}, every=3)
    backends = create_backends(route)
    assert [(b.name, b.route) for b in backends] == [("tensorboard", route), ("console", route)]
    assert [b.route for b in create_backends(["console"])] == [None]


def test_no_clip_is_made_that_no_backend_takes() -> None:
    keeper = Keeper()
    options = VideoOptions(1, 1, width=8, height=8, fps=1.0, mode="thread")
    backends = create_backends(Route(keeper, exclude="eval/*"))
    assert prepare_videos(object(), backends, None, options) is None


def test_the_same_object_by_two_routes_is_an_error() -> None:
    keeper = Keeper()
    with pytest.raises(ConfigurationError, match="holds the same object twice"):
        create_backends([Route(keeper, include="a"), Route(keeper, include="b")])


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"include": 3}, ["`include`", "got 3", '"episode/*"']),
    ({"include": ""}, ["`include`", "got ''"]),
    ({"include": []}, ["`include`", "got []"]),
    ({"include": [""]}, ["`include`", "got ['']"]),
    ({"include": {"a"}}, ["`include`", "got {'a'}"]),
    ({"exclude": ["a", 3]}, ["`exclude`", "got ['a', 3]"]),
    ({"exclude": b"a"}, ["`exclude`", "got b'a'"]),
    ({"every": 0}, ["`every`", "got 0", "10_000"]),
    ({"every": -1}, ["`every`", "got -1"]),
    ({"every": True}, ["`every`", "got True"]),
    ({"every": 2.5}, ["`every`", "got 2.5", "pass 2 for steps, or `timedelta(seconds=2.5)`"]),
    ({"every": float("nan")}, ["`every`", "got nan", "pass for example"]),
    ({"every": timedelta(0)}, ["`every`", "got datetime.timedelta(0)"]),
    ({"every": "10"}, ["`every`", "got '10'"]),
    ({"rename": ["a"]}, ["`rename`", "got ['a']", "mapping"]),
    ({"rename": {"a": 3}}, ["`rename`", "'a': 3", "3 is no string"]),
    ({"rename": {"": "b"}}, ["`rename`", "'': 'b'", "'' is no string, or empty"]),
    ({"rename": {"a/*": "b"}}, ["'a/*': 'b'", "only one ends with `*`"]),
    ({"rename": {"a": "b/*"}}, ["'a': 'b/*'", "only one ends with `*`"]),
    ({"rename": {"a*b": "c"}}, ["`*` may only be the last character of 'a*b'"]),
    ({"rename": {"a*": "*b*"}}, ["`*` may only be the last character of '*b*'"]),
    ({"rename": {"a": "c", "b": "c"}}, ["both `a` and `b` the name `c`", "exclude one"]),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[str(options) for options, _ in BAD])
def test_what_is_wrong_is_told_at_construction(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Route("x", **options)
    assert [word for word in words if word not in str(caught.value)] == []


def test_one_name_for_two_tags_of_which_one_is_left_out_is_no_error() -> None:
    route = Route("x", exclude="b", rename={"a": "c", "b": "c"})
    assert send(route, at(1, a=1, b=2)) == [(1, {"c": 1})]


@pytest.mark.parametrize("backend", [["a"], ("a", "b"), Route("a")])
def test_a_route_takes_one_backend(backend: object) -> None:
    with pytest.raises(ConfigurationError, match=r"`Route` takes one backend: .* got .*Route` for"):
        Route(backend)
    with pytest.raises(ConfigurationError, match=r"`backends` takes the name .* got 3 of type"):
        create_backends(Route(3))
