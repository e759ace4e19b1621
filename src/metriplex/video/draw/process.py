"""The training process's side of the drawing process: starting, feeding, watching, ending it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from metriplex.errors import ConfigurationError, VideoError
from metriplex.video.draw import wire
from metriplex.video.draw.drawer import CLOSED, Drawer, failed
from metriplex.video.draw.jobs import RenderJob, RenderResult
from metriplex.video.draw.priority import come_forward, stand_back, waited_secs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metriplex.plugins.interfaces import Renderer

_GRACE_SECONDS = 5.0
"""How long an idle process may take to end by itself."""

_SECOND_LOOK_SECONDS = 1.0
"""How often it is asked whether a process that is late gets no processor."""

_TAIL = 4000
"""Of what the process prints, the last bytes that are kept."""

_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
_DEFAULTS = {"LP_NUM_THREADS": "1"}
"""Variables that the user's own environment may set otherwise."""


@final
class ProcessDrawer(Drawer):
    """Draws in a process of its own, which is started at the first job and after each death."""

    def __init__(
        self,
        renderer: Renderer,
        *,
        nice: int,
        timeout_secs: float,
        environment: Mapping[str, str],
    ) -> None:
        """Pickles the renderer; starts nothing.

        Args:
            renderer: Sent to the process by cloudpickle.
            nice: The process's niceness.
            timeout_secs: Seconds without a new frame after which the process is ended.
            environment: Variables to set in its environment.

        Raises:
            ConfigurationError: The renderer can't be pickled.
        """
        try:
            self._renderer = wire.pack(renderer)
        except Exception as error:
            raise ConfigurationError(
                f"renderer `{type(renderer).__name__}` can't be sent to the drawing process, as it "
                f"can't be pickled (`{type(error).__name__}: {error}`): let it make what it draws "
                f"with in its first `render`, or draw in the training process with "
                f'`video_worker="thread"`'
            ) from error
        self._nice = nice
        self._timeout = timeout_secs
        self._environment = dict(environment)
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._hurried = False
        self._stopped = False

    def draw(self, job: RenderJob) -> RenderResult:
        """See `Drawer.draw`."""
        label = job.without_states()
        try:
            result = self._converse(wire.pack(job))
        except Exception as error:  # noqa: BLE001 - told in the result
            printed = self._end(0.0)
            result = failed(label, VideoError(CLOSED) if self._stopped else error)
            return dataclasses.replace(result, details=printed or result.details)
        return dataclasses.replace(result, job=label)

    def hurry(self) -> None:
        """See `Drawer.hurry`."""
        with self._lock:
            self._hurried = True
            if self._child is not None:
                self._child.hurry()

    def stop(self) -> None:
        """See `Drawer.stop`."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """See `Drawer.close`."""
        self._end(_GRACE_SECONDS)

    def _converse(self, message: bytes) -> RenderResult:
        """Sends a job, and listens until its result comes, the process ends, or it is too late."""
        if self._child is not None and not self._child.alive:
            self._end(0.0)
        child = self._child
        if child is None:
            child = self._start()
            message = self._renderer + message
        unsent = memoryview(message)
        where = "before its first frame"
        deadline = time.monotonic() + self._timeout
        while (remaining := deadline - time.monotonic()) > 0 or child.is_starving():
            try:
                unsent, replies = child.exchange(unsent, max(remaining, _SECOND_LOOK_SECONDS))
            except EOFError:
                raise VideoError(f"the drawing process died ({child.wait()}) {where}") from None
            for reply in replies:
                if isinstance(reply, RenderResult):
                    return reply
                where = f"at frame {reply}"
                deadline = time.monotonic() + self._timeout
        raise VideoError(
            f"the drawing process was ended, as nothing came from it for {self._timeout:g} s "
            f"{where}; the next clip starts a new one"
        )

    def _start(self) -> Child:
        with self._lock:
            if self._stopped:
                raise VideoError(CLOSED)
            self._child = Child(self._environment, self._nice)
            if self._hurried:
                self._child.hurry()
            return self._child

    def _end(self, grace: float) -> str:
        """Ends the process, if there is one, and gives what it printed last."""
        if self._child is None:
            return ""
        self._child.end(grace)
        self._child.wait()
        with self._lock:
            child, self._child = self._child, None
        child.release()
        return child.tail.decode(errors="replace").strip()


@final
class Child:
    """A process that was started; `end`, `wait` and `release` come last, in this order.

    Attributes:
        tail: The last of what it has printed.
    """

    def __init__(self, environment: Mapping[str, str], nice: int) -> None:
        """Starts it.

        Args:
            environment: Variables to set.
            nice: Its niceness.

        Raises:
            OSError: It can't be started.
        """
        self.tail = b""
        self._waited = -1.0
        self._received = bytearray()
        self._printing = True
        self._life = threading.Lock()  # a process that was waited for must not be killed
        self._directory = tempfile.mkdtemp(prefix="metriplex-video-")
        jobs, self._jobs = os.pipe()
        self._replies, replies = os.pipe()
        self._output, output = os.pipe()
        os.set_blocking(self._jobs, False)
        arguments = (jobs, replies, self._directory, os.getpid())
        try:
            # A process group, so that ffmpeg can be ended with it and Ctrl-C reaches neither. Not a
            # session: Linux weighs niceness only within one.
            self._process = subprocess.Popen(  # noqa: S603 - no shell, our own arguments
                [sys.executable, "-P", "-m", "metriplex.video.draw.child", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(jobs, replies),
                process_group=0,
                env=_variables(environment, self._directory),
            )
        except BaseException:
            self.release()
            raise
        finally:
            for descriptor in (jobs, replies, output):
                os.close(descriptor)
        stand_back(self._process.pid, nice)

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        with self._life:
            return self._process.poll() is None

    def hurry(self) -> None:
        """Ends its waiting for everybody else; from any thread."""
        with self._life:
            if self._process.returncode is None:
                come_forward(self._process.pid)

    def is_starving(self) -> bool:
        """Whether since the last call it had to wait for a processor; at the first call, yes."""
        before, self._waited = self._waited, waited_secs(self._process.pid)
        return before < 0 or self._waited - before > _SECOND_LOOK_SECONDS / 2

    def exchange(self, unsent: memoryview, timeout: float) -> tuple[memoryview, list[Any]]:
        """Sends and receives what is possible, and waits if nothing is.

        Args:
            unsent: What to send.
            timeout: Seconds to wait.

        Returns:
            What is still to be sent, and the messages that came.

        Raises:
            EOFError: It has ended.
        """
        with selectors.PollSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            if self._printing:
                selector.register(self._output, selectors.EVENT_READ)
            if unsent:
                selector.register(self._jobs, selectors.EVENT_WRITE)
            ready = {key.fd for key, _ in selector.select(timeout)}
        if self._output in ready:
            self._printing = self._read_output()
        if self._replies in ready:
            chunk = os.read(self._replies, wire.CHUNK)
            if not chunk:
                raise EOFError
            self._received += chunk
        if self._jobs in ready:
            # What is left in the pipe when it dies is told by the end of its replies.
            with contextlib.suppress(BrokenPipeError):
                unsent = unsent[os.write(self._jobs, unsent) :]
        return unsent, wire.unpack(self._received)

    def kill(self) -> None:
        """Ends it and its children at once; from any thread."""
        with self._life:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def end(self, grace: float) -> None:
        """Lets it end by itself.

        Args:
            grace: Seconds after which it is ended if it is still there.
        """
        self._close_jobs()
        deadline = time.monotonic() + grace
        with contextlib.suppress(EOFError):
            while (remaining := deadline - time.monotonic()) > 0:
                self.exchange(memoryview(b""), remaining)

    def wait(self) -> str:
        """Makes sure that it has ended, and tells how it did."""
        self.kill()
        with self._life:
            code = self._process.wait()
        with contextlib.suppress(BlockingIOError):
            os.set_blocking(self._output, False)
            while self._read_output():
                pass
        return str(signal.strsignal(-code) if code < 0 else f"exit status {code}")

    def release(self) -> None:
        """Closes everything on this side, and removes the files that it may have left."""
        self._close_jobs()
        os.close(self._replies)
        os.close(self._output)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _read_output(self) -> bool:
        chunk = os.read(self._output, wire.CHUNK)
        self.tail = (self.tail + chunk)[-_TAIL:]
        return bool(chunk)

    def _close_jobs(self) -> None:
        if self._jobs >= 0:
            os.close(self._jobs)
            self._jobs = -1


def _variables(environment: Mapping[str, str], directory: str) -> dict[str, str]:
    """The environment of the process: where this one finds modules, it does too."""
    path = [entry or str(Path.cwd()) for entry in sys.path]
    own = {"PYTHONPATH": os.pathsep.join(path), "TMPDIR": directory}
    return {**_DEFAULTS, **os.environ, **_ENVIRONMENT, **own, **environment}
