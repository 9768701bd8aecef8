"""How long the columns of an array wait for each other over row-sparse weights.

    python benchmarks/row_balance.py [--family FILE] [--pe_x 64 --pe_y 16 ...]

Every row of a layer keeps equally many weights, so columns that work on whole rows end
together. Where a row is cut into tiles along k, its kept weights fall into them unevenly: a
column either waits at the end of each tile for the fullest one, or the weights are dealt to
tiles evenly and the inputs of neighbouring tiles have to be at hand. The cost model takes the
latter. This prints how much longer the array works in the former: for tiles of half a row and
so on, and for the tiles, and with them the latency, that the mapper chooses on the chip.

Weights lie anywhere in a row, at ViT-B/16's shapes; or where a packed family has them.
docs/cost-model.md quotes it.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.mapper import best_mapping
from codesign.cost.mapping import blocks_of, skipping, tiles_of, work_of
from codesign.cost.schedules import walk_at
from codesign.cost.technology import technology
from codesign.cost.traffic import cycles_of, traffic_of
from codesign.dress.packed import PackedFamily, load_packed
from codesign.scenario import Scenario
from machine import here

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
SHAPES = ((768, 768), (768, 768), (768, 768), (768, 768), (768, 3072), (3072, 768))
CUTS = (1, 2, 4, 8, 16)
TOKENS = 197
SCENARIO = Scenario(index_bits=12)  # rows of up to 4096 weights


class Layer(NamedTuple):
    """Where kept weights are.

    Attributes:
      k: weights of a whole row.
      columns: their places in it, [rows, kept].
    """

    k: int
    columns: np.ndarray

    def array_cycles(self, tile: int, chip: Accelerator) -> int:
        """Of a row of inputs, where columns wait at the end of every tile of k."""
        rows = len(self.columns)
        counts = np.zeros((rows, -(-self.k // tile)), int)
        np.add.at(counts, (np.arange(rows)[:, None], self.columns // tile), 1)
        fullest = np.maximum.reduceat(counts, np.arange(0, rows, chip.pe_x), axis=0)
        return int(np.sum(-(-fullest // chip.pe_y)))

    def balanced_cycles(self, chip: Accelerator) -> int:
        """Of a row of inputs, where weights are dealt evenly."""
        rows, kept = self.columns.shape
        return -(-rows // chip.pe_x) * -(-kept // chip.pe_y)


def anywhere(sparsity: float) -> list[Layer]:
    """A block of ViT-B/16 with random places."""
    rng = np.random.default_rng(0)
    return [
        Layer(k, np.argsort(rng.random((n, k)), axis=1)[:, : round(k * (1 - sparsity))])
        for k, n in SHAPES
    ]


def of_family(family: PackedFamily, subnet: int) -> list[Layer]:
    """All layers of a subnet."""
    return [
        Layer(kernel.spec.sizes(kernel.shape)[2], columns[:, :kept].astype(int))
        for kernel in family.kernels.values()
        for columns, kept in zip(kernel.columns, kernel.counts[subnet], strict=True)
    ]


@jax.jit
def mapped(
    k: jax.Array, n: jax.Array, kept: jax.Array, chip: Accelerator, stretch: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The best mapping's tile along k, and its cycles if the array takes `stretch` as long."""
    work = work_of(TOKENS, k, n, chip, technology(chip, SCENARIO))
    work = skipping(work, kept / k)
    best = best_mapping(work)
    walk = walk_at(best.schedule)
    tiles = tiles_of(work, best.point, walk)
    blocks, _ = blocks_of(walk, work, tiles)
    traffic = traffic_of(walk, work, tiles, blocks)
    traffic = traffic._replace(compute_cycles=traffic.compute_cycles * stretch)
    in_registers = tiles.pes["k"] * work.register_rows
    return jnp.minimum(tiles.k2, in_registers), cycles_of(traffic, work, tiles)


def row(sparsity: float, layers: list[Layer], chip: Accelerator) -> str:
    """Of the table: times the balanced cycles, all layers together."""
    balanced = sum(layer.balanced_cycles(chip) for layer in layers)
    cells = [
        sum(layer.array_cycles(-(-layer.k // cut), chip) for layer in layers) / balanced
        for cut in CUTS
    ]
    array, latency, whole = 0.0, np.zeros(2), 0
    for layer in layers:
        rows, kept = layer.columns.shape
        gemm = (layer.k, rows, kept, chip)
        tile, cycles = mapped(*gemm, 1.0)
        waiting = layer.array_cycles(max(1, int(tile)), chip)
        stretch = waiting / layer.balanced_cycles(chip)
        array += waiting / balanced
        latency += [float(cycles), float(mapped(*gemm, stretch)[1])]
        whole += tile >= layer.k
    cells += [array, latency[1] / latency[0]]
    numbers = " | ".join(f"{x:.2f}" for x in cells)
    return f"| {100 * sparsity:.0f} % | {numbers} | {whole} of {len(layers)} |"


def main() -> None:
    chip = Accelerator()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", help="a packed family, instead of random places")
    for field in dataclasses.fields(chip):
        default = getattr(chip, field.name)
        parser.add_argument(f"--{field.name}", type=type(default), default=default)
    args = vars(parser.parse_args())
    path = args.pop("family")
    chip = Accelerator(**args)
    print(f"{here()}; {chip}; {TOKENS} tokens\n")
    cuts = " | ".join("whole rows" if cut == 1 else f"1/{cut}" for cut in CUTS)
    print(f"| zeros | {cuts} | mapper's tiles | latency | layers of whole rows |")
    print("|---|" + "---:|" * (len(CUTS) + 3))
    if path is None:
        for sparsity in SPARSITIES:
            print(row(sparsity, anywhere(sparsity), chip))
        return
    family = load_packed(path)
    for subnet, sparsity in enumerate(family.sparsities):
        print(row(sparsity, of_family(family, subnet), chip))


if __name__ == "__main__":
    main()
