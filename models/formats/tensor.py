"""A tensor of a checkpoint file: its name there, its shape, and how to read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import ml_dtypes
import numpy as np

from codesign.errors import UserError

FLOATS = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), np.dtype("f8"))


def read_span(path: Path, start: int, length: int) -> bytes:
    """Some bytes of a file, opened anew.

    They are copied, not mapped: a mapped file that is cut while it is used ends the process.

    Raises:
      UserError: the file is no longer there, or too short.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(length)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if len(data) < length:
        raise UserError(f"{path} has become shorter since it was opened; load it again")
    return data


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor, not read yet: an optimiser's state in the same file costs nothing.

    Attributes:
      name: as the file spells it, for messages.
      shape: as in the file.
      read: gives the values, in the file's dtype; raises UserError where there is a fault.
      fault: why it cannot be read, to follow "tensor x is"; "": it can.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    fault: str = ""

    def __setstate__(self, _: object) -> NoReturn:
        raise TypeError("a pickle alters a tensor")

    def renamed(self, name: str) -> Tensor:
        """The same tensor under the name it has in the whole file."""
        return dataclasses.replace(self, name=name)

    @property
    def T(self) -> Tensor:
        """Transposed."""
        return dataclasses.replace(self, shape=self.shape[::-1], read=lambda: self.read().T)

    def finite_floats(self, where: str) -> np.ndarray:
        """The values, of whichever floating dtype.

        Raises:
          UserError: integers (a quantised file), NaN or infinity.
        """
        values = self.read()
        if values.dtype not in FLOATS:
            raise UserError(
                f"{where}: tensor '{self.name}' is {values.dtype}, not floating point; "
                "quantised checkpoints cannot be read"
            )
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            raise UserError(
                f"{where}: tensor '{self.name}' holds {bad} NaN or infinite values; "
                "the checkpoint is broken"
            )
        return values
