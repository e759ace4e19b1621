"""Checking a plugin's hooks before any of them is called.

pluggy reports a misspelled hook and an unknown argument; what it silently never calls, or calls
without the arguments that were meant, is an error here too.
"""

from __future__ import annotations

import difflib
import inspect
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pluggy

from metriplex.errors import PluginError
from metriplex.plugins.hookspecs import PROJECT, spec_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def marked_hooks(owner: object) -> Iterator[tuple[str, str, Callable[..., object]]]:
    """Method name, hook name and function of everything that is marked as a hook."""
    for attribute in dir(owner):
        function = _function(owner, attribute)
        options = getattr(function, f"{PROJECT}_impl", None)
        if function is not None and isinstance(options, dict):
            yield attribute, options.get("specname") or attribute, function


def _function(owner: object, attribute: str) -> Callable[..., object] | None:
    """A method's function, found without running properties."""
    found = inspect.getattr_static(owner, attribute, None)
    found = getattr(found, "__func__", found)
    return found if inspect.isfunction(found) else None


def callers(
    plugin: object, spec: type, kind: str, name: str
) -> tuple[frozenset[str], pluggy.HookRelay]:
    """What calls the hooks of one plugin, each with the arguments that the plugin names.

    Args:
        plugin: The object whose methods are the hooks; all are checked.
        spec: The class that declares them.
        kind: `backend` or `transform`.
        name: The plugin's name.

    Returns:
        The hooks that the plugin implements, and an object with a method for each hook of the spec,
        which does nothing where the plugin has none.

    Raises:
        PluginError: A hook is misspelled, isn't marked, asks for an argument that it can't be
            given, or there is none at all.
    """
    label = f"{kind} `{name}`"
    if inspect.isclass(plugin):
        raise PluginError(
            f"{label} is the class `{plugin.__name__}`: give an instance of it, "
            f"`{plugin.__name__}(...)`"
        )
    hooks = frozenset(check_hooks(plugin, spec, label))
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(spec)
    methods = {method: getattr(plugin, method) for method, _, _ in marked_hooks(plugin)}
    try:  # only the hooks, as some versions of pluggy run all the properties of a plugin
        manager.register(SimpleNamespace(**methods), name)
        manager.check_pending()
    except Exception as error:
        raise PluginError(f"{label} can't be registered: {error}") from error
    return hooks, manager.hook


def check_hooks(owner: object, spec: type, label: str) -> tuple[str, ...]:
    """The hooks that a plugin object, or the class of one, implements, in the order of the spec."""
    label = f"{label} ({owner.__name__ if inspect.isclass(owner) else type(owner).__name__})"
    hooks = set()
    known = spec_hooks(spec)
    for attribute, hook, function in marked_hooks(owner):
        if hook in known:
            hooks.add(hook)
            _check_signature(owner, attribute, hook, getattr(spec, hook), function, label)
        elif not getattr(function, f"{PROJECT}_impl").get("optionalhook"):
            raise PluginError(
                f"{label}: method `{attribute}` is marked as a hook, but there is no hook "
                f"`{hook}`.{closest([hook], known)} The hooks are "
                f"{listing(known)}"
            )
    forgotten = [h for h in known if h not in hooks and _function(owner, h) is not None]
    if forgotten:
        raise PluginError(
            f"{label}: {listing(forgotten)} would never be called, because the mark "
            "`@metriplex.hookimpl` is missing; methods that override a hook need it too"
        )
    if not hooks:
        raise PluginError(
            f"{label} implements no hook: mark its methods with `@metriplex.hookimpl`. The hooks "
            f"are {listing(known)}"
        )
    return tuple(hook for hook in known if hook in hooks)


def _check_signature(
    owner: object,
    attribute: str,
    hook: str,
    spec: Callable[..., object],
    function: Callable[..., object],
    label: str,
) -> None:
    """Rejects what pluggy would not call, or call without the arguments that were meant."""
    method = f"{label}: hook `{hook}` (method `{attribute}`)"
    plain = inspect.unwrap(function)
    if inspect.iscoroutinefunction(plain) or inspect.isgeneratorfunction(plain):
        raise PluginError(
            f"{method} must be a plain function: nobody would run the body of this one, which is a "
            "generator or a coroutine"
        )
    offered = list(inspect.signature(spec).parameters)[1:]
    parameters = list(inspect.signature(function).parameters.values())
    if _binds_first(owner, attribute):
        if not parameters or parameters[0].name in offered:
            raise PluginError(f"{method} has no `self` as its first parameter: add it")
        parameters = parameters[1:]
    for parameter in parameters:
        offers = parameter.name in offered
        optional = parameter.default is not parameter.empty
        filled = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if (offers and filled and not optional) or (optional and not offers):
            continue
        if offers:
            why = "must be a plain positional argument without a default, or it is never filled in"
        else:
            meant = closest([parameter.name], offered)
            why = f"is not offered.{meant} Offered are {listing(offered)}"
        plain_parameter = parameter.replace(annotation=parameter.empty)
        raise PluginError(f"{method}: its argument `{plain_parameter}` {why}")


def _binds_first(owner: object, attribute: str) -> bool:
    """Whether the first parameter is `self` or `cls` and no argument of the hook."""
    found = inspect.getattr_static(owner, attribute)
    if isinstance(found, staticmethod):
        return False
    own = not inspect.isclass(owner) and attribute in getattr(owner, "__dict__", {})
    return inspect.ismethod(found) or not own


def closest(wrong: Iterable[str], right: Iterable[str]) -> str:
    """A sentence that names what was probably meant, or nothing."""
    by_lower = {name.lower(): name for name in right}
    matches = [difflib.get_close_matches(name.lower(), by_lower, 1) for name in wrong]
    meant = [by_lower[match] for match in chain.from_iterable(matches)]
    return f" Did you mean {listing(meant)}?" if meant else ""


def listing(names: Iterable[str]) -> str:
    """Names in backticks, as error messages show them."""
    return ", ".join(f"`{name}`" for name in names)
