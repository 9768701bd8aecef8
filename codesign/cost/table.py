"""Exact costs of every design of a space, tabulated by what they are made of.

A CLIP's costs are sums over operators, and across a space few operators differ:
a feed-forward product depends on width and hidden units alone. So each distinct
GEMM is mapped once per accelerator, and a tower's table is a sum of look-ups.

The table is also the differentiable cost model of the joint search: contracted with
the space's interpolation weights it is the multilinear interpolation of the exact
discrete costs, equal to them at every discrete design, continuous between, and its
gradient is a difference of true costs of neighbouring designs. Equivalently, it is
the expected cost when every dimension is rounded up or down at random.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import ELASTIC, Tower
from codesign.cost.capacity import contents_bytes
from codesign.cost.chips import accelerator_grid, run_on, technologies
from codesign.cost.execution import Execution
from codesign.cost.model import Chip, Costs, Stored, costs_of
from codesign.cost.world import World
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices, DesignSpace
from codesign.weighted import weighted_sum
from codesign.workload import Workload
from codesign.workload.blocks import repeated
from codesign.workload.memory import Memory

Array = jax.Array
# Accelerators whose operators are held one by one; of more, only sums are: a few kB each.
ACCELERATORS_AT_ONCE = 1 << 14


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CostTable:
    """Costs of all designs of a space; A is the shape [cores, pe_x, ...] of its accelerators.

    Attributes:
      layer: per tower, one transformer block, static energy included: [width, heads, ffn, *A].
      outside: per tower, everything outside the blocks: [width, *A].
      chip: area and peak of the accelerators, [*A].
      density: share of the blocks' weights that are kept.
      scenario: what the carbon is computed with.
      space: the space.
    """

    layer: dict[str, Execution]
    outside: dict[str, Execution]
    chip: Chip
    density: Any
    scenario: Scenario = dataclasses.field(metadata={"static": True})
    space: DesignSpace = dataclasses.field(metadata={"static": True})

    @property
    def accelerators(self) -> int:
        """How many there are."""
        return math.prod(self.chip.tops.shape)

    def relaxed(self, z: Array, stored: Stored | None = None) -> Costs:
        """Costs at a relaxed design z [d]: multilinear between the discrete designs.

        Args:
          z: the design.
          stored: what the device stores; None: this network alone.
        """
        if stored is None:
            stored = self.stored(z)
        space, weights = self.space, self.space.weights(z)
        on_chip = _neighbours(space.part(weights, "accelerator"))

        def tower(name: str) -> Execution:
            layers, *block = space.part(weights, name)
            number = weighted_sum(layers, jnp.asarray(space.towers[name].layers, jnp.float32))
            shape, width = _neighbours(block), _neighbours(block[:1])
            inside = self.layer[name].map(lambda x: number * _interpolate(x, shape, on_chip))
            return inside.then(self.outside[name].map(lambda x: _interpolate(x, width, on_chip)))

        chip = jax.tree.map(lambda x: _interpolate(x, on_chip), self.chip)
        run = functools.reduce(Execution.then, map(tower, space.towers))
        return costs_of(run, chip, self.scenario, stored).totals()

    def stored(self, z: Array) -> Stored:
        """What the device of a relaxed design z [d] stores: multilinear, as all costs."""
        space, weights = self.space, self.space.weights(z)
        near = {name: _near(space, name, weights) for name in space.towers}
        shares = [*(share for _, share in near.values()), space.part(weights, "accelerator")[-1]]
        # One axis a tower, the last one that of the channels.
        spread = {
            name: jax.tree.map(lambda x, i=i: jnp.expand_dims(x, _others(i, len(shares))), tower)
            for i, (name, (tower, _)) in enumerate(near.items())
        }
        architecture = space.family.architecture(space.base, spread)
        channels = jnp.asarray(space.accelerator.channels, jnp.float32)
        every = self._stored(space.family.memory(architecture, self.scenario), channels)

        def mean(of_each: Array) -> Array:
            left = jnp.broadcast_to(of_each, [len(share) for share in shares])
            for share in reversed(shares):
                left = weighted_sum(left, share)
            return left

        return Stored(*map(mean, every))

    def stored_on_every_accelerator(self, indices: Array) -> Stored:
        """What devices [accelerators] store of the architecture at choice indices."""
        space = self.space
        values = [
            jnp.asarray(d.choices)[i]
            for d, i in zip(
                space.part(space.dimensions, "architecture"),
                space.part(indices, "architecture"),
                strict=True,
            )
        ]
        memory = space.family.memory(space.with_dimensions(values), self.scenario)
        return self._stored(memory, self.chip.channels.reshape(-1))

    def _stored(self, memory: Memory, channels: Array) -> Stored:
        contents = contents_bytes(memory, self.scenario, self.density)
        return dataclasses.replace(self.chip, channels=channels).stored(contents, self.scenario)

    def on_every_accelerator(self, indices: Array, stored: Stored | None = None) -> Costs:
        """Costs [accelerators] of the architecture at choice indices [>= architecture_size].

        Args:
          indices: of the choices.
          stored: what the devices store, [accelerators]; None: this network alone.
        """
        if stored is None:
            stored = self.stored_on_every_accelerator(indices)
        space = self.space

        def tower(name: str) -> Execution:
            layer, width, heads, ffn = space.part(indices, name)
            layers = jnp.asarray(space.towers[name].layers, jnp.float32)[layer]
            inside = self.layer[name].map(lambda x: layers * x[width, heads, ffn])
            return inside.then(self.outside[name].map(lambda x: x[width]))

        run = functools.reduce(Execution.then, map(tower, space.towers))
        run, chip = jax.tree.map(lambda x: jnp.reshape(x, -1), (run, self.chip))
        return costs_of(run, chip, self.scenario, stored).totals()

    def on_accelerator(self, indices: Array, flat: int) -> Costs:
        """Costs of the architecture at choice indices on one accelerator, by its flat index."""
        return costs_at(self.on_every_accelerator(indices), flat)

    def accelerator_indices(self, flat: Array) -> Array:
        """Choice indices [..., fields] of accelerators given by flat index [...]."""
        return jnp.stack(jnp.unravel_index(flat, self.chip.tops.shape), axis=-1)


def costs_at(costs: Costs, index: int) -> Costs:
    """One of many costs, [n]."""
    one: Costs = jax.tree.map(lambda x: x[index], costs)
    return one


class _Neighbours(NamedTuple):
    """Discrete designs around a relaxed one, along some dimensions.

    Attributes:
      first: index of the first choice of each dimension.
      sizes: how many consecutive ones there are, at most 3.
      weights: of all their combinations, in row-major order, [product of the sizes].
    """

    first: list[Array]
    sizes: list[int]
    weights: Array


def _near(space: DesignSpace, name: str, weights: Sequence[Array]) -> tuple[Tower, Array]:
    """A tower's designs around a relaxed one, leaves [N], and their weights [N]."""
    near = _neighbours(space.part(weights, name))
    values = [
        jax.lax.dynamic_slice_in_dim(
            jnp.asarray(getattr(space.towers[name], field), jnp.float32), first, size
        )
        for field, first, size in zip(ELASTIC, near.first, near.sizes, strict=True)
    ]
    every = [x.ravel() for x in jnp.meshgrid(*values, indexing="ij")]
    return Tower(*every), near.weights


