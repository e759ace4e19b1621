"""Which plugin draws an environment, and which one plays it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from metriplex.errors import ConfigurationError, MetriplexError
from metriplex.plugins.checks import check_hooks, listing
from metriplex.plugins.discovery import construct, entry_points
from metriplex.plugins.hookspecs import PROJECT, SPECS
from metriplex.plugins.interfaces import Environment, Renderer

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("metriplex")


def create_renderer(requested: object, env: object, width: int, height: int) -> Renderer:
    """The renderer of an environment's videos.

    Args:
        requested: None asks every installed plugin, in the order of their names, and takes the
            first that answers; a name, or `{name: options}`, asks that one; an object with the hook
            `make_renderer` is asked itself; a `Renderer` is taken as it is.
        env: The environment as the user gave it.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.

    Raises:
        PluginError: The plugin that was named is not installed, or broken.
        ConfigurationError: No plugin, or not the one that was asked for, draws this environment.
    """
    if isinstance(requested, Renderer):
        return requested
    for name, plugin in _plugins("renderer", requested):
        made = _ask("renderer", name, plugin, "make_renderer", env=env, width=width, height=height)
        if isinstance(made, Renderer):
            return made
        if made is not None:
            raise ConfigurationError(
                f"renderer `{name}` gave a `{type(made).__name__}` for `{_name(env)}`; "
                f"`make_renderer` must give a `metriplex.Renderer` or None"
            )
    asked = "any of the installed ones" if requested is None else f"`{requested}`"
    names = sorted({entry.name for entry in entry_points("renderer")})
    raise ConfigurationError(
        f"no renderer draws `{_name(env)}`: it was offered to {asked} (installed: "
        f"{listing(names) or 'none'}). Install one, `pip install metriplex-mujoco` or `pip install "
        f"metriplex-pygame`, or pass `renderer=` an object of your own"
    )


def adapt_environment(env: object) -> Environment | None:
    """The environment as a rollout needs it, by the first plugin that knows its family.

    Returns:
        None if no plugin knows it.
    """
    if isinstance(env, Environment):
        return env
    for name, plugin in _plugins("environment", None):
        adapted = _ask("environment", name, plugin, "adapt_environment", env=env)
        if isinstance(adapted, Environment):
            return adapted
    return None


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
            except MetriplexError as error:
                logger.warning("%s `%s` is skipped: %s", kind, name, error)
            else:
                yield name, plugin


def _ask(kind: str, name: str, plugin: object, hook: str, **arguments: object) -> Any:
    check_hooks(plugin, SPECS[kind], f"{kind} `{name}`")
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(SPECS[kind])
    manager.register(plugin, name)
    return getattr(manager.hook, hook)(**arguments)


def _name(env: object) -> str:
    name = getattr(env, "name", None)
    return name if isinstance(name, str) else type(env).__name__
