from __future__ import annotations

import functools
import importlib
import itertools
import sys
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from metriplex import RunInfo, Scalars, hookimpl
from metriplex.delivery import calls
from metriplex.errors import ConfigurationError, PluginError
from metriplex.plugins import discovery
from metriplex.plugins.backends import Backend, create_backends
from metriplex.plugins.discovery import PUBLISHED
from metriplex.plugins.hookspecs import BACKEND_HOOKS
from metriplex.plugins.report import PluginReport, installed

RUN = RunInfo(id="0f", name="run", directory=Path("logs/run"), start_time=0.0)
RECORDS = (Scalars(step=1, values={"a": 1.0}),)
_numbers = itertools.count()

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution for real: a module and a `.dist-info` folder on `sys.path`.

    Returns the module's name, which no other test uses; `{m}` in `entry_points` stands for it.
    """

    def install(
        project: str,
        entry_points: str,
        source: str = "",
        version: str = "1.2",
        metadata: bool = True,
    ) -> str:
        module = f"{project.replace('-', '_')}_{next(_numbers)}"
        site = tmp_path / module
        info = site / f"{project.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        if metadata:
            text = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
            (info / "METADATA").write_text(text)
        (info / "entry_points.txt").write_text(textwrap.dedent(entry_points).replace("{m}", module))
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        return module

    return install


BACKENDS = "[metriplex.backends]\n"
GOOD = """
    from metriplex import hookimpl

    class Good:
        def __init__(self, path="x", *, flush_secs=5.0):
            self.path = path
            self.flush_secs = flush_secs
            self.calls = []

        @hookimpl
        def log_scalars(self, run, records):
            self.calls.append(("log_scalars", run, records))

        @hookimpl
        def flush(self):
            self.calls.append(("flush",))
