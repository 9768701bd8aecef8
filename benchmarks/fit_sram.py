"""Fit the SRAM laws of codesign/cost/sram.py to the CACTI tables and print the errors.

The laws have a coefficient at each power of two and are fitted to the 78 arrays whose
capacity is one; the 36 arrays between (6, 12, 24 ... KiB) are held out. The ratios of
other nodes to 22 nm are geometric means over the arrays of 64 KiB and more. `--write`
stores both in codesign/cost/data, sram_law_22nm.csv and sram_scaling.csv.
"""

from __future__ import annotations

import argparse
import importlib.resources
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from codesign.cost import sram

DATA = importlib.resources.files("codesign.cost.data")
# Weight of squared second differences: enough to settle what the arrays leave open, too
# little to move the law from them (under 1 % on average).
SMOOTHNESS = 1e-3
SHAPE = (len(sram.CAPACITIES_KIB), len(sram.WIDTHS_BYTES))


def read(name: str) -> np.ndarray:
    """A table of cost/data by column."""
    lines = (DATA / f"{name}.csv").read_text().splitlines()
    return np.genfromtxt([x for x in lines if x[0] != "#"], delimiter=",", names=True)


def bumps(position: np.ndarray, count: int) -> np.ndarray:
    """Bumps [N, count] that the coefficients weigh, the straight continuation folded in."""
    wide = np.asarray(sram.bumps(position + 1, count + 2), float)
    inner = wide[:, 1:-1].copy()
    for end, edge, step in ((0, 0, 1), (-1, -1, -2)):
        inner[:, edge] += 2 * wide[:, end]
        inner[:, step] -= wide[:, end]
    return inner


def design_matrix(capacity_kib: np.ndarray, width_bytes: np.ndarray) -> np.ndarray:
    """What each coefficient adds to the logarithm of each array [N, coefficients]."""
    by_capacity = bumps(np.log2(capacity_kib / sram.CAPACITIES_KIB[0]), SHAPE[0])
    by_width = bumps(np.log2(width_bytes / sram.WIDTHS_BYTES[0]), SHAPE[1])
    return np.einsum("nc,nw->ncw", by_capacity, by_width).reshape(len(capacity_kib), -1)


def differences(order: int) -> np.ndarray:
    """Differences of that order between neighbouring coefficients, along either axis."""
    each = np.eye(np.prod(SHAPE)).reshape(*SHAPE, -1)
    return np.concatenate(
        [np.diff(each, order, axis=axis).reshape(-1, each.shape[-1]) for axis in (0, 1)]
    )


def fit(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rising coefficients of least squared error of the logarithm, [capacities, widths]."""
    rises, bends = differences(1), differences(2)
    curvature = matrix.T @ matrix + SMOOTHNESS * bends.T @ bends
    pull = matrix.T @ target
    start = np.add.outer(0.8 * np.arange(SHAPE[0]), 0.8 * np.arange(SHAPE[1])).ravel()
    best = minimize(
        lambda p: 0.5 * p @ curvature @ p - pull @ p,
        start - start.mean() + target.mean(),
        jac=lambda p: curvature @ p - pull,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda p: rises @ p, "jac": lambda p: rises},
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    assert best.success, best.message
    # Rounding of the optimiser: no step may go down, not even by 1e-15.
    grid = best.x.reshape(SHAPE)
    return np.maximum.accumulate(np.maximum.accumulate(grid, axis=0), axis=1)


def of_the_grid(capacity: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The arrays of the design grid: L2 of 64 KiB to 1 MiB, GLB of 2 to 8 MiB."""
    whole = np.log2(capacity) % 1 == 0
    l2 = (capacity >= 64) & (capacity <= 1024) & (width >= 32)
    return whole & (l2 | ((capacity >= 2048) & (capacity <= 8192) & (width == 64)))


def node_ratios(quantity: str, arrays: np.ndarray, others: np.ndarray) -> dict[int, float]:
    """Geometric mean of a quantity at 32 and 45 nm over the same at 22 nm."""
    at_22 = {row["capacity_bytes"]: row[quantity] for row in arrays if row["width_bits"] == 64}
    return {
        node: float(
            np.exp(
                np.mean(
                    [
                        np.log(row[quantity] / at_22[row["capacity_bytes"]])
                        for row in others
                        if row["node_nm"] == node and row["capacity_bytes"] >= 65536
                    ]
                )
            )
        )
        for node in (32, 45)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    arrays, others = read("sram_cacti_22nm"), read("sram_cacti_32_45nm")
    capacity, width = arrays["capacity_bytes"] / 1024, arrays["width_bits"] / 8
    matrix = design_matrix(capacity, width)
    held, grid = np.log2(capacity) % 1 != 0, of_the_grid(capacity, width)
    sizes = ",".join(f"{c:g}" for c in sram.CAPACITIES_KIB)
    law = [
        "# Coefficients of the laws of codesign/cost/sram.py by access width (rows, bytes) and",
        "# capacity (columns, KiB), fitted to sram_cacti_22nm.csv by benchmarks/fit_sram.py.",
        f"quantity,width_bytes,{sizes}",
    ]
    scaling: dict[int, dict[str, float]] = {22: {}, 32: {}, 45: {}}
    for quantity in sram.QUANTITIES:
        target = np.log2(arrays[quantity])
        coefficients = fit(matrix[~held], target[~held])
        error = np.exp2(matrix @ coefficients.ravel() - target) - 1
        print(
            f"{quantity:20}"
            + "; ".join(
                f"{name} mean {100 * abs(error[some]).mean():4.1f} % worst "
                f"{100 * abs(error[some]).max():3.0f} %"
                for name, some in (("fitted", ~held), ("held out", held), ("design grid", grid))
            )
            + f"; bias {100 * error.mean():+.1f} %"
        )
        for column, bytes_ in zip(coefficients.T, sram.WIDTHS_BYTES, strict=True):
            values = ",".join(f"{x:.6g}" for x in np.exp2(column))
            law.append(f"{quantity},{bytes_:g},{values}")
        ratios = {22: 1.0} | node_ratios(quantity, arrays, others)
        print(f"{'':20}32 nm {ratios[32]:.3f}, 45 nm {ratios[45]:.3f} of 22 nm")
        for node, ratio in ratios.items():
            scaling[node][quantity] = ratio
    if write:
        Path(str(DATA / "sram_law_22nm.csv")).write_text("\n".join(law) + "\n")
        lines = [
            "# SRAM at other nodes over 22 nm: geometric means of sram_cacti_32_45nm.csv over",
            "# sram_cacti_22nm.csv at 64 KiB and more, by benchmarks/fit_sram.py.",
            "node_nm," + ",".join(sram.QUANTITIES),
            *(f"{n}," + ",".join(f"{x:.5g}" for x in by.values()) for n, by in scaling.items()),
        ]
        Path(str(DATA / "sram_scaling.csv")).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
