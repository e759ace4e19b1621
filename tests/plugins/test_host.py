"""The plugin manager of a run: registering plugins and calling their hooks."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pytest

from metriplex import MetricsCallback, PluginError, RunInfo, Scalars, hookimpl
from metriplex.delivery import calls
from metriplex.plugins.backends import Backend, create_backends
from metriplex.plugins.hookspecs import BACKEND_HOOKS, HOOKS, SPECS
from metriplex.plugins.host import Host
from metriplex.plugins.scalar_transforms import create_transforms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RUN = RunInfo(id="0f", name="run", directory=Path("logs/run"), start_time=0.0)


@final
class Closing:
    def __init__(self) -> None:
        self.statuses: list[str] = []

    @hookimpl
    def close_run(self, status: str) -> None:
        self.statuses.append(status)


def test_every_hook_belongs_to_one_specification_and_to_a_kind() -> None:
    specified = [name for spec in SPECS for name in vars(spec) if not name.startswith("_")]
    assert len(specified) == len(set(specified))
    assert set(specified) == {hook for hooks in HOOKS.values() for hook in hooks}
    assert BACKEND_HOOKS[0] == "open_run"
    assert BACKEND_HOOKS[-1] == "close_run"


def test_all_kinds_share_one_manager_and_plugins_keep_their_names() -> None:
    host = Host()
    plugins = [("one", Closing()), ("one", Closing())]
    assert host.register("backend", plugins) == ["one", "one_2"]
    assert host.register("backend", [("one", Closing())]) == ["one_3"]

    @final
    class Transform:
        @hookimpl
        def transform_scalars(self, record: Scalars) -> Scalars:
            return record

    assert host.register("transform", [("one", Transform())]) == ["one"]
    assert [name for name, _ in host.implementations("close_run")] == [
        "backend `one_3`",
        "backend `one`",
        "backend `one_2`",
    ]
    assert [name for name, _ in host.implementations("transform_scalars")] == ["transform `one`"]


def test_a_call_of_one_backend_reaches_no_other_one_registered_before_or_later() -> None:
    host = Host()
    first = Backend("first", Closing(), host=host)
    second = Backend("second", Closing(), host=host)
    second.call(calls.close_run(0, "finished"), RUN)
    third = Backend("third", Closing(), host=host)
    second.call(calls.close_run(0, "failed"), RUN)
    assert [vars(one.plugin)["statuses"] for one in (first, second, third)] == [
        [],
        ["finished", "failed"],
        [],
    ]


def test_one_object_serves_two_runs_at_once() -> None:
    plugin = Closing()
    backends = [Backend(name, plugin, host=Host()) for name in ("a", "b")]
    threads = [
        threading.Thread(target=backend.call, args=(calls.close_run(0, s), RUN))
        for backend, s in zip(backends, ("finished", "failed"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(plugin.statuses) == ["failed", "finished"]


def test_dataclasses_are_plugins_also_when_they_are_equal() -> None:
    """pluggy keeps plugins in sets; a dataclass has no hash, and equals another one."""

    @final
    @dataclasses.dataclass
    class Log:
        path: str
        seen: list[str] = dataclasses.field(default_factory=list)

        @hookimpl
        def close_run(self, status: str) -> None:
            self.seen.append(status)

    first, second = Log("x"), Log("x")
    backends = create_backends([first, second])
    backends[1].call(calls.close_run(0, "failed"), RUN)
    assert (first.seen, second.seen) == ([], ["failed"])
    assert [backend.plugin for backend in backends] == [first, second]


def test_properties_of_a_plugin_are_not_run() -> None:
    run: list[str] = []

    @final
    class Lazy:
        @property
        def connection(self) -> None:
            run.append("connected")

        @property
        def broken(self) -> None:
            raise AssertionError("a property was run")

        @property
        def log_text(self) -> None:
            raise AssertionError("a property with the name of a hook was run")

        @hookimpl
        def flush(self) -> None:
            run.append("flushed")

    Backend("lazy", Lazy()).call(calls.flush(0), RUN)
    assert run == ["flushed"]


def _wrapper(self: object, env: object = None) -> Any:
    yield


def _plain(self: object) -> None: ...


@pytest.mark.parametrize("mark", ["wrapper", "hookwrapper"])
@pytest.mark.parametrize(
    ("kind", "hook"),
    [
        ("backend", "flush"),
        ("transform", "transform_scalars"),
        ("renderer", "make_renderer"),
        ("environment", "adapt_environment"),
    ],
)
@pytest.mark.parametrize("function", [_wrapper, _plain])
def test_wrappers_are_refused(
    kind: str, hook: str, mark: Any, function: Callable[..., Any]
) -> None:
    def copy(self: object) -> Any:
        return function(self)

    options: dict[str, Any] = {mark: True}
    plugin = type("Wrapping", (), {hook: hookimpl(copy, **options)})()
    words = rf"{kind} `w` \(Wrapping\): hook `{hook}` .* is a wrapper"
    with pytest.raises(PluginError, match=words):
        Host().register(kind, [("w", plugin)])


def test_what_pluggy_refuses_names_the_plugin() -> None:
    @final
    class Optional:
        @hookimpl(optionalhook=True)
        def transform_scalars(self, recrod: Scalars) -> None: ...

        @hookimpl
        def flush(self) -> None: ...

    with pytest.raises(PluginError, match=r"(?s)backend `mine` can't be registered: .*recrod"):
        Backend("mine", Optional())


def test_a_callback_registers_its_plugins_in_one_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Host] = []
    register = Host.register

    def note(self: Host, kind: str, plugins: Sequence[tuple[str, object]]) -> list[str]:
        made.append(self)
        return register(self, kind, plugins)

    @final
    class Same:
        @hookimpl
        def transform_scalars(self, record: Scalars) -> Scalars:
            return record

    monkeypatch.setattr(Host, "register", note)
    backends: list[object] = [Closing(), Closing()]
    with MetricsCallback("run", log_dir=tmp_path, backends=backends, transforms=Same()):
        pass
    assert len(made) == 3
    assert len(set(map(id, made))) == 1


def test_a_transform_sees_no_plugin_of_another_run() -> None:
    @final
    class Same:
        @hookimpl
        def transform_scalars(self, record: Scalars) -> Scalars:
            return record

    host = Host()
    create_transforms(Same(), host)
    create_transforms(Same(), Host())
    assert len(host.implementations("transform_scalars")) == 1
