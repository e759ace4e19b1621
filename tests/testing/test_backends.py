"""The contract of backends, run on correct and on wrong backends."""

from __future__ import annotations

import json
import os
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import interpreter
from interpreter import PYTEST
from metriplex import RunInfo, hookimpl
from metriplex.testing import BackendContract, MemoryBackend, Stored
from metriplex.testing.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

VIDEOS = {f"videos[{size}]" for size in ("odd size", "one frame", "many frames")}
LANES = {"lanes_are_runs_of_their_own", "lanes_are_flushed", "lanes_of_a_resumed_run"}

ONE_WRONG_EACH = {
    "Float32": {"floats_are_exact"},
    "SixDigits": {"floats_are_exact"},
    "LosesTheSignOfZero": {"floats_are_exact"},
    "OwnTimes": {"wall_times_are_kept"},
    "OwnTimesOfTexts": {"wall_times_of_media_are_kept"},
    "NoIterations": {"iterations_are_kept"},
    "FlushesDenormals": {"floats_are_exact"},
    "IntegersAsFloats": {"integers_are_exact"},
    "DropsBools": {"bools_are_kept"},
    "DropsNan": {"nan_and_infinities_are_kept"},
    "CutsInfinity": {"nan_and_infinities_are_kept"},
    "Reverses": {"order_is_kept"},
    "Samples": {"order_is_kept"},
    "StepsOf32Bits": {"steps_are_exact"},
    "StepsAsFloats": {"steps_are_exact"},
    "DropsLateSteps": {"steps_may_go_back"},
    "OneRecordAStep": {"one_step_in_several_records"},
    "FillsIn": {"tags_come_late_and_vanish"},
    "ForgetsLanes": LANES,
    "LaneZeroIsNone": LANES,
    "NumbersLanes": {"lanes_have_names"},
    "HparamsOfRunsOnly": {"lanes_have_hparams"},
    "ChangesWhatItIsGiven": {"what_a_hook_is_given_stays_as_it_was"},
    "NormalizesUnicode": {"unicode_tags"},
    "CutsTags": {"long_tags"},
    "TagsAsPaths": {"hostile_tags"},
    "TagsMakeFiles": {"hostile_tags"},
    "LowerCase": {"hostile_tags"},
    "NoTagInATag": {"nested_tags"},
    "AThousandTags": {"ten_thousand_tags"},
    "EmptyTagBreaks": {"an_empty_tag_harms_nothing_else"},
    "HparamsAsText": {
        *("hparams_of_every_type", "hparams_that_are_not_finite", "long_hparams"),
        *("hparams_of_a_resumed_run", "hparams_of_several_calls"),
    },
    "HparamsOfOneCall": {"hparams_of_several_calls"},
    "HparamsOfTheLastCall": {"hparams_of_several_calls"},
    "DropsInfiniteHparams": {"hparams_that_are_not_finite"},
    "CutsHparams": {"long_hparams"},
    "FirstHparamsOnly": {"hparams_of_a_resumed_run"},
    "StripsTexts": {"texts"},
    "TextsHaveNoLane": {"media_of_lanes"},
    "NeedsFrames": {"videos_that_are_encoded_already"},
    "DropsTheLastFrame": VIDEOS - {"videos[one frame]"},
    "SwapsColours": VIDEOS,
    "EvenSizes": {"videos[odd size]"},
    "Jpeg": {"images"},
    "EvenEdges": {"histograms"},
    "OnlyFiles": {"artifacts"},
    "Overwrites": {"artifacts_of_one_name"},
    "NeedsRecords": {"a_run_without_records"},
    "AlwaysFinished": {"how_a_run_ended[failed]", "how_a_run_ended[interrupted]"},
    "ClosesOnce": {"close_may_be_called_twice"},
    "LastStatusCounts": {"close_may_be_called_twice"},
    "LogsAfterClose": {"a_closed_run_takes_nothing"},
    "LazyFlush": {"what_is_flushed_can_be_read", "lanes_are_flushed"},
    "OneRunAtATime": {"two_runs_at_once"},
    "GlobalState": {"two_backends_at_once"},
    "ByName": {"two_runs_of_one_name"},
    "ByNameInMemory": {"two_runs_of_one_name"},
    "KeepsEverything": {"memory_is_bounded"},
    "IgnoresResumeStep": {"a_resumed_run_has_each_step_once", "lanes_of_a_resumed_run"},
    "BeginsAnew": {
        *("a_resumed_run_has_each_step_once", "a_run_that_is_opened_again_goes_on"),
        "lanes_of_a_resumed_run",
    },
    "LeavesThreads": {"nothing_is_left_behind"},
    "LeavesFiles": {"nothing_is_left_behind"},
    "LeavesChildren": {"nothing_is_left_behind"},
    "KeepsAConnection": {"nothing_is_left_behind"},
    "WritesOneByOne": {"a_failed_call_stores_all_or_nothing"},
    "AppendsAgain": {"a_failed_call_stores_all_or_nothing"},
    "SwallowsErrors": {"a_failed_call_stores_all_or_nothing"},
    "SwallowsFullDescriptors": {"a_failed_call_stores_all_or_nothing"},
    "RaisesItsOwnErrors": {"a_failed_call_stores_all_or_nothing"},
}
"""Each wrong backend, and the tests that it fails."""

