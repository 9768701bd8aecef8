"""Measuring what was found: sliced networks on held-out data, costs of discrete designs."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.cost.estimate import estimate
from codesign.cost.model import Costs
from codesign.design_file import Design, design_to_json
from codesign.models import CLIP
from codesign.models.formats import ImageSettings, make_processor, save_clip
from codesign.runs import RunFolder
from codesign.search.objectives import METRIC, feasible
from codesign.search.pareto import hypervolume, pareto_front
from codesign.train import placement
from codesign.train.data import CaptionedImages
from codesign.train.evaluate import evaluate_clip
from codesign.train.family import Family, member_params
from codesign.train.setup import REFERENCES, Setup

COSTS = (
    "latency_s", "energy_j", "area_mm2", "tops",
    "operational_kgco2e", "embodied_kgco2e", "carbon_kgco2e", "breakdown",
)  # fmt: skip


def save_tokenizer(data: CaptionedImages, folder: RunFolder) -> None:
    """Writes tokenizer.json into the run folder."""
    data.tokenizer.save(folder.path / "tokenizer.json")


def evaluate(
    model: CLIP, data: CaptionedImages, *splits: Literal["validation", "test"]
) -> list[dict[str, float]]:
    """Zero-shot accuracy and retrieval recall@1 of a network on each split."""
    graphdef, state = nnx.split(model)
    encode_image = jax.jit(lambda s, x: nnx.merge(graphdef, s).encode_image(x)[0])
    encode_text = jax.jit(lambda s, x: nnx.merge(graphdef, s).encode_text(x)[0])
    encoders = functools.partial(encode_image, state), functools.partial(encode_text, state)
    return [evaluate_clip(*encoders, data, split) for split in splits]


def designs(
    setup: Setup, family: Family, rest: nnx.State, folder: RunFolder
) -> list[dict[str, Any]]:
    """Entries of designs.json: searched designs by target, then the references.

    "pareto" marks the feasible designs, references included, that no other feasible one
    beats in both cost and accuracy.

    Each network is cut out of its member's supernet, measured on the validation and the
    test split, and stored under checkpoints/designs/.
    """
    indices = np.asarray(setup.space.round(family.z))
    found = range(len(REFERENCES), len(indices))
    names = {i: f"{setup.config.targets.mode}-{n:02d}" for n, i in enumerate(found)}
    names |= dict(enumerate(REFERENCES))
    data = setup.data
    settings = ImageSettings(data.image_size, data.mean, data.std)
    processor = make_processor(settings, data.tokenizer, setup.config.data.context)
    entries = []
    for i in [*found, *range(len(REFERENCES))]:
        architecture = setup.space.architecture_at(indices[i])
        design = Design(
            names[i], architecture, setup.space.accelerator_at(indices[i]), setup.config.scenario
        )
        params = member_params(family.params, i)
        network = nnx.merge(setup.trainer.graphdef, params, rest).slice_to(architecture)
        place = folder.checkpoints / "designs" / design.name
        save_clip(network, place, "native", overwrite=True)
        processor.save(place)
        entries.append(_entry(setup, design, network, i))
    allowed = [entry for entry in entries if entry["feasible"]]
    on_front = pareto_front(
        [e["costs"][_metric_name(setup)] for e in allowed], [e["accuracy"] for e in allowed]
    )
    for entry, front in zip(allowed, on_front, strict=True):
        entry["pareto"] = front
    return entries


def _entry(setup: Setup, design: Design, network: CLIP, member: int) -> dict[str, Any]:
    costs = estimate(design.architecture, design.accelerator, design.scenario)
    test, validation = evaluate(network, setup.data, "test", "validation")
    searched = bool(setup.members.searched[member])
    target = float(setup.members.targets[member]) if searched else None
    images = len(setup.data.test.labels)
    accuracy = test["zero_shot_accuracy"]
    return design_to_json(design) | {
        "role": "found" if searched else "reference",
        f"target_{_metric_name(setup)}": target,
        "limits": setup.config.limits.active(),
        "costs": {name: getattr(costs, name) for name in COSTS},
        "accuracy": accuracy,
        "accuracy_standard_error": float(np.sqrt(accuracy * (1 - accuracy) / images)),
        "recall_at_1": test["recall_at_1"],
        "validation_accuracy": validation["zero_shot_accuracy"],
        "parameters": sum(x.size for x in jax.tree.leaves(nnx.state(network, nnx.Param))),
        "feasible": meets(costs, setup),
        "pareto": False,
    }


def meets(costs: Costs, setup: Setup) -> bool:
    """Whether a discrete design meets every limit."""
    return bool(feasible(jax.tree.map(jnp.asarray, costs), setup.config.limits))


def _metric_name(setup: Setup) -> str:
    return METRIC[setup.config.targets.mode]


def summary(setup: Setup, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The run as a whole: hypervolume of the found designs and its fixed box."""
    name = _metric_name(setup)
    found = [e for e in entries if e["role"] == "found" and e["feasible"]]
    worst_cost = float(setup.members.targets[0])
    box = {
        "worst_cost": worst_cost,
        "best_cost": setup.least,
        "worst_accuracy": setup.config.targets.worst_accuracy,
    }
    return {
        "hypervolume": hypervolume(
            [e["costs"][name] for e in found], [e["accuracy"] for e in found], **box
        ),
        "reference_point": {name: worst_cost, "accuracy": box["worst_accuracy"]},
        "best_cost": setup.least,
        "test_images": len(setup.data.test.labels),
        "devices": placement.described(setup.trainer.mesh),
    }
