"""How exactly a backend is to multiply the matrices of a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def in_full(function: Callable[..., Any], *args: Any) -> bool:
    """Whether a function has products, and all are in full float32 on every backend."""
    lines = jax.jit(function).lower(*args).as_text().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line]
    return bool(products) and all("precision = [HIGHEST, HIGHEST]" in line for line in products)
