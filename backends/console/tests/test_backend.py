from __future__ import annotations

import io
import math
import sys
import threading
from dataclasses import replace
from importlib.metadata import entry_points

import pytest

from metriplex import ClosedError, ConfigurationError, Scalars
from metriplex_console import ConsoleBackend


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refresh_per_second": 0}, r"`refresh_per_second` .* above 0, at most 60; got 0"),
        ({"refresh_per_second": math.nan}, r"`refresh_per_second` .* got nan"),
        ({"refresh_per_second": True}, r"`refresh_per_second` .* got True"),
        ({"every_secs": -1}, r"`every_secs` .* 0 or more; got -1"),
        ({"every_secs": "5"}, r"`every_secs` .* got '5'"),
        ({"max_rows": 0}, r"`max_rows` .* whole number from 1, or None; got 0"),
        ({"max_rows": 2.5}, r"`max_rows` .* whole number from 1, or None; got 2.5"),
        ({"chart": ""}, r"`chart` .* got ''"),
        ({"live": "yes"}, r"`live` .* True, False or None; got 'yes'"),
        ({"file": 3}, r"`file` .* text stream.* got 3"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ConsoleBackend(**options)


def test_it_is_found_by_its_name():
    (entry,) = entry_points(group="metriplex.backends", name="console")
    assert entry.load() is ConsoleBackend


@pytest.mark.parametrize("live", [False, True])
def test_after_close_everything_is_a_clear_error_but_a_second_close(run, live):
    backend = ConsoleBackend(file=io.StringIO(), live=live)
    with pytest.raises(ClosedError, match="`ppo_cartpole` is not open"):
        backend.log_scalars(run, [Scalars(1, {"x": 1.0})])
    backend.open_run(run)
    backend.open_run(run)
    backend.close_run(run, "finished")
    backend.close_run(run, "finished")
    for call in (
        lambda: backend.log_scalars(run, [Scalars(1, {"x": 1.0})]),
        lambda: backend.log_hparams(run, {}),
        lambda: backend.flush(run),
    ):
        with pytest.raises(ClosedError, match="`ppo_cartpole` was closed: log before `close`"):
            call()


def test_one_run_is_live_and_the_next_beside_it_plain(run):
    first, second = io.StringIO(), io.StringIO()
    other = replace(run, id="other", name="dqn")
    one, two = (ConsoleBackend(file=f, live=True, every_secs=0) for f in (first, second))
    one.open_run(run)
    two.open_run(other)
    two.log_scalars(other, [Scalars(7, {"x": 1.0}, 0)])
    one.close_run(run, "finished")
    two.close_run(other, "finished")
    assert "╭─" in first.getvalue()
    assert second.getvalue().splitlines()[1] == "run=dqn step=7 iteration=0 x=1"
    assert "\x1b" not in second.getvalue()
    third = io.StringIO()  # the terminal is free again
    backend = ConsoleBackend(file=third, live=True)
    backend.open_run(run)
    backend.close_run(run, "finished")
    assert "╭─" in third.getvalue()


def test_statistics_over_lanes_are_its_own_and_empty_hparams_take_no_line(run):
    file = io.StringIO()
    backend = ConsoleBackend(file=file, live=False, every_secs=0)
    backend.open_run(run)
    backend.log_hparams(run, {})
    statistics = Scalars(5, {"aggregate/x/mean": 2.0, "aggregate/x/iqm": 2.0})
    backend.log_scalars(run, [Scalars(5, {"x": 1.0 + 2 * i}, 0, lane=i) for i in (0, 1)])
    backend.log_scalars(run, [statistics])
    backend.log_scalars(run, [Scalars(6, {"aggregate/mine": 1.0, "y": 0.5}), statistics])
    lines = file.getvalue().splitlines()[1:]
    assert lines == [
        "step=5 iteration=0 lanes=2 x=2+-1",
        "step=6 iteration=0 lanes=2 aggregate/mine=1 y=0.5",
    ]


def test_256_lanes_of_20_tags_from_a_worker(run):
    file = io.StringIO()
    backend = ConsoleBackend(file=file, live=True)
    tags = [f"train/tag_{i}" for i in range(19)]

    def work() -> None:
        backend.open_run(run)
        for i in range(20):
            values = dict.fromkeys(tags, float(i)) | {"episode/return": float(i)}
            backend.log_scalars(run, [Scalars(i, values, i, lane) for lane in range(256)])
        backend.close_run(run, "finished")

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    last = file.getvalue().rpartition("╭─")[2]
    assert "256 seeds" in last
    assert "19.00" in last


def test_a_terminal_that_breaks_is_an_error_of_the_backend_only(run):
    class Broken(io.StringIO):
        broken = threading.Event()

        def write(self, text: str) -> int:
            if "╭" in text:
                self.broken.set()
                raise OSError(5, "Input/output error")
            return super().write(text)

    stdout = sys.stdout
    file = Broken()
    backend = ConsoleBackend(file=file, live=True, refresh_per_second=60)
    backend.open_run(run)
    assert file.broken.wait(30)
    for thread in threading.enumerate():
        if thread.name == "metriplex-console":
            thread.join(30)
    with pytest.raises(OSError, match="Input/output error"):
        backend.log_scalars(run, [Scalars(1, {"x": 1.0})])
    with pytest.raises(OSError, match="Input/output error"):
        backend.close_run(run, "failed")
    assert sys.stdout is stdout
    test_one_run_is_live_and_the_next_beside_it_plain(run)  # the terminal is free again
