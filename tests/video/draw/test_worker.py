"""The render worker, with real drawing processes."""

from __future__ import annotations

import io
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import cloudpickle
import numpy as np
import pytest
from PIL import Image, ImageSequence

from interpreter import Program
from metriplex import ConfigurationError, Renderer
from metriplex.video.draw import worker as worker_module
from metriplex.video.draw.jobs import RenderJob, RenderResult
from metriplex.video.draw.worker import RenderWorker

if TYPE_CHECKING:
    from collections.abc import Iterator

HEIGHT, WIDTH = 12, 40
PATIENCE = 120.0


@pytest.fixture(autouse=True, scope="module")
def _renderers_of_this_file_travel_by_value() -> Iterator[None]:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def picture(x: int) -> np.ndarray:
    frame = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    frame[3:9, x % WIDTH] = (200, 30, 30)
    return frame


class State(NamedTuple):
    """A state, and the fault while it is drawn (no fault if empty)."""

    x: np.ndarray
    nested: dict[str, Any]


@final
class Column(Renderer):
    """Draw a column; cause `fault` at frame `at` of clips that have `ill` set."""

    def __init__(self, fault: str = "", at: int = 2, path: str = "") -> None:
        self.fault = fault
        self.at = at
        self.path = path
        self.closed = False

    def select(self, state: Any) -> Any:
        return state

    def render(self, selected: State) -> Any:
        assert not self.closed
        assert selected.nested["none"] is None
        [ill] = selected.nested["list"]
        frame = picture(int(selected.x))
        if not ill or selected.x != self.at:
            return frame
        match self.fault:
            case "raise":
                print("about to raise")
                raise ZeroDivisionError("no such angle")
            case "exit":
                raise SystemExit(4)
            case "float":
                return frame / 255
            case "shape":
                return frame[..., 0]
            case "size":
                return frame[:-1]
            case "kill":
                print("about to die", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                threading.Event().wait()
            case "starve":
                os.sched_setaffinity(0, {int(self.path)})
                end = time.thread_time() + 0.3
                while time.thread_time() < end:
                    pass
            case "gate":
                Path(self.path).read_bytes()  # waits for somebody who writes into the FIFO
            case "report":
                with Path(self.path).open("a") as file:
                    names = ("JAX_PLATFORMS", "LP_NUM_THREADS", "MUJOCO_GL")
                    values = [os.environ.get(name) for name in names]
                    print(os.getpid(), os.nice(0), *values, file=file)
            case "noise":
                os.write(1, b"x" * 300_000)
                os.write(2, b"y" * 300_000)
            case "disk":
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return frame

    def close(self) -> None:
        self.closed = True


def job(step: int, count: int = 20, *, ill: bool = False, formats: tuple[str, ...] = ("gif",)):
    frames = [State(np.asarray(i), {"list": [ill], "none": None}) for i in range(count)]
    return RenderJob("eval/video", step, 50.0, formats, frames, lane=1, iteration=step // 10)


@final
class Results:
    """Collects results, and waits for them."""

    def __init__(self) -> None:
        self.all: list[RenderResult] = []
        self.threads: set[str] = set()
        self.changed = threading.Condition()

    def __call__(self, result: RenderResult) -> None:
        with self.changed:
            self.all.append(result)
            self.threads.add(threading.current_thread().name)
            self.changed.notify_all()

    def wait(self, count: int) -> list[RenderResult]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.all) >= count, PATIENCE)
        return self.all

    @property
    def steps(self) -> list[int]:
        return [result.job.step for result in self.all]


@pytest.fixture
def results() -> Results:
    return Results()


def run(worker: RenderWorker, results: Results, job: RenderJob) -> RenderResult:
    worker.submit(job)
    return results.wait(len(results.all) + 1)[-1]


def decode(gif: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(gif)) as image:
        return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])


def children() -> set[int]:
    """The drawing processes of this one."""
    threads = Path("/proc/self/task").glob("*/children")
    pids = {pid for thread in threads for pid in thread.read_text().split()}
    drawing = [
        b"metriplex.video.draw.child" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids
    ]
    return {int(pid) for pid, draws in zip(pids, drawing, strict=True) if draws}


