"""Test how a backend stores hyper-parameters."""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING

from metriplex.testing.contract.base import ContractBase, check_names, same

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metriplex.records import RunInfo, Scalar

_HPARAMS: Mapping[str, Scalar | str] = {
    "bool": True,
    "another bool": False,
    "int": -3,
    "big": 2**40 + 1,
    "float": 3e-4,
    "third": 1 / 3,
    "zero": 0,
    "minus zero": -0.0,
    "tiny": 5e-324,
    "text": "CartPole-v1",
    "empty": "",
    "number as text": "007",
    "spaces": " two  words ",
    "lines": "one\ntwo",
    "quotes": """it's "quoted" = {true}, [1]""",
    "unicode": "θ 🙂",
    "nested/optimizer/lr": 0.5,
    "nested/optimizer": "adam",
    "θ": 1,
}
_LENGTH = 20_000


class HparamTests(ContractBase, abc.ABC):
    """Tests of hyper-parameters of every type."""

    subject = "hyper-parameters"

    def test_hparams_of_every_type(self) -> None:
        """Bools, integers, floats and texts are stored, in the form of `stored_hparams`.

        To fix it, convert types that the service doesn't have, and return the stored form from
        `stored_hparams`; escape names like tags.
        """
        self._check_hparams(_HPARAMS)

    def test_hparams_that_are_not_finite(self) -> None:
        """NaN and infinities are stored as hyper-parameters, such as `grad_clip=inf`.

        To fix it, store them as text if the service rejects them.
        """
        self._check_hparams({"inf": math.inf, "minus": -math.inf, "nan": math.nan, "one": 1.0})

    def test_long_hparams(self) -> None:
        """A text of 20,000 characters is stored, and so are 200 hyper-parameters of one run.

        To fix it, store values above the limit of the service elsewhere (as a file, as a tag),
        where `read_back` finds them; one value must not make the service drop the others.
        """
        many: dict[str, Scalar | str] = {f"parameter_{i}": i for i in range(200)}
        self._check_hparams({**many, "long": "0123456789" * (_LENGTH // 10)})

    def test_hparams_of_several_calls(self) -> None:
        """A second `log_hparams` in a run adds to the first one, also after records.

        To fix it, merge the arguments of all calls; let the last call win.
        """
        session = self._open("log_hparams")
        session.hparams({"lr": 0.5, "env": "CartPole"})
        session.log(1, {"a": 1.0})
        session.flush()
        session.hparams({"device": "cpu", "seed": 7})
        session.close()
        wanted = {"lr": 0.5, "env": "CartPole", "device": "cpu", "seed": 7}
        self._compare_hparams(session.run, wanted)

    def test_hparams_of_a_resumed_run(self) -> None:
        """A run that is opened again stores its old hyper-parameters and new ones.

        To fix it, let the last call win; if the service can't change a stored value, compare it
        with the new one first.
        """
        session = self._open("log_hparams")
        session.hparams({"lr": 0.5, "env": "CartPole"})
        session.close("interrupted")
        again = self._open(run=session.run)
        again.hparams({"lr": 0.5, "env": "CartPole", "device": "cpu"})
        again.close()
        self._compare_hparams(again.run, {"lr": 0.5, "env": "CartPole", "device": "cpu"})

    def _check_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        session = self._open("log_hparams")
        session.hparams(hparams)
        session.close()
        self._compare_hparams(session.run, hparams)

    def _compare_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        found, wanted = self._read(run).hparams, self.stored_hparams(hparams)
        check_names("hyper-parameters", wanted, found)
        for name, value in wanted.items():
            got = found[name]
            assert (type(value), True) == (type(got), same(value, got)), (
                f"the hyper-parameter `{name}` must be {value!r}; stored is {got!r}"
            )
