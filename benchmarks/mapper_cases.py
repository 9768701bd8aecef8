"""Products and chips that the mapper is fitted to and judged by; drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codesign.accelerator import Accelerator
from codesign.space import PUBLISHED_GRID, WIDE_GRID

DEFAULT = tuple(vars(PUBLISHED_GRID).values())
WIDE = tuple(vars(WIDE_GRID).values())
# Around configs/quickstart.py's: microcontrollers.
SMALL = (
    (1, 2),
    (4, 8, 16, 32),
    (4, 8, 16),
    (4, 8, 16, 32, 64),
    (8, 16, 32, 64),
    (0.0625, 0.125, 0.25, 0.5),
    (1, 2),
)
# What a design file may ask for, by powers of two.
ACCEPTED = tuple(
    tuple(2.0**i for i in range(first, last + 1))
    for first, last in ((0, 4), (0, 10), (0, 10), (0, 12), (0, 9), (-6, 6), (0, 4))
)
GRIDS = {"default": DEFAULT, "small": SMALL, "accepted": ACCEPTED, "wide": WIDE}


def chips_of(grid: str, number: int, rng: np.random.Generator) -> Accelerator:
    """Chips drawn uniformly from a grid of GRIDS, leaves float32 [number]."""
    axes = [np.asarray(axis, np.float32) for axis in GRIDS[grid]]
    return Accelerator(*(axis[rng.integers(len(axis), size=number)] for axis in axes))


def with_twice(chips: Accelerator, which: np.ndarray) -> Accelerator:
    """The chips [N] with twice of a resource each, given by the index of its field [N]."""
    return Accelerator(
        *(
            np.where(which == i, 2, 1).astype(np.float32) * axis
            for i, axis in enumerate(vars(chips).values())
        )
    )


def clip_products(number: int, rng: np.random.Generator) -> np.ndarray:
    """Products (m, k, n) of CLIPs of all published widths, [number, 3]."""
    rows = []
    for _ in range(number):
        tokens = int(rng.choice([50, 77, 197, 257]))
        width, qkv = (64 * int(rng.integers(4, 17)) for _ in range(2))
        ffn = 128 * int(rng.integers(6, 33))
        kinds = [
            (tokens, width, qkv),
            (tokens, 64, tokens),
            (tokens, tokens, 64),
            (tokens, qkv, width),
            (tokens, width, ffn),
            (tokens, ffn, width),
        ]
        rows.append(kinds[int(rng.integers(len(kinds)))])
    return np.array(rows, np.float32)


def any_products(number: int, rng: np.random.Generator) -> np.ndarray:
    """Products from 1 to 16,384 in each dimension, log-uniform, [number, 3]."""
    return np.exp(rng.uniform(0, np.log(16384), (number, 3))).round().astype(np.float32)


PRODUCTS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "CLIP": clip_products,
    "1 to 16,384": any_products,
}
