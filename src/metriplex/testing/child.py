"""Run a backend in another process, for the tests of a contract."""

from __future__ import annotations

import atexit
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, final

from metriplex.testing.copies import Copy, spawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex.records import Media, RunInfo, Scalar
    from metriplex.testing.contract.base import ContractBase
    from metriplex.testing.stored import Series

_RECORDS = 50


@final
@dataclass(frozen=True)
class Life:
    """The effects of a process.

    Attributes:
        status: Exit status; None if the process hung and was killed.
        stdout: Text on the standard output.
        stderr: Text on the standard error.
        changed: The global state that was changed, and by which call.
        importer: The modules that imported jax; None if it was not imported.
        ending_secs: Seconds from the last call to the end of the handlers of `atexit`; None if
            that end was not reached.
    """

    status: int | None = None
    stdout: str = ""
    stderr: str = ""
    changed: Sequence[str] = ()
    importer: str | None = None
    ending_secs: float | None = None

    def check(self, timeout: float) -> None:
        """Fail if the process hung or failed."""
        said = f"it said:\n{self.stderr}"
        assert self.status is not None, f"the process does not end within {timeout:g} s; {said}"
        assert self.status == 0, f"the process ended with status {self.status}; {said}"


@final
class Child:
    """A process that opens a run, logs and flushes; a context manager that kills the process.

    A copy of the test object `contract` makes the backend in the process. After `flush` the process
    closes the run (`end="close"`), ends with an open run (`"leave"`), or waits (`"wait"`).

    Attributes:
        logged: Scalars that the process logs.
        life: The effects of the process; set by `wait`.
    """

    def __init__(
        self, contract: ContractBase, run: RunInfo, end: Literal["close", "leave", "wait"]
    ) -> None:
        self.life = Life()
        self.logged = _scalars()
        self._folder = tempfile.TemporaryDirectory()
        self._job = Path(self._folder.name, "job")
        self._job.write_bytes(pickle.dumps((Copy.of(contract), run, end)))

    def __enter__(self) -> Self:
        """Start the process."""
        ready, write = os.pipe()
        self._ready = os.fdopen(ready, "rb")
        program = f"from {__name__} import _main; _main({str(self._job)!r}, {write})"
        with self._file("stdout") as printed, self._file("stderr") as complaints:
            self._process = spawn(program, stdout=printed, stderr=complaints, pass_fds=[write])
        os.close(write)
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process if it is running."""
        self._process.kill()
        self._process.wait()
        self._ready.close()
        self._folder.cleanup()

    def wait(self, timeout: float) -> Life:
        """Wait until the process has ended, and return its effects; kill a process that hangs."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            status = None
        reports: dict[str, Any] = {}
        for line in self._ready.read().splitlines():
            reports |= json.loads(line)
        self.life = Life(status, self._said("stdout"), self._said("stderr"), **reports)
        return self.life

    def kill_when_flushed(self, timeout: float) -> None:
        """Send a SIGKILL as soon as `flush` has returned; fail if the process ends before."""
        import select

        readable, _, _ = select.select([self._ready], [], [], timeout)
        flushed = bool(readable) and bool(self._ready.read(1))
        self._process.kill()
        self._process.wait(timeout)
        assert flushed, f"the process did not get to the end of `flush`:\n{self._said('stderr')}"

    def _file(self, name: str) -> BinaryIO:
        return Path(self._folder.name, name).open("wb")

    def _said(self, name: str) -> str:
        return Path(self._folder.name, name).read_text(errors="replace")


def _scalars() -> dict[Series, list[tuple[int, Scalar]]]:
    return {
        (None, tag): [(step, step / 4 + len(tag)) for step in range(_RECORDS)]
        for tag in ("train/loss", "a")
    }


def _main(job: str, ready: int) -> None:
    from metriplex.testing.session import Session

    copy, run, end = pickle.loads(Path(job).read_bytes())  # noqa: S301 - our parent's
    done = time.monotonic()

    def report_the_end() -> None:  # the handler that was registered first is called last
        _report(ready, ending_secs=time.monotonic() - done)

    if end == "close":
        atexit.register(report_the_end)
    watch = _Watch()
    copy.find_class()
    watch.look("the import")
    contract = copy.make()
    backend = contract.make_backend()
    watch.look("the constructor")
    session = Session(backend, run, contract.timeout)
    inside = session.inside(_Watch, "surroundings")

    def look(hook: str) -> None:
        watch.look(f"`{hook}`")
        session.inside(lambda: inside.look(f"`{hook}`"), "surroundings")

    session.open()
    look("open_run")
    session.hparams({"lr": 0.5})
    look("log_hparams")
    scalars = _scalars()
    for step in range(_RECORDS):
        session.log(step, {tag: points[step][1] for (_, tag), points in scalars.items()})
    look("log_scalars")
    if end == "close":
        for record in _media(run):
            session.media(record)
            look(f"log_{type(record).__name__.lower()}")
    session.flush()
    look("flush")
    if end == "wait":
        os.write(ready, b"!")
        time.sleep(3600)
    if end == "close":
        session.close()
        look("close_run")
        session.end()
        changed = [f"{name} (by {hook})" for name, hook in (inside.found | watch.found).items()]
        _report(ready, changed=changed, importer=_importer_of_jax())
        done = time.monotonic()


@final
class _Watch:
    """The global state of the process, as the calling thread has it, and who changed it."""

    def __init__(self) -> None:
        from metriplex.testing import process

        self.found: dict[str, str] = {}
        self._process = process
        self._before = process.surroundings()

    def look(self, by: str) -> None:
        """Note what has changed for the first time."""
        for name in self._process.changes(self._before, self._process.surroundings()):
            self.found.setdefault(name, by)


def _media(run: RunInfo) -> Sequence[Media]:
    from metriplex.testing.contract.media import one_of_each

    file = run.directory / "artifacts" / "step_4" / "one"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"1")
    return one_of_each(None, file)


def _importer_of_jax() -> str | None:
    """Return the modules that have imported jax, apart from metriplex; None if it isn't loaded."""
    if "jax" not in sys.modules:
        return None
    loaded = {
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in ("jax", "jaxlib", "metriplex")
        and any(getattr(one, "__name__", "") == "jax" for one in vars(module).values())
    }
    return ", ".join(sorted(loaded)) or "a function"


def _report(ready: int, **facts: Any) -> None:
    os.write(ready, json.dumps(facts).encode() + b"\n")
