"""`metriplex replay`: sends a run to backends that lack something of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metriplex.errors import ConfigurationError
from metriplex.event_files.replay import replay_events
from metriplex.journal.finding import LOG_DIR, find_run
from metriplex.replay.journal import replay

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from metriplex.replay.sender import Replayed

NAME = "replay"


def add_parser(commands: Any) -> None:
    """Says what the command takes."""
    parser = commands.add_parser(NAME, help="send a run to backends that lack something of it")
    parser.add_argument("run", metavar="RUN", help="a run's name under --log-dir, or its directory")
    parser.add_argument("--log-dir", default=LOG_DIR, help="where runs are (%(default)s)")
    parser.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="NAME",
        help="a backend, by its name in the run; may be repeated",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="[NAME.]KEY=VALUE",
        help="an option of the backends, or of the one that is named; may be repeated",
    )
    parser.add_argument("--all", action="store_true", help="send also what they have acknowledged")
    parser.add_argument(
        "--from",
        dest="source",
        choices=("journal", "tensorboard"),
        default="journal",
        help="what RUN is: a run of metriplex, or any log directory of TensorBoard (%(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Sends, and says for each backend what became of it; 1 if something is left.

    Raises:
        ConfigurationError: There is no such run, or a process still writes it.
        PluginError: A backend is not installed, or broken.
    """
    from metriplex.commands.progress import (  # what it draws with is no part of the host half
        progress_bar,
    )

    backends = parse_backends(arguments.to, arguments.option)
    options = {"everything": arguments.all}
    with progress_bar() as progress:
        if arguments.source == "journal":
            found = replay(
                find_run(arguments.run, arguments.log_dir), backends, progress=progress, **options
            )
            results = [("", one) for one in found]
        else:
            done = replay_events(Path(arguments.run), backends, progress=progress, **options)
            results = [(f"{info.name}: ", one) for info, one in done]
    for label, result in results:
        print(label + describe(result))
    return 1 if any(result.left for _, result in results) else 0


def parse_backends(names: Sequence[str], options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Backends with their options, from the command line.

    Args:
        names: What `--to` names.
        options: What `--option` gives; values are JSON, or else strings.

    Raises:
        ConfigurationError: An option is none.
    """
    backends: dict[str, dict[str, Any]] = {name: {} for name in names}
    for option in options:
        key, separator, text = option.partition("=")
        name, dot, inner = key.rpartition(".")
        if not separator or not inner or (dot and name not in backends):
            raise ConfigurationError(
                f"`--option` takes `KEY=VALUE`, or `NAME.KEY=VALUE` for a backend that `--to` "
                f"names; got {option!r}"
            )
        for chosen in [name] if dot else names:
            backends[chosen][inner] = _value(text)
    return backends


def describe(result: Replayed) -> str:
    """One line for one backend."""
    left = f"{result.left:,} left" if result.left else "nothing is left"
    error = f" ({result.error})" if result.error is not None and result.left else ""
    return f"{result.backend}: {result.sent:,} record(s) sent, {left}{error}"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
