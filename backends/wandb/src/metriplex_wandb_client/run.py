"""One W&B run."""

from __future__ import annotations

import collections
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import wandb

from metriplex_wandb_client.transaction_log import TransactionLog

if TYPE_CHECKING:
    from metriplex_wandb_client.earlier import EarlierRows

LOG_SECONDS = 0.1
"""Seconds between two writes of the transaction logs by the client's service."""

_RESERVED = ("_step", "_runtime", "_timestamp", "_wandb")


@final
class Run:
    """One W&B run.

    Args:
        run: The client's run.
        step_metric: The key that holds the step in every row.
        earlier: Rows that earlier processes have stored.
    """

    def __init__(self, run: wandb.Run, step_metric: str, earlier: EarlierRows) -> None:
        self._run = run
        self._step_metric = step_metric
        self._earlier = earlier
        self._log = TransactionLog(Path(run.settings.sync_file))
        self._sent: collections.Counter[str] = collections.Counter()
        self._logged: collections.Counter[str] = collections.Counter()
        # Without this, W&B's x axis is the number of the row, which must not decrease.
        run.define_metric(step_metric)
        run.define_metric("*", step_metric=step_metric)

    def update_config(self, hparams: dict[str, Any]) -> None:
        """Add to the config."""
        if hparams:
            self._run.config.update(_nested(hparams), allow_val_change=True)
            self._sent["config"] += 1

    def log(self, step: int, wall_time: float, values: dict[str, Any]) -> None:
        """Log a row, unless an earlier process has stored it."""
        row = {self._key(tag): value for tag, value in values.items()}
        row[self._step_metric] = step
        if wall_time:
            row["_timestamp"] = wall_time
        if self._earlier.take(row):
            return
        self._run.log(row)
        self._sent["history"] += 1

    def log_artifact(self, step: int, name: str, path: str) -> None:
        """Log a file or a directory as a version of an artifact."""
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "-" for c in name)
        artifact = wandb.Artifact(
            f"{plain[:64]}-{self._run.id}", type="file", metadata={"name": name, "step": step}
        )
        if Path(path).is_dir():
            artifact.add_dir(path, name=name, policy="immutable", skip_cache=True)
        else:
            artifact.add_file(path, name=name, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=["latest", f"step_{step}"])
        self._sent["artifact"] += 1

    def wait_for_log(self, seconds: float = 30.0) -> None:
        """Wait until the transaction log holds everything that was logged before.

        Raises:
            ConnectionError: The client's service does not write.
        """
        if self._run.disabled:
            return
        deadline = time.monotonic() + seconds
        while not self._is_logged():
            if time.monotonic() > deadline:
                raise ConnectionError(f"it wrote nothing for {seconds:g} s")
            time.sleep(LOG_SECONDS / 10)

    def finish(self, exit_code: int) -> str | None:
        """Finish the run; return its directory if not all could be uploaded in time."""
        try:
            self._run.finish(exit_code)
        except TimeoutError:
            return str(self._run.settings.sync_dir)
        return None

    def _is_logged(self) -> bool:
        self._logged.update(
            record.WhichOneof("record_type") or "" for record in self._log.read_new()
        )
        return all(self._logged[kind] >= number for kind, number in self._sent.items())

    def _key(self, tag: str) -> str:
        """Return the tag, or another name if W&B or the step axis uses the tag's."""
        plain = tag.encode("utf-8", "backslashreplace").decode()
        return f"tag/{plain}" if plain in (*_RESERVED, self._step_metric) else plain


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Nest names that are joined by `/`, unless one name is both a value and a group.

    NaN becomes a text, since the client stores no NaN in a config.
    """
    nested: dict[str, Any] = {}
    for name, given in flat.items():
        value = given if given == given else "NaN"
        *groups, last = name.split("/")
        parents = ["/".join(groups[: i + 1]) for i in range(len(groups))]
        if any(parent in flat for parent in parents) or "" in (*groups, last):
            nested[name] = value
            continue
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return nested
