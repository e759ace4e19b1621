"""The command `metriplex`: `demo` trains, `plugins` lists, `doctor` tries, `export`, `replay`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from importlib import metadata
from typing import TYPE_CHECKING

from metriplex.commands import export, new_backend, replay
from metriplex.errors import ConfigurationError, MetriplexError, PluginError
from metriplex.plugins.report import PluginReport, installed

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_HEADER = ("KIND", "NAME", "DISTRIBUTION", "VERSION", "HOOKS")
_MIN_LAST_COLUMN = 20
_DEMO_BACKENDS = ("tensorboard", "console")
_DEMO_TASKS = ("cartpole", "pendulum")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the command's own name; those of this process if None.

    Returns:
        The exit status: 0, 1 if something failed, 2 if what was asked for is not possible
        (unknown backend, unusable `--log-dir`), 130 after Ctrl-C.

    Raises:
        SystemExit: With status 2 for unknown arguments, 0 for `--help` and `--version`.
    """
    arguments = _parser().parse_args(argv)
    status = 0
    try:
        if arguments.command == "plugins":
            print(plugin_table(installed(), shutil.get_terminal_size().columns))
        elif arguments.command == "doctor":
            status = _doctor(arguments)
        elif arguments.command == export.NAME:
            status = export.run(arguments)
        elif arguments.command == replay.NAME:
            status = replay.run(arguments)
        elif arguments.command == new_backend.NAME:
            status = new_backend.run(arguments)
        else:
            status = _demo(arguments)
        sys.stdout.flush()
    except (ConfigurationError, PluginError) as error:
        return _complain(error, EXIT_USAGE)
    except MetriplexError as error:
        return _complain(error, EXIT_ERROR)
    except KeyboardInterrupt:
        print("\nmetriplex: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    return status


def plugin_table(reports: Sequence[PluginReport], width: int) -> str:
    """Lays out what is installed, one plugin a row, with the reason below each broken one.

    Args:
        reports: What `metriplex.plugins.report.installed` gave.
        width: Columns of the terminal; the last column and the reasons wrap to fit.

    Returns:
        Plain text without a newline at its end.
    """
    if not reports:
        return "No plugin is installed. To install one: `pip install metriplex-tensorboard`"
    rows = [(r.kind, r.name, r.distribution, r.version) for r in reports]
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=False)]
    lines = _row(_HEADER[:-1], _HEADER[-1], widths, width)
    for report, row in zip(reports, rows, strict=True):
        if report.error is None:
            lines += _row(row, ", ".join(report.hooks) or "-", widths, width)
        else:
            lines += _row(row, "BROKEN", widths, width)
            lines += textwrap.indent(
                _fill(report.error, max(width - 4, _MIN_LAST_COLUMN)), "    "
            ).splitlines()
    return "\n".join(lines)


def _row(cells: Sequence[str], last: str, widths: Sequence[int], width: int) -> list[str]:
    first = "".join(f"{cell:<{size}}  " for cell, size in zip(cells, widths, strict=False))
    room = max(width - len(first), _MIN_LAST_COLUMN)
    wrapped = _fill(last, room).splitlines()
    return [first + wrapped[0]] + [" " * len(first) + line for line in wrapped[1:]]


def _fill(text: str, width: int) -> str:
    """Wraps at spaces only, so that commands and names can be copied."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _demo(arguments: argparse.Namespace) -> int:
    from metriplex.demo import run  # only this command needs it, and it compiles programs

    return run(
        env=arguments.env,
        log_dir=arguments.log_dir,
        seed=arguments.seed,
        backends=arguments.backend or list(_DEMO_BACKENDS),
        videos=arguments.videos,
        open_browser=arguments.open,
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from metriplex.doctor import run  # only this command needs what is tried

    width = shutil.get_terminal_size().columns
    return run(arguments.log_dir, width=width, emit=lambda line: print(line, flush=True))


def _complain(error: MetriplexError, status: int) -> int:
    print(f"metriplex: error: {error}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metriplex",
        description="A pluggable metrics logger for reinforcement learning in JAX.",
    )
    version = f"%(prog)s {metadata.version('metriplex')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="train PPO on a small task and log it")
    demo.add_argument(
        "--env",
        choices=_DEMO_TASKS,
        default=_DEMO_TASKS[0],
        help="what is learned; the pendulum is simulated by MuJoCo MJX (default: %(default)s)",
    )
    demo.add_argument("--log-dir", default="logs", help="where the run goes (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    demo.add_argument(
        "--no-videos", action="store_false", dest="videos", help="record no evaluation videos"
    )
    demo.add_argument("--open", action="store_true", help="start TensorBoard on the run at the end")
    demo.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"log to this backend; may be repeated (default: {' and '.join(_DEMO_BACKENDS)})",
    )
    commands.add_parser("plugins", help="list every installed plugin, also the broken ones")
    doctor = commands.add_parser("doctor", help="try what is installed, say how to mend what fails")
    doctor.add_argument("--log-dir", default="logs", help="where runs would go (%(default)s)")
    export.add_parser(commands)
    replay.add_parser(commands)
    new_backend.add_parser(commands)
    return parser
