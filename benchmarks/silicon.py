"""Published accelerators as nearest templates: their area, TOPS/W and latency beside ours.

    python benchmarks/silicon.py

Each is set up with its arrays, memories, node, clock and memory bandwidth. Energy a MAC is that
of a large product, DRAM left out, as its paper has it; a network's latency is with its DRAM.
Two edge chips follow whose vendor publishes frame rates of CLIP, TinyCLIP and DeiT.
docs/cost-model.md quotes the output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from scipy.stats import spearmanr

from codesign import Accelerator, Scenario
from codesign.cost.model import Chip, Costs, Stored, costs_of, run_workload
from codesign.cost.technology import technology
from codesign.cost.world import World
from codesign.workload.clip import ClipNetwork
from codesign.workload.operators import Gemm, Live, VectorOp, Workload, gather
from codesign.workload.presets import PRESETS
from codesign.workload.vit import Vit
from machine import here

# Parts of the area that no paper counts, and that a block beside its host has not.
INTERFACE = ("pads", "dram_phy")
UNCORE = ("control",)
MEMORIES = ("l2", "glb")
LOGIC = ("pe", "vector", "control", "noc")
# Parts of the energy that no paper counts.
OUTSIDE = ("dram", "dram_background", "dram_refresh", "dram_between", "idle")
# mm2 of a two-input NAND gate at 45 nm: NAND2_X1 of the NanGate open cell library.
GATE_45NM_MM2 = 0.798e-6


@dataclasses.dataclass(frozen=True)
class Published:
    """One accelerator: what is published of it and the template nearest to it.

    Attributes:
      name: of it.
      chip: the template; capacities need not be powers of two.
      scenario: its node, clock and bandwidths.
      area_mm2: published; None where it is not.
      tops_per_w: published, at the node's nominal voltage, DRAM not counted.
      network: of which `latency_ms` is published.
      latency_ms: of one inference.
      without: parts that its area and power do not have, beside INTERFACE and DRAM.
      gates: its area is of logic alone, in millions of NAND gates.
      source: of its numbers.
      differs: what the template cannot express.
    """

    name: str
    chip: Accelerator
    scenario: Scenario
    area_mm2: float | None
    tops_per_w: float | None
    source: str
    differs: str
    network: Workload | None = None
    latency_ms: float | None = None
    without: tuple[str, ...] = ()
    gates: float | None = None


def resnet_50(image: int) -> Workload:
    """ResNet-50 v1 (He et al., CVPR 2016) with its convolutions as products, im2col.

    Alive while an operand waits: what goes into a convolution, what comes out, and what is
    added at the block's end, as images, not as the columns that the products read.
    """

    def convolution(
        name: str, pixels: int, taps: int, inner: int, outer: int, kept: int, before: int
    ) -> Gemm:
        alive = kept + before * inner + pixels * outer
        return Gemm(name, pixels, taps * inner, outer, live=Live(alive, output=alive))

    def convolutions() -> Iterator[Gemm]:
        side = -(-image // 2)
        stem = Gemm("stem", side**2, 7 * 7 * 3, 64)  # the image comes from DRAM
        yield stem._replace(live=Live(output=3 * image**2 + 64 * side**2))
        side, channels = -(-side // 2), 64
        for stage, (blocks, inner) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
            wide, before = 4 * inner, side
            side = side if stage == 0 else -(-side // 2)
            pixels = side**2
            kept = pixels * wide
            yield convolution("project", pixels, 1, channels, wide, 0, before**2)
            for block in range(blocks):
                first = (before if block == 0 else side) ** 2
                yield convolution(
                    "reduce", min(first, pixels), 1, wide if block else channels, inner, kept, first
                )
                yield convolution("middle", pixels, 9, inner, inner, kept, pixels)
                yield convolution("expand", pixels, 1, inner, wide, kept, pixels)
            channels = wide
        yield Gemm("classes", 1, channels, 1000, live=Live(channels))

    products = list(convolutions())
    sums = [g.m * g.n for g in products if g.name == "expand"]
    additions = [
        VectorOp("residual", "add", words, operands=2, live=Live(3 * words, output=3 * words))
        for words in sums
    ]
    return gather(products, additions)


def product(size: int = 4096) -> Workload:
    """One product large enough to be limited by nothing but the arrays."""
    return gather([Gemm("product", size, size, size)], [VectorOp("none", "embedding", 0)])


def _at(node_nm: int, clock_mhz: float, glb: float, dram: float) -> Scenario:
    """A node, a clock, and bytes a cycle that the GLB has and that the chip gets of its DRAM."""
    return Scenario(
        node_nm=node_nm,
        clock_mhz=clock_mhz,
        glb_bytes_per_cycle=glb,
        dram_channel_bits=8,
        dram_data_rate_mts=dram * clock_mhz,
        dram_usable_share=1.0,
    )


ACCELERATORS = (
    Published(
        "TPUv1",
        Accelerator(1, 256, 256, 4096, 256, 24),
        _at(28, 700, 256, 48.6),
        222,
        2.3,
        "Jouppi et al., ISCA 2017, figure 2 and table 2: matrix unit, buffers, activation and "
        "control, 67 % of a die of at most 331 mm2; 92 TOPS, 40 W busy",
        "systolic registers in every PE; it idles at 28 W",
    ),
    Published(
        "NVDLA, 2,048 MACs, 28 nm",
        Accelerator(1, 32, 64, 512, 128, 1 / 64),
        _at(28, 1000, 64, 20),
        5.5,
        None,
        "NVDLA primer, table of configurations; its SDRAM bandwidth is what it gets, as "
        "in its performance estimator",
        "planar, normalisation and single-point processors; one buffer level, which keeps images: "
        "products read the input of a 3 x 3 convolution nine times from DRAM",
        resnet_50(224),
        1e3 / 269,
    ),
    Published(
        "NVDLA, 2,048 MACs, 16 nm",
        Accelerator(1, 32, 64, 512, 128, 1 / 64),
        _at(16, 1000, 64, 20),
        3.3,
        2 * 2.048 / 0.766,
        "NVDLA primer: peak 766 mW",
        "the same; its own areas shrink by 0.6 from 28 nm, Stillmaker and Baas by 0.5",
        resnet_50(224),
        1e3 / 269,
    ),
    Published(
        "NVDLA, 64 MACs, 28 nm",
        Accelerator(1, 8, 8, 128, 32, 1 / 64),
        _at(28, 1000, 32, 1),
        0.91,
        None,
        "NVDLA primer",
        "the same",
        resnet_50(224),
        1e3 / 7.3,
    ),
    Published(
        "Eyeriss v2",
        Accelerator(16, 4, 6, 4, 32, 0.1875),
        _at(45, 200, 64, 64),
        None,
        None,
        "Chen et al., JETCAS 2019, table 3: 65 nm, 2,695 k gates, 246 KB of SRAM",
        "sparse weights and activations in CSC form; a mesh with four kinds of routes",
        gates=2.695,
    ),
    Published(
        "Simba, a chiplet",
        Accelerator(16, 8, 8, 43, 64, 1 / 16),
        _at(16, 1800, 64, 64),
        1.77,
        2 / 0.22 / (0.8 / 0.42) ** 2,
        "Shao et al., MICRO 2019, area breakdown: 16 PEs, global "
        "PE and core, of a die of 6 mm2; 0.11 pJ/op (Zimmer et al., VLSI 2019), taken at its "
        "lowest voltage of 0.42 V and brought to 0.8 V by V^2",
        "links to other chiplets, the rest of its die",
    ),
    Published(
        "ITA",
        Accelerator(1, 16, 64, 64, 64, 1 / 16),
        _at(22, 500, 64, 64),
        0.173,
        16.9,
        "Islamoglu et al., ISLPED 2023 (arXiv 2307.03493): without memories",
        "two weights a PE, not 32; no memory of its own",
        without=(*UNCORE, *MEMORIES),
    ),
    Published(
        "ITA with 64 KiB",
        Accelerator(1, 16, 64, 64, 64, 1 / 64),
        _at(22, 500, 64, 64),
        0.407,
        8.46,
        "the same, its system",
        "two weights a PE, not 32; one level of memory",
        without=UNCORE,
    ),
    Published(
        "Samsung NPU",
        Accelerator(2, 32, 16, 256, 64, 1),
        _at(10, 933, 128, 32),
        5.5,
        6.937 / 1.553,
        "Song et al., ISSCC 2019: 8 nm, 1,024 MACs, 1,568 KB; 6.937 TOPS with zeros "
        "skipped at 1,553 mW and 0.8 V",
        "8 nm is priced as 10, where logic and SRAM shrink by less than the rule says; networks "
        "that route weights and inputs past zeros; a controller and DMA a core",
    ),
    Published(
        "Edge TPU",
        Accelerator(1, 64, 64, 1024, 64, 7),
        _at(22, 480, 64, 0.83),
        None,
        2.0,
        "coral.ai, performance benchmarks: 4 TOPS, 0.5 W each TOPS; ResNet-50 v1 at 299 in 56 ms; "
        "PCIe 2.0 x1 at 80 %",
        "array, clock and node are estimates; weights that stay in its 8 MB; its power is the "
        "whole module's",
        resnet_50(299),
        56,
    ),
)


@dataclasses.dataclass(frozen=True)
class EdgeChip:
    """A chip that can be bought, and the frame rates that its vendor publishes.

    Attributes:
      name: of it.
      chip: the template; its channels are those of the memory that it has.
      scenario: its clock and the bandwidth of its memory.
      frames_per_s: one frame at a time, by model (presets.py) and tower, "" of a model
        with one.
      source: of the rates and of the template.
    """

    name: str
    chip: Accelerator
    scenario: Scenario
    frames_per_s: dict[tuple[str, str], float]
    source: str


EDGE_CHIPS = (
    EdgeChip(
        "Hailo-8",
        Accelerator(8, 64, 64, 256, 128, 8, channels=1),
        # PCIe 3.0 x4: 3.94 GB/s in packets of 128 bytes with 24 of headers.
        Scenario(
            node_nm=16,
            clock_mhz=400,
            dram_channel_bits=8,
            dram_data_rate_mts=3938,
            dram_usable_share=0.84,
        ),
        {
            ("clip-vit-b-32", "vision"): 34,
            ("tinyclip-61m-32", "vision"): 48,
            ("tinyclip-39m-16", "vision"): 42,
            ("deit-b-16", ""): 28.5,
            ("deit-s-16", ""): 70.0,
            ("deit-ti-16", ""): 89.1,
            ("clip-vit-b-16", "text"): 33.6,
            ("tinyclip-61m-32", "text"): 44.7,
            ("tinyclip-39m-16", "text"): 68.3,
            ("tinyclip-8m-16", "text"): 358,
        },
        "hailo-ai/hailo_model_zoo, its public models for HAILO8, batch 1 (image encoders: compiler "
        "3.31; the others: zoo 2.18); 26 TOPS, no DRAM: weights come from the host by PCIe 3.0 x4; "
        "arrays, clock and memories are estimates",
    ),
    EdgeChip(
        "Hailo-10H",
        Accelerator(4, 64, 64, 256, 128, 8, channels=2),
        Scenario(node_nm=16, clock_mhz=610, dram_technology="lpddr4x"),
        {
            ("clip-vit-b-16", "vision"): 57.1,
            ("clip-vit-b-32", "vision"): 71.8,
            ("clip-vit-l-14", "vision"): 15.4,
            ("tinyclip-61m-32", "vision"): 98.2,
            ("tinyclip-40m-32", "vision"): 127,
            ("tinyclip-39m-16", "vision"): 86.3,
            ("tinyclip-8m-16", "vision"): 149,
            ("deit-b-16", ""): 43,
            ("deit-s-16", ""): 105,
            ("deit-ti-16", ""): 133,
            ("clip-vit-b-16", "text"): 46.9,
            ("clip-vit-l-14", "text"): 28.5,
            ("tinyclip-61m-32", "text"): 54.9,
            ("tinyclip-39m-16", "text"): 93.2,
            ("tinyclip-8m-16", "text"): 383,
        },
        "hailo-ai/hailo_model_zoo, its public models for HAILO10H, batch 1 (compiler 5.2.0, DeiT: "
        "5.1.0); 20 TOPS, LPDDR4X; its width of 32 pins, arrays, clock and memories are estimates",
    ),
)


# One program for all accelerators: what a scenario says is numbers of the technology.
_run = jax.jit(run_workload)


def _priced(workload: Workload, chip: Accelerator, scenario: Scenario) -> Costs:
    tech = technology(chip, scenario)
    run = _run(workload, chip, tech).with_static(tech)
    return costs_of(run, Chip.of(chip, World.of(scenario)), scenario, Stored(0.0, dram_gb=1.0))


def ours(it: Published) -> tuple[float, float, float | None]:
    """Area (mm2, or millions of gates), TOPS/W without DRAM and latency (ms) of the template."""
    chip = jax.tree.map(np.float32, dataclasses.replace(it.chip, channels=1))
    large = _priced(product(), chip, dataclasses.replace(it.scenario, dram_data_rate_mts=1e7))
    parts = jax.tree.map(float, large.breakdown)
    area, left_out = parts["area_mm2"], (*INTERFACE, *OUTSIDE, *it.without)
    if it.gates is None:
        size = sum(x for part, x in area.items() if part not in left_out)
    else:
        size = sum(area[part] for part in LOGIC) / GATE_45NM_MM2 / 1e6
    energy_j = sum(x for part, x in parts["energy_j"].items() if part not in left_out)
    tops_per_w = 2e-12 * float(product().macs) / energy_j
    if it.network is None:
        return size, tops_per_w, None
    return size, tops_per_w, 1e3 * float(_priced(it.network, chip, it.scenario).latency_s)


def part(model: str, tower: str) -> Workload:
    """A published model or one tower of it."""
    network = PRESETS[model].network
    assert isinstance(network, ClipNetwork | Vit), model
    operators = network.operators()
    of = tuple(x for x in operators.gemms if x.name.startswith(tower))
    return gather(of, [x for x in operators.vector_ops if x.name.startswith(tower)])


def latency_ms(it: EdgeChip, model: str, tower: str) -> float:
    """Of one frame.

    The vendor compiles text encoders with products of 16 bits (a16_w16 in its model scripts),
    for each of which an array of 8-bit multipliers takes four.
    """
    chip, scenario = it.chip, it.scenario
    if tower == "text":
        chip = dataclasses.replace(chip, pe_x=chip.pe_x // 2, pe_y=chip.pe_y // 2)
        scenario = dataclasses.replace(scenario, precision_bits=16)
    costs = _priced(part(model, tower), jax.tree.map(np.float32, chip), scenario)
    return 1e3 * float(costs.latency_s)


def print_edge_chips() -> None:
    """Latencies of parts of CLIP beside those of chips that can be bought."""
    print("| chip | part | ms: published | ours | published / ours |")
    print("|---|---|---|---|---|")
    for it in EDGE_CHIPS:
        published, predicted = [], []
        for (model, tower), rate in it.frames_per_s.items():
            published.append(1e3 / rate)
            predicted.append(latency_ms(it, model, tower))
            ratio = published[-1] / predicted[-1]
            label = f"{model} {tower}".strip()
            print(
                f"| {it.name} | {label} | {published[-1]:.3g} | {predicted[-1]:.3g} | {ratio:.2f} |"
            )
        ratios = np.array(published) / np.array(predicted)
        rank = float(spearmanr(published, predicted).statistic)
        print(
            f"| {it.name} | all | | | rank {rank:.2f}; {int(np.sum(ratios <= 2))} of "
            f"{len(ratios)} within 2; median {np.median(ratios):.2f} |"
        )
    print()
    for it in EDGE_CHIPS:
        print(f"* {it.name}: {it.source}")


def main() -> None:
    print(
        "| accelerator | area, mm2: published | ours | TOPS/W: published | ours | "
        "ms: published | ours | what the template cannot express |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for it in ACCELERATORS:
        area, tops_per_w, latency_ms = ours(it)
        published = it.area_mm2 if it.gates is None else it.gates
        unit = "" if it.gates is None else " M gates"
        cells = [
            it.name,
            f"{published:.3g}{unit}" if published else "",
            f"{area:.3g}{unit}",
            f"{it.tops_per_w:.3g}" if it.tops_per_w else "",
            f"{tops_per_w:.3g}",
            f"{it.latency_ms:.3g}" if it.latency_ms else "",
            f"{latency_ms:.3g}" if latency_ms is not None else "",
            it.differs,
        ]
        print("| " + " | ".join(cells) + " |")
    print()
    for it in ACCELERATORS:
        print(f"* {it.name}: {it.source}")
    print()
    print_edge_chips()
    print(here())


if __name__ == "__main__":
    main()