STATE = "a_fresh_process_keeps_its_state"
WRONG_IN_A_PROCESS = {
    "Prints": ("a_fresh_process_prints_nothing", "the standard output was given 'hello from the"),
    "Complains": ("a_fresh_process_prints_nothing", "the standard error was given 'service: view"),
    "Warns": ("a_fresh_process_prints_nothing", "this server is old"),
    "SetsVariables": (STATE, "the variable SOME_SERVICE (by the constructor)"),
    "SetsVariablesForAWhile": (STATE, "the variable SOME_SERVICE (by `open_run`)"),
    "ChangesDirectory": (STATE, "the working directory (by `open_run`)"),
    "SetsHandlers": (STATE, "the handler of SIGUSR1 (by the constructor)"),
    "SetsErrors": (STATE, "`numpy.geterr()` (by the constructor)"),
    "SetsErrorsOfItsThread": (STATE, "`numpy.geterr()` (by `open_run`)"),
    "Seeds": (STATE, "`random` (by `open_run`)"),
    "SeedsNumpy": (STATE, "`numpy.random` (by `log_text`)"),
    "SetsTheMask": (STATE, "the file mode creation mask (by `open_run`)"),
    "UsesJax": ("a_fresh_process_imports_no_jax", "jax was imported, by a function"),
    "EndsLate": ("a_fresh_process_ends_at_once", "after `close_run` the process went on for"),
    "ExitsBadly": ("a_process_may_end_without_closing", "the process ended with status 3"),
}
"""Each backend that is wrong in other processes, the one test that it fails, and a reason."""

WRONG = {**ONE_WRONG_EACH, **WRONG_IN_A_PROCESS}
RIGHT = ("Right", "RightMedia", "RightBesideAFile")

PROCESSES = ("process", "sigkill", "a_kill")
"""Parts of the names of tests that start a process, which take seconds."""


@pytest.mark.long
class TestMemory(BackendContract):
    def make_backend(self) -> object:
        self.runs: dict[str, Stored] = getattr(self, "runs", {})
        return MemoryBackend(self.runs)

    def read_back(self, run: RunInfo) -> Stored:
        return self.runs[run.id]


class Results:
    """The results of one run of the contract, without `test_` in the names of tests."""

    def __init__(self, output: str, tests: list[dict[str, str]]) -> None:
        self.output = output
        self.all = tests

    def tests(self, outcome: str, backend: str = "Right") -> set[str]:
        return {
            test["test"].removeprefix("test_")
            for test in self.all
            if (test["backend"], test["outcome"]) == (backend, outcome)
        }


