"""Run the command `metriplex` for `python -m metriplex`."""

from __future__ import annotations

import sys

from metriplex.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