# What is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_states_come_back_as_clips(mode: str, results: Results) -> None:
    worker = RenderWorker(Column(), on_result=results, mode=mode)

    for step in (0, 10, 20):
        worker.submit(job(step, formats=("gif", "mp4", "webp")))
        assert worker.flush(PATIENCE)
    worker.close(PATIENCE)

    assert results.steps == [0, 10, 20]
    assert results.threads == {"metriplex-video"}
    for result in results.all:
        assert result.error is None
        assert (result.job.tag, result.job.lane, result.job.states) == ("eval/video", 1, ())
        assert result.job.iteration == result.job.step // 10
        assert list(result.clips) == ["gif", "mp4", "webp"]
        np.testing.assert_array_equal(
            decode(result.clips["gif"].data), np.stack([picture(x) for x in range(20)])
        )
        assert b"ftyp" in result.clips["mp4"].data[:12]
        assert result.clips["webp"].data.startswith(b"RIFF")
    assert worker.dropped == 0


def test_one_process_starts_at_the_first_job_and_has_an_environment_of_its_own(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.delenv("LP_NUM_THREADS", raising=False)
    before, environment = children(), dict(os.environ)
    report = tmp_path / "report"
    worker = RenderWorker(Column("report", path=str(report)), on_result=results)
    assert children() == before

    for step in (0, 10, 20):
        run(worker, results, job(step, ill=True))
    [child] = children() - before
    worker.close(PATIENCE)

    assert report.read_text().splitlines() == [f"{child} 19 cpu 1 osmesa"] * 3
    assert children() == before
    assert dict(os.environ) == environment


@pytest.mark.long
def test_a_user_s_own_mesa_setting_is_kept(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LP_NUM_THREADS", "3")
    report = tmp_path / "report"
    worker = RenderWorker(Column("report", path=str(report)), on_result=results, nice=7)
    run(worker, results, job(0, ill=True))
    worker.close(PATIENCE)
    assert report.read_text().split()[1:4] == ["7", "cpu", "3"]


def test_nothing_that_is_printed_while_drawing_reaches_the_terminal(
    results: Results, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = RenderWorker(Column("noise"), on_result=results)
    assert run(worker, results, job(0, ill=True)).error is None
    worker.close(PATIENCE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
def test_a_job_larger_than_a_pipe(results: Results) -> None:
    worker = RenderWorker(Column(), on_result=results)
    large = job(0)
    for state in large.states:
        state.nested["more"] = np.zeros(100_000)  # 16 MB in all
    assert run(worker, results, large).error is None
    worker.close(PATIENCE)


# What goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "fault", "error"),
    [
        (
            "process",
            "raise",
            "raised `ZeroDivisionError: no such angle` at frame 100 of 110",
        ),
        ("process", "exit", "the renderer raised `SystemExit: 4` at frame 100 of 110"),
        ("thread", "float", "uint8; frame 100 is float64"),
        ("thread", "shape", f"[height, width, 3], not empty; frame 100 is [{HEIGHT}, {WIDTH}]"),
        (
            "thread",
            "size",
            f"the first, [{HEIGHT}, {WIDTH}, 3]; frame 100 is [{HEIGHT - 1}, ",
        ),
    ],
)
@pytest.mark.long
def test_a_bad_renderer_loses_its_clip_only(
    mode: str, fault: str, error: str, results: Results
) -> None:
    worker = RenderWorker(Column(fault, at=100), on_result=results, mode=mode)

    bad = run(worker, results, job(0, 110, ill=True, formats=("gif", "mp4")))
    good = run(worker, results, job(10, 110))
    worker.close(PATIENCE)

    assert error in str(bad.error)
    assert "Traceback" in bad.details
    assert bad.clips == {}
    assert good.error is None


def test_a_format_that_cannot_be_made_leaves_the_others_alone(results: Results) -> None:
    worker = RenderWorker(Column(), on_result=results, mode="thread")
    tall = RenderJob("v", 0, 50.0, ("gif", "webp"), [np.zeros(3)] * 2)
    worker._drawer._renderer = Tall()  # ty: ignore[missing-attribute]
    result = run(worker, results, tall)
    worker.close(PATIENCE)
    assert result.error == (
        "no webp: a frame for webp has at most 16383 pixels a side; frame 0 is 1 x 16384: make "
        "`video_width` and `video_height` smaller"
    )
    assert list(result.clips) == ["gif"]


@final
class Tall(Renderer):
    def select(self, state: Any) -> Any:
        return state

    def render(self, selected: Any) -> Any:
        return np.zeros((16384, 1, 3), np.uint8)

    def close(self) -> None:
        pass


def test_a_process_that_is_killed_loses_its_clip_only(results: Results) -> None:
    worker = RenderWorker(Column("kill"), on_result=results)

    first = run(worker, results, job(0, ill=True))
    second = run(worker, results, job(10))
    [child] = children()
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    third = run(worker, results, job(20))
    worker.close(PATIENCE)

    assert first.error == "the drawing process died (Killed) at frame 2"
    assert first.details == "about to die"
    assert (second.error, third.error) == (None, None)
    assert children() == set()


@pytest.mark.long
def test_a_process_that_hangs_is_replaced(results: Results) -> None:
    worker = RenderWorker(Column("hang"), on_result=results, timeout_secs=PATIENCE)
    run(worker, results, job(0))
    [child] = children()

    worker._drawer._timeout = 0.3  # ty: ignore[missing-attribute]
    hung = run(worker, results, job(10, ill=True))
    worker._drawer._timeout = PATIENCE  # ty: ignore[missing-attribute]
    good = run(worker, results, job(20))
    [replacement] = children()
    worker.close(PATIENCE)

    assert "nothing came from it for 0.3 s at frame 2" in str(hung.error)
    assert good.error is None
    assert replacement != child


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how long a process waits")
@pytest.mark.long
def test_a_process_that_only_waits_for_a_processor_is_left_to_wait(results: Results) -> None:
    processor = min(os.sched_getaffinity(0))
    worker = RenderWorker(Column("starve", path=str(processor)), on_result=results, nice=7)
    run(worker, results, job(0))
    [child] = children()
    spin = f"import os; os.sched_setaffinity(0, [{processor}])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-S", "-c", spin]) as spinning:
        worker._drawer._timeout = 0.3  # ty: ignore[missing-attribute]
        late = run(worker, results, job(10, ill=True))
        spinning.kill()
    assert late.error is None
    assert children() == {child}
    worker.close(PATIENCE)


def test_a_full_disk_loses_the_clip_only(results: Results) -> None:
    worker = RenderWorker(Column("disk"), on_result=results)
    full = run(worker, results, job(0, 60, ill=True, formats=("gif", "webp")))
    os.kill(next(iter(children())), signal.SIGKILL)  # the limit can't be lifted in the process
    worker.close(PATIENCE)
    assert "no gif and no webp" in str(full.error)
    assert "File too large" in str(full.error)


def test_jobs_that_cannot_be_clips(results: Results) -> None:
    worker = RenderWorker(Column(), on_result=results, mode="thread")
    none = run(worker, results, RenderJob("v", 0, 50.0, ("gif",), []))
    assert "at least one frame" in str(none.error)
    avi = run(worker, results, RenderJob("v", 0, 50.0, ("avi",), [np.zeros(3)]))
    assert "`format` of a clip must be one of" in str(avi.error)
    worker.close(PATIENCE)


def test_a_renderer_that_cannot_be_pickled(results: Results) -> None:
    renderer = Column()
    renderer.lock = threading.Lock()  # ty: ignore[missing-attribute]
    with pytest.raises(ConfigurationError, match=r'`Column`.*pickle.*`video_worker="thread"`'):
        RenderWorker(renderer, on_result=results)

    worker = RenderWorker(renderer, on_result=results, mode="thread")
    assert run(worker, results, job(0)).error is None
    worker.close(PATIENCE)
    assert renderer.closed


def test_a_renderer_that_cannot_be_made_in_the_drawing_process(
    results: Results, tmp_path: Path
) -> None:
    class Elsewhere:
        def __reduce__(self) -> Any:
            return (__import__, ("module_that_is_only_here",))

    renderer = Column()
    renderer.fault = Elsewhere()  # ty: ignore[invalid-assignment]
    worker = RenderWorker(renderer, on_result=results)
    bad = run(worker, results, job(0))
    worker.close(PATIENCE)
    assert "ModuleNotFoundError: No module named 'module_that_is_only_here'" in str(bad.error)
    assert 'video_worker="thread"' in str(bad.error)


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_process_or_an_interpreter_that_cannot_be_started(
    mode: str, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    worker = RenderWorker(Column(), on_result=results, mode=mode)
    result = run(worker, results, job(0))
    worker.close(PATIENCE)
    if mode == "process":
        assert str(result.error).startswith("FileNotFoundError")
    else:
        assert result.error is None


def test_what_on_result_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def on_result(result: RenderResult) -> None:
        seen.append(result.job.step)
        raise OSError("backend gone")

    worker = RenderWorker(Column(), on_result=on_result, mode="thread")
    for step in (0, 10):
        worker.submit(job(step))
    worker.close(PATIENCE)
    assert seen == [0, 10]
    assert caplog.text.count("OSError: backend gone") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fork"}, "`video_worker` must be one of"),
        ({"backlog": 0}, "`backlog` must be at least 1"),
        ({"timeout_secs": 0.0}, "`timeout_secs` a positive number"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, results: Results) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RenderWorker(Column(), on_result=results, **options)


# Backlog and end ------------------------------------------------------------------------------


@final
class Gate:
    """A FIFO at which a renderer waits."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    def await_renderer(self) -> int:
        """Blocks until a renderer waits; what opens the gate is to close the descriptor."""
        return os.open(self.path, os.O_WRONLY)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.mark.parametrize("mode", ["process", "thread"])
@pytest.mark.long
def test_the_oldest_waiting_job_is_dropped_and_the_newest_is_drawn(
    mode: str, results: Results, gate: Gate
) -> None:
    worker = RenderWorker(Column("gate", path=str(gate.path)), on_result=results, mode=mode)
    worker.submit(job(0, ill=True))
    opener = gate.await_renderer()
    for step in (10, 20, 30, 40):
        worker.submit(job(step))
    assert not worker.flush(0.0)
    os.close(opener)
    assert worker.flush(PATIENCE)
    worker.close(PATIENCE)

    assert worker.dropped == 2
    failures = {result.job.step for result in results.all if result.error is not None}
    assert failures == {10, 20}
    assert sorted(results.steps) == [0, 10, 20, 30, 40]
    assert "dropped, as newer clips waited" in str(results.all[1].error)


@pytest.mark.long
def test_close_waits_for_what_was_asked_for(results: Results) -> None:
    worker = RenderWorker(Column(), on_result=results)
    for step in (0, 10):
        worker.submit(job(step))
    worker.close(PATIENCE)
    assert [(r.job.step, r.error) for r in results.all] == [(0, None), (10, None)]
    worker.close(PATIENCE)

    worker.submit(job(20))
    assert "closed before" in str(results.all[2].error)
    assert threading.current_thread().name in results.threads


def test_close_draws_the_newest_first_and_reports_in_order(
    results: Results, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = RenderWorker(Column("gate", path=str(gate.path)), on_result=results, backlog=9)
    drawn: list[int] = []
    draw = worker._drawer.draw

    def noting(job: RenderJob) -> RenderResult:
        drawn.append(job.step)
        return draw(job)

    monkeypatch.setattr(worker._drawer, "draw", noting)
    worker.submit(job(0, ill=True))
    opener = gate.await_renderer()
    for step in (10, 20, 30):
        worker.submit(job(step))
    closing = threading.Thread(target=worker.close, args=(PATIENCE,))
    closing.start()
    while not worker._newest_first:
        assert closing.is_alive()
    os.close(opener)
    closing.join(PATIENCE)
    assert drawn == [0, 30, 20, 10]
    assert [(r.job.step, r.error) for r in results.all] == [
        (0, None),
        (10, None),
        (20, None),
        (30, None),
    ]


def test_close_says_how_many_clips_it_waits_for(
    results: Results, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "REPORT_SECONDS", 0.01)
    worker = RenderWorker(Column("gate", path=str(gate.path)), on_result=results)
    worker.submit(job(0, ill=True))
    opener = gate.await_renderer()
    worker.submit(job(10))
    closing = threading.Thread(target=worker.close, args=(PATIENCE,))
    closing.start()
    while "waiting for 2 evaluation video(s)" not in caplog.text:
        assert closing.is_alive()
    os.close(opener)
    closing.join(PATIENCE)
    assert [r.error for r in results.all] == [None, None]


def test_close_gives_up_after_its_timeout(results: Results) -> None:
    before = children()
    worker = RenderWorker(Column("hang"), on_result=results)
    worker.submit(job(0, ill=True))
    worker.submit(job(10))
    worker.close(0.0)
    assert sorted(results.steps) == [0, 10]
    assert {r.error for r in results.all} == {"the run was closed before the clip was done"}
    assert children() == before


@pytest.mark.skipif(
    sys.platform != "linux"
    or (os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_NICE)[0] < 1),
    reason="Linux lets nobody else leave `SCHED_IDLE`",
)
@pytest.mark.long
def test_while_close_waits_the_process_comes_forward(results: Results, gate: Gate) -> None:
    worker = RenderWorker(Column("gate", path=str(gate.path)), on_result=results)
    worker.submit(job(0, ill=True))
    opener = gate.await_renderer()
    [child] = children()
    assert os.sched_getscheduler(child) == os.SCHED_IDLE
    closing = threading.Thread(target=worker.close, args=(PATIENCE,))
    closing.start()
    while os.sched_getscheduler(child) == os.SCHED_IDLE:
        assert closing.is_alive()
    os.close(opener)
    closing.join(PATIENCE)
    assert [r.error for r in results.all] == [None]


def test_close_of_a_thread_gives_up_between_two_frames(results: Results, gate: Gate) -> None:
    worker = RenderWorker(Column("gate", path=str(gate.path)), on_result=results, mode="thread")
    worker.submit(job(0, ill=True))
    opener = gate.await_renderer()
    worker._drawer.stop()
    os.close(opener)
    worker.close(PATIENCE)
    assert [r.error for r in results.all] == ["the run was closed before the clip was done"]


def test_a_worker_that_was_never_used(results: Results) -> None:
    worker = RenderWorker(Column(), on_result=results)
    assert worker.flush(0.0)
    worker.close(0.0)
    assert results.all == []


@pytest.fixture
def own_tempdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests draw at the same time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def _cycles(count: int) -> None:
    def cycle(index: int) -> None:
        results = Results()
        worker = RenderWorker(Column("kill" if index % 3 == 1 else ""), on_result=results)
        worker.submit(job(0, 3, ill=True))
        worker.close(0.0 if index % 3 == 2 else PATIENCE)
        assert len(results.all) == 1

    def state() -> tuple[int, int, set[int], set[Path]]:
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        return descriptors, threading.active_count(), children(), temporary()

    def temporary() -> set[Path]:
        return set(Path(tempfile.gettempdir()).glob("metriplex-video-*"))

    cycle(0)
    before = state()
    for index in range(count):
        cycle(index)
    assert state() == before


@pytest.mark.long
def test_nothing_is_left_behind(own_tempdir: None) -> None:
    _cycles(3)


@pytest.mark.slow
def test_nothing_is_left_behind_in_fifty_cycles(own_tempdir: None) -> None:
    _cycles(50)


@pytest.mark.long
def test_a_training_process_with_a_thousand_open_files(results: Results) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2048), hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        worker = RenderWorker(Column(), on_result=results)
        result = run(worker, results, job(0, 3))
        worker.close(PATIENCE)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert result.error is None, result.details
    assert result.clips["gif"].num_frames == 3


# Whole programs -------------------------------------------------------------------------------

PROGRAM = """
import atexit, os, signal, sys
import numpy as np
from metriplex import Renderer
from metriplex.video.draw.jobs import RenderJob
from metriplex.video.draw.worker import RenderWorker
print("imported", flush=True)

class Column(Renderer):
    def select(self, state):
        return state
    def render(self, x):
        if os.environ.get("TELL"):
            print(os.getpid(), os.environ["TMPDIR"], file=open(os.environ["TELL"], "w"))
        frame = np.zeros((SIZE, SIZE, 3), np.uint8)
        frame[:, int(x) % SIZE] = x % 250
        return frame
    def close(self):
        pass

SIZE = 16
def show(result):
    print(result.job.step, sorted(result.clips), result.error, flush=True)
def job(step, count=30):
    return RenderJob("v", step, 50.0, ("gif",), np.arange(count))
worker = RenderWorker(Column(), on_result=show, mode=MODE)
"""


def python(program: str, mode: str = "process", **options: Any) -> Program:
    return Program(f"MODE = {mode!r}\n{PROGRAM}\n{textwrap.dedent(program)}", **options)


@pytest.mark.parametrize(
    ("mode", "submit"),
    [
        ("process", ""),
        ("process", "worker.submit(job(1)); 1 / 0"),
        ("thread", "worker.submit(job(1))"),
    ],
)
@pytest.mark.long
def test_a_clean_end_at_the_interpreter_s_exit(mode: str, submit: str) -> None:
    program = f"""
    atexit.register(worker.close, 60.0)
    {submit}
    """
    with python(program, mode) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert out.splitlines() == ["imported"] + ["1 ['gif'] None"] * bool(submit)
    said = [line for line in err.splitlines() if not line.startswith("waiting for ")]
    assert said[-1:] == ["ZeroDivisionError: division by zero"] * ("1 / 0" in submit)
    assert err.count("Traceback") == ("1 / 0" in submit)


@pytest.mark.long
def test_a_first_job_at_the_interpreter_s_exit_is_drawn_or_refused() -> None:
    program = """
    def last():
        worker.submit(job(1))
        worker.close(60.0)
    atexit.register(last)
    """
    with python(program) as process:
        out, err = process.communicate(timeout=PATIENCE)
    refused = "1 [] the run was closed before the clip was asked for"
    assert out.splitlines()[1:] in (["1 ['gif'] None"], [refused])
    assert err == ""


@pytest.mark.parametrize(
    "fork", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["alone", "with a fork"]
)
@pytest.mark.long
def test_the_process_ends_when_training_is_killed(fork: bool, tmp_path: Path) -> None:
    tell = tmp_path / "tell"
    program = f"""
    worker.submit(job(1))
    worker.flush(60.0)
    fork = {fork} and os.fork()
    if not fork and {fork}:  # holds the pipes open until its own input ends
        sys.stdin.read()
        os._exit(0)
    print("ready", flush=True)
    signal.pause()
    """
    options: dict[str, Any] = {"env": {**os.environ, "TELL": str(tell)}, "stdin": subprocess.PIPE}
    with python(program, **options) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":
            assert line
        pid, directory = tell.read_text().split()
        watched = os.pidfd_open(int(pid))
        assert Path(directory).is_dir()
        process.kill()
        assert select.select([watched], [], [], PATIENCE)[0] == [watched]
        os.close(watched)
        assert not Path(directory).exists()
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.slow
def test_memory_of_training_does_not_grow_with_the_clip() -> None:
    program = """
    import resource
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    worker.submit(job(0, 10))
    worker.flush(60.0)
    before = peak()
    worker.submit(job(1, 1500))
    worker.flush(100.0)
    print(peak() - before)
    worker.close(60.0)
    """
    code = program.replace("worker.submit", "SIZE = 300; worker.submit", 1)  # 400 MB of frames
    with python(code) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert err == ""
    assert out.splitlines()[-2] == "1 ['gif'] None"
    assert int(out.splitlines()[-1]) < 40


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_resident_memory_is_flat_over_two_hundred_clips(mode: str) -> None:
    program = """
    from pathlib import Path
    def resident(pid):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGESIZE") // 1024
    def drawing():
        found = [p.read_text().split() for p in Path("/proc/self/task").glob("*/children")]
        return [int(pid) for pids in found for pid in pids] or [os.getpid()]
    for step in range(200):
        worker.submit(job(step, 64))
        worker.flush(60.0)
        if step in (40, 199):
            print(*map(resident, [os.getpid(), *drawing()]))
    worker.close(60.0)
    """
    with python("SIZE = 128\n" + textwrap.dedent(program), mode) as process:
        out, err = process.communicate(timeout=5 * PATIENCE)
    assert err == ""
    assert out.count("['gif'] None") == 200
    numbers = [line.split() for line in out.splitlines() if line.replace(" ", "").isdigit()]
    for early, late in zip(*numbers, strict=True):
        assert int(late) - int(early) < 4096