def check(
    directory: Path,
    backends: Iterable[str],
    *options: str,
    body: str = "",
    source: str = "",
    status: int = 1,
) -> Results:
    """Run the contract like a test suite of a plugin."""
    source = "import pytest\nimport wrong_backends\n" + source
    for backend in backends:
        source += f"""
class Test{backend}(wrong_backends.Contract):
    backend = wrong_backends.{backend}
"""
    source += textwrap.indent(textwrap.dedent(body), "    ")
    (directory / "test_it.py").write_text(source)
    command = ["-q", "-p", "no:cacheprovider", "-W", "error"]
    command += ["-c", os.devnull, "--rootdir", str(directory), "--tb", "short"]
    command += [
        "--junitxml",
        "junit.xml",
        "--metriplex-results",
        "results.json",
        *(options or ["test_it.py"]),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = interpreter.run(PYTEST, *command, cwd=directory, env=environment, timeout=1200.0)
    assert done.returncode == status, done.stdout + done.stderr
    return Results(done.stdout, json.loads((directory / "results.json").read_text()))


@pytest.fixture(scope="module")
def meant(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return the results of all wrong backends under the tests that they should fail."""
    pairs = [(name, test) for name, tests in ONE_WRONG_EACH.items() for test in sorted(tests)]
    nodes = [f"test_it.py::Test{name}::test_{test}" for name, test in pairs]
    return check(tmp_path_factory.mktemp("contract"), ONE_WRONG_EACH, *nodes)


@pytest.mark.parametrize("name", ONE_WRONG_EACH)
@pytest.mark.long
def test_a_wrong_backend_fails_the_tests_that_are_meant(meant: Results, name: str) -> None:
    assert meant.tests("failed", name) == ONE_WRONG_EACH[name], meant.output


SHOWN_TWICE = {
    "BeginsAnew": {"two_runs_of_one_name"},
    "OneRunAtATime": {"two_runs_of_one_name"},
    "ClosesOnce": {"a_failed_call_stores_all_or_nothing"},
    "Reverses": {"a_failed_call_stores_all_or_nothing"},
}
"""Wrong backends whose one fault breaks a second test too, which needs what the first one tests."""


@pytest.mark.slow
def test_a_wrong_backend_fails_no_other_tests(tmp_path: Path) -> None:
    results = check(
        tmp_path,
        [*WRONG, *RIGHT],
        "-k",
        # The test of memory takes long, and measures nothing that these backends do wrong.
        f"not {' and not '.join(PROCESSES)}"
        " and not (memory_is_bounded and not (Right or KeepsEverything))",
    )
    failed = {name: results.tests("failed", name) for name in [*WRONG, *RIGHT]}
    expected = {
        name: ONE_WRONG_EACH.get(name, set()) | SHOWN_TWICE.get(name, set()) for name in failed
    }
    others = {name: failed[name] ^ expected[name] for name in failed}
    assert {name: tests for name, tests in others.items() if tests} == {}
    everything = results.tests("passed", "RightMedia")
    assert set().union(*ONE_WRONG_EACH.values()) < everything
    assert results.tests("failed", "RightMedia") | results.tests("skipped", "RightMedia") == set()
    media = {name for name in everything if name.startswith(("video", "image", "histo", "artif"))}
    assert results.tests("skipped") == media
    assert results.tests("passed") == everything - media


@pytest.mark.slow
def test_failures_that_only_other_processes_show(tmp_path: Path) -> None:
    backends = [*WRONG_IN_A_PROCESS, "LazyFlush", "Right", "RightMedia"]
    results = check(tmp_path, backends, "-k", " or ".join(PROCESSES))
    for name, (test, reason) in WRONG_IN_A_PROCESS.items():
        assert results.tests("failed", name) == {test}, results.output
        [found] = [
            one["reason"]
            for one in results.all
            if (one["backend"], one["outcome"]) == (name, "failed")
        ]
        assert reason in found
    for name in ("Right", "RightMedia"):
        assert results.tests("failed", name) == set(), results.output
    assert results.tests("failed", "LazyFlush") == {
        "a_process_may_end_without_closing",
        "what_is_flushed_survives_a_sigkill",
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("backend", "outcome"), [("RightOnce", "passed"), ("ForgetsWhatIsStored", "failed")]
)
def test_a_backend_that_says_it_stores_once_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, outcome: str
) -> None:
    monkeypatch.setenv("METRIPLEX_KILLS", "9")
    failed = outcome == "failed"
    results = check(
        tmp_path, [backend], "-k", "a_kill", body="stores_once = True", status=int(failed)
    )
    assert results.tests(outcome, backend) == {"a_kill_loses_nothing_and_doubles_nothing"}
    if failed:
        [reason] = [one["reason"] for one in results.all if one["reason"]]
        assert ", replayed: " in reason


OVERRIDES = """
    @pytest.mark.xfail(reason="it keeps no bools")
    def test_bools_are_kept(self):
        super().test_bools_are_kept()
"""


@pytest.mark.slow
def test_an_overridden_test_fails_the_suite_unless_it_gives_a_reason(tmp_path: Path) -> None:
    # `-k` also matches names of folders and classes, which would select all tests.
    options = ("-k", "bools_are_kept or no_test_of_the_contract")
    said = check(tmp_path, ["DropsBools"], *options, body=OVERRIDES, status=0)
    assert said.tests("xfailed", "DropsBools") == {"bools_are_kept"}
    [test] = [test for test in said.all if test["outcome"] == "xfailed"]
    assert test == {
        "backend": "DropsBools",
        "test": "test_bools_are_kept",
        "outcome": "xfailed",
        "reason": "it keeps no bools",
        "subject": "scalars",
        "demand": "True and False are stored, at least as 1 and 0.",
    }
    body = ""
    marks = {"Plain": "", "Xfail": "@pytest.mark.xfail", "Skip": "@pytest.mark.skip(reason='no')"}
    for name, mark in marks.items():
        test = OVERRIDES.replace('@pytest.mark.xfail(reason="it keeps no bools")', mark)
        body += f"""
class Test{name}(wrong_backends.Contract):
    backend = wrong_backends.DropsBools
{textwrap.indent(textwrap.dedent(test), "    ")}
"""
    unsaid = check(tmp_path, [], *options, source=body)
    for name in marks:
        assert "no_test_of_the_contract_is_overridden" in unsaid.tests("failed", name)
        assert f"`Test{name}.test_bools_are_kept` overrides a test" in unsaid.output


@pytest.mark.long
def test_skips_follow_from_the_hooks_that_are_implemented(tmp_path: Path) -> None:
    results = check(tmp_path, ["Right"], "-k", "images or artifacts", status=0)
    assert {(test["test"], test["reason"]) for test in results.all} == {
        ("test_images", "the backend doesn't implement `log_image`"),
        ("test_artifacts", "the backend doesn't implement `log_artifact`"),
        ("test_artifacts_of_one_name", "the backend doesn't implement `log_artifact`"),
    }
    assert {test["outcome"] for test in results.all} == {"skipped"}


def test_a_hook_that_hangs_fails_and_is_abandoned(tmp_path: Path) -> None:
    release = threading.Event()

    class Hangs:
        @hookimpl
        def flush(self) -> None:
            release.wait(60.0)

    run = RunInfo("0f", "run", tmp_path, 0.0)
    session = Session(Hangs(), run, timeout=0.1).open()
    with pytest.raises(AssertionError, match=r"`flush` hangs for 0\.1 s"):
        session.flush()
    release.set()
    session.end()


def test_an_os_error_is_retried_and_others_are_raised(tmp_path: Path) -> None:
    calls: list[Any] = []

    class Fails:
        @hookimpl
        def log_scalars(self, records: Any) -> None:
            calls.append(records)
            if len(calls) < 3:
                raise ConnectionError("later")

        @hookimpl
        def close_run(self) -> None:
            raise ZeroDivisionError("mine")

    session = Session(Fails(), RunInfo("0f", "run", tmp_path, 0.0), timeout=60.0).open()
    session.log(1, {"a": 1.0})
    assert len(calls) == 3
    assert calls[0] is calls[2]
    with pytest.raises(ZeroDivisionError, match="mine"):
        session.close()
    session.end()
