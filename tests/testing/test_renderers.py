"""The contract of renderers, run on a correct renderer and on wrong renderers."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import interpreter
from interpreter import PYTEST

ONE_WRONG_EACH = {
    "Float": {"a_frame_is_uint8_of_the_asked_size", "a_process_without_a_display_makes_a_clip"},
    "WithAlpha": {"a_frame_is_uint8_of_the_asked_size", "a_process_without_a_display_makes_a_clip"},
    "NotAnArray": {
        "a_frame_is_uint8_of_the_asked_size",
        "a_process_without_a_display_makes_a_clip",
    },
    "FixedSize": {"frames_of_every_size[1-1]", "frames_of_every_size[3-5]"}
    | {"frames_of_every_size[641-479]"},
    "EvenSizes": {"frames_of_every_size[1-1]", "frames_of_every_size[3-5]"}
    | {"frames_of_every_size[641-479]"},
    "OneColour": {"a_picture_is_not_of_one_colour"},
    "Still": {"the_picture_moves_when_the_state_moves"},
    "LeavesTrails": {"the_same_state_gives_the_same_pixels"},
    "CountsObjects": {"two_renderers_draw_the_same_pixels"},
    "CloseOnce": {"close_may_be_called_twice"},
    "CloseNeedsFrame": {"close_without_a_frame"},
    "DrawsAfterClose": {"render_after_close_raises"},
    "LeaksFiles": {"a_hundred_renderers_in_a_row"},
    "RunsOut": {"a_hundred_renderers_in_a_row"},
    "BoundToThread": {"drawing_in_another_thread"},
    "NotPicklable": {
        "a_process_without_a_display_makes_a_clip",
        "a_fresh_process_prints_nothing",
        "a_fresh_process_keeps_its_environment_variables",
    },
    "NeedsDisplay": {
        "a_process_without_a_display_makes_a_clip",
        "a_fresh_process_prints_nothing",
        "a_fresh_process_keeps_its_environment_variables",
    },
    "Prints": {"a_fresh_process_prints_nothing"},
    "SetsVariables": {"a_fresh_process_keeps_its_environment_variables"},
    "BranchesOnValues": {"select_works_in_compiled_programs"},
    "SelectsEverything": {"a_frame_sends_less_than_a_picture"},
    "SelectsAnObject": {
        "select_works_in_compiled_programs",
        "select_gives_arrays_in_plain_containers",
    },
    "DrawsAnything": {"bad_states_raise_and_do_no_harm"},
    "SpoiledByBadStates": {"bad_states_raise_and_do_no_harm"},
}
"""Each wrong renderer, and the tests that it fails."""

PROCESSES = ("a_process", "a_fresh_process")
"""Prefixes of the names of tests that start a process, which take seconds."""


class Outcome:
    """The results of one run of the contract, without `test_` in the names of tests."""

    def __init__(self, output: str) -> None:
        self.output = output
        self._found = re.findall(r"::Test(\w+)::test_(\S+) (PASSED|FAILED|SKIPPED|ERROR)", output)

    def tests(self, result: str, renderer: str = "Square") -> set[str]:
        return {test for name, test, found in self._found if (name, found) == (renderer, result)}


def check(directory: Path, renderers: list[str], *options: str, body: str = "") -> Outcome:
    """Run the contract like a test suite of a plugin."""
    source = "import numpy as np\nimport numpy_renderers\n"
    source += "from metriplex.testing import RendererContract\n"
    for renderer in renderers:
        source += f"""
class Test{renderer}(RendererContract):
    def make_renderer(self, width, height):
        return numpy_renderers.{renderer}(width, height)

    def states(self):
        return [{{"x": np.float32(x), "unused": np.zeros(7)}} for x in (0.05, 0.3, 0.6)]

    def bad_states(self):
        return [{{"x": np.zeros(2, np.float32)}}, {{}}]