"""


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars], run: RunInfo) -> None:
        self.calls.append(("log_scalars", run, records))

    @hookimpl
    def close_run(self, status: str) -> None:
        self.calls.append(("close_run", status))


def report(name: str) -> PluginReport:
    (found,) = [r for r in installed() if r.name == name]
    return found


# One backend ---------------------------------------------------------------------------------


def test_a_backend_is_asked_only_what_it_implements_with_the_arguments_that_it_names() -> None:
    plugin = Recorder()
    backend = Backend("mine", plugin)
    backend.call(calls.open_run(), RUN)
    backend.call(calls.log_scalars(0, RECORDS), RUN)
    backend.call(calls.flush(0), RUN)
    backend.call(calls.close_run(0, "finished"), RUN)
    assert plugin.calls == [("log_scalars", RUN, RECORDS), ("close_run", "finished")]
    assert backend.hooks == {"log_scalars", "close_run"}
    assert (backend.name, backend.plugin, backend.flush_secs) == ("mine", plugin, 5.0)


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), OSError(28)]
)
def test_what_a_hook_raises_comes_out_unchanged(error: BaseException) -> None:
    class Raising:
        @hookimpl
        def flush(self) -> None:
            raise error

    backend = Backend("raising", Raising())
    with pytest.raises(type(error)) as caught:
        backend.call(calls.flush(0), RUN)
    assert caught.value is error


def test_two_backends_of_one_class_are_called_apart() -> None:
    first, second = Recorder(), Recorder()
    backends = create_backends([first, second])
    backends[1].call(calls.close_run(0, "failed"), RUN)
    assert (first.calls, second.calls) == ([], [("close_run", "failed")])


def test_a_module_with_marked_functions_is_a_backend() -> None:
    module = types.ModuleType("pkg.my_log")
    seen: list[object] = []

    @hookimpl
    def flush(run: RunInfo) -> None:
        seen.append(run)

    vars(module)["flush"] = flush
    (backend,) = create_backends(module)
    backend.call(calls.flush(0), RUN)
    assert (backend.name, seen) == ("my_log", [RUN])


def test_static_class_and_decorated_methods_are_hooks() -> None:
    seen: list[object] = []

    def logged(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            seen.append(args[1:])
            function(*args, **kwargs)

        return wrapper

    class Mixed:
        @staticmethod
        @hookimpl
        def open_run(run: RunInfo) -> None:
            seen.append(run)

        @classmethod
        @hookimpl
        def flush(cls, run: RunInfo) -> None:
            seen.append((cls, run))

        @hookimpl
        @logged
        def close_run(self, status: str) -> None:
            seen.append(status)

        @hookimpl(specname="log_scalars")
        def on_scalars(self, records: object, limit: int = 7) -> None:
            seen.append((records, limit))

        @property
        def trap(self) -> None:
            raise AssertionError("a property was run")

    backend = Backend("mixed", Mixed())
    backend.call(calls.open_run(), RUN)
    backend.call(calls.flush(0), RUN)
    backend.call(calls.close_run(0, "finished"), RUN)
    backend.call(calls.log_scalars(0, RECORDS), RUN)
    assert seen == [RUN, (Mixed, RUN), ("finished",), "finished", (RECORDS, 7)]


def test_a_hook_of_a_newer_metriplex_may_be_marked_optional() -> None:
    class Future(Recorder):
        @hookimpl(optionalhook=True)
        def log_point_cloud(self, run: RunInfo, cloud: object) -> None:
            raise AssertionError

    assert Backend("future", Future()).hooks == {"log_scalars", "close_run"}


def test_a_misspelled_hook_is_named_with_the_one_that_was_meant() -> None:
    class Misspelled:
        @hookimpl
        def log_scalers(self, records: object) -> None: ...

    with pytest.raises(
        PluginError,
        match=r"backend `typo` \(Misspelled\): method `log_scalers` .* "
        r"Did you mean `log_scalars`\?",
    ):
        Backend("typo", Misspelled())


def test_an_unknown_argument_is_named_with_those_that_are_offered() -> None:
    class Renamed:
        @hookimpl
        def log_scalars(self, run: RunInfo, record: object) -> None: ...

    with pytest.raises(
        PluginError,
        match=r"\(Renamed\): hook `log_scalars` .*`record` is not offered. "
        r"Did you mean `records`\? Offered are `run`, `records`",
    ):
        Backend("renamed", Renamed())


def _with_default(self: object, records: object = None) -> None: ...
def _keyword_only(self: object, *, records: object) -> None: ...
def _all_keywords(self: object, **records: object) -> None: ...
def _no_self(records: object) -> None: ...
def _nothing() -> None: ...
async def _coroutine(self: object, records: object) -> None: ...
def _generator(self: object, records: object) -> Any:
    yield


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (_with_default, "`records=None` must be .* without a default"),
        (_keyword_only, "must be a plain positional argument"),
        (_all_keywords, r"`\*\*records` must be a plain positional argument"),
        (_no_self, "no `self`"),
        (_nothing, "no `self`"),
        (_coroutine, "must be a plain function"),
        (_generator, "must be a plain function"),
    ],
)
def test_a_hook_that_would_silently_get_nothing_is_rejected(
    function: Callable[..., object], why: str
) -> None:
    plugin = type("Silent", (), {"log_scalars": hookimpl(function)})()
    with pytest.raises(PluginError, match=f"`log_scalars`.*{why}"):
        Backend("silent", plugin)


def test_a_plugin_whose_marks_were_forgotten() -> None:
    class Unmarked:
        def log_scalars(self, run: RunInfo, records: object) -> None: ...
        def flush(self) -> None: ...

    with pytest.raises(PluginError, match=r"`log_scalars`, `flush` .*`@metriplex.hookimpl`"):
        Backend("unmarked", Unmarked())


def test_an_override_without_the_mark_would_silence_the_backend_and_is_an_error() -> None:
    class Sub(Recorder):
        def log_scalars(self, records: object, run: object) -> None: ...

    with pytest.raises(PluginError, match="`log_scalars` would never be called"):
        Backend("sub", Sub())


def test_an_object_without_hooks_and_a_class_in_place_of_an_object() -> None:
    class Empty: ...

    with pytest.raises(PluginError, match=r"\(Empty\) implements no hook: mark its methods"):
        create_backends(Empty())
    with pytest.raises(PluginError, match=r"is the class `Recorder`: .*`Recorder\(...\)`"):
        create_backends([Recorder])


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", True, None])
def test_flush_secs_must_be_a_positive_time(seconds: object) -> None:
    plugin = Recorder()
    vars(plugin)["flush_secs"] = seconds
    with pytest.raises(ConfigurationError, match="`flush_secs` of backend `recorder` must be"):
        create_backends(plugin)


# What may be asked for -----------------------------------------------------------------------


def test_backends_by_name_with_options_and_as_objects_in_any_mix(install: Install) -> None:
    install("metriplex-good", BACKENDS + "good = {m}:Good", GOOD)
    mine = Recorder()
    backends = create_backends(["good", {"good": {"flush_secs": 2, "path": "y"}}, mine])
    assert [b.name for b in backends] == ["good", "good_2", "recorder"]
    assert [b.flush_secs for b in backends] == [5.0, 2.0, 5.0]
    assert [getattr(b.plugin, "path", None) for b in backends] == ["x", "y", None]
    assert backends[2].plugin is mine
    backends[1].call(calls.log_scalars(0, RECORDS), RUN)
    backends[1].call(calls.flush(0), RUN)
    assert vars(backends[1].plugin)["calls"] == [("log_scalars", RUN, RECORDS), ("flush",)]


@pytest.mark.parametrize("form", ["good", {"good": {}}, {"good": None}, ("good",), [{"good": {}}]])
def test_every_form_of_asking_for_one_backend(install: Install, form: object) -> None:
    install("metriplex-good", BACKENDS + "good = {m}:Good", GOOD)
    (backend,) = create_backends(form)
    assert (backend.name, backend.hooks) == ("good", {"log_scalars", "flush"})


def test_a_function_may_be_the_factory(install: Install) -> None:
    source = GOOD + "\n    def make(path):\n        return Good(path)\n"
    install("metriplex-made", BACKENDS + "made = {m}:make", source)
    (backend,) = create_backends({"made": {"path": "z"}})
    assert vars(backend.plugin)["path"] == "z"


@pytest.mark.parametrize("form", [[], (), {}])
def test_an_empty_list_logs_nowhere(form: object) -> None:
    assert create_backends(form) == []


def test_the_default_is_tensorboard(install: Install) -> None:
    install("metriplex-tensorboard", BACKENDS + "tensorboard = {m}:Good", GOOD, version="9")
    (backend,) = create_backends()
    assert (backend.name, type(backend.plugin).__name__) == ("tensorboard", "Good")


class MyHTTPLogBackend(Recorder): ...


class Backendless(Recorder):
    name = "given"


def test_names_of_objects_are_distinct_also_from_given_ones() -> None:
    second = Recorder()
    vars(second)["name"] = "recorder_2"
    objects = [Recorder(), second, Recorder(), MyHTTPLogBackend(), Backendless(), Backendless()]
    names = [backend.name for backend in create_backends(objects)]
    assert names == ["recorder", "recorder_2", "recorder_3", "my_http_log", "given", "given_2"]


@pytest.mark.parametrize("form", [3, 2.5, True, b"x", {"a"}, [None], ["a", [1]], iter("ab"), print])
def test_what_is_no_backend_is_rejected_by_its_type(install: Install, form: object) -> None:
    install("metriplex-a", BACKENDS + "a = {m}:Good", GOOD)
    with pytest.raises(ConfigurationError, match="`backends` takes the name of an installed"):
        create_backends(form)


@pytest.mark.parametrize("options", [3, "x", [1], {1: 2}])
def test_options_must_be_a_dictionary_of_arguments(options: object) -> None:
    with pytest.raises(ConfigurationError, match="options of backend `good` must be a dictionary"):
        create_backends({"good": options})


def test_a_name_in_a_dictionary_must_be_a_string() -> None:
    with pytest.raises(ConfigurationError, match="must be a string, got 3"):
        create_backends({3: {}})


def test_the_same_object_twice_is_an_error() -> None:
    plugin = Recorder()
    with pytest.raises(ConfigurationError, match="holds the same object twice"):
        create_backends([plugin, plugin])


# What may be wrong with what is installed ----------------------------------------------------


def test_an_unknown_name_lists_what_is_installed(install: Install) -> None:
    install("metriplex-good", BACKENDS + "good = {m}:Good", GOOD)
    with pytest.raises(PluginError) as caught:
        create_backends("Godo")
    text = str(caught.value)
    assert "`Godo` is not installed. Did you mean `good`?" in text
    assert "`good`" in text.partition("Installed: ")[2]
    assert "pip" not in text
    with pytest.raises(PluginError, match=r"`My Tracker` is not installed\. Installed: "):
        create_backends("My Tracker")


@pytest.mark.parametrize("kind", PUBLISHED)
def test_only_what_metriplex_publishes_is_suggested_for_installation(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name that is not published anybody may own the distribution."""
    monkeypatch.setattr(discovery, "entry_points", lambda _: [])
    for name in PUBLISHED[kind]:
        for wrong in (name, f"{name}x", name[:-2] + name[-1], name.upper()):
            with pytest.raises(PluginError) as caught:
                discovery.find(kind, wrong)
            text = str(caught.value)
            assert f"To install it: `pip install metriplex-{name}`." in text
            assert ("Did you mean" in text) is (wrong != name)
            assert text.count("pip install") == 1
    with pytest.raises(PluginError) as caught:
        discovery.find(kind, "something-else")
    assert "pip" not in str(caught.value)


