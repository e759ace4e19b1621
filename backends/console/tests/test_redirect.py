from __future__ import annotations

import contextlib
import io
import logging
import sys
from typing import TYPE_CHECKING

import pytest

from metriplex_console.redirect import Redirection, StreamProxy

if TYPE_CHECKING:
    from collections.abc import Generator


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal_as_stdout() -> Generator[FakeTerminal, None, None]:
    """Not a fixture, since pytest replaces the stream between a fixture and the test."""
    with contextlib.redirect_stdout(FakeTerminal()) as stream:
        yield stream


def test_whole_lines_are_passed_on_and_the_rest_waits():
    emitted: list[str] = []
    proxy = StreamProxy(FakeTerminal(), emitted.append)
    assert proxy.write("one") == 3
    assert emitted == []
    proxy.write(" line\ntwo\nthr")
    assert emitted == ["one line\ntwo\n"]
    proxy.flush()
    proxy.flush()
    assert emitted[1:] == ["thr\n"]
    proxy.writelines(["\n", "a\n"])
    assert emitted[2:] == ["\n", "a\n"]
    with pytest.raises(TypeError, match="must be str, not bytes"):
        proxy.write(b"x")  # ty: ignore[invalid-argument-type]


def test_of_a_progress_bar_the_last_state_remains():
    emitted: list[str] = []
    proxy = StreamProxy(FakeTerminal(), emitted.append)
    for percent in (10, 50, 100):
        proxy.write(f"\r{percent}%")
        proxy.flush()
    assert emitted == []
    proxy.write("\n")
    proxy.write("dos\r\n")
    assert emitted == ["100%\n", "dos\n"]


def test_a_detached_proxy_writes_through():
    with terminal_as_stdout() as terminal:
        proxy = StreamProxy(terminal, lambda _: pytest.fail("detached"))
        proxy.write("left ")
        proxy.detach()
        proxy.write("over\n")
        proxy.flush()
        assert terminal.getvalue() == "left over\n"
        assert proxy.isatty() is True


def test_only_terminals_are_redirected_and_all_is_restored(monkeypatch):
    with terminal_as_stdout() as terminal:
        errors = io.StringIO()
        monkeypatch.setattr(sys, "stderr", errors)
        emitted: list[str] = []
        redirection = Redirection(emitted.append)
        print("to the terminal")
        print("to the file", file=sys.stderr)
        assert emitted == ["to the terminal\n"]
        assert errors.getvalue() == "to the file\n"
        redirection.undo()
        redirection.undo()
        assert sys.stdout is terminal
        assert sys.stderr is errors


def test_what_the_user_put_in_place_meanwhile_stays():
    with terminal_as_stdout() as terminal:
        emitted: list[str] = []
        redirection = Redirection(emitted.append)
        with contextlib.redirect_stdout(io.StringIO()) as mine:
            redirection.undo()
            print("mine")
            assert sys.stdout is mine
        print("after")  # the proxy is back in place, and writes through
        assert mine.getvalue() == "mine\n"
        assert terminal.getvalue() == "after\n"
        assert emitted == []


def test_log_handlers_are_moved_along_and_back():
    with terminal_as_stdout() as terminal:
        emitted: list[str] = []
        logger = logging.getLogger("metriplex_console.test")
        logger.propagate = False
        before = logging.StreamHandler(terminal)
        logger.addHandler(before)
        redirection = Redirection(emitted.append)
        during = logging.StreamHandler(sys.stdout)
        logger.addHandler(during)
        logger.error("one")
        assert emitted == ["one\n", "one\n"]
        redirection.undo()
        assert before.stream is terminal
        assert during.stream is terminal
        logger.error("two")
        assert terminal.getvalue() == "two\ntwo\n"
        logger.handlers.clear()


def test_what_a_finaliser_or_a_signal_handler_prints_meanwhile_is_not_lost():
    emitted: list[str] = []

    def emit(lines: str) -> None:
        emitted.append(lines)
        if len(emitted) == 1:
            proxy.write("handler\nhalf")

    proxy = StreamProxy(FakeTerminal(), emit)
    proxy.write("user\nrest")
    proxy.write(" of it\n")
    assert emitted == ["user\n", "handler\n", "halfrest of it\n"]


def test_a_line_that_is_begun_while_the_proxy_is_detached_is_written_through():
    with terminal_as_stdout() as terminal:
        proxy = StreamProxy(terminal, lambda _: proxy.detach())
        proxy.write("a line\nand more")
        assert terminal.getvalue() == "and more"
