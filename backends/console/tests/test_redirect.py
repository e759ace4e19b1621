from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
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
    """No fixture: pytest puts its own stream in place between a fixture and the test."""
    with contextlib.redirect_stdout(FakeTerminal()) as stream:
        yield stream


def test_whole_lines_are_passed_on_and_the_rest_waits():
    emitted: list[str] = []
    proxy = StreamProxy(FakeTerminal(), emitted.append, threading.RLock())
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
    proxy = StreamProxy(FakeTerminal(), emitted.append, threading.RLock())
    for percent in (10, 50, 100):
        proxy.write(f"\r{percent}%")
        proxy.flush()
    assert emitted == []
    proxy.write("\n")
    proxy.write("dos\r\n")
    assert emitted == ["100%\n", "dos\n"]


def test_a_detached_proxy_writes_through():
    with terminal_as_stdout() as terminal:
        proxy = StreamProxy(terminal, lambda _: pytest.fail("detached"), threading.RLock())
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
        redirection = Redirection(emitted.append, threading.RLock())
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
        redirection = Redirection(emitted.append, threading.RLock())
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
        redirection = Redirection(emitted.append, threading.RLock())
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


def test_a_finaliser_that_prints_while_the_picture_is_drawn_blocks_nobody():
    lock = threading.RLock()
    emitted: list[str] = []
    proxy = StreamProxy(FakeTerminal(), emitted.append, lock)
    printing = threading.Event()

    def user() -> None:
        printing.set()
        proxy.write("user\n")

    with lock:  # as while drawing
        thread = threading.Thread(target=user)
        thread.start()
        assert printing.wait(30)
        proxy.write("finaliser\n")
    thread.join(30)
    assert emitted == ["finaliser\n", "user\n"]
