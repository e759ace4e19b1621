"""The user's own prints and log lines, while a picture stands at the bottom of the terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO, cast, final

from rich.file_proxy import FileProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NAMES = ("stdout", "stderr")


@final
class StreamProxy:
    """Stands in for a text stream and passes whole lines to `emit`; thread-safe.

    After `detach` it writes to the stream itself, so whoever still holds it loses nothing. Text
    without a line end waits for one, or for a `flush`. Of what was overwritten with carriage
    returns (progress bars) only the last state is shown.

    Args:
        stream: The stream that is stood in for; what isn't about writing is asked of it.
        emit: Called with one or more whole lines, their line ends included.
    """

    def __init__(self, stream: TextIO, emit: Callable[[str], None]) -> None:
        self.stream = stream
        self._emit: Callable[[str], None] | None = emit
        # By thread: `print` writes a text and its line end apart, and another may come between. No
        # lock: a finaliser or a signal handler may print while its thread is in here.
        self._partial: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Writes text; returns its length."""
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
        """Writes texts one after another."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Shows what has no line end yet as a line of its own, unless it is being overwritten."""
        emit = self._emit
        if emit is None:
            self.stream.flush()
        elif "\r" not in self._partial.get(threading.get_ident(), "\r"):
            emit(f"{self._partial.pop(threading.get_ident())}\n")

    def detach(self) -> None:
        """Writes to the stream itself from now on."""
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
    """Puts proxies in the place of `sys.stdout` and `sys.stderr` where they are terminals.

    A stream that goes to a file or a pipe is left alone: what the user sends there must arrive
    there. Handlers of the `logging` module that hold one of the streams are moved along.

    Args:
        emit: Writes whole lines above the picture.
    """

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._proxies: dict[str, StreamProxy] = {}
        for name in _NAMES:
            stream = getattr(sys, name)
            if stream is None or isinstance(stream, FileProxy) or not is_terminal(stream):
                continue
            proxy = self._proxies[name] = StreamProxy(stream, emit)
            setattr(sys, name, proxy)
            _move_log_handlers(stream, proxy)

    def undo(self) -> None:
        """Restores what is still in place; a proxy that others hold writes through from now on."""
        while self._proxies:
            name, proxy = self._proxies.popitem()
            if getattr(sys, name) is proxy:
                setattr(sys, name, proxy.stream)
            _move_log_handlers(proxy, proxy.stream)
            proxy.detach()


def is_terminal(stream: object) -> bool:
    """Whether a stream is a terminal; a closed one, or one that can't tell, is not."""
    try:
        return bool(cast("TextIO", stream).isatty())
    except (AttributeError, ValueError):
        return False


def _move_log_handlers(old: object, new: object) -> None:
    known = [logging.getLogger(), *list(logging.Logger.manager.loggerDict.values())]
    for logger in known:
        if not isinstance(logger, logging.Logger):
            continue
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(cast("TextIO", new))
