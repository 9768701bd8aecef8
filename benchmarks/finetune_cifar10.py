"""Fine-tuning after pruning, on real images: what training, and what a teacher brings back.

    python benchmarks/finetune_cifar10.py --data FOLDER --out runs/finetune_cifar10

Trains the CLIP of configs/cifar10_clip.py on captions of CIFAR-10 from nothing; scales all its
dimensions down until network and best accelerator cost half the carbon (the microcontrollers
of configs/quickstart.py, with 4 MB of DRAM); prunes it to that by first-order Taylor importance;
and trains the pruned network on, for some seeds, with captions alone, with the unpruned network's
distribution as well, and with its embeddings too. The yardstick is the same small network
trained from nothing for as many steps. Zero-shot accuracy is on all test images. What is
finished in --out is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from rich.console import Console

import codesign
from codesign.architecture import Architecture
from codesign.configs.cifar10_clip import config as scratch_config
from codesign.configs.quickstart import config as search_config
from codesign.cost.capacity import contents_bytes
from codesign.costing import costing_of
from codesign.models import CLIP
from codesign.models.importance import score_units
from codesign.models.prune import prune, scaled
from codesign.overrides import config_to_json
from codesign.runs import SUMMARY, RunFolder, read_json
from codesign.search.hardware import search_hardware
from codesign.search.objectives import Limits
from codesign.train.calibrate import calibration_batches
from codesign.train.data import SourceConfig, open_source
from codesign.train.finetune.config import FinetuneConfig, LossConfig, ScheduleConfig
from codesign.train.run import run_training
from codesign.train.zero_shot import evaluate_source
from codesign.workload.clip import CLIP_FAMILY, clip_workload
from machine import here

CONSOLE = Console(stderr=True)
# A microcontroller that looks 20 times a second, with memory for this network.
SCENARIO = dataclasses.replace(search_config.scenario, dram_gb=0.004)


def trained(config: FinetuneConfig, folder: Path) -> Path:
    """The network of a run, which is started, resumed or already finished."""
    if not (folder / SUMMARY).is_file():
        opened = RunFolder.create(folder, config_to_json(config), resume=folder.exists())
        CONSOLE.print(f"{folder.name}", highlight=False)
        run_training(config, opened, CONSOLE)
    return folder / read_json(folder / SUMMARY)["clip"]


def carbon_kgco2e(architecture: Architecture) -> float:
    """Of the network on the accelerator of the grid that suits it best."""
    workload = clip_workload(architecture, costing_of(SCENARIO))
    contents = contents_bytes(CLIP_FAMILY.memory(architecture, SCENARIO), SCENARIO)
    found = search_hardware(
        workload, search_config.space.accelerator, SCENARIO, Limits(), contents=contents
    )
    return found.at(found.best["carbon"])[1].carbon_kgco2e


def of_half_carbon(whole: Architecture) -> Architecture:
    """All dimensions scaled alike, as far as the carbon is at most half; by bisection."""
    limit = carbon_kgco2e(whole) / 2
    low, high = 0.0, 1.0
    for _ in range(6):
        middle = 0.5 * (low + high)
        fits = carbon_kgco2e(scaled(whole, middle)) <= limit
        low, high = (middle, high) if fits else (low, middle)
    return scaled(whole, low)


def parameters(clip: CLIP) -> int:
    return sum(x.size for x in jax.tree.leaves(nnx.state(clip, nnx.Param)))


def accuracy(place: Path, test: Any) -> float:
    clip = codesign.load_clip(place)
    result = evaluate_source(clip, codesign.load_processor(place, clip), test, batch_size=500)
    return float(result["zero_shot"]["top_1"])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--data", required=True, help="CIFAR-10 parquet: folder or hub name")
    arguments.add_argument("--out", type=Path, default=Path("runs/finetune_cifar10"))
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=400, help="of fine-tuning")
    arguments.add_argument("--first-steps", type=int, default=scratch_config.schedule.steps)
    args = arguments.parse_args()
    # Runs of different seeds are the same program.
    jax.config.update("jax_compilation_cache_dir", str((args.out / "compiled").resolve()))

    train = dataclasses.replace(scratch_config.train, path=args.data)
    held_out = dataclasses.replace(scratch_config.validation, path=args.data)
    scratch = dataclasses.replace(
        scratch_config,
        train=train,
        validation=held_out,
        schedule=dataclasses.replace(scratch_config.schedule, steps=args.first_steps),
    )
    whole_place = trained(scratch, args.out / "whole")
    whole = codesign.load_clip(whole_place)
    processor = codesign.load_processor(whole_place, whole)
    test = open_source(dataclasses.replace(held_out, limit=None))

    small_architecture = of_half_carbon(whole.architecture)
    pruned_place = args.out / "pruned"
    batches = calibration_batches(
        open_source(train), processor, samples=1024, batch_size=128, threads=2
    )
    pruned = prune(whole, small_architecture, score_units(whole, batches))
    codesign.save_clip(pruned, pruned_place, "native", overwrite=True, like=whole_place)

    shorter = dataclasses.replace(
        scratch,
        optim=dataclasses.replace(scratch.optim, lr=5e-4, warmup_steps=30),
        schedule=ScheduleConfig(steps=args.steps, evaluate_steps=0, checkpoint_steps=args.steps),
        validation=SourceConfig(path=""),
    )
    teacher = str(whole_place)
    methods = {
        "from nothing": {
            "untrained": small_architecture,
            "tokenizer": teacher,
        },
        "fine-tuned": {"checkpoint": str(pruned_place)},
        "fine-tuned, distribution distilled": {
            "checkpoint": str(pruned_place),
            "loss": LossConfig(teacher=teacher),
        },
        "fine-tuned, distribution and embeddings distilled": {
            "checkpoint": str(pruned_place),
            "loss": LossConfig(teacher=teacher, features=1.0),
        },
    }
    found: dict[str, list[float]] = {name: [] for name in methods}
    for seed in range(args.seeds):
        for number, (name, changes) in enumerate(methods.items()):
            config = dataclasses.replace(shorter, seed=seed, **changes)
            found[name].append(accuracy(trained(config, args.out / f"{number}-{seed}"), test))

    def towers(architecture: Architecture) -> str:
        return "; ".join(
            f"{t.layers}x{t.width} h{t.heads} f{t.ffn}"
            for t in (architecture.vision, architecture.text)
        )

    print(
        f"{here()}, jax {jax.__version__}; {len(test):,} test images, "
        f"{args.first_steps} + {args.steps} steps of {scratch.optim.batch_size}, "
        f"{args.seeds} seeds"
    )
    for name, clip, place in (("whole", whole, whole_place), ("pruned", pruned, pruned_place)):
        print(
            f"{name}: {towers(clip.architecture)}; {parameters(clip):,} parameters, "
            f"{1e3 * carbon_kgco2e(clip.architecture):.1f} g CO2e; "
            f"{100 * accuracy(place, test):.1f} %"
        )
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: {100 * statistics.mean(values):.1f} +- {100 * spread:.1f} %")


if __name__ == "__main__":
    main()
