"""How the relaxed designs of a search became discrete ones: snap.json."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from codesign.constraints import Count, Natural, NonNegative
from codesign.decode import decode
from codesign.json_text import read_json

SNAP = "snap.json"


@dataclasses.dataclass(frozen=True)
class Snapped:
    """How a design was chosen.

    Attributes:
      candidate: of the population.
      compared: networks near the relaxed one that meet its target and are part of no other such.
      trained: how many of them were trained for a while first; 0: none.
      trained_share: products of those, in all, as a share of the supernet's.
      relaxed_loss: gated loss before rounding; None: it was not finite.
      rounded_loss: of the chosen network, with the same weights; likewise.
    """

    candidate: Natural
    compared: Count
    trained: Natural
    trained_share: NonNegative
    relaxed_loss: float | None
    rounded_loss: float | None


@dataclasses.dataclass(frozen=True)
class Snaps:
    """What snap.json holds: of every searched design."""

    designs: tuple[Snapped, ...]

    @classmethod
    def read(cls, path: Path) -> Snaps:
        """Of a file.

        Raises:
          UserError: it holds something else.
        """
        return decode(cls, read_json(path), str(path))
