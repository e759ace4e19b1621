"""Parse the command line of `metriplex`, and run the subcommand."""

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
from metriplex.messages import print_line, printable
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
    """Run the command with the arguments `argv`; None takes those of this process.

    The exit status is 0 for success, 1 for an error, 2 for a request that can't be met (unknown
    backend, unusable `--log-dir`), 130 after Ctrl-C. Unknown arguments raise `SystemExit` with
    status 2, `--help` and `--version` with status 0.
    """
    arguments = _parser().parse_args(argv)
    try:
        status = arguments.function(arguments)
        sys.stdout.flush()
    except (ConfigurationError, PluginError) as error:
        return _print_error(error, EXIT_USAGE)
    except MetriplexError as error:
        return _print_error(error, EXIT_ERROR)
    except KeyboardInterrupt:
        print("\nmetriplex: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as error:  # of a file of the user
        return _print_error(error, EXIT_ERROR)
    return status


def plugin_table(reports: Sequence[PluginReport], width: int) -> str:
    """Return a table of the installed plugins, with the reason below each broken plugin.

    The last column and the reasons wrap to fit a terminal of `width` columns.
    """
    if not reports:
        return "No plugin is installed. To install one: `pip install metriplex-tensorboard`"
    rows = [
        tuple(map(printable, (one.kind, one.name, one.distribution, one.version)))
        for one in reports
    ]
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=False)]
    lines = _row(_HEADER[:-1], _HEADER[-1], widths, width)
    for report, row in zip(reports, rows, strict=True):
        if report.error is None:
            lines += _row(row, printable(", ".join(report.hooks)) or "-", widths, width)
        else:
            lines += _row(row, "BROKEN", widths, width)
            lines += textwrap.indent(
                _fill(_one_line(report.error), max(width - 4, _MIN_LAST_COLUMN)), "    "
            ).splitlines()
    return "\n".join(lines)


def _row(cells: Sequence[str], last: str, widths: Sequence[int], width: int) -> list[str]:
    first = "".join(f"{cell:<{size}}  " for cell, size in zip(cells, widths, strict=False))
    room = max(width - len(first), _MIN_LAST_COLUMN)
    wrapped = _fill(last, room).splitlines()
    return [first + wrapped[0]] + [" " * len(first) + line for line in wrapped[1:]]


def _fill(text: str, width: int) -> str:
    """Wrap text at spaces only, so that commands and names can be copied."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _plugins(_: argparse.Namespace) -> int:
    for line in plugin_table(installed(), shutil.get_terminal_size().columns).splitlines():
        print_line(line)
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from metriplex.demo import run  # only this command needs jax and its programs

    return run(
        env=arguments.env,
        log_dir=arguments.log_dir,
        seed=arguments.seed,
        backends=arguments.backend or list(_DEMO_BACKENDS),
        videos=arguments.videos,
        open_browser=arguments.open,
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from metriplex.doctor import run  # only this command needs the checks

    width = shutil.get_terminal_size().columns
    return run(arguments.log_dir, width=width, emit=print_line, backends=arguments.backend)


def _print_error(error: Exception, status: int) -> int:
    print_line(f"metriplex: error: {error}", error=True)
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
    demo.set_defaults(function=_demo)
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
    plugins = commands.add_parser(
        "plugins", help="list every installed plugin, also the broken ones"
    )
    plugins.set_defaults(function=_plugins)
    doctor = commands.add_parser("doctor", help="check the machine and every installed plugin")
    doctor.set_defaults(function=_doctor)
    doctor.add_argument("--log-dir", default="logs", help="where runs would go (%(default)s)")
    doctor.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="try this backend and no other one; may be repeated (default: all)",
    )
    export.add_parser(commands)
    replay.add_parser(commands)
    new_backend.add_parser(commands)
    return parser
