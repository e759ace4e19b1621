"""Redirection of the user's own prints and log lines while a live display is shown."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO, cast, final

from rich.file_proxy import FileProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@final
class StreamProxy:
    """Replace a text stream and pass whole lines to `emit`; thread-safe.

    After `detach` the proxy writes to the stream itself, so code that still holds the proxy loses
    no output. Text without a line end waits for one, or for `flush`. Of a line that is overwritten
    with carriage returns (a progress bar) only the last state is shown. Other attributes than the
    writing methods are those of the stream.
    """

    def __init__(self, stream: TextIO, emit: Callable[[str], None]) -> None:
        self.stream = stream
        self._emit: Callable[[str], None] | None = emit
        # Keyed by thread: `print` writes a text and its line end separately, and another thread may
        # print in between. No lock: a finalizer or signal handler may print while its thread is in
        # this class.
        self._partial: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text; return its length."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        emit = self._emit
        if emit is None:
            return self.stream.write(text)
        thread = threading.get_ident()
        lines, newline, rest = (self._partial.pop(thread, "") + text).rpartition("\n")
        try:
            if newline:
                emit("".join(f"{_last_state(line)}\n" for line in lines.split("\n")))
        finally:
            if rest:
                self._partial[thread] = self._partial.get(thread, "") + rest
        if self._emit is None:  # detached meanwhile
            self._write_partial()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after another."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Show text that has no line end yet as a line, unless it is being overwritten."""
        emit = self._emit
        if emit is None:
            self.stream.flush()
        elif "\r" not in self._partial.get(threading.get_ident(), "\r"):
            emit(f"{self._partial.pop(threading.get_ident())}\n")

    def detach(self) -> None:
        """Write to the stream itself from now on."""
        self._emit = None
        self._write_partial()

    def _write_partial(self) -> None:
        with contextlib.suppress(KeyError):
            while self._partial:
                _, text = self._partial.popitem()
                self.stream.write(_last_state(text))


def _last_state(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]


@final
class Redirection:
    """Replace `sys.stdout` and `sys.stderr` by proxies if they are terminals.

    A stream that goes to a file or a pipe is not replaced: the user's output must arrive there.
    Handlers of the `logging` module that hold one of the streams get its proxy. `emit` writes whole
    lines above the picture.
    """

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._proxies: dict[str, StreamProxy] = {}
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None or isinstance(stream, FileProxy) or not is_terminal(stream):
                continue
            proxy = self._proxies[name] = StreamProxy(stream, emit)
            setattr(sys, name, proxy)
            _move_log_handlers(stream, proxy)

    def undo(self) -> None:
        """Restore the streams; a proxy that other code holds writes to its stream from now on."""
        while self._proxies:
            name, proxy = self._proxies.popitem()
            if getattr(sys, name) is proxy:
                setattr(sys, name, proxy.stream)
            _move_log_handlers(proxy, proxy.stream)
            proxy.detach()


def is_terminal(stream: object) -> bool:
    """Return True if a stream is a terminal; False if it is closed or has no `isatty`."""
    try:
        return bool(cast("TextIO", stream).isatty())
    except (AttributeError, ValueError):
        return False


def _move_log_handlers(old: object, new: object) -> None:
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):  # a placeholder has none
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(cast("TextIO", new))
