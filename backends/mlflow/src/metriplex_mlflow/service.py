"""Calls of the MLflow client with a timeout, and errors that a worker understands."""

from __future__ import annotations

import contextlib
import contextvars
from typing import TYPE_CHECKING, Any

import requests
from mlflow import environment_variables
from mlflow.exceptions import MlflowException

from metriplex import LoggingError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

_settings: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("_settings")


def _overridable(name: str) -> None:
    """Let `calling` override one of MLflow's environment variables.

    MLflow reads the variables at every request and has no other setting. Changing the environment
    would change it for the user's own use of MLflow and for child processes.
    """
    variable = getattr(environment_variables, name)
    read: Callable[[], Any] = variable.get

    def get() -> Any:
        settings = _settings.get({})
        return settings[name] if name in settings and not variable.is_set() else read()

    variable.get = get


for _name in (
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
):
    _overridable(_name)


def may_pass(error: MlflowException) -> bool:
    """Return True if the same request may succeed later."""
    return error.get_http_status_code() in _TRANSIENT


@contextlib.contextmanager
def calling(uri: str, timeout_secs: float, *, retries: int = 1) -> Generator[None]:
    """Make calls of the MLflow client in a `with` block.

    By default MLflow retries a request for some minutes, but retrying is the worker's job. In the
    block MLflow tries twice without a pause, since the server may have closed a connection that was
    kept open. Environment variables of MLflow that the user has set take precedence.

    Args:
        uri: The tracking server, for messages.
        timeout_secs: Seconds to wait for an answer.
        retries: Largest number of MLflow's own retries.

    Raises:
        TransientError: The server can't be reached, doesn't answer in time, or can't serve the
            request now.
        LoggingError: The server refused an artifact.
        MlflowException: The server refused another request.
    """
    token = _settings.set(
        {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": retries,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": timeout_secs,
            "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": False,
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": True,
        }
    )
    try:
        yield
    except MlflowException as error:
        if may_pass(error):
            raise TransientError(f"MLflow at {uri} can't be used now: {error}") from error
        raise
    except requests.RequestException as error:
        status = None if error.response is None else error.response.status_code
        if status is None or status in _TRANSIENT:
            raise TransientError(f"MLflow at {uri} can't be used now: {error}") from error
        raise LoggingError(f"MLflow at {uri} refused a file: {error}") from error
    finally:
        _settings.reset(token)
