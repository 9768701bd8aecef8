"""Rows: how a kernel is read as rows, and which kernels are meant.

A row holds all weights that feed one output unit: a column of a Dense kernel [in, out], all of
[kh, kw, c_in] for one c_out of a convolution. A subnet keeps equally many weights in every row
of a layer. Works on NumPy and on JAX arrays alike, and imports neither.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterable, Sequence
from typing import Any

from codesign.errors import did_you_mean


@dataclasses.dataclass(frozen=True)
class RowSpec:
    """Which axes of a kernel number its layers, the weights of a row, and the rows.

    Attributes:
      stacked: axes of layers that share one array, L layers in all; often none.
      inputs: axes of the weights within a row, N in all.
      outputs: axes that number the rows, R in all.
    """

    stacked: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The kernel's axes as layers, rows, weights of a row."""
        return self.stacked + self.outputs + self.inputs

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Layers L, rows of a layer R and weights of a row N of a kernel of this shape.

        Raises:
          ValueError: a kernel of another rank, without a row, or with empty rows.
        """
        if sorted(self.order) != list(range(len(shape))):
            raise ValueError(
                f"a kernel of shape {tuple(shape)} has {len(shape)} axes, its RowSpec names "
                f"stacked {self.stacked}, inputs {self.inputs} and outputs {self.outputs}"
            )
        groups = (self.stacked, self.outputs, self.inputs)
        layers, rows, weights = (math.prod(shape[axis] for axis in group) for group in groups)
        if not layers * rows * weights:
            raise ValueError(f"a kernel of shape {tuple(shape)} has no weights")
        return layers, rows, weights


def to_rows(kernel: Any, spec: RowSpec) -> Any:
    """Kernel of any shape -> its rows [L,R,N].

    Raises:
      ValueError: a kernel of another rank than the spec's.
    """
    return kernel.transpose(spec.order).reshape(spec.sizes(kernel.shape))


def from_rows(rows: Any, spec: RowSpec, shape: Sequence[int]) -> Any:
    """Rows [L,R,N] -> the kernel of this shape; undoes `to_rows`."""
    spec.sizes(shape)
    inverse = sorted(range(len(shape)), key=spec.order.__getitem__)
    return rows.reshape([shape[axis] for axis in spec.order]).transpose(inverse)


def flax_spec(shape: Sequence[int]) -> RowSpec:
    """The rows of a plain Flax kernel: Dense [in, out] or Conv [kh, kw, c_in, c_out].

    A kernel of four axes is taken for a convolution's; that of another layer needs a RowSpec.

    Raises:
      ValueError: another rank, which does not tell what the axes are.
    """
    if len(shape) not in (2, 4):
        raise ValueError(
            f"a kernel of shape {tuple(shape)} is neither Dense [in, out] nor Conv "
            "[kh, kw, in, out]; give its RowSpec, or leave it out"
        )
    last = len(shape) - 1
    return RowSpec(stacked=(), inputs=tuple(range(last)), outputs=(last,))


def chosen(
    names: Iterable[str], include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> list[str]:
    """The names that match a pattern of `include` and none of `exclude`.

    Args:
      names: of kernels, such as "vision.blocks.fc1".
      include: shell patterns, such as "vision.*" or "*.fc?".
      exclude: likewise.

    Raises:
      ValueError: a pattern that matches no name, or nothing left.
    """
    names = list(names)
    for pattern in (*include, *exclude):
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"no kernel is called '{pattern}'; {did_you_mean(pattern, names)}")

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    left = [name for name in names if matches(name, include) and not matches(name, exclude)]
    if not left:
        raise ValueError(
            f"nothing to prune: include {list(include)} without {list(exclude)} leaves no kernel; "
            f"{did_you_mean('', names)}"
        )
    return left
