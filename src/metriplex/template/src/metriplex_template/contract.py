"""The contract of backends for the template backend, which reads its file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, final

from metriplex.testing import BackendContract, Series, Stored
from metriplex_template import TemplateBackend

if TYPE_CHECKING:
    from metriplex import RunInfo


@final
class Contract(BackendContract):
    """JSON lines store everything unchanged, so the class declares no fact of the service."""

    def make_backend(self) -> TemplateBackend:
        """Return a backend with default options."""
        return TemplateBackend()

    def read_back(self, run: RunInfo) -> Stored:
        """Read the run's file by the `json` module alone."""
        scalars: dict[Series, list[Any]] = {}
        texts: dict[Series, list[Any]] = {}
        hparams: dict[str, Any] = {}
        status: str | None = None
        for line in (run.directory / "template.jsonl").read_text().splitlines():
            record = json.loads(line)
            status = record.get("status")
            if record["kind"] == "open" and record["resume_step"] is not None:
                scalars = _before(record["resume_step"], scalars)
                texts = _before(record["resume_step"], texts)
            elif record["kind"] == "hparams":
                hparams |= record["values"]
            elif record["kind"] == "scalars":
                for tag, value in record["values"].items():
                    scalars.setdefault((record["lane"], tag), []).append((record["step"], value))
            elif record["kind"] == "text":
                point = (record["step"], record["text"])
                texts.setdefault((record["lane"], record["tag"]), []).append(point)
        return Stored(scalars=scalars, hparams=hparams, texts=texts, status=status)


def _before(step: int, stored: dict[Series, list[Any]]) -> dict[Series, list[Any]]:
    """Return the points before `step`, which are not superseded."""
    kept = {series: [p for p in points if p[0] < step] for series, points in stored.items()}
    return {series: points for series, points in kept.items() if points}
