"""CATransformers' published comparisons under its own costing and under ours.

    python benchmarks/costings.py

First the published rows on their published accelerators, under both costings; then each
model on its own best accelerator within the reference's limits, found exactly under either
costing, on the wide grid and on the reference's, and priced under ours. At last what a global
buffer that keeps all weights from one inference to the next would take. docs/cost-model.md
quotes the output.
"""

from __future__ import annotations

import dataclasses
import math

import jax

from codesign import Accelerator, Architecture, Scenario, Tower, estimate
from codesign.cost.capacity import contents_bytes
from codesign.cost.carbon import chip_kgco2e, use_grid_g_per_kwh, wafer_kgco2e_per_mm2
from codesign.cost.catransformers import fold_batch, swap_attention
from codesign.cost.dram import port
from codesign.cost.execution import total
from codesign.cost.model import run_workload
from codesign.cost.technology import Technology, area_breakdown_mm2, leakage_w, technology
from codesign.cost.world import World
from codesign.costing import CATRANSFORMERS, PHYSICAL, Costing, costing_of, default_scenario
from codesign.search.hardware import HardwareSearch, search_hardware
from codesign.search.objectives import Limits
from codesign.space import PUBLISHED_GRID, WIDE_GRID, AcceleratorChoices
from codesign.workload import clip_workload, load_model
from machine import here

COSTINGS = ("physical", "catransformers")
B_TEXT, B_VISION = Tower(12, 512, 8, 2048), Tower(12, 768, 12, 3072)
# arXiv 2505.01386: name, vision, text, patch, accelerator, kgCO2e, ms.
PUBLISHED = (
    ("CLIP-B/16", B_VISION, B_TEXT, 16, (1, 256, 8, 64, 128, 2), 0.54, 18.5),
    ("CLIP-B/16, two cores", B_VISION, B_TEXT, 16, (2, 256, 16, 256, 128, 4), 0.69, 5.4),
    ("CLIP-B/32", B_VISION, B_TEXT, 32, (1, 32, 32, 64, 64, 2), 0.42, 15.1),
    (
        "CarbonCLIP-S",
        Tower(8, 672, 6, 1920),
        Tower(6, 512, 6, 1024),
        16,
        (1, 256, 4, 64, 64, 2),
        0.36,
        12.0,
    ),
)
MODELS = (
    "clip-vit-b-16",
    "clip-vit-b-32",
    "tinyclip-39m-16",
    "tinyclip-8m-16",
    "carbonclip-xs",
    "carbonclip-s",
    "carbonclip-xl",
)
# The reference's search limits.
LIMITS = Limits(latency_s=0.05, area_mm2=31.99, tops=20.48)


def scenario(costing: str) -> Scenario:
    return default_scenario(costing) if costing == "catransformers" else Scenario()


def published_rows() -> None:
    print("\n| design | published | catransformers | physical | embodied share, physical |")
    print("|---|---|---|---|---|")
    totals = {}
    for name, vision, text, patch, chip, carbon, latency_ms in PUBLISHED:
        clip = Architecture(vision, text, patch=patch, activation="quick_gelu")
        cells = [f"{carbon:.2f} kg, {latency_ms:.1f} ms"]
        for costing in reversed(COSTINGS):
            c = estimate(clip, Accelerator(*chip), scenario(costing))
            cells.append(f"{c.carbon_kgco2e:.3f} kg, {1e3 * c.latency_s:.1f} ms")
            totals[name, costing] = c.carbon_kgco2e
        cells.append(f"{100 * c.embodied_kgco2e / c.carbon_kgco2e:.0f} %")
        print(f"| {name} | " + " | ".join(cells) + " |")
    saved = {
        costing: 100 * (1 - totals["CarbonCLIP-S", costing] / totals["CLIP-B/16", costing])
        for costing in COSTINGS
    }
    print(
        "\nCarbonCLIP-S saves of CLIP-B/16's carbon: published 33 %, "
        + ", ".join(f"{costing} {share:.0f} %" for costing, share in saved.items())
    )


def searched(name: str, costing: str, choices: AcceleratorChoices) -> HardwareSearch:
    where = scenario(costing)
    model = load_model(name)
    workload = model.operators.under(costing_of(where))
    contents = float(contents_bytes(model.memory, where))
    limits = LIMITS if len(choices.cores) > 1 else Limits()
    return search_hardware(workload, choices, where, limits, ("carbon",), contents=contents)


def best_hardware() -> None:
    grids = dict(zip(COSTINGS, (WIDE_GRID, PUBLISHED_GRID), strict=True))
    print("\n| model | costing | least-carbon accelerator | kgCO2e | of it in use | ms | mm2 |")
    print("|---|---|---|---|---|---|---|")
    regret = []
    for name in MODELS:
        chosen = {}
        for costing, grid in grids.items():
            search = searched(name, costing, grid)
            chosen[costing] = chip, c = search.at(search.best["carbon"])
            cores, *rest = dataclasses.astuple(chip)
            print(
                f"| {name} | {costing} | {cores} x {rest[0]} x {rest[1]}, L2 {rest[2]} KiB at "
                f"{rest[3]}, GLB {rest[4]} MiB, DRAM x{rest[5]} | {c.carbon_kgco2e:.3f} "
                f"| {100 * c.operational_kgco2e / c.carbon_kgco2e:.0f} % "
                f"| {1e3 * c.latency_s:.1f} | {c.area_mm2:.2f} |",
                flush=True,
            )
        theirs, best = chosen["catransformers"][0], chosen["physical"][1]
        alone = AcceleratorChoices(*((x,) for x in dataclasses.astuple(theirs)))
        _, priced = searched(name, "physical", alone).at(0)
        regret.append(
            (name, 100 * (priced.carbon_kgco2e / best.carbon_kgco2e - 1), 1e3 * priced.latency_s)
        )
    print("\nThe reference's choice priced physically: total carbon above the best, and latency")
    for name, more, latency_ms in regret:
        print(f"  {name}: +{more:.1f} %, {latency_ms:.1f} ms")


