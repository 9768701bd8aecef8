"""What a step of CLIP training takes of each device, by model and number of devices: a table.

    python benchmarks/training_cost.py [--batch 32768] [--memory-gb 80]

Nothing is run: the figures are of `codesign.train.step_cost`, whose operations, memory and
exchanged bytes are held against compiled programs in `tests/train/test_step_cost.py`. With
--fsdp 8 the devices of a machine are a group; micro-batches are the fewest powers of 2 that fit.
"""

from __future__ import annotations

import argparse
import dataclasses

from codesign.train.step_cost import StepPlan, exchanged_bytes, flops, memory_bytes
from codesign.workload.presets import PRESETS

MODELS = {"B/16": "clip-vit-b-16", "L/14": "clip-vit-l-14", "H/14": "clip-vit-h-14"}
DEVICES = (8, 64, 256)
GROUP = 8
ROWS_A_DEVICE = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32768)
    parser.add_argument("--memory-gb", type=float, default=80.0)
    options = parser.parse_args()
    print(
        f"Batch {options.batch:,}, bfloat16, fused attention, {options.memory_gb:g} GB a device.\n"
    )
    print(
        "| model | devices | --fsdp | micro-batches | TFLOP | weights and optimizer, GB | "
        "most held, GB | sent, GB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, preset in MODELS.items():
        for devices in DEVICES:
            for fsdp in (1, GROUP):
                print(line(name, preset, devices, fsdp, options.batch, options.memory_gb))


def line(name: str, preset: str, devices: int, fsdp: int, batch: int, memory_gb: float) -> str:
    """A row of the table."""
    network = PRESETS[preset].network
    chunk = min(ROWS_A_DEVICE * devices, batch)
    plan = StepPlan(
        network.architecture,
        batch,
        data=devices // fsdp,
        fsdp=fsdp,
        logits_chunk=chunk if chunk < batch else 0,
        text_head_dim=network.text_head_dim,
    )
    parts = 1
    while (held := memory_bytes(plan)).total > memory_gb * 1e9 and plan.pairs > 1:
        parts *= 2
        plan = dataclasses.replace(plan, micro_batches=parts)
    return (
        f"| {name} | {devices} | {fsdp} | {parts} | {flops(plan) / 1e12:,.0f} | "
        f"{held.state / 1e9:.2f} | {held.total / 1e9:.1f} | "
        f"{exchanged_bytes(plan).total / 1e9:.1f} |"
    )


if __name__ == "__main__":
    main()
