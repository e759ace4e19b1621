"""Choosing the plugin that draws an environment, and the plugin that plays it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from metriplex.errors import ConfigurationError, MetriplexError
from metriplex.plugins.checks import check_hooks, listing
from metriplex.plugins.discovery import construct, entry_points
from metriplex.plugins.host import Host
from metriplex.plugins.interfaces import Environment, Renderer

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    made = host.hook.make_renderer(env=env, width=width, height=height)
    if isinstance(made, Renderer):
        return made
    if made is not None:
        culprit = _who_answers(host, "make_renderer", env=env, width=width, height=height)
        raise ConfigurationError(
            f"{culprit} gave a `{type(made).__name__}` for `{_name(env)}`; "
            f"`make_renderer` must give a `metriplex.Renderer` or None"
        )
    asked = "any of the installed ones" if requested is None else f"`{requested}`"
    names = sorted({entry.name for entry in entry_points("renderer")})
    raise ConfigurationError(
        f"no renderer draws `{_name(env)}`: it was offered to {asked} (installed: "
        f"{listing(names) or 'none'}). Install one, `pip install metriplex-mujoco` or `pip install "
        f"metriplex-pygame`, or pass `renderer=` an object of your own"
    )


def adapt_environment(env: object, host: Host | None = None) -> Environment | None:
    """Return the environment as a rollout needs it, by the first plugin that knows its family.

    Args:
        env: The environment as the user gave it.
        host: The plugins of the run; None for a host of the environments alone.

    Returns:
        None if no plugin knows it.

    Raises:
        ConfigurationError: The plugin that knows it returns no `Environment`.
    """
    if isinstance(env, Environment):
        return env
    host = host or Host()
    host.register("environment", list(_plugins("environment", None)))
    adapted = host.hook.adapt_environment(env=env)
    if adapted is None or isinstance(adapted, Environment):
        return adapted
    raise ConfigurationError(
        f"{_who_answers(host, 'adapt_environment', env=env)} gave a `{type(adapted).__name__}` for "
        f"`{_name(env)}`; `adapt_environment` must give a `metriplex.Environment` or None"
    )


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


def _who_answers(host: Host, hook: str, **arguments: object) -> str:
    """Return the plugin that answers first. pluggy doesn't tell; this asks again, one by one."""
    calls = host.implementations(hook)
    return next(plugin for plugin, call in calls if call(**arguments) is not None)


def _name(env: object) -> str:
    name = getattr(env, "name", None)
    return name if isinstance(name, str) else type(env).__name__
