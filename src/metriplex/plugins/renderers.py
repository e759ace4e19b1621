"""Choosing the plugin that draws an environment, and the plugin that plays it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from metriplex.errors import ConfigurationError, MetriplexError
from metriplex.plugins.checks import check_hooks, listing
from metriplex.plugins.discovery import PUBLISHED, construct, entry_points
from metriplex.plugins.families import adapter_hint
from metriplex.plugins.host import Host
from metriplex.plugins.interfaces import Environment, Renderer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T", Environment, Renderer)

logger = logging.getLogger("metriplex")


def create_renderer(
    requested: object, env: object, width: int, height: int, host: Host | None = None
) -> Renderer:
    """Return the renderer of an environment's videos.

    Args:
        requested: None asks every installed plugin, in the order of their names, and takes the
            first answer; a name, or `{name: options}`, asks that one; an object with the hook
            `make_renderer` is asked itself; a `Renderer` is taken as it is.
        env: The environment as the user gave it.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        host: The plugins of the run; None for a host of the renderers alone.

    Raises:
        PluginError: The plugin that was named is not installed, or broken.
        ConfigurationError: No plugin, or not the one that was asked for, draws this environment.
    """
    if isinstance(requested, Renderer):
        return requested
    host = host or Host()
    host.register("renderer", list(_plugins("renderer", requested)))
    renderer = _first_result(Renderer, host, "make_renderer", env, width=width, height=height)
    if renderer is not None:
        return renderer
    asked = "any of the installed ones" if requested is None else f"`{requested}`"
    names = sorted({entry.name for entry in entry_points("renderer")})
    raise ConfigurationError(
        f"no renderer draws `{_name(env)}`: it was offered to {asked} (installed: "
        f"{listing(names) or 'none'}). {adapter_hint(env) or _install_hint(names)}"
    )


def _install_hint(installed: Sequence[str]) -> str:
    """Return how to get a renderer, of those that are not installed, or of one's own."""
    others = [name for name in PUBLISHED["renderer"] if name not in installed]
    commands = " or ".join(f"`pip install metriplex-{name}`" for name in others)
    return f"{f'Install one, {commands}, or pass' if others else 'Pass'} `renderer=` your own"


def adapt_environment(env: object, host: Host | None = None) -> Environment | None:
    """Return the environment as a rollout needs it, by the first plugin that knows its family.

    Returns:
        None if no plugin knows it.

    Raises:
        ConfigurationError: The plugin that knows it returns no `Environment`.
    """
    if isinstance(env, Environment):
        return env
    host = host or Host()
    host.register("environment", list(_plugins("environment", None)))
    return _first_result(Environment, host, "adapt_environment", env)


def _plugins(kind: str, requested: object) -> Iterator[tuple[str, object]]:
    if isinstance(requested, str):
        yield requested, construct(kind, requested, None)
    elif isinstance(requested, Mapping):
        for name, options in requested.items():
            yield str(name), construct(kind, str(name), options)
    elif requested is not None:
        yield type(requested).__name__, requested
    else:
        for name in sorted({entry.name for entry in entry_points(kind)}):
            try:
                plugin = construct(kind, name, None)
                check_hooks(plugin, kind, name)
            except MetriplexError as error:
                logger.warning("%s `%s` is skipped: %s", kind, name, error)
            else:
                yield name, plugin


def _first_result(expected: type[T], host: Host, hook: str, env: object, **size: int) -> T | None:
    """Return the first plugin's result that isn't None, and check its type; None without one."""
    result = getattr(host.hook, hook)(env=env, **size)
    if result is None or isinstance(result, expected):
        return result
    # pluggy doesn't tell which plugin answered: ask again, one by one.
    calls = host.implementations(hook)
    culprit = next(plugin for plugin, call in calls if call(env=env, **size) is not None)
    raise ConfigurationError(
        f"{culprit} gave a `{type(result).__name__}` for `{_name(env)}`; `{hook}` must give a "
        f"`metriplex.{expected.__name__}` or None"
    )


def _name(env: object) -> str:
    name = getattr(env, "name", None)
    return name if isinstance(name, str) else type(env).__name__
