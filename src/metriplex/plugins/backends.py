"""Making the backends that a run asks for, and calling their hooks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, final

from metriplex.errors import ConfigurationError
from metriplex.plugins.checks import check_hooks
from metriplex.plugins.discovery import entry_points, items, make
from metriplex.plugins.host import Host
from metriplex.plugins.routing import Route, Router

if TYPE_CHECKING:
    from metriplex.records import RunInfo


class HookCall(Protocol):
    """A call of one hook, made by `metriplex.delivery.calls`."""

    @property
    def hook(self) -> str:
        """The hook's name."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The hook's arguments beside `run`, by name."""


@final
class Backend:
    """One backend of one run: a plugin object, and the hooks that it implements.

    Args:
        name: The backend's name in this run; `name_2` if the host has that name already.
        plugin: The object whose methods are the hooks. Its attributes `flush_secs` (longest time in
            seconds that records wait for `flush`, 5.0 if it has none) and `video_format` (`"mp4"`
            if it has none) are read now.
        route: The part of the run that it gets; None for all.
        host: The plugins of the run; None for a host of its own.

    Raises:
        PluginError: The plugin fails `check_hooks`.
        ConfigurationError: `plugin.flush_secs` is not a positive number.
    """

    def __init__(
        self, name: str, plugin: object, route: Route | None = None, host: Host | None = None
    ) -> None:
        self._host = host or Host()
        (self.name,) = self._host.register("backend", [(name, plugin)])
        self.plugin = plugin
        self.hooks = frozenset(check_hooks(plugin, "backend", name))
        self.route = route
        self._router = None if route is None else Router(route, self.name)
        self.flush_secs = _flush_secs(plugin, self.name)
        self.video_format = str(getattr(plugin, "video_format", "mp4"))

    def call(self, call: HookCall, run: RunInfo) -> None:
        """Call the plugin's implementation of a hook on the calling thread, if it has one.

        The plugin gets the arguments that it names, and only the records that the route lets
        through. Whatever it raises is raised unchanged.
        """
        call_hook = partial(self._call, run=run)
        if self._router is None:
            call_hook(call.hook, **call.arguments)
        else:
            self._router.call(call_hook, call.hook, **call.arguments)

    def _call(self, hook: str, **arguments: object) -> None:
        # pluggy can't call all backends at once: it stops at the first exception (pluggy issue 419)
        # and waits for each. A thread for each backend keeps a failing or slow one to itself.
        self._host.caller(hook, "backend", self.name)(**arguments)


def create_backends(requested: object = None, host: Host | None = None) -> list[Backend]:
    """Make the backends of a run.

    Args:
        requested: What `make` takes, a `metriplex.Route` of it, or a sequence of these in any mix.
            None means `"tensorboard"`; an empty sequence logs nowhere.
        host: The plugins of the run; None for a host of the backends alone.

    Returns:
        One backend for each that was asked for, in that order, with distinct names.

    Raises:
        PluginError: A backend is not installed, is installed more than once, or is broken.
        ConfigurationError: `requested` is nothing of the above, or an option's value is rejected.
    """
    host = host or Host()
    backends: list[Backend] = []
    for item in items("backend", "tensorboard" if requested is None else requested):
        route = item if isinstance(item, Route) else None
        for name, plugin in make("backend", item if route is None else route.backend):
            if any(plugin is backend.plugin for backend in backends):
                raise ConfigurationError(
                    f"`backends` holds the same object twice: {plugin!r}. It would log everything "
                    "twice; make a second object if that is meant"
                )
            backends.append(Backend(name, plugin, route, host))
    return backends


def _flush_secs(plugin: object, name: str) -> float:
    seconds = getattr(plugin, "flush_secs", 5.0)
    real = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not real or not 0 < seconds < math.inf:
        raise ConfigurationError(
            f"`flush_secs` of backend `{name}` must be a positive number of seconds, "
            f"got {seconds!r}"
        )
    return float(seconds)


def make_backends(requested: object) -> list[Backend]:
    """Make backends as `create_backends` does; `name_2` is the second backend of a name."""
    if not isinstance(requested, Mapping):
        return create_backends(requested)
    installed = {entry.name for entry in entry_points("backend")}
    made = []
    for name, options in requested.items():
        stem = re.sub(r"_\d+$", "", name)
        known = name if name in installed or stem not in installed else stem
        (one,) = create_backends({known: options})
        made.append(Backend(name, one.plugin))
    return made
