"""Fit the SRAM laws of codesign/cost/sram.py to the CACTI table and print the errors.

Every fourth row is held out of the fit. `--write` stores the coefficients in
codesign/cost/data/sram_law_22nm.csv.
"""

from __future__ import annotations

import argparse
import importlib.resources
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from codesign.cost import sram

TABLE = importlib.resources.files("codesign.cost.data") / "sram_cacti_22nm.csv"
STARTS = 40
LAWS: dict[str, tuple[Callable, list[float]]] = {
    "read_pj_per_access": (sram.access_law, [-3, 0, -1, -0.5, -0.7, -1, -0.7]),
    "write_pj_per_access": (sram.access_law, [-3, 0, -1, -0.5, -0.7, -1, -0.7]),
    "area_mm2": (sram.area_law, [-7, 0, -2]),
    "leakage_mw": (sram.leakage_law, [-8, 0, -9, -2]),
}


def fit(law: Callable, start: list[float], capacity: np.ndarray, width: np.ndarray,
        target: np.ndarray) -> np.ndarray:
    """Coefficients that minimise a robust error of the logarithm; all positive."""
    def error(log_p: np.ndarray) -> np.ndarray:
        return np.log(law(np.exp(log_p), capacity, width)) - np.log(target)

    rng = np.random.default_rng(0)
    bounds = (-30.0, np.log(8.0))
    tries = [
        least_squares(error, np.clip(start + rng.normal(0, 0.5, len(start)), *bounds),
                      bounds=bounds, loss="soft_l1", f_scale=0.1)
        for _ in range(STARTS)
    ]
    return np.exp(min(tries, key=lambda t: t.cost).x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    rows = np.genfromtxt(str(TABLE), delimiter=",", names=True, skip_header=2)
    capacity, width = rows["capacity_bytes"] / 1024, rows["width_bits"] / 8
    held = np.arange(len(rows)) % 4 == 1
    lines = ["# Coefficients of the laws of codesign/cost/sram.py, fitted to sram_cacti_22nm.csv",
             "# by benchmarks/fit_sram.py.", "quantity,coefficients"]
    for quantity, (law, start) in LAWS.items():
        p = fit(law, start, capacity[~held], width[~held], rows[quantity][~held])
        error = law(p, capacity, width) / rows[quantity] - 1
        print(f"{quantity:20} MAPE fitted {100 * abs(error[~held]).mean():5.1f} %, "
              f"held out {100 * abs(error[held]).mean():5.1f} %, "
              f"bias {100 * error.mean():+5.1f} %, "
              f"worst {100 * abs(error).max():5.1f} %")
        lines.append(f"{quantity},{' '.join(f'{x:.6g}' for x in p)}")
    if write:
        Path(str(TABLE)).with_name("sram_law_22nm.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
