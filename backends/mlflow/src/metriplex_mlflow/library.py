"""Import MLflow, and restore the environment variables that its libraries set.

Polars, for one, sets `_RJEM_MALLOC_CONF`, which child processes of the program would inherit.
"""

from __future__ import annotations

import os

_before = dict(os.environ)
try:
    import mlflow.client
finally:
    for _name in os.environ.keys() - _before.keys():
        del os.environ[_name]
    os.environ.update(_before)

__all__ = ["mlflow"]
