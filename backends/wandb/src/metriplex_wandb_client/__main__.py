"""The client's process: `python -m metriplex_wandb_client DESCRIPTOR PARENT`.

It receives calls on the socket DESCRIPTOR, one after another, as `(method, arguments)` of `Client`,
and answers each with `("done", result)` or with the kind of the failure and its text. The process
ends after `close`, or when its parent has died: then it finishes every run as failed.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import wandb

from metriplex_wandb_client.channel import Channel
from metriplex_wandb_client.client import Client


def serve(channel: Channel, parent: int) -> None:
    """Execute calls until `close`, or until the parent has died."""
    client: Client | None = None
    try:
        while True:
            channel.wait(parent)
            method, arguments = channel.receive()
            try:
                result = None
                if client is not None:
                    result = getattr(client, method)(**arguments)
                elif method == "open":
                    client = Client(**arguments)
                else:
                    result = diagnose(**arguments)
            except ConnectionError as error:
                sys.exit(f"the client's service is gone ({error})")
            except Exception as error:  # noqa: BLE001 - the parent raises it
                kind = _kind(error, opening=client is None)
                channel.send((kind, f"{type(error).__name__}: {error}"))
                continue
            channel.send(("done", result))
            if method == "close":
                return
    except (EOFError, BrokenPipeError, ConnectionResetError):
        if client is not None:
            client.close(exit_code=1)


def diagnose(mode: str | None, settings: dict[str, Any]) -> str:
    """Return a sentence about the user who is logged in, and the server.

    Args:
        mode: The `mode` of `wandb.init`.
        settings: Fields of `wandb.Settings`.
    """
    own = {**settings, "mode": mode} if mode is not None else settings
    known = wandb.setup(wandb.Settings(**own)).settings
    if known.mode != "online":
        return f"wandb {wandb.__version__}, {known.mode}: nothing is uploaded"
    viewer = wandb.Api(timeout=10).viewer
    return f"wandb {wandb.__version__}, logged in to {known.base_url} as {viewer.username}"


def _kind(error: Exception, *, opening: bool) -> str:
    if isinstance(error, wandb.errors.AuthenticationError | wandb.errors.UsageError):
        return "configuration"
    if opening and isinstance(error, ValueError):  # an invalid setting
        return "configuration"
    if isinstance(error, wandb.errors.CommError | OSError):
        return "transient"
    return "failure"


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # only the parent ends logging
        signal.signal(number, signal.SIG_IGN)
    own, above = int(sys.argv[1]), int(sys.argv[2])
    sys.argv = sys.argv[3:]  # the training's arguments, which W&B shows
    serve(Channel(own), above)
