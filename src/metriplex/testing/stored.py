"""What a service holds of a run, as a contract test reads it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - part of public annotations
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np  # noqa: TC002 - part of public annotations

from metriplex.records import Scalar  # noqa: TC001 - part of public annotations

Series: TypeAlias = tuple[int | None, str]
"""A lane (None for the run itself) and a tag."""


@final
@dataclass(frozen=True)
class Stored:
    """Everything that a service has stored of one run, read without the backend's own code.

    Attributes:
        scalars: For each series, `(step, value)` in the order in which the service gives them.
        hparams: Hyper-parameters of the run.
        texts: For each series, `(step, text)`.
        videos: For each series, `(step, file)`: the bytes of the encoded clip.
        images: For each series, `(step, pixels)`: uint8 `[height, width, 3]`.
        histograms: For each series, `(step, counts, edges)`.
        artifacts: For each lane and name (`name/inner` for what is in a directory), `(step, file)`;
            the step is None where the service keeps none.
        status: How the run ended, in metriplex's words: `finished`, `failed`, `interrupted`; None
            where the service keeps no such thing or the run is still open.
    """

    scalars: Mapping[Series, Sequence[tuple[int, Scalar]]] = field(default_factory=dict)
    hparams: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[Series, Sequence[tuple[int, str]]] = field(default_factory=dict)
    videos: Mapping[Series, Sequence[tuple[int, bytes]]] = field(default_factory=dict)
    images: Mapping[Series, Sequence[tuple[int, np.ndarray]]] = field(default_factory=dict)
    histograms: Mapping[Series, Sequence[tuple[int, np.ndarray, np.ndarray]]] = field(
        default_factory=dict
    )
    artifacts: Mapping[Series, Sequence[tuple[int | None, bytes]]] = field(default_factory=dict)
    status: str | None = None
