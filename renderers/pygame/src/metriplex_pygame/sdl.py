"""Load pygame without output, and keep other code that uses pygame off the screen."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

_lock = threading.RLock()
_HIDDEN = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
_PREFIXES = ("SDL_", "PYGAME_")
_SUBSYSTEMS = ("display", "font", "joystick", "mixer")


@functools.cache
def load_pygame() -> ModuleType:
    """Import pygame, not initialised, without its greeting, and restore `os.environ`."""
    with _lock, _environment({"PYGAME_HIDE_SUPPORT_PROMPT": "1"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the build of pygame
        import pygame
    return pygame


@contextlib.contextmanager
def nothing_opens() -> Generator[None]:
    """Run code that may start pygame and open a window, without any window or sound.

    Modules of pygame that ran before keep running, with their driver and window. Modules that the
    code started are stopped, and `os.environ` is restored.
    """
    pygame = load_pygame()
    with _lock, _environment(_HIDDEN):
        found = [getattr(pygame, name, None) for name in _SUBSYSTEMS]
        modules = [module for module in found if isinstance(module, ModuleType)]
        stopped = [module for module in modules if not module.get_init()]
        was_running, set_mode = pygame.get_init(), pygame.display.set_mode
        pygame.display.set_mode = _off_screen
        try:
            yield
        finally:
            pygame.display.set_mode = set_mode
            if len(stopped) == len(modules) and not was_running:
                pygame.quit()
            for module in stopped:
                module.quit()


@contextlib.contextmanager
def fonts() -> Generator[None]:
    """Initialise pygame's fonts, and stop them afterwards if they weren't running."""
    pygame = load_pygame()
    with _lock:
        was_running = pygame.font.get_init()
        pygame.font.init()
        try:
            yield
        finally:
            if not was_running:
                pygame.font.quit()


def _off_screen(size: Any = (0, 0), *_: object, **__: object) -> Any:
    """Replace `pygame.display.set_mode`."""
    return load_pygame().Surface(size, 0, 32)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Generator[None]:
    """Change `os.environ`, and restore all variables of SDL and pygame afterwards."""
    before = _variables()
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in _variables().keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
