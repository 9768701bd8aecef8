"""The stages of a run, a few steps each, on one device, on eight, and split over four of eight.

As a program: of a kind of `RUNS` and an empty folder; prints a line of JSON. In a process of its
own, as the number of devices is one for all of a process.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from codesign.train import placement
from codesign.train.checkpoints import Checkpoints, refill
from codesign.train.dry_run import Plan, _plan
from codesign.train.progress import Display
from codesign.train.run import subject_of, training_of
from codesign.train.search import tune
from simulators.tiny_runs import RUNS

# Compilation costs nothing: a search is tuned in as many frames as it has sizes of networks.
tune.COMPILATION_MACS = {"cpu": 0.0}
LAYOUTS = {"one": (1, 1), "data": (8, 1), "fsdp": (2, 4)}
STEPS = 2


def config_of(kind: str) -> Any:
    names: dict[str, Any] = {}
    exec(RUNS[kind][1], names)
    return names["config"]


def lay_out(data: int, fsdp: int) -> None:
    """What is opened from now on is on so many devices."""
    devices = np.asarray(jax.devices()[: data * fsdp]).reshape(data, fsdp)
    placement.make_mesh = lambda fsdp=1: Mesh(devices, ("data", "fsdp"))


def stepped(plan: Plan, number: int, state: Any) -> tuple[Any, list[Any]]:
    """A stage's state after some steps, and their losses."""
    state, losses = placement.put_split(state, plan.feed.mesh), []
    stage = plan.stages[number].settled(state)
    with plan.feed.open() as data:
        for i in range(STEPS):
            state, metrics = stage.step(state, data.read(i, 1, 1))
            loss = np.asarray(metrics["loss"], np.float64)
            losses.append(loss[0].tolist() if plan.feed.chunked else loss.tolist())
    return state, losses


def held(state: Any) -> dict[str, list[int]]:
    """Numbers in the matrices of each part of a state, in all and on every device."""

    def is_variable(node: Any) -> bool:
        return isinstance(node, nnx.Variable)

    def is_matrix(node: Any, x: jax.Array) -> bool:
        axes = getattr(node, "axes", None) if is_variable(node) else None
        if axes is None:
            return x.ndim > 2 and x.shape[-1] % 4 == 0
        # The biases of attention are vectors, by head and channel.
        return axes != "LHK" and len(axes.replace("L", "")) > 1

    found = {}
    for name, part in state._asdict().items():
        arrays = [
            x
            for node in jax.tree.leaves(part, is_leaf=is_variable)
            for x in jax.tree.leaves(node)
            if is_matrix(node, x)
        ]
        for x in arrays:
            assert len({s.data.size for s in x.addressable_shards}) == 1
        if arrays:
            on_each = sum(x.addressable_shards[0].data.size for x in arrays)
            found[name] = [sum(x.size for x in arrays), on_each]
    return found


def all_stages(config: Any, display: Display, saves_to: Path | None) -> tuple[Any, dict[str, Any]]:
    """The last state of a run, and the losses of its stages and what they hold."""
    plan, state = _plan(config, display), None
    losses, sizes = {}, {}
    for number, stage in enumerate(plan.stages):
        # Nothing is ranked: there is no folder for it.
        begin = stage.blank if stage.name == "joint" and stage.blank else stage.begin
        state, losses[stage.name] = stepped(plan, number, begin(state))
        sizes[stage.name] = held(getattr(state, "trained", state))
        if number == 0 and saves_to is not None:
            with Checkpoints(saves_to) as checkpoints:
                checkpoints.save(STEPS, stage.name, state, {})
    return state, {"losses": losses, "held": sizes}


def resumed(config: Any, display: Display, saved_in: Path) -> list[Any]:
    """Losses of further steps of the first stage, from a checkpoint."""
    plan = _plan(config, display)
    stage = plan.stages[0]
    with Checkpoints(saved_in) as checkpoints:
        saved = checkpoints.latest([stage.name], print)
    assert saved is not None
    return stepped(plan, 0, refill((stage.blank or stage.begin)(None), saved.leaves))[1]


def with_teacher(config: Any, display: Display, folder: Path) -> Any:
    """The config with its own first network as the teacher."""
    lay_out(*LAYOUTS["one"])
    subject: Any = subject_of(config, display)
    subject.save(subject.model(subject.params.clip, ()), folder)
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, teacher=str(folder)))


def family(config: Any, display: Display, state: Any, folder: Path) -> list[Any]:
    """What is told of the family that is delivered."""
    folder.mkdir()
    loop: Any = SimpleNamespace(folder=SimpleNamespace(path=folder), display=display)
    told = training_of(config, subject_of(config, display), loop).deliver(state)
    return [told["bytes"], [subnet["density"] for subnet in told["subnets"]]]


def main(kind: str, folder: Path) -> dict[str, Any]:
    config, result = config_of(kind), {}
    with Display(Console(quiet=True)) as display:
        if kind == "ema":
            config = with_teacher(config, display, folder / "teacher")
        for name, layout in LAYOUTS.items():
            if name == "data" and kind == "search":
                continue  # tests/train/search/test_run.py has it
            lay_out(*layout)
            saves_to = folder / "saved" if name == "fsdp" else None
            state, result[name] = all_stages(config, display, saves_to)
            if kind in ("dress", "resnet"):
                result[name]["family"] = family(config, display, state, folder / name)
        for name in ("one", "fsdp"):
            lay_out(*LAYOUTS[name])
            result[name]["resumed"] = resumed(config, display, folder / "saved")
    return result


if __name__ == "__main__":
    print("RESULT", json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
