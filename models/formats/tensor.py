"""A tensor of a checkpoint file: its name there, its shape, and how to read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NoReturn

import ml_dtypes
import numpy as np

from codesign.errors import UserError

FLOATS = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), np.dtype("f8"))


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor, not read yet: an optimiser's state in the same file costs nothing.

    Attributes:
      name: as the file spells it, for messages.
      shape: as in the file.
      read: gives the values, in the file's dtype.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

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
