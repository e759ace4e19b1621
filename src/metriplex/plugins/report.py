"""Report of every installed plugin, also of broken plugins."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, final, get_type_hints

from metriplex.errors import PluginError
from metriplex.plugins.checks import check_hooks, marked_hooks
from metriplex.plugins.discovery import GROUPS, distribution, entry_points, load, origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib import metadata


@final
@dataclass(frozen=True, slots=True)
class PluginReport:
    """Report of one installed plugin.

    Attributes:
        kind: Key of `GROUPS`, such as `backend`.
        hooks: The hooks it implements; empty if it is broken, or made by a function whose return
            type isn't annotated.
        error: Why the plugin is broken; None if it works.
    """

    kind: str
    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    error: str | None


def installed() -> list[PluginReport]:
    """Import every installed plugin and report it, sorted by kind and name.

    Exceptions of a plugin's import are reported, not raised, except KeyboardInterrupt.
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
        checked = marked or product is factory
        hooks = check_hooks(product, kind, entry.name) if checked else ()
    except PluginError as problem:
        error = str(problem)
    if rivals and error is None:
        error = f"the name is also registered by {', '.join(map(origin, rivals))}"
    return PluginReport(kind, entry.name, *distribution(entry), hooks, error)


def _product(factory: Callable[..., object]) -> type | None:
    """Return the class of the object that a factory makes, if it is known without a call."""
    if inspect.isclass(factory):
        return factory
    try:
        product = get_type_hints(factory).get("return")
    except Exception:  # noqa: BLE001 - an annotation may name anything; it is only a hint
        return None
    return product if inspect.isclass(product) and product is not object else None
