"""DesignSpace: the choices of each dimension, and their relaxation to a unit cube.

A relaxed design is a point z of [0, 1]^d, one coordinate per dimension, spread
evenly over that dimension's choices: with n choices, z = i / (n - 1) is choice i.
Between choices a dimension's value is interpolated linearly; `weights` gives the
interpolation weights themselves, with which any table over the choices becomes a
continuous function of z that is exact at every discrete design.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import ELASTIC, Tower
from codesign.constraints import CountChoices, PositiveChoices
from codesign.printable import short_repr
from codesign.renamed import accepts_old_names
from codesign.weighted import weighted_sum
from codesign.workload.clip import CLIP_FAMILY
from codesign.workload.families import ModelFamily

Array = jax.Array
# How near, in units of choices, counts as at a choice: above float32 rounding of z.
AT_CHOICE = 1e-5
ACCELERATOR_FIELDS = tuple(f.name for f in dataclasses.fields(Accelerator))


class Dimension(NamedTuple):
    """One axis of the space: its dotted name and its increasing choices."""

    name: str
    choices: tuple[float, ...]


def _check_choices(name: str, choices: Sequence[float]) -> None:
    """Refuses choices that are none: empty, not positive, not increasing, not a number."""
    try:
        increasing = all(a < b for a, b in itertools.pairwise(choices))
        fine = bool(choices) and choices[0] > 0 and increasing
    except TypeError:  # not a sequence, or not of numbers
        fine = False
    if not fine:
        shown = short_repr(choices)
        raise ValueError(f"space.{name}: choices must be positive and increasing, not {shown}")


@dataclasses.dataclass(frozen=True)
class TowerChoices:
    """Choices of a tower's elastic dimensions, each strictly increasing.

    Attributes:
      layers: numbers of transformer blocks.
      width: residual channels.
      heads: attention heads.
      ffn: hidden units of the MLP.
    """

    layers: CountChoices
    width: CountChoices
    heads: CountChoices
    ffn: CountChoices


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class AcceleratorChoices:
    """Choices of the accelerator's parameters; the defaults are the published grid.

    Attributes:
      cores: cores on the chip.
      pe_x: PE columns a core.
      pe_y: PE rows a core.
      l2_kib: local buffer per core, KiB.
      l2_bytes_per_cycle: local-buffer bandwidth, bytes a cycle.
      glb_mib: global buffer, MiB.
      channels: DRAM channels; two are one package of the usual LPDDR.

    Raises:
      ValueError: choices empty, not increasing or not positive.
    """

    cores: CountChoices = (1, 2, 4)
    pe_x: CountChoices = (32, 64, 128, 256)
    pe_y: CountChoices = (2, 4, 8, 16, 32, 64)
    l2_kib: CountChoices = (64, 128, 256, 512, 1024)
    l2_bytes_per_cycle: CountChoices = (32, 64, 128)
    glb_mib: PositiveChoices = (2, 4, 8)
    channels: CountChoices = (2,)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_choices(f"accelerator.{field.name}", getattr(self, field.name))


def _doublings(first: int, last: int) -> tuple[int, ...]:
    """2^first to 2^last."""
    return tuple(2**i for i in range(first, last + 1))


# CATransformers' grid (arXiv 2505.01386), with one package of DRAM.
PUBLISHED_GRID = AcceleratorChoices()
# All doublings in which optima of published models were found, up to the bounds of a design file,
# and down to the smallest memory that CACTI has data of.
WIDE_GRID = AcceleratorChoices(
    cores=_doublings(0, 4),
    pe_x=_doublings(3, 8),
    pe_y=_doublings(1, 7),
    l2_kib=_doublings(2, 7),
    l2_bytes_per_cycle=_doublings(4, 9),
    glb_mib=(1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8),
    channels=_doublings(0, 4),
)
# The part of it where chips of little carbon are. A joint search maps every operator of its
# networks on all of it.
JOINT_GRID = AcceleratorChoices(
    cores=(1, 2, 4),
    pe_x=(16, 32, 64, 128),
    pe_y=(8, 16, 32),
    l2_kib=(4, 8, 16),
    l2_bytes_per_cycle=(32, 64),
    glb_mib=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2),
    channels=(1, 2, 4),
)


def accelerator_dimensions(choices: AcceleratorChoices) -> list[Dimension]:
    """The axes of an accelerator's choices, in the order of its fields."""
    return [
        Dimension(f"accelerator.{field}", tuple(getattr(choices, field)))
        for field in ACCELERATOR_FIELDS
    ]


