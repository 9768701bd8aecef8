"""What weights that stay in the global buffer save, and at which rates of inferences.

    python benchmarks/resident_weights.py            a minute on two CPU cores

For a small CLIP as a classifier (no text tower on the device), used all day at several rates: the
least carbon within a latency, and the least energy, when weights come from DRAM for every
inference and when they may stay (`Scenario.resident_weights`), each found exactly on a part of the
wide grid with buffers large enough to hold the network. Then the rate from which memory that stays
awake takes less energy than fetching its contents, by buffer size: both from the technology alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

import codesign as cd
from codesign.cost.technology import glb_leakage_w, technology
from codesign.cost.world import World
from codesign.space import WIDE_GRID
from machine import here

MODEL = "tinyclip-8m-16"
RATES = (1.0, 5.0, 30.0)
LATENCIES_S = (0.0008, 0.001, 0.002, 0.01)
GRID = dataclasses.replace(
    WIDE_GRID, cores=(1, 2, 4), pe_x=(32, 64, 128), glb_mib=(0.5, 1, 2, 4, 8, 16, 32)
)


def searched(rate: float, stay: bool) -> list[dict]:
    """Entries of the best accelerators and of the front of latency and carbon."""
    scenario = cd.Scenario(
        inferences_per_s=rate, hours_per_day=24.0, texts_per_image=0.0, resident_weights=stay
    )
    return list(cd.search_hardware(MODEL, scenario=scenario, space=GRID).designs)


def compared(designs: tuple[list[dict], list[dict]], key: str, latency_s: float) -> str:
    """The least of a cost within a latency when weights may stay, over that when they may not."""
    streamed, stay = (
        min((d for d in of if d["costs"]["latency_s"] <= latency_s), key=lambda d: d["costs"][key])
        for of in designs
    )
    sizes, channels = (
        " -> ".join(f"{d['accelerator'][field]:g}" for d in (streamed, stay))
        for field in ("glb_mib", "channels")
    )
    ratio = stay["costs"][key] / streamed["costs"][key]
    return f"{key} {ratio:.3f} (GLB {sizes} MiB, channels {channels})"


def break_even_per_s(glb_mib: float) -> float:
    """Inferences a second at which a byte's leakage equals its way from the DRAM."""
    chip, scenario = cd.Accelerator(glb_mib=glb_mib), cd.Scenario()
    tech = technology(chip, scenario)
    awake_w = (1 - scenario.gated_leakage) * float(glb_leakage_w(chip, World.of(scenario)))
    fetched_j = 1e-12 * float(tech.read_pj["dram"] + tech.write_pj["glb"]) / scenario.word_bytes
    return awake_w / (glb_mib * 2**20) / fetched_j


def main() -> None:
    print(here())
    print(f"{MODEL}, no text tower, used all day; costs when weights may stay over streamed ones")
    for rate in RATES:
        designs = searched(rate, False), searched(rate, True)
        for latency_s in LATENCIES_S:
            print(
                f"{rate:g}/s, within {1e3 * latency_s:g} ms: "
                f"{compared(designs, 'carbon_kgco2e', latency_s)}",
                flush=True,
            )
        print(f"{rate:g}/s: {compared(designs, 'energy_j', np.inf)}", flush=True)
    for glb_mib in (0.25, 2, 16):
        print(f"break-even at {glb_mib} MiB: {break_even_per_s(glb_mib):.2f} inferences a second")


if __name__ == "__main__":
    main()
