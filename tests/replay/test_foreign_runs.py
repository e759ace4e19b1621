"""A run's directory from elsewhere: nothing outside of it is read or written, and nothing hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest

import metriplex
from metriplex import ConfigurationError, MetricsCallback, hookimpl
from metriplex.commands.main import main
from metriplex.journal.lines import DamagedLineError
from metriplex.replay.journal import replay_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@final
class Remote:
    """A service that keeps steps, and the files that it was given."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.files: dict[str, bytes] = {}

    @hookimpl
    def log_scalars(self, records: Any) -> None:
        self.steps += [record.step for record in records]

    @hookimpl
    def log_artifact(self, artifact: Any) -> None:
        for path in filter(Path.is_file, artifact.path.rglob("*")):
            self.files[path.name] = path.read_bytes()


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """A reader that waits for a pipe, or reads a device without end, fails instead of hanging."""

    def stop(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of the user that no run may reach."""
    path = tmp_path / "home"
    (path / "folder").mkdir(parents=True)
    (path / "keys").write_text("ssh-ed25519 AAAA me@host")  # without a newline at its end
    (path / "profile").write_text("alias a=b\nalias c=d\nexport X=1")
    return path


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in directory.rglob("*")
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "weights.bin").write_bytes(b"weights")
    with MetricsCallback("run", log_dir=tmp_path / "logs", backends=[], provenance=False) as m:
        for step in range(5):
            m.log(step, {"a": float(step)})
        m.log_image("picture", np.zeros((4, 4, 3), np.uint8), step=5)
        m.log_artifact(tmp_path / "net", step=5)
    return m.directory


def link_to(name: str) -> Callable[[Path, Path], None]:
    return lambda path, home: path.symlink_to(home / name)


def unix_socket(path: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # the path of a socket has at most 107 bytes
        one.bind(path.name)


FILES: dict[str, Callable[[Path, Path], None]] = {
    "link": link_to("keys"),
    "link-to-lines": link_to("profile"),
    "dangling-link": link_to("created"),
    "link-to-itself": lambda path, _: path.symlink_to(path),
    "link-to-zeros": lambda path, _: path.symlink_to("/dev/zero"),
    "pipe": lambda path, _: os.mkfifo(path),
    "socket": unix_socket,
    "directory": lambda path, _: path.mkdir(),
}
"""What may lie where a run has a file."""

PLACES = (
    *("journal/000000.jsonl", "journal/000001.jsonl", "journal/lock", "journal/remote.ack"),
    *("journal/remote.ack.PID", "journal/media/00000005-0.npz"),
    *("artifacts/step_5/net/weights.bin", "artifacts/step_5/net/other.bin"),
)

DIRECTORIES = ("journal", "journal/media", "artifacts", "artifacts/step_6", "seed_000", "wandb")


def resume(run: Path, tmp_path: Path) -> None:
    with MetricsCallback(resume=run, backends=[], provenance=False) as metrics:
        metrics.log_image("picture", np.zeros((4, 4, 3), np.uint8), step=6)
        (tmp_path / "note").write_text("hi")
        metrics.log_artifact(tmp_path / "note", name="pwn.txt", step=6)


def use(run: Path, tmp_path: Path) -> Remote:
    """Use a run with everything that reads or writes it; errors must be those of the user."""
    remote = Remote()
    for call in (
        lambda: metriplex.read(run),
        lambda: replay_run(run, remote),
        lambda: resume(run, tmp_path),
        lambda: [entry.load() for entry in metriplex.read(run).media],
    ):
        with contextlib.suppress(ConfigurationError, OSError, DamagedLineError):
            call()
    output = str(tmp_path / "x.csv")
    assert main(["export", str(run), "--to", "csv", "--output", output]) in (0, 1, 2)
    return remote


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_is_none_is_neither_followed_nor_waited_for(
    place: str, kind: str, run: Path, home: Path, tmp_path: Path
) -> None:
    before = contents(home)
    path = run / place.replace("PID", str(os.getpid()))
    path.unlink(missing_ok=True)
    FILES[kind](path, home)
    remote = use(run, tmp_path)
    assert contents(home) == before
    assert not any(content in before.values() for content in remote.files.values())


@pytest.mark.parametrize("target", ["folder", "created"])
@pytest.mark.parametrize("place", DIRECTORIES)
def test_a_directory_that_is_a_link_is_not_followed(
    place: str, target: str, run: Path, home: Path, tmp_path: Path
) -> None:
    before = contents(home)
    path = run / place
    if path.exists():
        path.rename(tmp_path / "moved")
    path.symlink_to(home / target)
    use(run, tmp_path)
    assert contents(home) == before


@pytest.mark.parametrize("kind", FILES)
def test_a_segment_that_is_none_is_reported_and_the_others_are_read_and_sent(
    kind: str, run: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "journal" / "000001.jsonl"
    FILES[kind](path, home)
    sentence = f"{path} is left out: it is a symbolic link, or no regular file"
    data = metriplex.read(run)
    assert data.series("a").value.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert sentence in data.damage
    remote = Remote()
    (result,) = replay_run(run, remote)
    assert remote.steps == [0, 1, 2, 3, 4]
    assert remote.files == {"weights.bin": b"weights"}
    assert sentence in result.damage
    for command in ("export", "replay"):
        to = ["csv", "--output", "/dev/null"] if command == "export" else ["console"]
        assert main([command, str(run), "--to", *to]) == 1
        assert f"metriplex: {sentence}" in capsys.readouterr().err


def test_an_artifact_with_a_file_that_was_not_logged_is_damage(run: Path, home: Path) -> None:
    """A backend stores the whole directory, and would send the user's file."""
    folder = run / "artifacts" / "step_5" / "net"
    for extra in (folder / "keys", folder / "inner"):
        extra.symlink_to(home / "keys" if extra.name == "keys" else home)
        remote = Remote()
        (result,) = replay_run(run, remote, everything=True)
        assert remote.files == {}
        assert any("is not one of the files that were logged" in one for one in result.damage)
        extra.unlink()


def test_reading_and_replaying_change_no_file_of_the_journal(run: Path) -> None:
    segment = run / "journal" / "000000.jsonl"
    segment.write_bytes(segment.read_bytes()[:-30])  # a torn line, which a writer would remove
    before = contents(run)
    metriplex.read(run)
    assert contents(run) == before
    replay_run(run, Remote())
    after = contents(run)
    assert {name for name in after if after[name] != before.get(name)} == {"journal/remote.ack"}
