"""The training process's side: it starts the process of the wandb client and calls it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, final

from metriplex import ConfigurationError, MetriplexError, TransientError, mask_arguments

_HEADER = struct.Struct("<Q")
_PROGRAM = "metriplex_wandb_client"
_TAIL = 2000
"""Bytes from the end of the process's output that an error shows."""

_DEFAULTS = {"WANDB_ERROR_REPORTING": "false"}
"""Environment variables of the process, unless the user's environment sets them."""


@final
class Process:
    """A process with the wandb client of one run.

    It keeps the client out of the training process: no thread, import, lock, exit handler or
    exception hook of the client, and no line on the terminal. A client that hangs can be killed.
    Called from one thread at a time.

    Attributes:
        tail: The last bytes of the process's output, after its end.

    Raises:
        OSError: The process can't be started.
    """

    def __init__(self) -> None:
        self.tail = ""
        self._printed: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._socket, theirs = socket.socketpair()
        # The client stores its command line.
        arguments = [str(theirs.fileno()), str(os.getpid()), *mask_arguments(sys.argv)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - no shell, our own arguments
                [sys.executable, "-P", "-m", _PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C does not reach it
                env=_variables(),
            )
        except BaseException:
            self._printed.close()
            self._socket.close()
            raise
        finally:
            theirs.close()

    def call(self, method: str, timeout: float, **arguments: Any) -> Any:
        """Call a method of `metriplex_wandb_client.client.Client`.

        Args:
            method: The method's name; `open` makes the client.
            timeout: Seconds after which a process that has not answered is killed.
            arguments: The method's arguments.

        Returns:
            What the method returned.

        Raises:
            ConfigurationError: The user has to fix the account or an option.
            TransientError: A failure that may pass; nothing was stored.
            MetriplexError: The call failed, or the process died or was killed.
        """
        message = pickle.dumps((method, arguments))
        deadline = time.monotonic() + timeout
        try:
            self._send(_HEADER.pack(len(message)) + message, deadline)
            (size,) = _HEADER.unpack(self._receive(_HEADER.size, deadline))
            kind, result = pickle.loads(self._receive(size, deadline))  # noqa: S301 - our child's
        except TimeoutError:
            self.end(0.0)
            raise ClientDiedError(
                f"the process of the wandb client was ended, as it did not answer to `{method}` "
                f"within {timeout:g} s; what it has not uploaded is in the run's directory"
            ) from None
        except (EOFError, OSError):
            code = self.end(1.0)
            raise ClientDiedError(
                f"the process of the wandb client died (exit status {code}) in `{method}`: "
                f"{self.tail or 'it printed nothing'}"
            ) from None
        if kind == "configuration":
            raise ConfigurationError(result)
        if kind == "transient":
            raise TransientError(result)
        if kind == "failure":
            raise MetriplexError(f"the wandb client failed in `{method}`: {result}")
        return result

    def end(self, grace: float) -> int:
        """Close the connection, so that the process exits.

        Args:
            grace: Seconds after which the process is killed if it still runs.

        Returns:
            The process's exit status.
        """
        self._socket.close()
        try:
            code = self._process.wait(grace)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            code = self._process.wait()
        if not self._printed.closed:
            self._printed.seek(0)
            self.tail = self._printed.read()[-_TAIL:].decode(errors="replace").strip()
            self._printed.close()
        return code

    def _send(self, data: bytes, deadline: float) -> None:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        self._socket.sendall(data)

    def _receive(self, size: int, deadline: float) -> bytearray:
        data = bytearray()
        while len(data) < size:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = self._socket.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data


class ClientDiedError(MetriplexError):
    """The process of the wandb client has died."""


def _variables() -> dict[str, str]:
    """Return the environment of the process, with this process's module search path."""
    path = [entry or str(Path.cwd()) for entry in sys.path]
    own = {"PYTHONPATH": os.pathsep.join(path)}
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {**_DEFAULTS, "WANDB_PROGRAM": sys.argv[0] or "python", **inherited, **own}