def resident_weights() -> None:
    """What a GLB for all weights of a model costs, and what it would save of DRAM reads."""
    where, small = Scenario(), Accelerator(2, 32, 16, 4, 64, 0.25, 2)
    world = World.of(where)
    print(
        "\n| model | GLB, MiB | mm2 more | g more | leaks, mW | saved an inference, mJ "
        "| pays in energy from | in carbon from |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in MODELS:
        weights = load_model(name).memory.weights * where.word_bytes
        mib = 2.0 ** math.ceil(math.log2(weights / 2**20))
        chips = [dataclasses.replace(small, glb_mib=x) for x in (small.glb_mib, mib)]
        less, more = (total(area_breakdown_mm2(chip, where)) for chip in chips)
        grams = 1e3 * float(chip_kgco2e(more, where) - chip_kgco2e(less, where))
        leaks_w = float(leakage_w(chips[1], world) - leakage_w(chips[0], world))
        saved_j = float(weights * port(small, where).access_pj) * 1e-12
        # Energy: the GLB stays awake. Carbon: over the life, from which its leakage goes off.
        life_s = where.lifetime_inferences / where.inferences_per_s
        g_per_j = use_grid_g_per_kwh(where) / 3.6e6
        rate = (grams / (life_s * g_per_j) + leaks_w) / saved_j
        print(
            f"| {name} | {mib:g} | {float(more - less):.1f} | {grams:.0f} | {1e3 * leaks_w:.1f} "
            f"| {1e3 * saved_j:.2f} | {leaks_w / saved_j:.1f}/s | {rate:.0f}/s |"
        )


# Conventions that stand or fall together, by the fields of Costing.
CONVENTIONS = {
    "wiring and padding": ("wiring", "sizes"),
    "double buffering": ("buffer_copies",),
    "columns sum register blocks": ("array_passes",),
    "32-bit partial sums": ("wide_sums",),
    "first and last tiles take time": ("fill_and_drain",),
    "L2 bandwidth felt": ("l2_cycles",),
    "weights pass through L2": ("weights_bypass",),
    "no minimum of L2": ("l2_kib",),
    "vector operators: steps, lanes, traffic": ("vector_steps", "vector_costs"),
    "activations wait in the GLB": ("hands_over",),
}


def one_convention_at_a_time() -> None:
    """CLIP-B/16 under the reference's costing with one convention at a time exchanged."""
    _, vision, text, patch, chip, *_ = PUBLISHED[0]
    clip = Architecture(vision, text, patch=patch, activation="quick_gelu")
    accelerator = Accelerator(*map(float, chip))
    where = scenario("catransformers")
    theirs, ours = technology(accelerator, where), technology(accelerator, Scenario())

    def priced(tech: Technology, costing: Costing) -> tuple[float, float]:
        run = jax.jit(run_workload)(
            clip_workload(clip, costing), accelerator, dataclasses.replace(tech, costing=costing)
        )
        energy_pj = sum(run.energy_pj.values()) + tech.static_pj * run.cycles
        return float(run.cycles) / where.clock_hz, float(energy_pj) * 1e-12

    latency_s, energy_j = priced(theirs, CATRANSFORMERS)
    print("\n| exchanged for ours | latency | energy |\n|---|---|---|")
    cases = {
        name: (
            theirs,
            dataclasses.replace(
                CATRANSFORMERS, **{field: getattr(PHYSICAL, field) for field in fields}
            ),
        )
        for name, fields in CONVENTIONS.items()
    }
    for name, rule in (
        ("attention's true dimensions", swap_attention),
        ("heads one by one", fold_batch),
    ):
        rest = tuple(other for other in CATRANSFORMERS.products if other is not rule)
        cases[name] = theirs, dataclasses.replace(CATRANSFORMERS, products=rest)
    cases["energy per event, static energy"] = ours, CATRANSFORMERS
    cases["all of these"] = ours, PHYSICAL
    for name, (tech, costing) in cases.items():
        t, e = priced(tech, costing)
        time, energy = 100 * (t / latency_s - 1), 100 * (e / energy_j - 1)
        print(f"| {name} | {time:+.1f} % | {energy:+.1f} % |")
    print("\n| chip area, mm2 | catransformers | physical |\n|---|---|---|")
    areas = [area_breakdown_mm2(accelerator, s) for s in (where, Scenario())]
    for part in areas[0]:
        print(f"| {part} | " + " | ".join(f"{float(a[part]):.3f}" for a in areas) + " |")
    used = where.lifetime_inferences * use_grid_g_per_kwh(where)
    ratio = used / (Scenario().lifetime_inferences * use_grid_g_per_kwh(Scenario()))
    fab = wafer_kgco2e_per_mm2(where) / wafer_kgco2e_per_mm2(Scenario())
    print(f"\ncarbon per joule of an inference: x {ratio:.2f}; per mm2 of chip: x {fab:.3f}")


if __name__ == "__main__":
    print(here())
    published_rows()
    one_convention_at_a_time()
    best_hardware()
    resident_weights()
