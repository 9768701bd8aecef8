"""The work of a search in one unit, so that searches of different kinds can be compared.

The unit is the MAC-equivalent (MAC-eq): a training step of the whole supernet on one batch, a
forward and a backward pass. A step of a smaller network counts for its share of the products, and
a forward pass alone for a third of a step, as a backward pass has twice the products of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Products of a training step over those of its forward pass.
_STEP_OVER_FORWARD = 3


def mac_equivalents(steps: Any, macs: Any, whole_macs: float) -> float:
    """Training steps of networks in steps of the whole supernet, weighted by products.

    A network counts at the products of its own units, cut out, whether it was run so or as the
    supernet under hard gates, which compute the same; a network under soft gates, none of whose
    units is closed, counts as the whole.

    Args:
      steps: of each network on a batch of the same size, [...].
      macs: multiply-accumulates of each network for one image and one text, [...].
      whole_macs: those of the whole supernet.

    Returns:
      sum(steps x macs / whole_macs).
    """
    steps, macs = np.broadcast_arrays(np.asarray(steps, float), np.asarray(macs, float))
    return float(np.sum(steps * macs) / whole_macs)


def forward_equivalents(examples: Any, macs: Any, batch_size: int, whole_macs: float) -> float:
    """Forward passes without training in the same unit.

    Args:
      examples: that each network or tower sees, [...].
      macs: multiply-accumulates of each for one of these, [...].
      batch_size: examples of a training step.
      whole_macs: multiply-accumulates of the supernet for one image and one text.

    Returns:
      sum(examples / batch_size x macs / whole_macs) / 3.
    """
    steps = np.asarray(examples, float) / batch_size
    return mac_equivalents(steps, macs, whole_macs) / _STEP_OVER_FORWARD
