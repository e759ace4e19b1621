"""Start, feed, watch and end the drawing process, from the training process."""

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
from metriplex.video.draw.priority import lower_priority, restore_priority, waited_secs

if TYPE_CHECKING:
    from metriplex.plugins.interfaces import Renderer

_GRACE_SECONDS = 5.0
"""Seconds that an idle process may take to end by itself."""

_SECOND_LOOK_SECONDS = 1.0
"""Interval of checks whether a late process only waits for a processor."""

_TAIL = 4000
"""Number of bytes that are kept of the last output of the process."""

_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
_DEFAULTS = {"LP_NUM_THREADS": "1"}
"""Variables that the user's own environment may override."""


@final
class ProcessDrawer(Drawer):
    """Draw in a process of its own, which starts at the first job and after each death."""

    def __init__(self, renderer: Renderer, *, nice: int, timeout_secs: float) -> None:
        """Pickle the renderer, or raise `ConfigurationError`; start nothing."""
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
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._restored = False
        self._stopped = False

    def draw(self, job: RenderJob) -> RenderResult:
        """See `Drawer.draw`."""
        label = job.without_states()
        try:
            result = self._converse(wire.pack(job))
        except Exception as error:  # noqa: BLE001 - reported in the result
            printed = self._end(0.0)
            result = failed(label, VideoError(CLOSED) if self._stopped else error)
            return dataclasses.replace(result, details=printed or result.details)
        return dataclasses.replace(result, job=label)

    def restore_priority(self) -> None:
        """See `Drawer.restore_priority`."""
        with self._lock:
            self._restored = True
            if self._child is not None:
                self._child.restore_priority()

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
        """Send a job; receive replies until the result, the end of the process, or the timeout."""
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
            self._child = Child(self._nice)
            if self._restored:
                self._child.restore_priority()
            return self._child

    def _end(self, grace: float) -> str:
        """End the process, if there is one, and return its last output."""
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
    """A drawing process; the last calls are `end`, `wait` and `release`, in this order."""

    def __init__(self, nice: int) -> None:
        """Start the process, or raise `OSError`."""
        self.tail = b""  # last output of the process
        self._waited = -1.0
        self._received = bytearray()
        self._printing = True
        self._life = threading.Lock()  # the id of a reaped process must not be killed
        self._directory = tempfile.mkdtemp(prefix="metriplex-video-")
        jobs, self._jobs = os.pipe()
        self._replies, replies = os.pipe()
        self._output, output = os.pipe()
        os.set_blocking(self._jobs, False)
        arguments = (jobs, replies, self._directory, os.getpid())
        try:
            # A process group, so that ffmpeg is killed with the process and Ctrl-C reaches neither.
            # Not a session, because Linux compares niceness only within a session.
            self._process = subprocess.Popen(  # noqa: S603 - no shell, our own arguments
                [sys.executable, "-P", "-m", "metriplex.video.draw.child", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(jobs, replies),
                process_group=0,
                env=_variables(self._directory),
            )
        except BaseException:
            self.release()
            raise
        finally:
            for descriptor in (jobs, replies, output):
                os.close(descriptor)
        lower_priority(self._process.pid, nice)

    @property
    def alive(self) -> bool:
        """True if the process has not ended."""
        with self._life:
            return self._process.poll() is None

    def restore_priority(self) -> None:
        """End the policy `SCHED_IDLE` of the process; safe in any thread."""
        with self._life:
            if self._process.returncode is None:
                restore_priority(self._process.pid)

    def is_starving(self) -> bool:
        """Return True at the first call, or if it waited for a processor since the last call."""
        before, self._waited = self._waited, waited_secs(self._process.pid)
        return before < 0 or self._waited - before > _SECOND_LOOK_SECONDS / 2

    def exchange(self, unsent: memoryview, timeout: float) -> tuple[memoryview, list[Any]]:
        """Send and receive as much as possible; wait at most `timeout` seconds if neither is.

        Return the bytes still to send, and the received messages. Raise `EOFError` if the process
        has ended.
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
            # The end of the replies reports the death of the process.
            with contextlib.suppress(BrokenPipeError):
                unsent = unsent[os.write(self._jobs, unsent) :]
        return unsent, wire.unpack(self._received)

    def kill(self) -> None:
        """Kill the process and its children; safe in any thread."""
        with self._life:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def end(self, grace: float) -> None:
        """Wait at most `grace` seconds until the process ends by itself."""
        self._close_jobs()
        deadline = time.monotonic() + grace
        with contextlib.suppress(EOFError):
            while (remaining := deadline - time.monotonic()) > 0:
                self.exchange(memoryview(b""), remaining)

    def wait(self) -> str:
        """Kill the process if it still runs, and return the reason for its end."""
        self.kill()
        with self._life:
            code = self._process.wait()
        with contextlib.suppress(BlockingIOError):
            os.set_blocking(self._output, False)
            while self._read_output():
                pass
        return str(signal.strsignal(-code) if code < 0 else f"exit status {code}")

    def release(self) -> None:
        """Close all descriptors, and remove the temporary files of the process."""
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


def _variables(directory: str) -> dict[str, str]:
    """Return the environment variables of the process; it finds modules where this one does."""
    path = [entry or str(Path.cwd()) for entry in sys.path]
    own = {"PYTHONPATH": os.pathsep.join(path), "TMPDIR": directory}
    return {**_DEFAULTS, **os.environ, **_ENVIRONMENT, **own}
