"""DRESS against six other ways to several sparsities, on CIFAR-10: a ResNet, and a ViT CLIP.

    python benchmarks/dress_cifar10.py --data FOLDER --out runs/dress_cifar10
    python benchmarks/dress_cifar10.py --data FOLDER --out runs/full --full    # on a GPU

FOLDER holds CIFAR-10 in the hub's parquet schema. All start from one dense network a seed:

    dress        K nested row-sparse subnets trained together, one set of weights
    uniform      the same, each layer of the subnet's own sparsity instead of one global ranking
    alone        each subnet trained by itself, as many steps as DRESS
    alone/K      each subnet trained by itself, the steps of DRESS split among them
    unstructured each by itself, the largest weights of each tensor (jaxpruner's magnitude pruning)
    slimmable    nested widths of about equal products: in each step the whole, the narrowest and
                 two random widths, taught by the whole (Yu & Huang, ICCV 2019), from the dense
                 network and for as many steps as DRESS
    slim alone   the same from nothing, as published, for as many passes of a network as DRESS
                 and its dense start together
    gamma 0, 2   DRESS with other loss weights, proportional to (1 - sparsity)^gamma

Every subnet of every method ends with the same post-training of its own norms. A CLIP classifies
by its similarity to ten prompts and learns by cross-entropy over them; pruned are the blocks of
both towers. Prints Markdown and writes two figures. What is finished in --out is not done again.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import jax
import numpy as np

from codesign.runs import write_json
from dress_study.methods import Trainers, load
from dress_study.report import figures, gathered, result_file, table
from dress_study.subjects import FULL, SMALL, clip, resnet
from machine import here

METHODS = (
    "dress",
    "uniform",
    "alone",
    "alone/K",
    "unstructured",
    "slimmable",
    "slim alone",
    "gamma 0",
    "gamma 2",
)


def study(trainers: Trainers, seed: int, out: Path, methods: list[str]) -> None:
    """All methods of one network and seed; each is written when it is done."""
    name, steps = trainers.subject.name, trainers.bench.scale.joint_steps
    files = {method: result_file(out, name, seed, method) for method in methods}
    todo = {method: file for method, file in files.items() if not file.is_file()}
    if not todo:
        return
    start, dense = trainers.trained(seed)
    say(f"{name} seed {seed}: dense {100 * dense:.1f} %")
    t = trainers
    run = {
        "dress": lambda: t.together(start, seed, t.dress),
        "uniform": lambda: t.together(start, seed, t.uniform),
        "gamma 0": lambda: t.together(start, seed, t.dress, gamma=0.0),
        "gamma 2": lambda: t.together(start, seed, t.dress, gamma=2.0),
        "alone": lambda: t.alone(start, seed, t.dress, steps, "panels"),
        "alone/K": lambda: t.alone(start, seed, t.alone_k, steps // 4, "panels"),
        "unstructured": lambda: t.alone(start, seed, t.unstructured, steps, "csr"),
        "slimmable": lambda: t.sandwiched(start, seed, t.slimmable, steps),
        "slim alone": lambda: t.sandwiched(t.started(seed), seed, t.slim_alone, t.slim_steps),
    }
    for method, file in todo.items():
        found = run[method]() | {"dense": dense}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
        say(f"{name} seed {seed}: {method} {np.round(found['accuracy'], 3)}")


def say(text: str) -> None:
    """A line of progress."""
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10 in parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="all images, full training")
    parser.add_argument("--networks", nargs="+", default=["resnet", "clip"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--only-report", action="store_true", help="of what is finished")
    args = parser.parse_args()
    scale = FULL if args.full else SMALL
    subjects = [{"resnet": resnet, "clip": clip}[name](scale) for name in args.networks]
    if not args.only_report:
        bench = load(args.data, scale)
        every_trainer = [Trainers(bench, subject) for subject in subjects]
        for seed in range(args.seeds):
            for trainers in every_trainer:
                study(trainers, seed, args.out, args.methods)
    every = {s.name: gathered(args.out, s.name, METHODS, range(args.seeds)) for s in subjects}
    every = {name: found for name, found in every.items() if found}
    print(f"\n{here()}, {jax.devices()[0].device_kind}, jax {jax.__version__}; {scale}")
    for name, found in every.items():
        table(name, found)
    figures(every, args.out)


if __name__ == "__main__":
    main()
