"""Programs in processes of their own, forked from a process that has imported jax and metriplex.

A new interpreter spends 1.5 s of a processor on these imports, a fork a hundredth of that. A
program ends as in a new interpreter: exceptions, `atexit` handlers, signals and exit status are the
real ones. A test whose subject is the import, the environment at the start or the command line uses
`subprocess` and a new interpreter.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from types import CodeType

SERVE = "from interpreter import next_program; exec(next_program())"
PR_SET_CHILD_SUBREAPER = 36
SIZE = 2**17
"""Of a request, in bytes, at most."""

PYTEST = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
"""The program of `pytest` with the arguments given."""


@final
class Program(subprocess.Popen[str]):
    """A Python program, as of `python -c`, with pipes for its standard output and error.

    Args:
        source: The program; common indentation is removed.
        arguments: Its `sys.argv[1:]`.
        options: Of `subprocess.Popen`: `cwd`, `env`, `stdin`, `stdout`, `stderr` and `text`.
    """

    def __init__(self, source: str, *arguments: object, **options: Any) -> None:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)]
        super().__init__(command, **(pipes | options))

    if sys.platform == "linux":  # elsewhere no process can adopt another one

        def _execute_child(self, args: Any, *options: Any) -> None:
            """Has the server fork; adopts the process, so that it can be waited for."""
            cwd, env = options[4:6]
            pipes = options[9:15]  # standard input: to read, to write; output: to read, to write
            theirs = pipes[0], pipes[3], pipes[5]
            request = {
                "source": args[2],
                "argv": ["-c", *args[3:]],
                "cwd": str(cwd or Path.cwd()),
                "env": dict(os.environ if env is None else env),
            }
            descriptors = [number if own < 0 else own for number, own in enumerate(theirs)]
            adopt = functools.partial(ctypes.CDLL(None).prctl, PR_SET_CHILD_SUBREAPER)
            server = _server()
            adopt(1)
            try:
                socket.send_fds(server, [json.dumps(request).encode()], descriptors)
                self.pid = int(server.recv(SIZE))
                server.recv(SIZE)  # the process that stood between has ended
            finally:
                adopt(0)
            self._child_created = True
            for own, other in zip(theirs, (pipes[1], pipes[2], pipes[4]), strict=True):
                if other >= 0:  # a pipe, not a file of the caller's
                    os.close(own)


def run(
    source: str, *arguments: object, timeout: float = 120.0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run` does; the arguments are those of `Program`."""
    with Program(source, *arguments, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


# ---- the server ---------------------------------------------------------------------------------


@functools.cache
def _server() -> socket.socket:
    """The connection to the process that forks; this process ends with the connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parent),
                "OPENBLAS_NUM_THREADS": "1",  # no thread may run where a process forks
            },
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def next_program() -> CodeType:
    """Fork a process for each request; return, in that process, the program that it is to run."""
    import jax.numpy
    import numpy as np
    import optax

    import metriplex

    _ = metriplex.MetricsCallback  # loads what a training loop needs
    del jax, np, optax, metriplex
    gc.freeze()
    connection = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, SIZE, 3)
        if not message:
            os._exit(0)
        if not (between := os.fork()):
            break
        os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(b"ended")
    if pid := os.fork():
        connection.send(b"%d" % pid)
        os._exit(0)  # the process that asked adopts the other one
    connection.close()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    request = json.loads(message)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return compile(request["source"], "<string>", "exec")
