"""Checking a plugin's hooks before any of them is called.

pluggy reports an unknown argument and, when asked, a misspelled hook. Hooks that pluggy would never
call, or would call without the arguments that were meant, are errors here too.
"""

from __future__ import annotations

import difflib
import inspect
from itertools import chain
from typing import TYPE_CHECKING, Any

from metriplex.errors import PluginError
from metriplex.plugins.hookspecs import HOOKS, PROJECT, spec_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


def label(kind: str, name: str) -> str:
    """Return a plugin's name in error messages: "backend `console`"."""
    return f"{kind} `{name}`"


def marked_hooks(owner: object) -> Iterator[tuple[str, str, Callable[..., object]]]:
    """Yield method name, hook name and function of everything that is marked as a hook."""
    for attribute in dir(owner):
        function = _function(owner, attribute)
        options = hook_options(owner, attribute)
        if function is not None and options is not None:
            yield attribute, options.get("specname") or attribute, function


def hook_options(owner: object, attribute: str) -> dict[str, Any] | None:
    """Return the options with which a method is marked as a hook; None if it isn't."""
    options = getattr(_function(owner, attribute), f"{PROJECT}_impl", None)
    return options if isinstance(options, dict) else None


def _function(owner: object, attribute: str) -> Callable[..., object] | None:
    """Return a method's function, without running properties; None if there is no method."""
    found = inspect.getattr_static(owner, attribute, None)
    found = getattr(found, "__func__", found)
    return found if inspect.isfunction(found) else None


def check_hooks(owner: object, kind: str, name: str) -> tuple[str, ...]:
    """Return the hooks that a plugin object or class implements, in the order of `HOOKS`.

    Raises:
        PluginError: A hook is misspelled, isn't marked, is a wrapper, asks for an argument that it
            can't be given, or there is none at all.
    """
    owner_class = owner if inspect.isclass(owner) else type(owner)
    plugin = f"{label(kind, name)} ({owner_class.__name__})"
    hooks = set()
    known = HOOKS[kind]
    for attribute, hook, function in marked_hooks(owner):
        options = hook_options(owner, attribute) or {}
        if hook in known:
            hooks.add(hook)
            method = f"{plugin}: hook `{hook}` (method `{attribute}`)"
            _check_function(method, function, options)
            _check_arguments(method, owner, attribute, function, spec_arguments(hook))
        elif not options.get("optionalhook"):
            raise PluginError(
                f"{plugin}: method `{attribute}` is marked as a hook, but there is no hook "
                f"`{hook}`.{closest([hook], known)} The hooks are {listing(known)}"
            )
    forgotten = [h for h in known if h not in hooks and _function(owner, h) is not None]
    if forgotten:
        raise PluginError(
            f"{plugin}: {listing(forgotten)} would never be called, because the mark "
            "`@metriplex.hookimpl` is missing; methods that override a hook need it too"
        )
    if not hooks:
        raise PluginError(
            f"{plugin} implements no hook: mark its methods with `@metriplex.hookimpl`. The hooks "
            f"are {listing(known)}"
        )
    return tuple(hook for hook in known if hook in hooks)


def _check_function(
    method: str, function: Callable[..., object], options: Mapping[str, Any]
) -> None:
    """Reject what is no plain function."""
    if options.get("wrapper") or options.get("hookwrapper"):
        raise PluginError(
            f"{method} is a wrapper of other hooks, and metriplex calls no wrappers: mark it with "
            "`@metriplex.hookimpl` alone, and return the result"
        )
    plain = inspect.unwrap(function)
    if inspect.iscoroutinefunction(plain) or inspect.isgeneratorfunction(plain):
        raise PluginError(
            f"{method} must be a plain function: nobody would run the body of this one, which is a "
            "generator or a coroutine"
        )


def _check_arguments(
    method: str,
    owner: object,
    attribute: str,
    function: Callable[..., object],
    offered: list[str],
) -> None:
    """Reject what pluggy would not call, or would call without the arguments that were meant."""
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
    """Return True if the first parameter is `self` or `cls`, and no argument of the hook."""
    found = inspect.getattr_static(owner, attribute)
    if isinstance(found, staticmethod):
        return False
    own = not inspect.isclass(owner) and attribute in getattr(owner, "__dict__", {})
    return inspect.ismethod(found) or not own


def closest(wrong: Iterable[str], right: Iterable[str]) -> str:
    """Return a sentence that names the names that were probably meant; empty if there are none."""
    by_lower = {name.lower(): name for name in right}
    matches = [difflib.get_close_matches(name.lower(), by_lower, 1) for name in wrong]
    meant = [by_lower[match] for match in chain.from_iterable(matches)]
    return f" Did you mean {listing(meant)}?" if meant else ""


def listing(names: Iterable[str]) -> str:
    """Return names in backticks, as error messages show them."""
    return ", ".join(f"`{name}`" for name in names)
