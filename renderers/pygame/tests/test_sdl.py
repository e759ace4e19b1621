"""Tests in processes of their own: output, imports, and a pygame that already runs."""

from __future__ import annotations

import hashlib
import os
import sys

import cloudpickle
import numpy as np
import pytest

from metriplex_pygame import PygameRenderer
from metriplex_pygame.sdl import load_pygame, nothing_opens

RENDER = """
import hashlib, os, sys, threading
before = dict(os.environ)
import cloudpickle
assert "pygame" not in sys.modules
renderer, state = cloudpickle.loads(sys.stdin.buffer.read())
assert "pygame" not in sys.modules
"""
REPORT = """
print(hashlib.sha256(frame.tobytes()).hexdigest())
assert dict(os.environ) == before
"""


@pytest.fixture
def parcel(ball, make_state):
    """A renderer and a state, pickled by value as the render worker gets them; their frame."""
    module = sys.modules[type(ball).__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        renderer = PygameRenderer(ball, 80, 60)
        sent = cloudpickle.dumps((renderer, make_state(0.5, -0.5)))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    frame = renderer.render(make_state(0.5, -0.5))
    assert np.ptp(frame) == 255
    return sent, hashlib.sha256(frame.tobytes()).hexdigest()


@pytest.mark.parametrize("display", [{}, {"DISPLAY": ":63"}], ids=["headless", "display"])
def test_another_process_draws_the_same_and_says_nothing(python, parcel, display):
    sent, expected = parcel
    program = RENDER + "frame = renderer.render(state)" + REPORT
    assert python(program, stdin=sent, **display) == f"{expected}\n"


def test_a_thread_of_another_process_may_still_hold_it_at_exit(python, parcel):
    sent, expected = parcel
    program = f"""{RENDER}
frames = []
def draw():
    frames.append(renderer.render(state))
    drawn.set()
    threading.Event().wait()
drawn = threading.Event()
threading.Thread(target=draw, daemon=True).start()
drawn.wait()
frame = frames[0]
{REPORT}"""
    assert python(program, stdin=sent) == f"{expected}\n"


@pytest.mark.parametrize("driver", ["dummy", "offscreen"])
def test_a_pygame_that_runs_already_runs_on(python, parcel, driver):
    sent, expected = parcel
    program = f"""
import os
os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pygame
pygame.init()
screen = pygame.display.set_mode((100, 80))
screen.fill((1, 2, 3))
font = pygame.font.Font(None, 20)
{RENDER.replace('assert "pygame" not in sys.modules', "")}
frame = renderer.render(state)
renderer.close()
assert pygame.get_init() and pygame.font.get_init()
assert pygame.display.get_driver() == "{driver}"
assert pygame.display.get_surface() is screen and screen.get_size() == (100, 80)
assert tuple(screen.get_at((50, 40)))[:3] == (1, 2, 3)
font.render("still here", True, (0, 0, 0))
pygame.display.flip()
{REPORT}"""
    assert (
        python(program, stdin=sent, SDL_VIDEODRIVER=driver, SDL_AUDIODRIVER="dummy")
        == f"{expected}\n"
    )


def test_only_what_was_started_is_stopped(ball, make_state):
    pygame = load_pygame()
    pygame.font.init()
    try:
        PygameRenderer(ball, 80, 60).render(make_state(0.0, 0.0))
        assert pygame.font.get_init()
        assert not pygame.display.get_init()
    finally:
        pygame.quit()


def test_importing_it_prints_nothing_and_starts_nothing(python):
    program = """
import os, sys
before = dict(os.environ)
import metriplex_pygame
assert "pygame" not in sys.modules
from metriplex_pygame.sdl import load_pygame, nothing_opens
assert not load_pygame().get_init() and not load_pygame().display.get_init()
assert dict(os.environ) == before, set(os.environ) ^ set(before)
"""
    assert python(program, DISPLAY=":63") == ""


def test_only_the_variables_of_sdl_and_pygame_are_restored(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.setenv("OTHER", "before")
    with nothing_opens():
        assert os.environ["SDL_VIDEODRIVER"] == os.environ["SDL_AUDIODRIVER"] == "dummy"
        monkeypatch.setenv("OTHER", "within")
        os.environ["SDL_HINT"] = "within"
        del os.environ["SDL_VIDEODRIVER"]
    assert os.environ["SDL_VIDEODRIVER"] == "x11"
    assert "SDL_HINT" not in os.environ
    assert os.environ["OTHER"] == "within"


def test_pygame_is_stopped_after_an_error_too():
    pygame = load_pygame()
    set_mode = pygame.display.set_mode

    def start_and_fail():
        with nothing_opens():
            pygame.init()
            assert pygame.display.get_driver() == "dummy"
            assert pygame.display.set_mode((4, 3)).get_size() == (4, 3)
            assert pygame.display.get_surface() is None
            raise KeyError("failed")

    with pytest.raises(KeyError, match="failed"):
        start_and_fail()
    assert not pygame.get_init()
    assert pygame.display.set_mode is set_mode
