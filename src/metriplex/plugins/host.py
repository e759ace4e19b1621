"""The pluggy host of one run: one plugin manager that holds every plugin of the run."""

from __future__ import annotations

import inspect
from functools import partial
from itertools import chain, count
from typing import TYPE_CHECKING, Any, final

import pluggy

from metriplex.errors import PluginError
from metriplex.plugins.checks import check_hooks, hook_options, label, marked_hooks
from metriplex.plugins.hookspecs import PROJECT, SPECS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@final
class Host:
    """The plugins of one run, of every kind. A plugin object may be registered in many hosts.

    `host.hook.make_renderer(...)` calls the hook of all plugins, as pluggy does.
    """

    def __init__(self) -> None:
        self._manager = _Manager(PROJECT)
        for spec in SPECS:
            self._manager.add_hookspecs(spec)
        self.hook = self._manager.hook

    def register(self, kind: str, plugins: Sequence[tuple[str, object]]) -> list[str]:
        """Check plugins of a kind, such as `backend`, and register them under distinct names.

        Hooks are called in the order of `plugins`, unless `tryfirst` or `trylast` change it.

        Returns:
            The names of the plugins: the second `tensorboard` is `tensorboard_2`.

        Raises:
            PluginError: A plugin is a class, or fails `check_hooks`.
        """
        names: list[str] = []
        for name, plugin in plugins:
            if inspect.isclass(plugin):
                raise PluginError(
                    f"{label(kind, name)} is the class `{plugin.__name__}`: give an instance of "
                    f"it, `{plugin.__name__}(...)`"
                )
            check_hooks(plugin, kind, name)
            candidates = chain([name], (f"{name}_{index}" for index in count(2)))
            known = self._manager.has_plugin
            free = (n for n in candidates if n not in names and not known(label(kind, n)))
            names.append(next(free))
        # pluggy calls last in, first out: the plugin to call first is registered last.
        for name, (_, plugin) in reversed(list(zip(names, plugins, strict=True))):
            self._register(label(kind, name), plugin)
        return names

    def caller(self, hook: str, kind: str, name: str) -> pluggy.HookCaller:
        """Return what calls a hook of one plugin alone."""
        registered = self._manager.list_name_plugin()
        others = [plugin for known, plugin in registered if known != label(kind, name)]
        return self._manager.subset_hook_caller(hook, others)

    def implementations(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """Return the plugins that have a hook, such as "renderer `mujoco`", in the order of calls.

        Each has a function that calls its hook with the keyword arguments that the hook names.
        """
        found = getattr(self.hook, hook).get_hookimpls()
        return [(impl.plugin_name, partial(_call, impl)) for impl in reversed(found)]

    def _register(self, name: str, plugin: object) -> None:
        # pluggy compares plugins by `==` and keeps them in sets. A dataclass is equal to another
        # one and can't be in a set; and one transform may be applied twice.
        plugin_class: Any = type(plugin)
        by_value = plugin_class.__eq__ is not object.__eq__
        if by_value or self._manager.is_registered(plugin):
            plugin = _Methods(plugin)
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except Exception as error:
            raise PluginError(f"{name} can't be registered: {error}") from error


@final
class _Manager(pluggy.PluginManager):
    """A plugin manager that runs no property of a plugin, as some versions of pluggy do."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        """Return the options with which a method is marked as a hook; None if it isn't."""
        return hook_options(plugin, name)


@final
class _Methods:
    """The hooks of a plugin, in an object that is equal to no other one."""

    def __init__(self, plugin: object) -> None:
        vars(self).update({name: getattr(plugin, name) for name, _, _ in marked_hooks(plugin)})


def _call(implementation: pluggy.HookImpl, **arguments: object) -> Any:
    return implementation.function(*(arguments[name] for name in implementation.argnames))