def _others(axis: int, ranks: int) -> tuple[int, ...]:
    """All of so many axes but one."""
    return tuple(i for i in range(ranks) if i != axis)


def _neighbours(weights: Sequence[Array]) -> _Neighbours:
    """The choices that weigh anything, or whose weights have a derivative, out of [n] each."""
    sizes = [min(3, len(w)) for w in weights]
    first = [
        jnp.clip(jnp.argmax(w) - 1, 0, len(w) - size)
        for w, size in zip(weights, sizes, strict=True)
    ]
    near = map(jax.lax.dynamic_slice_in_dim, weights, first, sizes)
    return _Neighbours(first, sizes, functools.reduce(jnp.multiply.outer, near).ravel())


def _interpolate(values: Array, *parts: _Neighbours) -> Array:
    """Sum over the neighbours along all dimensions of values [n, ...], times their weights."""
    first = [index for part in parts for index in part.first]
    sizes = [size for part in parts for size in part.sizes]
    near = jax.lax.dynamic_slice(values, first, sizes).reshape([len(p.weights) for p in parts])
    for part in reversed(parts):
        near = weighted_sum(near, part.weights)
    return near


class _Operators(NamedTuple):
    """All that networks of a space are made of.

    Attributes:
      names: of the towers.
      shapes: of each tower's blocks, [width, heads, ffn].
      workloads: of each tower's blocks, then what is outside each tower's blocks.
    """

    names: tuple[str, ...]
    shapes: Sequence[tuple[int, ...]]
    workloads: list[Workload]

    def table_parts(
        self, executed: list[Execution], chip_shape: Sequence[int]
    ) -> dict[str, dict[str, Execution]]:
        """The executions [D, A] of the workloads, as parts of a table: `layer` and `outside`.

        The list is emptied on the way, so that a large table is there once.
        """
        towers, shapes = self.names, (*self.shapes, *((-1,) for _ in self.names))
        shaped = []
        for shape in shapes:
            run, whole = executed.pop(0), (*shape, *chip_shape)
            shaped.append(run.map(functools.partial(_reshaped, shape=whole)))
        return {
            "layer": dict(zip(towers, shaped[: len(towers)], strict=True)),
            "outside": dict(zip(towers, shaped[len(towers) :], strict=True)),
        }


