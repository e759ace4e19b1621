"""A real TensorBoard server on loopback shows the run, with either of its loaders."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from metriplex import Lane, RunInfo, Scalars, Text, Video
from metriplex_tensorboard import TensorBoardBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

TIMEOUT = 60.0
RUNS = {"one", "two", "one/seed_000", "two/seed_000", "sweep", "sweep/slow", "sweep/fast"}


class Server:
    """An HTTP client of one `tensorboard` process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, route: str, **query: Any) -> bytes:
        address = f"{self.url}data/{route}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
            return response.read()

    def json(self, route: str, **query: Any) -> Any:
        return json.loads(self.get(route, **query))

    def post(self, route: str, body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}data/{route}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return json.loads(response.read())

    def scalars(self, run: str, tag: str) -> list[list[float]]:
        return self.json("plugin/scalars/scalars", run=run, tag=tag)

    def has_last(self, *runs: str) -> bool:
        try:
            points = [self.scalars(run, "episode/return")[-1] for run in runs]
        except urllib.error.HTTPError:  # the server has not read the tag yet
            return False
        return [point[2] for point in points] == [80.0, 10.0]

    def wait_until_loaded(self) -> None:
        """Wait for the last event: runs are listed before all of their files are read."""
        deadline = time.monotonic() + TIMEOUT
        while set(self.json("runs")) != RUNS or not self.has_last("one", "sweep/fast"):
            assert time.monotonic() < deadline, self.json("runs")
            threading.Event().wait(0.1)


@pytest.fixture(params=["--load_fast=true", "--load_fast=false"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "logs").mkdir()
    write_logs(tmp_path / "logs")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "logs")]
    options = ["--host", "127.0.0.1", "--port", "0", "--reload_interval", "1", request.param]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"http://\S+", line) if "TensorBoard" in line else None:
                    break
            else:
                pytest.fail(f"tensorboard ended: {lines}")
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield Server(found.group())
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def write_logs(directory: Path) -> None:
    for index, (name, status) in enumerate([("one", "finished"), ("two", "failed")]):
        (directory / name).mkdir()
        run = RunInfo(id=name, name=name, directory=directory / name, start_time=0.0)
        backend = TensorBoardBackend()
        backend.open_run(run)
        backend.log_hparams(run, {"lr": 0.5 + index, "anneal": True, "env": "CartPole", "n": 4})
        records = [
            Scalars(step * 10**8, {"episode/return": step + index}, wall_time=1.7e9 + step)
            for step in range(10)
        ]
        backend.log_scalars(run, records)
        backend.log_scalars(run, [Scalars(5, {"episode/return": 3.0}, lane=0)])
        backend.log_scalars(run, [Scalars(5 * 10**9, {"last": 1.0})])
        backend.log_text(run, Text(1, "notes", "some *text*"))
        frames = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
        backend.log_video(run, Video(7, "eval/video", frames, fps=50.0))
        backend.close_run(run, status)
    write_sweep(directory / "sweep")
    again = RunInfo(
        id="again", name="one", directory=directory / "one", start_time=0.0, resume_step=8 * 10**8
    )
    backend = TensorBoardBackend()
    backend.open_run(again)
    backend.log_scalars(again, [Scalars(8 * 10**8, {"episode/return": 80.0}, wall_time=1.8e9)])
    backend.log_scalars(again, [Scalars(5 * 10**9, {"last": 1.0})])
    backend.close_run(again, "finished")


def write_sweep(directory: Path) -> None:
    """Write a run of two lanes, each with its own hyper-parameters."""
    directory.mkdir()
    lanes = (Lane("slow", {"lr": 0.125}), Lane("fast", {"lr": 0.25}))
    run = RunInfo("sweep", "sweep", directory, start_time=0.0, lanes=lanes)
    backend = TensorBoardBackend()
    backend.open_run(run)
    backend.log_hparams(run, {"anneal": False, "env": "CartPole", "n": 4})
    backend.log_scalars(run, [Scalars(3, {"episode/return": 9.0 + i}, lane=i) for i in (0, 1)])
    backend.close_run(run, "finished")


def test_every_tab_shows_what_was_logged(server: Server) -> None:
    server.wait_until_loaded()

    expected = [[1.7e9 + step, step * 10**8, float(step)] for step in range(8)]
    assert server.scalars("one", "episode/return") == [*expected, [1.8e9, 8 * 10**8, 80.0]]
    two = server.scalars("two", "episode/return")
    assert [point[1:] for point in two] == [[step * 10**8, step + 1.0] for step in range(10)]
    assert [point[1:] for point in server.scalars("one", "last")] == [[5 * 10**9, 1.0]]

    [image] = server.json("plugin/images/images", run="one", tag="eval/video", sample=0)
    assert image["step"] == 7
    [(name, key)] = urllib.parse.parse_qsl(image["query"])
    with Image.open(io.BytesIO(server.get("plugin/images/individualImage", **{name: key}))) as gif:
        assert (gif.format, gif.size) == ("GIF", (48, 32))

    [text] = server.json("plugin/text/text", run="two", tag="notes/text_summary")
    assert "<em>text</em>" in text["text"]


def test_hparams_tab_lists_each_run_once_with_its_metrics(server: Server) -> None:
    server.wait_until_loaded()

    experiment = server.post("plugin/hparams/experiment", {"experimentName": ""})
    assert {info["name"] for info in experiment["hparamInfos"]} == {"lr", "anneal", "env", "n"}
    tags = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert tags == ["episode/return", "episode/length"]

    statuses = ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_UNKNOWN", "STATUS_RUNNING"]
    body = {
        "experimentName": "",
        "allowedStatuses": statuses,
        "colParams": [{"metric": {"tag": "episode/return"}}],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = server.post("plugin/hparams/session_groups", body)["sessionGroups"]
    sessions = {group["sessions"][0]["name"]: group["sessions"][0] for group in groups}
    hparams = {group["sessions"][0]["name"]: group["hparams"] for group in groups}

    assert hparams == {
        "one": {"lr": 0.5, "anneal": True, "env": "CartPole", "n": 4.0},
        "two": {"lr": 1.5, "anneal": True, "env": "CartPole", "n": 4.0},
        "sweep/slow": {"lr": 0.125, "anneal": False, "env": "CartPole", "n": 4.0},
        "sweep/fast": {"lr": 0.25, "anneal": False, "env": "CartPole", "n": 4.0},
    }
    assert {name: session["status"] for name, session in sessions.items()} == {
        "one": "STATUS_SUCCESS",
        "two": "STATUS_FAILURE",
        "sweep/slow": "STATUS_SUCCESS",
        "sweep/fast": "STATUS_SUCCESS",
    }
    for name, value, step in (("two", 10.0, 900_000_000), ("sweep/fast", 10.0, 3)):
        [metric] = sessions[name]["metricValues"]
        assert (metric["value"], metric["trainingStep"]) == (value, step)
