"""Position tables for another image size, resampled bicubically as each format's tools do.

transformers (`interpolate_pos_encoding`) and OpenCLIP (`resize_pos_embed`) call torch's
`F.interpolate(mode="bicubic")`, the one without and the other with antialiasing; TinyCLIP
aligns the corners of the grids. All are one product with a matrix per axis.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Method = Literal["huggingface", "openclip", "tinyclip"]

# Keys' cubic kernel (IEEE Trans. ASSP 29, 1981) has one parameter; torch takes the first
# for plain bicubic and, as Pillow does, the second with antialiasing.
_SHARP, _ANTIALIAS = -0.75, -0.5


def resize_positions(table: np.ndarray, grid: int, method: Method) -> np.ndarray:
    """Position table [G*G+1, D] -> [grid*grid+1, D]; row 0, the class token's, is kept.

    In float64 inside, the result in the dtype of the table.
    """
    old = math.isqrt(len(table) - 1)
    if old == grid:
        return table
    axis = bicubic_matrix(old, grid, method)
    patches = table[1:].astype(np.float64).reshape(old, old, -1)
    resized = np.einsum("Yy,Xx,yxD->YXD", axis, axis, patches, optimize=True)
    resized = resized.reshape(grid * grid, -1).astype(table.dtype)
    return np.concatenate([table[:1], resized])


def bicubic_matrix(old: int, new: int, method: Method) -> np.ndarray:
    """[new, old]: weights of the old samples in each new one; rows sum to 1."""
    antialias = method == "openclip"
    if method == "tinyclip":
        centre = np.arange(new) * ((old - 1) / max(new - 1, 1))
    else:
        centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    if antialias:
        # Samples outside the grid have no weight, and the kernel widens when shrinking.
        stretch = max(old / new, 1.0)
        weights = _cubic((np.arange(old)[None] - centre[:, None]) / stretch, _ANTIALIAS)
        return weights / weights.sum(axis=1, keepdims=True)
    # Samples outside the grid take the value at its edge.
    matrix = np.zeros((new, old))
    left = np.floor(centre).astype(int)
    for offset in range(-1, 3):
        weights = _cubic(centre - (left + offset), _SHARP)
        np.add.at(matrix, (np.arange(new), np.clip(left + offset, 0, old - 1)), weights)
    return matrix


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