def _reshaped(x: Any, shape: Sequence[int]) -> Array:
    """A JAX array of another shape; NumPy's are copied once."""
    return jnp.asarray(x.reshape(tuple(shape)))


def _operators(space: DesignSpace, world: World, density: float) -> _Operators:
    blocks, rest, shapes = [], [], []
    for name, choices in space.towers.items():
        w, h, f = np.meshgrid(choices.width, choices.heads, choices.ffn, indexing="ij")
        shapes.append(w.shape)
        every = Tower(1, *(jnp.asarray(x.ravel()) for x in (w, h, f)))
        runs = space.family.runs(name, world.scenario)
        block = space.family.block(space.base, name, every, density)
        around = space.family.outside(space.base, name, jnp.asarray(choices.width))
        blocks.append(repeated(block, runs).under(world.costing))
        rest.append(repeated(around, runs).under(world.costing))
    return _Operators(tuple(space.towers), shapes, [*blocks, *rest])


def build_table(space: DesignSpace, scenario: Scenario, density: float = 1) -> CostTable:
    """Maps every distinct operator of the space on every accelerator of it.

    It takes little more memory than the table, `table_bytes`: operators are held one by one of
    `ACCELERATORS_AT_ONCE` alone.

    Args:
      space: the space.
      scenario: where and how designs live.
      density: share of the blocks' weights that are kept.

    Raises:
      ValueError: an accelerator whose buffers are too small for some operator.
    """
    chips = accelerator_grid(space.accelerator)
    chip_shape = [len(d.choices) for d in space.part(space.dimensions, "accelerator")]
    world = World.of(scenario)
    operators = _operators(space, world, density)
    executed = _run_in_blocks(operators.workloads, chips, world)
    _check_fits(executed, chips)
    grid = jax.tree.map(lambda x: jnp.asarray(x).reshape(chip_shape), chips)
    return CostTable(
        **operators.table_parts(executed, chip_shape),
        chip=Chip.of(grid, world).merged(),
        density=jnp.float32(density),
        scenario=scenario,
        space=space,
    )


def table_bytes(space: DesignSpace, scenario: Scenario) -> int:
    """Bytes of a space's `CostTable`: cycles and energy of every block, and the chips, float32."""
    sums = sum(len(t.width) * (len(t.heads) * len(t.ffn) + 1) for t in space.towers.values())
    ways, of_retention = (2, 2) if World.of(scenario).resident_weights else (1, 0)
    return 4 * space.accelerators * (2 * ways * sums + _CHIP_NUMBERS + of_retention) + 4


# Area, peak, channels, packages and leakage.
_CHIP_NUMBERS = 5


def _run_in_blocks(
    workloads: Sequence[Workload], chips: Accelerator, world: World
) -> list[Execution]:
    """`run_on` accelerators [A], so many at a time that their operators fit into memory."""
    number = len(chips.cores)
    if number <= ACCELERATORS_AT_ONCE:
        return run_on(workloads, chips, technologies(chips, world))
    whole: list[Execution] = []
    for start in range(0, number, ACCELERATORS_AT_ONCE):
        block = _Block.of(chips, np.arange(start, min(number, start + ACCELERATORS_AT_ONCE)))
        runs = block.run(workloads, world)
        if not whole:
            whole = [run.map(lambda x: np.empty((x.shape[0], number), np.float32)) for run in runs]
        for into, run in zip(whole, runs, strict=True):
            for kept, new in zip(*map(jax.tree.leaves, (into, run)), strict=True):
                kept[:, start : start + block.size] = np.asarray(new)[:, : block.size]
    return whole


