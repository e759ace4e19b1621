"""Programs on a real pseudo-terminal."""

from __future__ import annotations

import signal

import pytest

TRAIN = """
b = ConsoleBackend(refresh_per_second=30); r = make_run(total=10_000)
before = (sys.stdout, sys.stderr)
logging.basicConfig(format="LOG %(message)s")
on_worker(b.open_run, r)
"""


@pytest.mark.parametrize("columns", [40, 80, 140])
@pytest.mark.long
def test_the_last_picture_stays_below_what_was_printed(start, columns):
    program = start(
        TRAIN
        + """
for i in range(50):
    on_worker(b.log_scalars, r, [record(i)])
    print(f"print {i}")
    if i % 10 == 0:
        logging.warning("warning %d", i)
        print("x" * 200)
        sys.stderr.write(f"error {i}\\n")
threads = [threading.Thread(target=print, args=(f"thread {i}",)) for i in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]
on_worker(b.close_run, r, "finished")
assert (sys.stdout, sys.stderr) == before
print("after")
""",
        columns,
        30,
    )
    screen = program.finish()
    assert program.process.returncode == 0, screen.text
    assert screen.cursor_visible
    lines = screen.lines
    tops = [i for i, line in enumerate(lines) if line.startswith("╭─ ppo")]
    bottoms = [i for i, line in enumerate(lines) if line.startswith("╰─ ")]
    assert len(tops) == len(bottoms) == 1
    assert {len(line) for line in lines[tops[0] : bottoms[0] + 1]} == {columns}
    assert lines[bottoms[0] + 1] == "after"
    above = lines[: tops[0]]
    assert [line for line in above if line.startswith("print ")] == [
        f"print {i}" for i in range(50)
    ]
    assert above.count("x" * 200) == 5
    assert {f"LOG warning {i}" for i in range(0, 50, 10)} <= set(above)
    assert {f"error {i}" for i in range(0, 50, 10)} <= set(above)
    assert {f"thread {i}" for i in range(20)} <= set(above)
    panel = "\n".join(lines[tops[0] : bottoms[0]])
    assert "5,000 / 10,000 steps" in panel
    assert "50%" in panel


def test_ctrl_c_leaves_the_terminal_sane(start):
    program = start(
        TRAIN
        + """
on_worker(b.log_scalars, r, [record(0)])
try:
    print("ready", flush=True)
    while True:  # a signal that another thread takes does not end a wait without a limit
        threading.Event().wait(0.1)
except KeyboardInterrupt:
    on_worker(b.close_run, r, "interrupted")
    raise
"""
    )
    program.read_until("ready")
    program.press(b"\x03")
    screen = program.finish()
    assert program.process.returncode in (130, -signal.SIGINT)
    assert screen.cursor_visible
    assert screen.output.rindex("\x1b[?25h") > screen.output.rindex("\x1b[?25l")
    assert "─ interrupted ─╯" in screen.text
    assert screen.text.rstrip().endswith("KeyboardInterrupt")
    assert screen.text.count("╭─ ppo") == 1


@pytest.mark.long
def test_a_run_that_is_never_closed_gives_the_cursor_back(start):
    program = start(TRAIN + "on_worker(b.log_scalars, r, [record(0)])\nsys.exit(3)\n")
    screen = program.finish()
    assert program.process.returncode == 3
    assert screen.cursor_visible


@pytest.mark.long
def test_stdout_in_a_file_stays_there(start, tmp_path):
    path = tmp_path / "out.txt"
    with path.open("w") as file:
        program = start(
            TRAIN
            + """
on_worker(b.log_scalars, r, [record(0)])
print("for the file")
on_worker(b.close_run, r, "finished")
""",
            stdout=file.fileno(),
        )
    screen = program.finish()
    assert path.read_text() == "for the file\n"
    assert "for the file" not in screen.text
    assert "─ finished ─╯" in screen.text


@pytest.mark.long
def test_two_runs_at_once(start):
    program = start(
        TRAIN
        + """
s = make_run("dqn", id="2")
c = ConsoleBackend(every_secs=0)
on_worker(c.open_run, s)
for i in range(5):
    on_worker(b.log_scalars, r, [record(i)])
    on_worker(c.log_scalars, s, [record(i)])
on_worker(b.close_run, r, "finished")
on_worker(c.log_scalars, s, [record(5)])
on_worker(c.close_run, s, "finished")
assert (sys.stdout, sys.stderr) == before
"""
    )
    screen = program.finish()
    assert program.process.returncode == 0, screen.text
    top = next(i for i, line in enumerate(screen.lines) if line.startswith("╭─ ppo"))
    steps = [line.split()[1] for line in screen.lines[:top] if line.startswith("run=dqn step=")]
    assert steps == [f"step={i}00" for i in range(1, 6)]
    assert screen.lines[-3].startswith("step=600 iteration=5 ")
    assert screen.lines[-2].startswith("status=finished step=600 ")


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": "unknown"}])
@pytest.mark.long
def test_a_terminal_that_knows_no_escape_codes_gets_plain_lines(start, variables):
    program = start(
        f"os.environ.update({variables})\n"
        + TRAIN
        + "on_worker(b.log_scalars, r, [record(0)])\non_worker(b.close_run, r, 'finished')\n"
    )
    screen = program.finish()
    assert program.process.returncode == 0, screen.text
    assert "\x1b" not in screen.output
    assert "step=100 iteration=0 episode/return=0 a/loss=0.25 b/loss=0.75" in screen.lines


@pytest.mark.long
def test_a_terminal_that_is_hung_up_does_not_end_the_program(start, tmp_path):
    path = tmp_path / "told"
    program = start(
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        + TRAIN
        + f"""
print("ready", flush=True)
errors = []
def log():
    try: b.log_scalars(r, [record(0)])
    except OSError as error: errors.append(error)
deadline = time.monotonic() + 30
while not errors and time.monotonic() < deadline:
    on_worker(log)
pathlib.Path({str(path)!r}).write_text(str(bool(errors)) + str((sys.stdout, sys.stderr) == before))
os._exit(0)
"""
    )
    program.read_until("ready")
    program.hang_up()
    assert program.process.wait(40) == 0
    assert path.read_text() == "TrueTrue"
