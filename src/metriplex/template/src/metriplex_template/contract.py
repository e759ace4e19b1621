"""The contract of backends for the template backend, which reads its file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, final

from metriplex import Lane
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
        wall_times: dict[Series, list[Any]] = {}
        iterations: dict[Series, list[Any]] = {}
        texts: dict[Series, list[Any]] = {}
        hparams: dict[str, Any] = {}
        lanes: dict[int, Lane] = {}
        status: str | None = None
        for line in (run.directory / "template.jsonl").read_text().splitlines():
            record = json.loads(line)
            status = record.get("status")
            if record["kind"] == "open":
                lanes |= {index: Lane(**lane) for index, lane in enumerate(record["lanes"])}
                if record["resume_step"] is not None:
                    kept = (scalars, wall_times, iterations, texts)
                    scalars, wall_times, iterations, texts = (
                        _before(record["resume_step"], series) for series in kept
                    )
            elif record["kind"] == "hparams":
                hparams |= record["values"]
            elif record["kind"] == "scalars":
                for tag, value in record["values"].items():
                    series, step = (record["lane"], tag), record["step"]
                    scalars.setdefault(series, []).append((step, value))
                    wall_times.setdefault(series, []).append((step, record["wall_time"]))
                    if record["iteration"] is not None:
                        iterations.setdefault(series, []).append((step, record["iteration"]))
            elif record["kind"] == "text":
                series, step = (record["lane"], record["tag"]), record["step"]
                texts.setdefault(series, []).append((step, record["text"]))
                wall_times.setdefault(series, []).append((step, record["wall_time"]))
        return Stored(
            scalars=scalars,
            wall_times=wall_times,
            iterations=iterations,
            hparams=hparams,
            lanes=lanes,
            texts=texts,
            status=status,
        )


def _before(step: int, stored: dict[Series, list[Any]]) -> dict[Series, list[Any]]:
    """Return the points before `step`, which are not superseded."""
    kept = {series: [p for p in points if p[0] < step] for series, points in stored.items()}
    return {series: points for series, points in kept.items() if points}
