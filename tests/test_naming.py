from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interpreter
from interpreter import Program
from metriplex.errors import ConfigurationError
from metriplex.naming import MAX_NAME_BYTES, check_name, create_directory, run_name

NOW = datetime(2026, 3, 4, 5, 6, 7)
TIME = "20260304_050607"


class Named:
    def __init__(self, name: object) -> None:
        self.name = name


class CartPole:
    pass


class Abstract:
    """An environment whose base class leaves `name` to its subclasses."""

    @property
    def name(self) -> str:
        raise TypeError("only subclasses have a name")


def test_a_generated_name_contains_policy_environment_and_time() -> None:
    env, policy = Named("CartPole"), Named("MLP")
    assert run_name(None, env, policy, NOW) == f"MLP_CartPole_{TIME}"
    assert run_name(None, env, None, NOW) == f"CartPole_{TIME}"
    assert run_name(None, None, policy, NOW) == f"MLP_{TIME}"
    assert run_name(None, None, None, NOW) == f"training_{TIME}"


def test_a_given_name_is_unchanged() -> None:
    name = "PPO lr=3e-4, seed 1 (früh)"
    assert run_name(name, Named("CartPole"), Named("MLP"), NOW) == name


@pytest.mark.parametrize(
    ("env", "part"),
    [
        (CartPole(), "CartPole"),
        (Named(None), "Named"),
        (Named(3), "Named"),
        (Named(""), "Named"),
        (Named("///"), "Named"),
        (Abstract(), "Abstract"),
        (CartPole, "CartPole"),
        (len, "len"),
        (lambda: None, "lambda"),
        ("Hopper-v5", "Hopper-v5"),
        (Named("ALE/Pong-v5"), "ALE-Pong-v5"),
        (Named("..\\..\\x"), "x"),
        (Named("../../etc/passwd"), "etc-passwd"),
        (Named("a\0b\n"), "a-b"),
        (Named(".hidden"), "hidden"),
        (Named("Пинг Понг"), "Пинг-Понг"),
        (Named("con.x"), "con-x-"),
        (Named("e" * 500), "e" * 80),
        (Named("\ud800x"), "x"),
    ],
)
def test_the_part_of_an_object_in_a_generated_name(env: object, part: str) -> None:
    assert run_name(None, env, None, NOW) == f"{part}_{TIME}"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("a/b", "contains '/'"),
        ("/etc", "contains '/'"),
        ("a\\b", "contains"),
        ("C:x", "contains ':'"),
        ("a\0", "contains '\\\\x00'"),
        ("a\nb", "contains '\\\\n'"),
        (".", "starts with a dot"),
        ("..", "starts with a dot"),
        (".git", "starts with a dot"),
        ("a.", "ends with a dot"),
        (" a", "starts or ends with a space"),
        ("nul", "reserved on Windows"),
        ("COM1.txt", "reserved on Windows"),
        ("x" * 201, "201 bytes long"),
        ("ü" * 101, "202 bytes long"),
        ("\udc80", "not valid Unicode"),
        (3, "must be a string or None, got 3"),
        (Path("a"), "must be a string or None"),
    ],
)
def test_an_invalid_name_is_rejected_before_anything_is_created(
    name: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        run_name(name, None, None, NOW)
    with pytest.raises(ConfigurationError, match=why):
        create_directory(tmp_path / "logs", name)
    assert list(tmp_path.iterdir()) == []


def test_the_error_proposes_a_name() -> None:
    with pytest.raises(ConfigurationError, match="`sweep-3` would do"):
        check_name("sweep/3")


def test_the_longest_name_can_be_created_more_than_once(tmp_path: Path) -> None:
    name = "x" * MAX_NAME_BYTES
    assert create_directory(tmp_path, name).name == name
    assert create_directory(tmp_path, name).name == f"{name}_2"


@settings(max_examples=200, deadline=None)
@given(env=st.text(max_size=300), policy=st.text(max_size=300) | st.none())
def test_every_generated_name_is_one_usable_component(env: str, policy: str | None) -> None:
    name = run_name(None, Named(env), None if policy is None else Named(policy), NOW)
    check_name(name)
    assert (Path("logs") / name).parent == Path("logs")
    assert name.endswith(TIME)


@settings(max_examples=200, deadline=None)
@given(name=st.text(st.sampled_from("a./\\~:* \0\n-ü"), max_size=8))
def test_no_name_leaves_the_log_directory(name: str) -> None:
    try:
        check_name(name)
    except ConfigurationError:
        return
    assert os.path.normpath(Path("logs") / name) == str(Path("logs") / name)
    assert (Path("logs") / name).parent == Path("logs")


def test_directories_are_fresh_absolute_and_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = [create_directory("deep/logs", "run") for _ in range(3)]
    assert made == [tmp_path / "deep/logs" / n for n in ("run", "run_2", "run_3")]
    assert all(list(directory.iterdir()) == [] for directory in made)


def test_existing_files_and_dangling_links_are_not_overwritten(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "run").symlink_to(outside)
    (logs / "run_2").write_text("mine")
    assert create_directory(logs, "run") == logs / "run_3"
    assert not outside.exists()
    assert (logs / "run_2").read_text() == "mine"


def test_the_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert create_directory("~/logs", "run") == tmp_path / "logs/run"


CREATE_MANY = """
import sys
from metriplex.naming import create_directory
print("ready", flush=True)
sys.stdin.readline()
for _ in range(50):
    print(create_directory(sys.argv[1], "run"))
"""


def test_two_processes_in_the_same_second_share_no_directory(tmp_path: Path) -> None:
    made: list[str] = []
    with (
        Program(CREATE_MANY, tmp_path, stdin=subprocess.PIPE) as one,
        Program(CREATE_MANY, tmp_path, stdin=subprocess.PIPE) as other,
    ):
        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in (one, other):
            assert process.stdout is not None
            made += process.stdout.read().split()
    assert len(set(made)) == 100
    assert sorted(made) == sorted(str(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize("log_dir", ["", "a\0b", b"logs", 3, None])
def test_an_invalid_path_is_rejected(log_dir: str) -> None:
    with pytest.raises(ConfigurationError, match="`log_dir` must be a non-empty path"):
        create_directory(log_dir, "run")


@pytest.mark.parametrize("log_dir", ["gs://bucket/logs", "s3:/bucket", "file:///tmp"])
def test_a_url_is_not_turned_into_a_directory(
    log_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="must be a local directory"):
        create_directory(log_dir, "run")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_home_directory_raises() -> None:
    with pytest.raises(ConfigurationError, match="no home directory") as caught:
        create_directory("~nobody-of-this-name/logs", "run")
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("log_dir", "why"),
    [("file", "it is a file: remove it"), ("file/logs", "a part of the path is a file")],
)
def test_a_log_directory_that_is_a_file_raises(tmp_path: Path, log_dir: str, why: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match=why) as caught:
        create_directory(tmp_path / log_dir, "run")
    assert isinstance(caught.value.__cause__, OSError)
    assert str(tmp_path / log_dir) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs Linux's /proc, which is not writable"
)
def test_a_log_directory_that_is_not_writable_raises() -> None:
    with pytest.raises(ConfigurationError, match="may write to") as caught:
        create_directory("/proc", "run")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_path_that_is_too_long_raises(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long: give a shorter"):
        create_directory(tmp_path / ("x" * 300), "run")


PROGRAM = textwrap.dedent("""
    import sys
    from metriplex.errors import ConfigurationError
    from metriplex.naming import create_directory
    try:
        create_directory(sys.argv[1], "run")
    except ConfigurationError as error:
        print(type(error.__cause__).__name__, error)
""")


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_directory_that_cannot_hold_a_byte_raises_and_is_removed(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    done = interpreter.run(limit + PROGRAM, tmp_path / "logs")
    assert done.stdout.startswith("OSError can't create a run's directory")
    assert "raise the limit" in done.stdout
    assert list((tmp_path / "logs").iterdir()) == []


UNSHARE = ["unshare", "--map-root-user", "--mount"]


def _can_mount() -> bool:
    tmpfs = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and not subprocess.run(tmpfs, check=False).returncode


@pytest.mark.skipif(not _can_mount(), reason="needs a mount namespace for a small tmpfs")
def test_a_full_disk_raises_an_error_that_names_the_cause(tmp_path: Path) -> None:
    script = (
        'mount -t tmpfs -o size=4k none "$1" && head -c 4096 /dev/zero > "$1/full" && '
        '"$2" -c "$3" "$1" && ls "$1"'
    )
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", script, "sh", str(tmp_path), sys.executable, PROGRAM],
        check=True,
        capture_output=True,
        text=True,
    )
    message, left = done.stdout.splitlines()
    assert message.startswith("OSError can't create a run's directory")
    assert "the disk is full: free some space" in message
    assert left == "full"
