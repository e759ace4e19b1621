"""Test the contract of backends: the behaviour that every backend must have."""

from __future__ import annotations

import abc

from metriplex.testing.contract.faults import FaultTests
from metriplex.testing.contract.hparams import HparamTests
from metriplex.testing.contract.kills import KillTests
from metriplex.testing.contract.lanes import LaneTests
from metriplex.testing.contract.life import LifeTests
from metriplex.testing.contract.media import MediaTests
from metriplex.testing.contract.processes import ProcessTests
from metriplex.testing.contract.scalars import ScalarTests
from metriplex.testing.contract.tags import TagTests


class BackendContract(
    # Tests of the last base run first.
    KillTests,
    ProcessTests,
    FaultTests,
    LifeTests,
    MediaTests,
    HparamTests,
    TagTests,
    LaneTests,
    ScalarTests,
    abc.ABC,
):
    """The tests that every backend must pass; subclass it as `class TestMine(BackendContract)`.

    A backend that passes works with metriplex. A subclass implements `make_backend` and
    `read_back`, and overrides the facts of the service where they differ from the defaults of
    `ContractBase`. The docstring of each test says what the test demands and how to fix a failure.
    Tests of hooks that the backend doesn't implement are skipped. Overriding a test is an error,
    unless the override is marked `xfail(reason=...)` with the reason why the service can't pass.
    """
