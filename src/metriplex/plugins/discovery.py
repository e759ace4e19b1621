"""Finding plugins by entry point and constructing them, for every kind of plugin.

A distribution offers a plugin by an entry point in one of the groups below. Only what a run asks
for is imported, so a broken plugin that nobody asked for does no harm.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from metriplex.errors import ConfigurationError, MetriplexError, PluginError
from metriplex.plugins.checks import closest, listing

if TYPE_CHECKING:
    from collections.abc import Callable

GROUPS: Mapping[str, str] = {
    "backend": "metriplex.backends",
    "transform": "metriplex.transforms",
    "renderer": "metriplex.renderers",
    "environment": "metriplex.environments",
}
"""Kind of plugin to the entry-point group in which it is found."""

PUBLISHED: Mapping[str, tuple[str, ...]] = {
    "backend": ("console", "mlflow", "tensorboard", "trackio", "wandb"),
    "renderer": ("mujoco", "pygame"),
}
"""Kind of plugin to the names of which metriplex publishes `metriplex-NAME`.

Error messages suggest to install these only: any other distribution may be anybody's.
"""


def items(kind: str, requested: object) -> list[object]:
    """Return the requested items, of one item or of a sequence that holds no sequence."""
    if not isinstance(requested, Sequence) or isinstance(requested, (str, bytes, bytearray)):
        return [requested]
    if any(isinstance(item, (list, tuple)) for item in requested):
        raise ConfigurationError(f"`{kind}s` takes {_accepted(kind)}; got a list in a list")
    return list(requested)


def make(kind: str, item: object) -> Iterator[tuple[str, object]]:
    """Construct the plugins that one requested item stands for; yield their names and objects.

    Args:
        kind: `backend` or `transform`.
        item: The name of an installed plugin; a mapping from names to the options of their
            factories (`{"tensorboard": {"flush_secs": 5}}`); or an object, whose name is its
            attribute `name` if that is a string, or its class's name (`MyOwnBackend` is `my_own`).

    Raises:
        PluginError: A plugin is not installed, is installed more than once, or is broken.
        ConfigurationError: `item` is nothing of the above, or an option's value is rejected.
    """
    if isinstance(item, str):
        yield item, construct(kind, item, None)
    elif isinstance(item, Mapping):
        for name, options in item.items():
            if not isinstance(name, str):
                raise ConfigurationError(f"the name of a {kind} must be a string, got {name!r}")
            yield name, construct(kind, name, options)
    elif type(item).__module__ == "builtins" and not (
        inspect.ismodule(item) or inspect.isclass(item)
    ):
        raise ConfigurationError(
            f"`{kind}s` takes {_accepted(kind)}; got {item!r} of type `{type(item).__name__}`"
        )
    else:
        yield _object_name(kind, item), item


def _accepted(kind: str) -> str:
    return (
        f"the name of an installed {kind}, a dictionary `{{name: options}}`, a {kind} object, or a "
        f"list of these"
    )


def _object_name(kind: str, plugin: object) -> str:
    name = getattr(plugin, "name", None)
    if isinstance(name, str) and name:
        return name
    owner = plugin if inspect.isclass(plugin) or inspect.ismodule(plugin) else type(plugin)
    stem = owner.__name__.rpartition(".")[2].removesuffix(kind.capitalize()) or kind
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", stem).lower()


def construct(kind: str, name: str, options: object) -> object:
    """Construct an installed plugin by its factory from a mapping of options, or None.

    Raises:
        PluginError: The plugin is not installed, or broken.
        ConfigurationError: `options` is no mapping, or a value is rejected.
    """
    if options is None:
        options = {}
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise ConfigurationError(
            f"the options of {kind} `{name}` must be a dictionary of the arguments of its "
            f"constructor, such as {{'flush_secs': 5}}; got {options!r}"
        )
    entry = find(kind, name)
    factory = load(kind, entry)
    _check_options(factory, options, f"{kind} `{name}`")
    try:
        return factory(**options)
    except (MetriplexError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(
            f"{kind} `{name}` ({origin(entry)}) can't be constructed with the options "
            f"{dict(options)!r}: {type(error).__name__}: {error}"
        ) from error


def _check_options(
    factory: Callable[..., object], options: Mapping[str, object], label: str
) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        usable = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        accepted = [p.name for p in signature.parameters.values() if p.kind in usable]
        unknown = [option for option in options if option not in accepted]
        raise PluginError(
            f"the options of {label} don't fit: {error}.{closest(unknown, accepted)} "
            f"It accepts {listing(accepted) or 'no options'}"
        ) from error


def find(kind: str, name: str) -> metadata.EntryPoint:
    """Return the entry point of a plugin; raise `PluginError` if there is none, or two."""
    entries = entry_points(kind)
    found = {entry.value: entry for entry in entries if entry.name == name}
    if len(found) > 1:
        raise PluginError(
            f"{kind} `{name}` is installed more than once: by "
            f"{' and by '.join(map(origin, found.values()))}. Uninstall all but one, or give the "
            "object itself instead of its name"
        )
    if found:
        return next(iter(found.values()))
    names = sorted({entry.name for entry in entries})
    raise PluginError(
        f"{kind} `{name}` is not installed.{_remedy(kind, name, names)} Installed: "
        f"{listing(names) or 'none'}"
    )


def _remedy(kind: str, name: str, names: Sequence[str]) -> str:
    """Return sentences about a name that is not installed; empty if no name is close to it."""
    published = [one for one in PUBLISHED.get(kind, ()) if one not in names]
    meant = "" if name in published else closest([name], [*names, *published])
    for one in published:
        if one == name or f"`{one}`" in meant:
            return f"{meant} To install it: `pip install metriplex-{one}`."
    return meant


def entry_points(kind: str) -> list[metadata.EntryPoint]:
    """Return every entry point of a kind of plugin, also if some metadata is unreadable."""
    group = GROUPS[kind]
    try:
        return list(metadata.entry_points(group=group))
    except Exception:  # noqa: BLE001 - one distribution with unreadable metadata hides all others
        return list(_readable_entry_points(group))


def _readable_entry_points(group: str) -> Iterator[metadata.EntryPoint]:
    seen = set()
    for found in metadata.distributions():
        try:
            name = re.sub(r"[-_.]+", "-", found.name).lower()
            entries = list(found.entry_points.select(group=group))
        except Exception:  # noqa: BLE001, S112 - it is not known to be a plugin of ours at all
            continue
        if name not in seen:
            seen.add(name)
            yield from entries


def load(kind: str, entry: metadata.EntryPoint) -> Callable[..., object]:
    """Import the factory that an entry point names; raise `PluginError` if that fails."""
    label = f"{kind} `{entry.name}` ({origin(entry)})"
    try:
        factory = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(
            f"{label} is installed but can't be imported: {type(error).__name__}: {error}. "
            f"Reinstalling may mend it: `pip install --force-reinstall {distribution(entry)[0]}`"
        ) from error
    if not callable(factory):
        raise PluginError(
            f"{label} is broken: its entry point must name a class or a function that makes the "
            f"plugin, not {factory!r}"
        )
    return factory


def distribution(entry: metadata.EntryPoint) -> tuple[str, str]:
    """Return name and version of the distribution that an entry point belongs to."""
    try:
        found = entry.dist
        if found is not None:
            return str(found.name), str(found.version)
    except Exception:  # noqa: BLE001, S110 - its metadata may be missing or damaged in any way
        pass
    return "unknown", "unknown"


def origin(entry: metadata.EntryPoint) -> str:
    """Return an entry point's value and distribution, for error messages."""
    return f"`{entry.value}` of {' '.join(distribution(entry))}"