@dataclasses.dataclass(frozen=True)
class DesignSpace:
    """All designs a search may return.

    Attributes:
      base: fixed dimensions (patch, image, context, ...) of a network of the family; its towers
        are ignored.
      vision: choices of the image tower, of a family that has one.
      text: choices of the text tower, of a family that has one.
      accelerator: choices of the accelerator.
      sparsity: of each DRESS subnet, the densest first, choices of its share of zeros, all
        below those of the next; empty: one dense network.
      family: what is designed; CLIPs by default.

    Raises:
      ValueError: choices empty, not increasing or not positive; sparsities outside [0, 1),
        or of subnets that overlap; choices of other towers than the family has.
    """

    base: Any
    vision: TowerChoices | None = None
    text: TowerChoices | None = None
    accelerator: AcceleratorChoices = AcceleratorChoices()
    sparsity: tuple[tuple[float, ...], ...] = ()
    family: ModelFamily = CLIP_FAMILY

    def __post_init__(self) -> None:
        given = tuple(n for n, part in vars(self).items() if isinstance(part, TowerChoices))
        if set(given) != set(self.family.towers):
            wanted = " and ".join(self.family.towers)
            raise ValueError(f"space: choices of {wanted} are needed, not of {given}")
        for name, choices in self.dimensions:
            if not name.startswith("sparsity."):
                _check_choices(name, choices)
        levels = [level for choices in self.sparsity for level in choices]
        if not all(self.sparsity) or any(a >= b for a, b in itertools.pairwise(levels)):
            raise ValueError(
                "space.sparsity: choices must increase, within a subnet and from one to the next, "
                f"not {self.sparsity}"
            )
        if any(not 0 <= level < 1 for level in levels):
            raise ValueError(f"space.sparsity: choices must lie in [0, 1), not {self.sparsity}")

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Axes of z in order: the towers', the subnets', then the accelerator's."""
        towers = [
            Dimension(f"{tower}.{field}", tuple(getattr(choices, field)))
            for tower, choices in self.towers.items()
            for field in ELASTIC
        ]
        chip = accelerator_dimensions(self.accelerator)
        subnets = [Dimension(f"sparsity.{k}", tuple(c)) for k, c in enumerate(self.sparsity)]
        return (*towers, *subnets, *chip)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes of z."""
        return tuple(d.name for d in self.dimensions)

    @property
    def towers(self) -> dict[str, TowerChoices]:
        """The choices of every tower by its name."""
        return {name: getattr(self, name) for name in self.family.towers}

    @property
    def parts(self) -> dict[str, slice]:
        """The axes of z that belong to each tower, the "architecture" of all of them, its
        "sparsity", the "network" of both, and the "accelerator"."""
        size, n = self.architecture_size, len(ELASTIC)
        towers = {t: slice(i * n, (i + 1) * n) for i, t in enumerate(self.family.towers)}
        return towers | {
            "architecture": slice(0, size),
            "sparsity": slice(size, self.network_size),
            "network": slice(0, self.network_size),
            "accelerator": slice(self.network_size, self.network_size + len(ACCELERATOR_FIELDS)),
        }

    def part(self, values: Any, name: str) -> Any:
        """What belongs to one of `parts`, of a value for each axis.

        Args:
          values: an array [..., d], such as z or choice indices, or a list of d.
          name: of the part.
        """
        own = self.parts[name]
        return values[own] if isinstance(values, (list, tuple)) else values[..., own]

    @property
    def architecture_size(self) -> int:
        """Axes of z that belong to the architecture; they come first."""
        return len(self.family.towers) * len(ELASTIC)

    @property
    def network_size(self) -> int:
        """Axes of z that belong to the network, its sparsities included; they come first."""
        return self.architecture_size + len(self.sparsity)

    @property
    def levels(self) -> tuple[float, ...]:
        """All sparsities that some subnet may have, increasing."""
        return tuple(level for choices in self.sparsity for level in choices)

    @property
    def first_levels(self) -> np.ndarray:
        """Where each subnet's sparsities begin in `levels`, [K]."""
        return np.cumsum([0, *map(len, self.sparsity)])[:-1]

    @property
    def steps(self) -> np.ndarray:
        """Choices less one along each axis, [d]."""
        return np.array([len(d.choices) - 1 for d in self.dimensions])

    @property
    def architectures(self) -> int:
        """Discrete architectures in the space, their sparsities not counted."""
        return math.prod(len(d.choices) for d in self.part(self.dimensions, "architecture"))

    @property
    def accelerators(self) -> int:
        """Discrete accelerators in the space."""
        return math.prod(len(d.choices) for d in self.part(self.dimensions, "accelerator"))

    def largest(self) -> Any:
        """The supernet: every elastic dimension at its last choice."""
        return self.architecture_at(self.steps)

    def within(self, network: Any) -> DesignSpace:
        """The part of the space that can be cut out of a network, whose dimensions end it.

        Args:
          network: an architecture, which every design shares but for the elastic dimensions.
        """

        def ended(name: str, choices: TowerChoices) -> TowerChoices:
            tower = self.family.tower(network, name)
            return TowerChoices(
                **{
                    field: (*(c for c in getattr(choices, field) if c < size), size)
                    for field, size in ((field, getattr(tower, field)) for field in ELASTIC)
                }
            )

        towers: Any = {name: ended(name, choices) for name, choices in self.towers.items()}
        return dataclasses.replace(self, base=network, **towers)

    def architecture_at(self, indices: Sequence[int] | np.ndarray) -> Any:
        """Discrete architecture at choice indices [d], or at its own [architecture_size]."""
        axes, own = (self.part(x, "architecture") for x in (self.dimensions, indices))
        values = [int(d.choices[int(i)]) for d, i in zip(axes, own, strict=True)]
        return self.with_dimensions(values)

    def accelerator_at(self, indices: Sequence[int] | np.ndarray) -> Accelerator:
        """Discrete accelerator at choice indices [d], or at its own."""
        axes = self.part(self.dimensions, "accelerator")
        own = indices if len(indices) == len(axes) else self.part(indices, "accelerator")
        return Accelerator(*(d.choices[int(i)] for d, i in zip(axes, own, strict=True)))

    def sparsity_at(self, indices: Sequence[int] | np.ndarray) -> tuple[float, ...]:
        """Sparsities of the subnets at choice indices [>= network_size]."""
        own = self.part(indices, "sparsity")
        return tuple(c[int(i)] for c, i in zip(self.sparsity, own, strict=True))

    def with_dimensions(self, values: Sequence[Any]) -> Any:
        """The architecture of a value for each of its axes, traced or not."""
        towers = {name: Tower(*self.part(values, name)) for name in self.family.towers}
        return self.family.architecture(self.base, towers)

    def relax(self, z: Array) -> tuple[Any, Accelerator]:
        """Continuous design at z [d]: every dimension interpolated between its choices."""
        values = [
            weighted_sum(w, jnp.asarray(d.choices, jnp.float32))
            for w, d in zip(self.weights(z), self.dimensions, strict=True)
        ]
        return (
            self.with_dimensions(self.part(values, "architecture")),
            Accelerator(*self.part(values, "accelerator")),
        )

    def weights(self, z: Array) -> list[Array]:
        """Interpolation weights of each axis at z [d]: vectors [choices] that sum to one."""
        return [interpolation_weights(z[i], len(d.choices)) for i, d in enumerate(self.dimensions)]

    def level_weights(self, z: Array) -> Array:
        """Interpolation weights of every subnet over `levels`, [K, levels] at z [d]."""
        own = self.part(self.weights(z), "sparsity")
        return jnp.stack(
            [
                jnp.zeros(len(self.levels)).at[start : start + len(w)].set(w)
                for start, w in zip(self.first_levels, own, strict=True)
            ]
        )

    def indices(self, z: Array) -> Array:
        """z [..., d] in units of choices: 0 is the first choice, 1.5 halfway to the third."""
        return z * self.steps

    def round(self, z: Array) -> Array:
        """Indices [..., d] of the nearest choices."""
        return jnp.clip(jnp.round(self.indices(z)), 0, self.steps).astype(jnp.int32)

    def encode(self, indices: Array | np.ndarray) -> np.ndarray:
        """z [..., d] of discrete designs given by choice indices [..., d]."""
        return np.asarray(indices) / np.maximum(self.steps, 1)

    def nearest(self, architecture: Any) -> np.ndarray:
        """Choice indices [architecture_size] nearest to an architecture's elastic dimensions."""
        towers = (self.family.tower(architecture, name) for name in self.family.towers)
        values = [getattr(tower, field) for tower in towers for field in ELASTIC]
        axes = self.part(self.dimensions, "architecture")
        return np.array(
            [
                int(np.argmin(np.abs(np.array(d.choices) - v)))
                for d, v in zip(axes, values, strict=True)
            ]
        )


def interpolation_weights(z: Array, choices: int) -> Array:
    """Weights [choices] of linear interpolation at z in [0, 1] over evenly spaced choices.

    At a choice the weight of that choice is exactly one, and the derivative is the
    mean of the slopes on both sides (the one slope there is, at an end): a gradient
    step from a discrete design sees both its neighbours.
    """
    if choices == 1:
        return jnp.ones((1,), jnp.float32)
    index = z * (choices - 1)
    # i / (n - 1) * (n - 1) may miss i by rounding; a choice must be hit exactly.
    nearest = jnp.round(index)
    at_choice = jnp.abs(index - nearest) < AT_CHOICE
    index = index + jax.lax.stop_gradient(jnp.where(at_choice, nearest - index, 0.0))

    def between(lower: Array) -> Array:
        lower = jax.lax.stop_gradient(jnp.clip(lower, 0, choices - 2)).astype(jnp.int32)
        share = index - lower
        return jax.nn.one_hot(lower, choices) * (1 - share) + (
            jax.nn.one_hot(lower + 1, choices) * share
        )

    return 0.5 * (between(jnp.floor(index)) + between(jnp.ceil(index) - 1))