"""
    source += textwrap.indent(textwrap.dedent(body), "    ")
    (directory / "test_it.py").write_text(source)
    command = ["-v", "-p", "no:cacheprovider", "-W", "error"]
    command += ["-c", os.devnull, "--rootdir", str(directory), *(options or ["test_it.py"])]
    command += ["--junitxml", str(directory / "junit.xml")]
    paths = f"{Path(__file__).parent}{os.pathsep}{directory}"
    environment = {**os.environ, "PYTHONPATH": paths, "DISPLAY": ":77"}
    done = interpreter.run(PYTEST, *command, cwd=directory, env=environment, timeout=600.0)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return Outcome(done.stdout)


@pytest.mark.long
def test_a_correct_renderer_passes_and_reports_its_bytes_per_frame(tmp_path: Path) -> None:
    outcome = check(tmp_path, ["Square"], "-rP", "test_it.py")
    assert outcome.tests("FAILED") | outcome.tests("SKIPPED") == set(), outcome.output
    assert set().union(*ONE_WRONG_EACH.values()) < outcome.tests("PASSED")
    assert "Square: 4 bytes a frame" in outcome.output


@pytest.mark.long
def test_the_renderer_of_the_page_passes(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/videos.md").read_text()
    examples = [one.source for one in doctest.DocTestParser().get_examples(page)]
    last = next(i for i, source in enumerate(examples) if source.startswith("class Bar("))
    (tmp_path / "page.py").write_text("".join(examples[: last + 1]))
    contract = """
        import numpy as np
        from metriplex.testing import RendererContract
        from page import Bar

        class TestBar(RendererContract):
            def make_renderer(self, width, height):
                return Bar(width, height)

            def states(self):
                return [{"x": np.float32(x)} for x in (0.5, 3, 7)]

            def bad_states(self):
                return [{}]
    """
    (tmp_path / "test_page.py").write_text(textwrap.dedent(contract))
    outcome = check(tmp_path, [], "test_page.py")
    assert outcome.tests("FAILED", "Bar") | outcome.tests("SKIPPED", "Bar") == set(), outcome.output
    assert len(outcome.tests("PASSED", "Bar")) == 21


@pytest.fixture(scope="module")
def in_one_process(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Return the results of all wrong renderers under all tests that start no process."""
    directory = tmp_path_factory.mktemp("contract")
    return check(directory, [*ONE_WRONG_EACH], "-k", f"not ({' or '.join(PROCESSES)})")


@pytest.mark.parametrize("name", ONE_WRONG_EACH)
@pytest.mark.long
def test_a_wrong_renderer_fails_the_tests_that_are_meant(
    in_one_process: Outcome, name: str
) -> None:
    expected = {test for test in ONE_WRONG_EACH[name] if not test.startswith(PROCESSES)}
    assert in_one_process.tests("FAILED", name) == expected, in_one_process.output
    assert len(in_one_process.tests("PASSED", name) | expected) == 18


@pytest.mark.slow
def test_a_wrong_renderer_fails_the_tests_with_processes_that_are_meant(tmp_path: Path) -> None:
    outcome = check(tmp_path, [*ONE_WRONG_EACH], "-k", " or ".join(PROCESSES))
    for name, tests in ONE_WRONG_EACH.items():
        expected = {test for test in tests if test.startswith(PROCESSES)}
        assert outcome.tests("FAILED", name) == expected, outcome.output
        assert len(outcome.tests("PASSED", name) | expected) == 3
    assert "can't be pickled" in outcome.output
    assert "can't open display" in outcome.output
    assert "drawing printed 'hello from the drawing community" in outcome.output
    assert "changed the environment variables SOME_GL" in outcome.output


@pytest.mark.long
def test_too_few_states_fail(tmp_path: Path) -> None:
    body = """
        def states(self):
            return [{"x": np.float32(0.1)}]
    """
    outcome = check(tmp_path, ["Square"], "-k", "three_states", body=body)
    assert outcome.tests("FAILED") == {"three_states_are_given"}
    assert "`states` must give three or more" in outcome.output


@pytest.mark.long
def test_tests_that_do_not_apply_are_skipped_with_a_reason(tmp_path: Path) -> None:
    body = """
        traceable = False
        def bad_states(self):
            return []
    """
    outcome = check(tmp_path, ["Square"], "-rs", "-k", "bad_states or compiled", body=body)
    assert outcome.tests("FAILED") == set()
    assert outcome.tests("SKIPPED") == {
        "bad_states_raise_and_do_no_harm",
        "select_works_in_compiled_programs",
    }
    assert "`bad_states` gives none" in outcome.output
    assert "`traceable` is False" in outcome.output


def test_without_pytest_the_error_says_how_to_install_it() -> None:
    program = "import sys; sys.modules['pytest'] = None; import metriplex.testing"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'metriplex[testing]'" in done.stderr
