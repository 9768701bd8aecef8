"""Numbers of subnets: 0 is the densest of K, and one that there is not is an error."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def check_subnet(k: Any, subnets: int, *, dense: bool = False) -> None:
    """Refuses a number that no subnet has; a traced one cannot be looked at, and passes.

    Args:
      k: a whole number, of Python's, NumPy's or JAX's.
      subnets: K.
      dense: whether -1 means all weights.

    Raises:
      ValueError: there is no such subnet.
    """
    if isinstance(k, jax.core.Tracer):
        return
    number = np.asarray(k)
    least = -1 if dense else 0
    whole = number.shape == () and number.dtype.kind in "iuf" and int(number) == number
    if not (whole and least <= number < subnets):
        more = ", and -1 keeps all" if dense else ""
        raise ValueError(f"there is no subnet {k}; the family has 0 to {subnets - 1}{more}")