def test_the_published_plugins_are_those_of_the_repository() -> None:
    root = Path(__file__).parents[2]
    groups = {"backend": "backends", "renderer": "renderers"}
    found = {
        kind: tuple(sorted(path.parent.name for path in (root / name).glob("*/pyproject.toml")))
        for kind, name in groups.items()
    }
    assert found == PUBLISHED


BROKEN = {
    "raises": ("1 / 0", ZeroDivisionError),
    "exits": ("raise SystemExit('no licence')", SystemExit),
    "imports": ("import no_such_sdk", ModuleNotFoundError),
    "syntax": ("def", SyntaxError),
    "lacks": ("", AttributeError),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_backend_that_cant_be_imported(install: Install, name: str) -> None:
    source, cause = BROKEN[name]
    install("metriplex-bad", BACKENDS + f"{name} = {{m}}:Bad\ngood = {{m}}:Bad", source)
    with pytest.raises(PluginError) as caught:
        create_backends(name)
    assert type(caught.value.__cause__) is cause
    text = str(caught.value)
    assert f"backend `{name}` (`" in text
    assert f"of metriplex-bad 1.2) is installed but can't be imported: {cause.__name__}: " in text
    assert "`pip install --force-reinstall metriplex-bad`" in text
    found = report(name)
    assert (found.distribution, found.version, found.hooks) == ("metriplex-bad", "1.2", ())
    assert found.error == text


def test_ctrl_c_while_a_backend_is_imported_is_not_its_fault(install: Install) -> None:
    install("metriplex-slow", BACKENDS + "slow = {m}:Bad", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        create_backends("slow")


def test_a_broken_backend_that_nobody_asked_for_is_not_even_imported(install: Install) -> None:
    bad = install("metriplex-bad", BACKENDS + "bad = {m}:Bad", "1 / 0")
    good = install("metriplex-good", BACKENDS + "good = {m}:Good", GOOD)
    other = install("metriplex-other", BACKENDS + "other = {m}:Good", GOOD)
    create_backends("good")
    assert good in sys.modules
    assert bad not in sys.modules
    assert other not in sys.modules


def test_an_entry_point_that_names_no_factory(install: Install) -> None:
    install(
        "metriplex-bad", BACKENDS + "bad = {m}:VALUE\nnone = {m}:none", "VALUE = 3\nnone = dict"
    )
    with pytest.raises(PluginError, match=r"must name a class or a function .* not 3"):
        create_backends("bad")
    with pytest.raises(PluginError, match=r"\(dict\) implements no hook"):
        create_backends("none")


def test_options_that_dont_fit_name_those_that_do(install: Install) -> None:
    install("metriplex-good", BACKENDS + "good = {m}:Good", GOOD)
    with pytest.raises(PluginError) as caught:
        create_backends({"good": {"flush_sec": 3}})
    assert isinstance(caught.value.__cause__, TypeError)
    text = str(caught.value)
    assert "backend `good`" in text
    assert "Did you mean `flush_secs`? It accepts `path`, `flush_secs`" in text


def test_a_required_option_that_is_missing(install: Install) -> None:
    source = GOOD + "\n    def make(project):\n        return Good(project)\n"
    install("metriplex-made", BACKENDS + "made = {m}:make", source)
    with pytest.raises(PluginError, match=r"'project'. It accepts `project`"):
        create_backends("made")


def test_a_constructor_that_raises(install: Install) -> None:
    source = """
        from metriplex import ConfigurationError

        def wrong(port=0):
            raise ValueError(f"no server on {port}")

        def exiting():
            raise SystemExit("no licence")

        def stopped():
            raise KeyboardInterrupt

        def explained(port=0):
            raise ConfigurationError("`port` must be positive")
    """
    names = ("wrong", "exiting", "stopped", "explained")
    install("metriplex-w", BACKENDS + "\n".join(f"{n} = {{m}}:{n}" for n in names), source)
    with pytest.raises(PluginError, match=r"\{'port': 3\}: ValueError: no server on 3") as caught:
        create_backends({"wrong": {"port": 3}})
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(PluginError, match="SystemExit: no licence"):
        create_backends("exiting")
    with pytest.raises(KeyboardInterrupt):
        create_backends("stopped")
    with pytest.raises(ConfigurationError, match=r"^`port` must be positive$"):
        create_backends("explained")


def test_one_name_from_two_distributions_is_an_error_that_names_both(install: Install) -> None:
    install("metriplex-one", BACKENDS + "good = {m}:Good", GOOD)
    install("other-two", BACKENDS + "good = {m}:Good", GOOD, version="3.0")
    with pytest.raises(PluginError, match="installed more than once") as caught:
        create_backends("good")
    assert "of metriplex-one 1.2" in str(caught.value)
    assert "of other-two 3.0" in str(caught.value)
    rivals = [r for r in installed() if r.name == "good"]
    assert [r.distribution for r in rivals] == ["metriplex-one", "other-two"]
    assert "also registered by" in (rivals[0].error or "")
    assert "other-two 3.0" in (rivals[0].error or "")
    assert "metriplex-one 1.2" in (rivals[1].error or "")


def test_the_same_distribution_found_twice_is_one(install: Install) -> None:
    install("metriplex-good", BACKENDS + "good = {m}:Bad", version="1.0")
    install("metriplex_good", BACKENDS + "good = {m}:Good", GOOD, version="2.0")
    (backend,) = create_backends("good")
    assert type(backend.plugin).__name__ == "Good"
    assert report("good").version == "2.0"


def test_another_distribution_with_damaged_entry_points_hides_nothing(install: Install) -> None:
    install("metriplex-good", BACKENDS + "good = {m}:Good", GOOD)
    install("damaged", "[metriplex.backends]\nthis line is no entry point\n")
    install("bare", BACKENDS + "bare = {m}:Good", GOOD, metadata=False)
    (backend,) = create_backends("good")
    assert backend.name == "good"
    assert report("good").hooks == ("log_scalars", "flush")


def test_a_distribution_without_metadata_is_reported_all_the_same(install: Install) -> None:
    install("bare", BACKENDS + "bare = {m}:Good", GOOD, metadata=False)
    found = report("bare")
    assert (found.kind, found.error) == ("backend", None)
    assert isinstance(found.distribution, str)
    assert isinstance(found.version, str)


# The report ----------------------------------------------------------------------------------


def test_the_report_covers_every_kind_and_knows_hooks_without_constructing(
    install: Install,
) -> None:
    source = (
        GOOD
        + """
    class NeedsOptions(Good):
        def __init__(self, url):
            raise AssertionError("constructed")

    def typed(url) -> Good:
        raise AssertionError("constructed")

    def untyped(url):
        raise AssertionError("constructed")

    class Base:
        pass

    def vaguely_typed(url) -> Base:
        raise AssertionError("constructed")

    def wrongly_typed(url) -> "no_such_name":
        raise AssertionError("constructed")

    class Renderer:
        @hookimpl
        def make_renderer(self, env): ...

    class Typo:
        @hookimpl
        def log_scaler(self, records): ...
    """
    )
    install(
        "metriplex-all",
        """
        [metriplex.backends]
        z_class = {m}:NeedsOptions
        y_typed = {m}:typed
        x_untyped = {m}:untyped
        w_wrong = {m}:wrongly_typed
        v_typo = {m}:Typo
        u_vague = {m}:vaguely_typed
        [metriplex.renderers]
        drawing = {m}:Renderer
        [metriplex.environments]
        gym = {m}:no_such_thing
        [console_scripts]
        other = {m}:Good
        """,
        source,
    )
    mine = [r for r in installed() if r.distribution == "metriplex-all"]
    assert [(r.kind, r.name, r.hooks) for r in mine] == [
        ("backend", "u_vague", ()),
        ("backend", "v_typo", ()),
        ("backend", "w_wrong", ()),
        ("backend", "x_untyped", ()),
        ("backend", "y_typed", ("log_scalars", "flush")),
        ("backend", "z_class", ("log_scalars", "flush")),
        ("renderer", "drawing", ("make_renderer",)),
        ("environment", "gym", ()),
    ]
    broken = {r.name: r.error for r in mine if r.error is not None}
    assert set(broken) == {"v_typo", "gym"}
    assert "Did you mean `log_scalars`?" in broken["v_typo"]
    assert "environment `gym`" in broken["gym"]
    assert "AttributeError" in broken["gym"]


def test_the_backends_of_this_repository_implement_only_real_hooks() -> None:
    names: Mapping[str, PluginReport] = {r.name: r for r in installed()}
    for name in ("tensorboard", "console"):
        assert names[name].error is None
        assert set(names[name].hooks) <= set(BACKEND_HOOKS)
        assert "log_scalars" in names[name].hooks
