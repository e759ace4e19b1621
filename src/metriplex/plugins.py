"""Making the backends that a run asks for, calling their hooks, and reporting what is installed."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from types import SimpleNamespace
from typing import TYPE_CHECKING, final, get_type_hints

import pluggy

from metriplex.discovery import GROUPS, construct, distribution, entry_points, load, origin
from metriplex.errors import ConfigurationError, PluginError
from metriplex.hookcheck import check_hooks, marked_hooks
from metriplex.hookspecs import PROJECT, SPECS, BackendSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib import metadata

DEFAULT_BACKEND = "tensorboard"
DEFAULT_FLUSH_SECS = 5.0
DEFAULT_VIDEO_FORMAT = "mp4"
_ACCEPTED = (
    "the name of an installed backend, a dictionary `{name: options}`, a backend object, or a list "
    "of these"
)


@final
class Backend:
    """One backend of one run: a plugin object, and the hooks that it implements.

    Attributes:
        name: The backend's name in this run.
        plugin: The object whose methods are the hooks.
        hooks: The hooks of `metriplex.hookspecs.BackendSpec` that it implements.
        flush_secs: Longest time in seconds that records wait for `flush`; the plugin's attribute
            of that name as it was at construction, 5.0 if it has none.
        video_format: The format in which it takes videos; the plugin's attribute of that name,
            `"mp4"` if it has none.
    """

    __slots__ = ("_callers", "flush_secs", "hooks", "name", "plugin", "video_format")

    def __init__(self, name: str, plugin: object) -> None:
        """Checks every hook of the plugin before the first one is called.

        Args:
            name: The backend's name in this run.
            plugin: The object whose methods are the hooks.

        Raises:
            PluginError: A hook is misspelled, isn't marked, asks for an argument that it can't be
                given, or there is none at all.
            ConfigurationError: `plugin.flush_secs` is not a positive number.
        """
        if inspect.isclass(plugin):
            raise PluginError(
                f"backend `{name}` is the class `{plugin.__name__}`: give an instance of it, "
                f"`{plugin.__name__}(...)`"
            )
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(BackendSpec)
        self.name = name
        self.plugin = plugin
        self.hooks = frozenset(check_hooks(plugin, BackendSpec, f"backend `{name}`"))
        methods = {method: getattr(plugin, method) for method, _, _ in marked_hooks(plugin)}
        try:  # only the hooks, as some versions of pluggy run all the properties of a plugin
            manager.register(SimpleNamespace(**methods), name)
            manager.check_pending()
        except Exception as error:
            raise PluginError(f"backend `{name}` can't be registered: {error}") from error
        self._callers = manager.hook
        self.flush_secs = _flush_secs(plugin, name)
        self.video_format = str(getattr(plugin, "video_format", DEFAULT_VIDEO_FORMAT))

    def call(self, hook: str, *, number: int = 0, **kwargs: object) -> None:  # noqa: ARG002
        """Calls the plugin's implementation of a hook on the calling thread, if it has one.

        Args:
            hook: Name of a hook of `metriplex.hookspecs.BackendSpec`.
            number: That of the first record in the run, which plugins are not told.
            **kwargs: All arguments of the hook; the plugin gets those that it names.

        Raises:
            BaseException: Whatever the plugin raises, unchanged.
        """
        getattr(self._callers, hook)(**kwargs)


@final
@dataclass(frozen=True, slots=True)
class PluginReport:
    """What is known of one installed plugin.

    Attributes:
        kind: `backend`, `renderer` or `environment`.
        name: Name by which it is asked for.
        distribution: Name of the distribution that brings it.
        version: That distribution's version.
        hooks: The hooks it implements; empty if it is broken, or made by a function whose return
            type isn't annotated.
        error: Why it is broken; None if it isn't.
    """

    kind: str
    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    error: str | None


def create_backends(requested: object = None) -> list[Backend]:
    """Makes the backends of a run.

    Args:
        requested: The name of an installed backend; a mapping from names to the options of their
            constructors (`{"tensorboard": {"flush_secs": 5}}`); an object with hooks; or a sequence
            of these in any mix. None means `"tensorboard"`; an empty sequence logs nowhere.

    Returns:
        One backend for each that was asked for, in that order, with distinct names: the entry
        point's name, or the object's attribute `name` if that is a string, or its class's name
        (`MyOwnBackend` is `my_own`); the second `tensorboard` is `tensorboard_2`.

    Raises:
        PluginError: A backend is not installed, is installed more than once, or is broken.
        ConfigurationError: `requested` is nothing of the above, or an option's value is rejected.
    """
    backends: list[Backend] = []
    for name, plugin in _requested_plugins(DEFAULT_BACKEND if requested is None else requested):
        if any(plugin is backend.plugin for backend in backends):
            raise ConfigurationError(
                f"`backends` holds the same object twice: {plugin!r}. It would log everything "
                "twice; make a second object if that is meant"
            )
        taken = {backend.name for backend in backends}
        candidates = chain([name], (f"{name}_{i}" for i in count(2)))
        backends.append(Backend(next(c for c in candidates if c not in taken), plugin))
    return backends


def installed() -> list[PluginReport]:
    """Imports every installed plugin and reports what it is, or why it is broken.

    Returns:
        One report for every entry point of the three groups, sorted by kind and name. Nothing that
        a plugin does while it is imported is raised, except KeyboardInterrupt.
    """
    reports: list[PluginReport] = []
    for kind in GROUPS:
        entries = sorted(entry_points(kind), key=lambda entry: (entry.name, distribution(entry)))
        reports += [_report(kind, entry, entries) for entry in entries]
    return reports


def _report(
    kind: str, entry: metadata.EntryPoint, entries: Iterable[metadata.EntryPoint]
) -> PluginReport:
    hooks: tuple[str, ...] = ()
    error = None
    rivals = [e for e in entries if e.name == entry.name and e.value != entry.value]
    try:
        factory = load(kind, entry)
        product = _product(factory)
        marked = tuple(hook for _, hook, _ in marked_hooks(product))
        if marked or product is factory:
            hooks = check_hooks(product, SPECS[kind], f"{kind} `{entry.name}`")
        else:
            hooks = marked
    except PluginError as problem:
        error = str(problem)
    if rivals and error is None:
        error = f"the name is also registered by {', '.join(map(origin, rivals))}"
    return PluginReport(kind, entry.name, *distribution(entry), hooks, error)


def _product(factory: Callable[..., object]) -> type | None:
    """The class of what a factory makes, if that can be known without calling it."""
    if inspect.isclass(factory):
        return factory
    try:
        product = get_type_hints(factory).get("return")
    except Exception:  # noqa: BLE001 - an annotation may name anything; it is only a hint
        return None
    return product if inspect.isclass(product) and product is not object else None


def _requested_plugins(requested: object) -> Iterator[tuple[str, object]]:
    if isinstance(requested, Sequence) and not isinstance(requested, (str, bytes, bytearray)):
        for item in requested:
            if isinstance(item, (list, tuple)):
                raise ConfigurationError(f"`backends` takes {_ACCEPTED}; got a list in a list")
            yield from _requested_plugins(item)
    elif isinstance(requested, str):
        yield requested, construct("backend", requested, None)
    elif isinstance(requested, Mapping):
        for name, options in requested.items():
            if not isinstance(name, str):
                raise ConfigurationError(f"the name of a backend must be a string, got {name!r}")
            yield name, construct("backend", name, options)
    elif type(requested).__module__ == "builtins" and not (
        inspect.ismodule(requested) or inspect.isclass(requested)
    ):
        raise ConfigurationError(
            f"`backends` takes {_ACCEPTED}; got {requested!r} of type `{type(requested).__name__}`"
        )
    else:
        yield _object_name(requested), requested


def _object_name(plugin: object) -> str:
    name = getattr(plugin, "name", None)
    if isinstance(name, str) and name:
        return name
    owner = plugin if inspect.isclass(plugin) or inspect.ismodule(plugin) else type(plugin)
    stem = owner.__name__.rpartition(".")[2].removesuffix("Backend") or "backend"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", stem).lower()


def _flush_secs(plugin: object, name: str) -> float:
    seconds = getattr(plugin, "flush_secs", DEFAULT_FLUSH_SECS)
    real = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not real or not 0 < seconds < math.inf:
        raise ConfigurationError(
            f"`flush_secs` of backend `{name}` must be a positive number of seconds, "
            f"got {seconds!r}"
        )
    return float(seconds)
