"""Copies of a test object in other processes, which make backends there."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex.testing.contract.base import ContractBase


@final
@dataclass(frozen=True)
class Copy:
    """A test object that another process can make again.

    Attributes:
        module: The name of its class's module.
        file: The module's file; None if it has none.
        qualname: The class's name in the module.
        state: The object's attributes, pickled.
    """

    module: str
    file: str | None
    qualname: str
    state: bytes

    @classmethod
    def of(cls, contract: ContractBase) -> Self:
        """Copy a test object, without its sessions."""
        import cloudpickle

        kind = type(contract)
        state = {name: value for name, value in vars(contract).items() if name != "_sessions"}
        file = getattr(sys.modules[kind.__module__], "__file__", None)
        return cls(kind.__module__, file, kind.__qualname__, cloudpickle.dumps(state))

    def find_class(self) -> type[ContractBase]:
        """Import the class by its module's name or, if that is in no package, by its file."""
        found: Any = self._import()
        for name in self.qualname.split("."):
            found = getattr(found, name)
        return found

    def make(self) -> ContractBase:
        """Make the test object, without `__init__`."""
        kind = self.find_class()
        contract = kind.__new__(kind)
        vars(contract).update(pickle.loads(self.state))  # noqa: S301 - our parent's
        return contract

    def _import(self) -> Any:
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError:
            spec = importlib.util.spec_from_file_location(self.module, self.file or self.module)
            if spec is None or spec.loader is None:
                raise
            module = importlib.util.module_from_spec(spec)
            sys.modules[self.module] = module
            spec.loader.exec_module(module)
            return module


def spawn(
    program: str, *, stdout: IO[Any], stderr: IO[Any], pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that can import what this one can, and inherits nothing else.

    Args:
        program: Python code.
        stdout: Where its standard output goes.
        stderr: Where its standard error goes.
        pass_fds: File descriptors that it inherits.
    """
    paths = [entry or str(Path.cwd()) for entry in sys.path]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        [sys.executable, "-P", "-c", program],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
    )
