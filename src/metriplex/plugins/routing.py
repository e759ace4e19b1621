"""Routes: selecting, thinning out and renaming the records of one backend."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias, final

from metriplex.errors import ConfigurationError
from metriplex.plugins.checks import closest
from metriplex.records import Artifact, Media, Scalars

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("metriplex")

_Series: TypeAlias = tuple[int | None, str]
_Span: TypeAlias = int | float
_CallHook: TypeAlias = Callable[..., None]


@final
@dataclass(frozen=True, slots=True)
class Route:
    """One backend of a run and the records that it gets: an item of `backends=`.

    Patterns are those of `fnmatch.fnmatchcase`, matched against whole tags; `*` matches any
    text, also `/`. Hyper-parameters are always sent. An artifact's name is its tag.

    Attributes:
        backend: The backend as `backends=` takes it: a name, `{name: options}` or an object.
        include: Pattern, or patterns, of the tags that are sent.
        exclude: Pattern, or patterns, of the tags that are not sent, even if they are included.
        every: Of each tag of each lane, only the first value in every so many environment steps (an
            int), or in every such span of time (a `datetime.timedelta`, by the records'
            `wall_time`), is sent, and the last one when the run closes. None sends all. Media are
            not thinned out.
        rename: Tag to the name that it has in this backend; `{"train/*": "loss/*"}` renames all
            that begin with `train/`. A tag's own rule comes before prefixes, a longer prefix
            before a shorter one. Patterns see the names from before.

    Raises:
        ConfigurationError: An argument is not usable.
    """

    backend: object
    _: KW_ONLY
    include: str | Sequence[str] = ("*",)
    exclude: str | Sequence[str] = ()
    every: int | timedelta | None = None
    rename: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check all arguments; make tuples of patterns and a dictionary of names."""
        if isinstance(self.backend, Route | list | tuple):
            raise ConfigurationError(
                f"`Route` takes one backend: a name, `{{name: options}}` or an object; got "
                f"{self.backend!r}: make a `Route` for each backend"
            )
        object.__setattr__(self, "include", _patterns("include", self.include))
        object.__setattr__(self, "exclude", _patterns("exclude", self.exclude))
        _check_every(self.every)
        object.__setattr__(self, "rename", _rules(self.rename))
        taken: dict[str, str] = {}
        for tag, name in self.rename.items():
            if self.takes(tag) and taken.setdefault(name, tag) != tag and not tag.endswith("*"):
                raise ConfigurationError(
                    f"`rename` gives both `{taken[name]}` and `{tag}` the name `{name}`: give them "
                    f"different names, or exclude one"
                )

    def takes(self, tag: str) -> bool:
        """Return True if records with this tag are sent."""
        matches = [
            any(fnmatchcase(tag, pattern) for pattern in patterns)
            for patterns in (self.include, self.exclude)
        ]
        return matches == [True, False]

    def name(self, tag: str) -> str:
        """Return the name that a tag has in the backend."""
        if tag in self.rename:
            return self.rename[tag]
        prefixes = [key[:-1] for key in self.rename if key.endswith("*")]
        fitting = [p for p in prefixes if tag.startswith(p) and len(tag) > len(p)]
        if not fitting:
            return tag
        prefix = max(fitting, key=len)
        return self.rename[f"{prefix}*"][:-1] + tag.removeprefix(prefix)


