"""What every backend has to do, as tests."""

from __future__ import annotations

import abc

from metriplex.testing.contract.hparams import HparamTests
from metriplex.testing.contract.lanes import LaneTests
from metriplex.testing.contract.life import LifeTests
from metriplex.testing.contract.media import MediaTests
from metriplex.testing.contract.processes import ProcessTests
from metriplex.testing.contract.scalars import ScalarTests
from metriplex.testing.contract.tags import TagTests


class BackendContract(
    # The last one's tests run first.
    ProcessTests,
    LifeTests,
    MediaTests,
    HparamTests,
    TagTests,
    LaneTests,
    ScalarTests,
    abc.ABC,
):
    """The tests that every backend passes; subclass it as `class TestMine(BackendContract)`.

    A backend that passes works with metriplex. `make_backend` and `read_back` are yours to give,
    and facts of the service where they differ from those of `ContractBase`. Each test's docstring
    says what it demands and how to mend what fails. Tests of hooks that the backend doesn't
    implement are skipped. To override a test is an error, unless it is marked
    `xfail(reason=...)`, which says what the service can't do.
    """
