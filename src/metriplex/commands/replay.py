"""Send a run to backends that lack some of its records: `metriplex replay`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metriplex.commands.progress import progress_bar
from metriplex.errors import ConfigurationError
from metriplex.event_files.replay import replay_events
from metriplex.journal.finding import LOG_DIR, find_run
from metriplex.messages import print_line
from metriplex.replay.journal import replay_run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from metriplex.replay.send import Replayed


def add_parser(commands: Any) -> None:
    """Add the subcommand with its arguments."""
    parser = commands.add_parser("replay", help="send a run to backends that lack something of it")
    parser.set_defaults(function=run)
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
    """Send the run, print a line for each backend, and return 1 if one still lacks records."""
    backends = parse_backends(arguments.to, arguments.option)
    options = {"everything": arguments.all}
    with progress_bar() as progress:
        if arguments.source == "journal":
            found = replay_run(
                find_run(arguments.run, arguments.log_dir), backends, progress=progress, **options
            )
            results = [("", one) for one in found]
        else:
            done = replay_events(Path(arguments.run), backends, progress=progress, **options)
            results = [(f"{info.name}: ", one) for info, one in done]
    for label, result in results:
        print_line(label + describe(result))
    damage = dict.fromkeys(sentence for _, result in results for sentence in result.damage)
    for sentence in damage:
        print_line(f"metriplex: {sentence}", error=True)
    return 1 if damage or any(result.left for _, result in results) else 0


def parse_backends(names: Sequence[str], options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the backends of a command line with their options.

    `options` are `[NAME.]KEY=VALUE`, where VALUE is JSON, or else a string. Another form, or the
    name of an unknown backend, raises `ConfigurationError`.
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
    """Return the line that is printed for one backend."""
    left = f"{result.left:,} left" if result.left else "nothing is left"
    if result.damage and not result.left:
        left = "the rest can't be read"
    error = f" ({result.error})" if result.error is not None and result.left else ""
    return f"{result.backend}: {result.sent:,} record(s) sent, {left}{error}"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