@final
class Router:
    """Applies a route to the records of one run, one call after another, on one thread.

    A selection changes the router only when it has reached the backend, by `commit`: a call that is
    made again selects the same records again.

    Args:
        route: Selects the records.
        backend: The backend's name, for the log.
    """

    def __init__(self, route: Route, backend: str) -> None:
        self._route = route
        self._backend = backend
        self._names: dict[str, str | None] = {}
        self._owners: dict[str, str] = {}
        self._sent: dict[_Series, _Span] = {}
        self._withheld: dict[_Series, Scalars] = {}
        self._closing = False

    def call(self, call: _CallHook, hook: str, **arguments: Any) -> None:
        """Call a backend's hook with the records that the route lets through, if there are any."""
        if hook == "log_scalars":
            self._send(self.select(arguments["records"]), call)
        elif hook == "close_run":
            self._close(call, **arguments)
        else:
            routed = {
                name: self.media(value) if isinstance(value, Media) else value
                for name, value in arguments.items()
            }
            if all(value is not None for value in routed.values()):
                call(hook, **routed)

    def select(self, records: Iterable[Scalars]) -> Selection:
        """Select the records that are sent, in their order, without values that are not sent."""
        selection = Selection()
        for record in records:
            values = {}
            for tag, value in record.values.items():
                name = self._name(tag)
                if name is not None and self._is_due(tag, record, selection):
                    values[name] = value
            if values:
                selection.records.append(replace(record, values=values))
        return selection

    def commit(self, selection: Selection) -> None:
        """Note that a selection of `select` or `last` has arrived."""
        self._sent |= selection.sent
        for series, record in selection.withheld.items():
            if record is None:
                self._withheld.pop(series, None)
            else:
                self._withheld[series] = record

    def last(self) -> Selection:
        """Select the newest values that `every` has withheld, by lane and step."""
        kept: dict[int, Scalars] = {}
        values: dict[int, dict[str, Any]] = {}
        for (_, tag), record in self._withheld.items():
            name = self._name(tag)
            if name is not None:
                kept[id(record)] = record
                values.setdefault(id(record), {})[name] = record.values[tag]
        records = [replace(record, values=values[key]) for key, record in kept.items()]
        records.sort(key=lambda record: (-1 if record.lane is None else record.lane, record.step))
        return Selection(records, withheld=dict.fromkeys(self._withheld))

    def media(self, record: Media) -> Media | None:
        """Return a record under its new name; None if it is not sent."""
        field = "name" if isinstance(record, Artifact) else "tag"
        name = self._name(getattr(record, field))
        return None if name is None else replace(record, **{field: name})

    def _send(self, selection: Selection, call: _CallHook) -> None:
        if selection.records:
            call("log_scalars", records=tuple(selection.records))
        self.commit(selection)

    def _close(self, call: _CallHook, **arguments: Any) -> None:
        try:
            self._send(self.last(), call)
        except BaseException as error:
            if isinstance(error, OSError) and not self._closing:
                self._closing = True
                raise  # the call is made again, at least once
            self._withheld.clear()
            call("close_run", **arguments)
            raise
        self._explain_nothing()
        call("close_run", **arguments)

    def _explain_nothing(self) -> None:
        """Warn if no tag of the run was sent: a pattern may be misspelled."""
        if not self._names or any(name is not None for name in self._names.values()):
            return
        patterns = [pattern for pattern in self._route.include if pattern != "*"]
        logger.warning(
            "backend `%s` was sent nothing: its `Route` with include=%r, exclude=%r fits none of "
            "the %d tag(s) that were logged, such as `%s`.%s",
            self._backend,
            self._route.include,
            self._route.exclude,
            len(self._names),
            next(iter(self._names)),
            closest(patterns, self._names),
        )

    def _name(self, tag: str) -> str | None:
        """Return the tag's name in the backend; None if it isn't sent. Computed once a tag."""
        if tag in self._names:
            return self._names[tag]
        name = self._route.name(tag) if self._route.takes(tag) else None
        if name is not None and self._owners.setdefault(name, tag) != tag:
            logger.error(
                "backend `%s`: `%s` would have the name `%s`, which is that of `%s` already, and "
                "is left out; give them different names in `rename`, or exclude one",
                self._backend,
                tag,
                name,
                self._owners[name],
            )
            name = None
        self._names[tag] = name
        return name

    def _is_due(self, tag: str, record: Scalars, selection: Selection) -> bool:
        every = self._route.every
        if every is None:
            return True
        if isinstance(every, timedelta):
            span = record.wall_time // every.total_seconds()
        else:
            span = record.step // every
        series = (record.lane, tag)
        known = selection.sent.get(series, self._sent.get(series))
        due = span != known
        if due:
            selection.sent[series] = span
        selection.withheld[series] = None if due else record
        return due


@final
@dataclass(slots=True)
class Selection:
    """Records that are sent, and the router's changes once they have arrived.

    Attributes:
        records: The records, under their names in the backend.
        sent: Lane and tag to the span of steps or time in which the last value was sent.
        withheld: Lane and tag to the newest record with a value that was not sent, which is sent
            when the run closes; None if the newest value was sent.
    """

    records: list[Scalars] = field(default_factory=list)
    sent: dict[_Series, _Span] = field(default_factory=dict)
    withheld: dict[_Series, Scalars | None] = field(default_factory=dict)


def _patterns(argument: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) and given:
        return (given,)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        patterns = tuple(given)
        if all(isinstance(pattern, str) and pattern for pattern in patterns) and (
            patterns or argument == "exclude"
        ):
            return patterns
    raise ConfigurationError(
        f"`{argument}` of a `Route` must be a pattern of tags or a sequence of them, none of them "
        f'empty; got {given!r}: pass for example "episode/*" or ["episode/*", "eval/*"]'
    )


def _check_every(every: Any) -> None:
    least = timedelta(0) if isinstance(every, timedelta) else 0
    usable = isinstance(every, int | timedelta) and not isinstance(every, bool)
    if every is None or (usable and every > least):
        return
    whole = isinstance(every, float) and every > 0 and math.isfinite(every)
    mend = (
        f"pass {max(round(every), 1)} for steps, or `timedelta(seconds={every:g})`"
        if whole
        else "pass for example 10_000 or `timedelta(seconds=30)`"
    )
    raise ConfigurationError(
        f"`every` of a `Route` must be a positive number of environment steps (an int) or a "
        f"positive `datetime.timedelta`; got {every!r}: {mend}"
    )


def _rules(rename: Any) -> dict[str, str]:
    if not isinstance(rename, Mapping):
        raise ConfigurationError(
            f"`rename` of a `Route` must be a mapping from tags to names; got {rename!r}: pass for "
            f'example {{"episode/return": "return"}}'
        )
    for tag, name in rename.items():
        why = next(_objections(tag, name), None)
        if why is not None:
            raise ConfigurationError(
                f"`rename` of a `Route` has the rule {tag!r}: {name!r}, {why}: pass a tag and a "
                f'name, such as "episode/return": "return", or two prefixes that both end with '
                f'`*`, such as "train/*": "loss/*"'
            )
    return dict(rename)


def _objections(tag: Any, name: Any) -> Iterator[str]:
    for text in (tag, name):
        if not isinstance(text, str) or not text:
            yield f"of which {text!r} is no string, or empty"
        elif "*" in text[:-1]:
            yield f"and `*` may only be the last character of {text!r}"
    if isinstance(tag, str) and isinstance(name, str) and tag.endswith("*") != name.endswith("*"):
        yield "of which only one ends with `*`"