class _Block(NamedTuple):
    """Some accelerators of a grid, in arrays of one length, so that one program runs on all blocks.

    Attributes:
      size: how many are asked for; the last one is there several times behind them.
      places: where they are in the grid, [ACCELERATORS_AT_ONCE], increasing.
      chips: leaves [ACCELERATORS_AT_ONCE].
    """

    size: int
    places: np.ndarray
    chips: Accelerator

    @classmethod
    def of(cls, chips: Accelerator, places: np.ndarray) -> _Block:
        """Those at some places of a grid, at most `ACCELERATORS_AT_ONCE`."""
        padded = np.pad(places, (0, ACCELERATORS_AT_ONCE - len(places)), mode="edge")
        return cls(len(places), padded, jax.tree.map(lambda x: x[padded], chips))

    def run(self, workloads: Sequence[Workload], world: World) -> list[Execution]:
        """Execution [D, ACCELERATORS_AT_ONCE] of workloads."""
        return run_on(workloads, self.chips, technologies(self.chips, world))


@dataclasses.dataclass(frozen=True)
class BlockedTable:
    """A table that is never whole in memory: mapped anew, block by block, each time it is read.

    For what looks at each accelerator once, such as the best one of every network. Where they are
    asked for as often as in a joint search, `build_table` is the way.

    Attributes:
      space: the space.
      scenario: where and how designs live.
      density: share of the blocks' weights that are kept.
    """

    space: DesignSpace
    scenario: Scenario
    density: float = 1

    def blocks(
        self, wanted: Callable[[Chip], Any] | None = None
    ) -> Iterator[tuple[np.ndarray, CostTable]]:
        """Tables of all accelerators in turn, and where in the grid they are, [A] of each block.

        The last one may be there several times. Accelerators that fit some operator of the space
        nowhere are there too, with infinities.

        Args:
          wanted: of chips [A], which are asked for at all; the others are not mapped.
        """
        world, chips = World.of(self.scenario), accelerator_grid(self.space.accelerator)
        made = Chip.of(jax.tree.map(jnp.asarray, chips), world).merged()
        places = np.arange(self.space.accelerators)
        if wanted is not None:
            places = np.flatnonzero(np.broadcast_to(np.asarray(wanted(made)), places.shape))
        operators = _operators(self.space, world, self.density)
        for start in range(0, len(places), ACCELERATORS_AT_ONCE):
            block = _Block.of(chips, places[start : start + ACCELERATORS_AT_ONCE])
            at = block.places
            yield (
                at,
                CostTable(
                    **operators.table_parts(block.run(operators.workloads, world), at.shape),
                    chip=jax.tree.map(lambda x, at=at: x[at], made),
                    density=jnp.float32(self.density),
                    scenario=self.scenario,
                    space=self.space,
                ),
            )

    def on_accelerator(self, indices: Array, flat: int) -> Costs:
        """Costs of the architecture at choice indices on one accelerator, by its flat index."""
        only = self.space.accelerator_at(self.accelerator_indices(np.asarray(flat)))
        choices = AcceleratorChoices(*((x,) for x in jax.tree.leaves(only)))
        space = dataclasses.replace(self.space, accelerator=choices)
        return build_table(space, self.scenario, self.density).on_accelerator(indices, 0)

    def accelerator_indices(self, flat: Any) -> np.ndarray:
        """Choice indices [..., fields] of accelerators given by flat index [...]."""
        shape = [len(d.choices) for d in self.space.part(self.space.dimensions, "accelerator")]
        return np.stack(np.unravel_index(np.asarray(flat), shape), axis=-1)


def _check_fits(runs: Sequence[Execution], chips: Accelerator) -> None:
    """Raises ValueError where a workload has no mapping: infinities do not interpolate."""
    fits = np.logical_and.reduce([np.isfinite(run.cycles).all(axis=0) for run in runs])
    if not fits.all():
        first = jax.tree.map(lambda x: float(x[np.argmin(fits)]), chips)
        raise ValueError(
            f"space.accelerator: {np.sum(~fits)} of {len(fits)} accelerators have buffers too "
            f"small for some operator, the first {first}: raise l2_kib or glb_mib"
        )
