"""Test a backend with processes that are killed at random moments."""

from __future__ import annotations

import abc
import os

import pytest

from metriplex.plugins.backends import Backend
from metriplex.testing.contract.base import ContractBase
from metriplex.testing.kills import WAYS, kill

KILLS = "METRIPLEX_KILLS"
"""The environment variable with the number of processes that are killed, one a way if unset."""


class KillTests(ContractBase, abc.ABC):
    """Tests of what the backend has stored after the death of a process, and its run's return."""

    subject = "kills"

    def test_a_kill_loses_nothing_and_doubles_nothing(self) -> None:
        """Killed at any moment, then replayed or resumed, a run has each record once.

        Processes log, and are killed by SIGKILL at random moments. A replay or a resumed run sends
        again what was not acknowledged, although some of it may be stored. To fix it, compare a
        record with what the service has (step, time and values are the same when it is sent again),
        or store it under a key that is made of these.
        """
        if not self.stores_once:
            pytest.skip("`stores_once` is False: records that are sent again may be stored twice")
        assert Backend("contract", self.make_backend()).hooks >= {"flush", "log_scalars"}, (
            "a backend that stores once must implement `flush` and `log_scalars`"
        )
        moments = int(os.environ.get(KILLS, len(WAYS)))
        for index, moment in enumerate(kill(self, self.directory / "kills", moments)):
            stored = self._read(moment.run)
            try:
                self._compare(stored, moment.expect(stored), ordered=False)
            except AssertionError as error:
                raise AssertionError(f"moment {index}, {moment.way}: {error}") from None
