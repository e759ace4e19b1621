"""The stored records of a run, as a contract test reads them from a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - part of public annotations
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np  # noqa: TC002 - part of public annotations

from metriplex.records import Lane, Scalar  # noqa: TC001 - part of public annotations

Series: TypeAlias = tuple[int | None, str]
"""A lane (None for the run itself) and a tag."""


@final
@dataclass(frozen=True)
class Stored:
    """All records of one run in a service, read without the code of the backend.

    Attributes:
        scalars: For each series, `(step, value)` in the order of the service.
        wall_times: For each series, of scalars and of media but artifacts, `(step, seconds since
            the Unix epoch)`.
        iterations: For each series of scalars, `(step, iteration)`, without records that have no
            iteration.
        hparams: Hyper-parameters of the run.
        lanes: For each lane, its name and its hyper-parameters; the hyper-parameters of the run may
            stand beside the lane's own.
        texts: For each series, `(step, text)`.
        videos: For each series, `(step, file)`: the bytes of the encoded clip.
        images: For each series, `(step, pixels)`: uint8 `[height, width, 3]`.
        histograms: For each series, `(step, counts, edges)`.
        artifacts: For each lane and name (`name/inner` for a file in a directory), `(step, file)`;
            the step is None if the service stores none.
        status: `finished`, `failed` or `interrupted`; None if the run is open, or the service
            stores no status.
    """

    scalars: Mapping[Series, Sequence[tuple[int, Scalar]]] = field(default_factory=dict)
    wall_times: Mapping[Series, Sequence[tuple[int, float]]] = field(default_factory=dict)
    iterations: Mapping[Series, Sequence[tuple[int, int]]] = field(default_factory=dict)
    hparams: Mapping[str, Any] = field(default_factory=dict)
    lanes: Mapping[int, Lane] = field(default_factory=dict)
    texts: Mapping[Series, Sequence[tuple[int, str]]] = field(default_factory=dict)
    videos: Mapping[Series, Sequence[tuple[int, bytes]]] = field(default_factory=dict)
    images: Mapping[Series, Sequence[tuple[int, np.ndarray]]] = field(default_factory=dict)
    histograms: Mapping[Series, Sequence[tuple[int, np.ndarray, np.ndarray]]] = field(
        default_factory=dict
    )
    artifacts: Mapping[Series, Sequence[tuple[int | None, bytes]]] = field(default_factory=dict)
    status: str | None = None
