"""Online mode: a server that accepts all data, and servers that are down, refuse or hang."""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("wandb")

from metriplex import ConfigurationError, Image, MetriplexError, Scalars, TransientError
from metriplex_wandb import WandbBackend
from metriplex_wandb.contract import read_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path: Path) -> None:
    """Hide the W&B account of this machine's user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def online(url: str, **options: Any) -> WandbBackend:
    settings = {"base_url": url, "api_key": "a" * 40}
    return WandbBackend(mode="online", settings=settings, **options)


def points(rows: list[dict[str, Any]], tag: str) -> list[tuple[int, Any]]:
    return [(row["env_steps"], row[tag]) for row in rows if tag in row]


def test_rows_arrive_in_order_also_late_repeated_and_in_a_run_that_is_continued(
    make_run, server
) -> None:
    run = make_run("name", "id")
    pixels = np.full((6, 8, 3), 7, np.uint8)
    for first in (0.5, 1.5):
        backend = online(server.url)
        backend.open_run(run)
        backend.log_hparams(run, {"optimizer/lr": first})
        steps = (2**53 + 1, 3, 3, 4)
        backend.log_scalars(run, [Scalars(step, {"a": first}) for step in steps])
        backend.log_scalars(run, [Scalars(5, {"b": math.inf}), Scalars(6, {"a": first}, lane=1)])
        backend.log_image(run, Image(1, "eval/frame", pixels))
        backend.close_run(run, "failed")

    assert sorted(server.runs) == ["id", "id-seed_001"]
    whole, lane = server.runs["id"], server.runs["id-seed_001"]
    once = [2**53 + 1, 3, 3, 4]
    assert points(whole.rows, "a") == [*((s, 0.5) for s in once), *((s, 1.5) for s in once)]
    assert points(whole.rows, "b") == [(5, math.inf)] * 2
    assert points(lane.rows, "a") == [(6, 0.5), (6, 1.5)]
    assert [row["_step"] for row in whole.rows] == list(range(12))
    assert [step for step, _ in points(whole.rows, "eval/frame")] == [1, 1]
    assert sum(name.startswith("media/images/eval/") for name in whole.files) == 2
    assert whole.config["optimizer"]["value"] == lane.config["optimizer"]["value"] == {"lr": 1.5}
    assert {(one.group, one.exit_code) for one in (whole, lane)} == {("name", 1)}


def test_a_server_that_goes_away_loses_nothing_and_close_says_how_to_upload(
    make_run, server
) -> None:
    backend, run = online(server.url, finish_timeout=1.0), make_run()
    backend.open_run(run)
    server.stop()
    backend.log_scalars(run, [Scalars(step, {"a": step}) for step in range(100)])
    backend.flush(run)

    with pytest.raises(MetriplexError, match=r"within 1 s.*`wandb sync .*run-") as failure:
        backend.close_run(run, "finished")

    assert not isinstance(failure.value, OSError)
    assert read_run(run).scalars == {(None, "a"): [(step, step) for step in range(100)]}
    backend.close_run(run, "finished")  # a second call does nothing


def test_without_an_account_the_error_says_how_to_log_in(make_run) -> None:
    backend, run = WandbBackend(mode="online"), make_run()

    with pytest.raises(ConfigurationError, match=r"No API key.*`wandb login`.*offline"):
        backend.open_run(run)

    found = backend.diagnose()
    assert not found.works
    assert "API key" in found.summary
    assert "`wandb login`" in found.remedy


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "hangs"])
def test_a_server_that_does_not_answer_is_given_up_in_time(
    make_run, descendants, free_port, listens: bool
) -> None:
    if listens:
        free_port.listen()
    backend = online(f"http://127.0.0.1:{free_port.getsockname()[1]}", init_timeout=1.0)

    with pytest.raises(TransientError, match=r"does not answer.*offline"):
        backend.open_run(make_run())

    assert descendants() == {}


@pytest.fixture
def free_port() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener
