"""Run a backend in another process, for the tests of a contract."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, final

if TYPE_CHECKING:
    from metriplex.records import RunInfo, Scalar
    from metriplex.testing.contract.base import ContractBase
    from metriplex.testing.stored import Series

_RECORDS = 50


@final
class Child:
    """A process that opens a run, logs and flushes; a context manager that kills the process.

    A copy of the test object `contract` makes the backend in the process. After `flush` the process
    closes the run (`end="close"`), ends with an open run (`"leave"`), or waits (`"wait"`).

    Attributes:
        printed: Text that the process wrote to the standard output; set by `wait`.
        changed: Names of the global state that the process changed; set by `wait` if the process
            closes the run.
        logged: Scalars that the process logs.
    """

    def __init__(
        self, contract: ContractBase, run: RunInfo, end: Literal["close", "leave", "wait"]
    ) -> None:
        import cloudpickle

        self.printed = ""
        self.changed: tuple[str, ...] = ()
        self.logged = _scalars()
        cls = type(contract)
        state = {name: value for name, value in vars(contract).items() if name != "_sessions"}
        place = (cls.__module__, getattr(sys.modules[cls.__module__], "__file__", None))
        self._folder = tempfile.TemporaryDirectory()
        self._job = Path(self._folder.name, "job")
        self._job.write_bytes(
            pickle.dumps((place, cls.__qualname__, cloudpickle.dumps(state), run, end))
        )

    def __enter__(self) -> Self:
        """Start the process."""
        paths = [entry or str(Path.cwd()) for entry in sys.path]
        ready, write = os.pipe()
        self._ready = os.fdopen(ready, "rb")
        program = f"from {__name__} import _main; _main({str(self._job)!r}, {write})"
        with self._file("stdout") as printed, self._file("stderr") as complaints:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [sys.executable, "-P", "-c", program],
                env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=complaints,
                pass_fds=[write],
            )
        os.close(write)
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process if it is running."""
        self._process.kill()
        self._process.wait()
        self._ready.close()
        self._folder.cleanup()

    def wait(self, timeout: float) -> None:
        """Wait until the process has ended; fail if it hangs or has failed."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the process does not end within {timeout:g} s; it said:\n{self._said('stderr')}"
            ) from None
        said = self._said("stderr")
        assert status == 0, f"the process ended with status {status}; it said:\n{said}"
        self.printed = self._said("stdout")
        told = self._ready.read()
        self.changed = tuple(json.loads(told)) if told else ()

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
    from metriplex.testing.process import changes, surroundings
    from metriplex.testing.session import Session

    (module, file), qualname, state, run, end = pickle.loads(Path(job).read_bytes())  # noqa: S301
    before = surroundings()
    cls: Any = _import(module, file)
    for name in qualname.split("."):
        cls = getattr(cls, name)
    contract = cls.__new__(cls)
    vars(contract).update(pickle.loads(state))  # noqa: S301 - our parent's
    session = Session(contract.make_backend(), run, contract.timeout).open()
    session.hparams({"lr": 0.5})
    scalars = _scalars()
    for step in range(_RECORDS):
        session.log(step, {tag: points[step][1] for (_, tag), points in scalars.items()})
    session.flush()
    if end == "wait":
        os.write(ready, b"!")
        time.sleep(3600)
    if end == "close":
        session.close()
        session.end()
        os.write(ready, json.dumps(changes(before, surroundings())).encode())


def _import(name: str, file: str | None) -> Any:
    """Import the module of a contract by its name or, if it is in no package, by its file."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        spec = importlib.util.spec_from_file_location(name, file or name)
        if spec is None or spec.loader is None:
            raise
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
