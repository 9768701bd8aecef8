"""Measuring what was found: sliced networks on held-out data, costs of discrete designs."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.cost.estimate import estimate, estimate_subnets, family_costs
from codesign.cost.model import Costs
from codesign.design_file import Design, design_to_json
from codesign.dress.masks import Masks, subnet_masks
from codesign.dress.rows import RowSpec
from codesign.models import CLIP
from codesign.models.formats import save_clip
from codesign.models.subnets import FAMILY, pack_clip, subnet, subnet_specs
from codesign.report.claims import claims
from codesign.report.correct import scores
from codesign.report.costs import costs_json, subnet_json
from codesign.runs import RunFolder
from codesign.search.front import network_shape, tower_shape
from codesign.search.objectives import Objective, feasible, objective
from codesign.search.pareto import pareto_front
from codesign.search.proxy_file import PROXY, read_proxy
from codesign.search.statistics import standard_error
from codesign.train import placement
from codesign.train.clip import Fixed
from codesign.train.search.population import Population, params_of
from codesign.train.search.setup import REFERENCES, Setup
from codesign.train.zero_shot import evaluate_images

# Pictures embedded at once.
BATCH = 256


def designs(
    setup: Setup, population: Population, fixed: Fixed, folder: RunFolder
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Searched designs by target, then the references.

    Returns:
      Entries of designs.json, and by name bool [K, N]: which test images each of the design's
      networks got right.

    "pareto" marks the feasible designs, references included, that no other feasible one
    beats in both cost and accuracy.

    Each network is cut out of its candidate's supernet, measured on the validation and the
    test split, and stored under checkpoints/designs/.
    """
    indices = np.asarray(setup.space.round(population.z))
    found = range(len(REFERENCES), len(indices))
    families = [i for i in found if _is_family(setup, i)]
    dense = [i for i in found if setup.tables.sparse is not None and i not in families]
    names = {i: f"dense-{n:02d}" for n, i in enumerate(dense)}
    named = [i for i in found if i not in dense]
    names |= {i: f"{_objective(setup).name}-{n:02d}" for n, i in enumerate(named)}
    names |= dict(enumerate(REFERENCES))
    entries: list[dict[str, Any]] = []
    right: dict[str, np.ndarray] = {}
    ranked = None
    if (folder.path / PROXY).is_file():
        ranked = read_proxy(folder.path).check(tower_shape(setup.space))

    # What is written aside has a process's own name, not a thread's.
    writing = threading.Lock()

    def measured(i: int) -> tuple[dict[str, Any], np.ndarray]:
        design = _design(setup, names[i], indices[i], _is_family(setup, i))
        supernet = setup.model(*placement.local((params_of(population.params, i), fixed)))
        network = supernet.slice_to(design.architecture)
        place = folder.checkpoints / "designs" / design.name
        if design.sparsity:
            masks, specs = uniform_subnets(network, design.sparsity)
            networks = [subnet(network, masks, k) for k in range(len(design.sparsity))]
            packed = pack_clip(network, masks, specs, design.sparsity)
        else:
            networks, packed = [network], None
        if jax.process_index() == 0:
            with writing:
                place.mkdir(parents=True, exist_ok=True)
                if packed is not None:
                    packed.save(place / FAMILY)
                else:
                    save_clip(network, place, "native", overwrite=True)
                setup.processor.save(place)
        entry, correct = _entry(setup, design, networks, i)
        if ranked is not None and i in found and not design.sparsity:
            chosen = tuple(setup.space.part(indices[i], "architecture"))
            flat = np.ravel_multi_index(chosen, network_shape(setup.space))
            entry |= {
                f"proxy_{name}": float(values.reshape(-1)[flat])
                for name, values in ranked.proxy._asdict().items()
            }
        return entry, correct

    # Each network is a program of its own: on a CPU one is compiled while another one runs.
    alone = jax.process_count() > 1 or jax.default_backend() != "cpu"
    with ThreadPoolExecutor(1 if alone else 2) as pool:
        for entry, correct in pool.map(measured, [*found, *range(len(REFERENCES))]):
            entries.append(entry)
            right[entry["name"]] = correct
    allowed = [entry for entry in entries if entry["feasible"]]
    on_front = pareto_front(
        [e["costs"][_objective(setup).key] for e in allowed], [e["accuracy"] for e in allowed]
    )
    for entry, front in zip(allowed, on_front, strict=True):
        entry["pareto"] = front
    return entries, right


def _is_family(setup: Setup, candidate: int) -> bool:
    return bool(setup.goals.sparse[candidate])


def _design(setup: Setup, name: str, indices: np.ndarray, family: bool) -> Design:
    """The candidate's design with the scenario that its costs were searched under."""
    space, tables = setup.space, setup.tables
    sparsity: tuple[float, ...] = ()
    scenario = tables.dense.scenario
    if family and tables.sparse is not None:
        sparsity = space.sparsity_at(indices)
        scenario = dataclasses.replace(tables.sparse.scenario, subnet_shares=tables.sparse.shares)
    chip = space.accelerator_at(indices)
    return Design(name, space.architecture_at(indices), chip, scenario, sparsity)


def uniform_subnets(network: CLIP, sparsity: tuple[float, ...]) -> tuple[Masks, dict[str, RowSpec]]:
    """The masks of a network's subnets as a search has them, and their kernels' rows."""
    specs = subnet_specs(network)
    params = nnx.state(network, nnx.Param)
    return _uniform_masks(params, specs, jnp.asarray(sparsity)), specs


@jax.jit
def _uniform_masks(params: nnx.State, specs: dict[str, RowSpec], sparsity: jax.Array) -> Masks:
    return subnet_masks(params, specs, sparsity, budget="uniform")


def _entry(
    setup: Setup, design: Design, networks: list[CLIP], candidate: int
) -> tuple[dict[str, Any], np.ndarray]:
    """One design's entry, and which test images its networks got right, bool [K, N].

    Accuracies of a family are means by its subnets' shares of use.
    """
    chip, scenario = design.accelerator, design.scenario
    test, validation = (
        [
            evaluate_images(
                network, setup.processor, source, batch_size=BATCH, threads=setup.config.threads
            )
            for network in networks
        ]
        for source in setup.held_out
    )
    right = np.stack([results.zero_shot for results in test])
    more: dict[str, Any] = {}
    shares = [1.0]
    if design.sparsity:
        subnets = estimate_subnets(design.architecture, chip, scenario, design.sparsity)
        costs, shares = family_costs(subnets), [each.share for each in subnets]
        more["subnets"] = [
            subnet_json(each)
            | {"accuracy": own.mean(), "accuracy_standard_error": standard_error(own)}
            for each, own in zip(subnets, right, strict=True)
        ]
    else:
        costs = estimate(design.architecture, chip, scenario)

    def score(of_each: list[np.ndarray]) -> np.ndarray:
        return np.asarray(shares) @ np.stack(of_each)

    searched = bool(setup.goals.searched[candidate])
    rival = searched and setup.tables.sparse is not None and not design.sparsity
    target = float(setup.goals.targets[candidate]) if searched else None
    own = score([results.zero_shot for results in test])
    return design_to_json(design) | {
        "role": "found" if searched and not rival else "reference",
        f"target_{_objective(setup).key}": target,
        "limits": setup.config.limits.active(),
        "costs": costs_json(costs, [_objective(setup), *_own_limits(setup)]),
        "accuracy": float(own.mean()),
        "accuracy_standard_error": float(standard_error(own)),
        "recall_at_1": float(score([results.retrieved for results in test]).mean()),
        "validation_accuracy": float(score([results.zero_shot for results in validation]).mean()),
        "parameters": sum(x.size for x in jax.tree.leaves(nnx.state(networks[0], nnx.Param))),
        "feasible": meets(costs, setup),
        "pareto": False,
    } | more, right


def meets(costs: Costs, setup: Setup) -> bool:
    """Whether a discrete design meets every limit."""
    return bool(feasible(jax.tree.map(jnp.asarray, costs), setup.config.limits))


def _objective(setup: Setup) -> Objective:
    return objective(setup.config.targets.mode)


def _own_limits(setup: Setup) -> list[Objective]:
    """What the limits bound."""
    return [bounded for bounded, _ in setup.config.limits.bounds()]


def summary(
    setup: Setup,
    entries: list[dict[str, Any]],
    right: dict[str, np.ndarray],
    took: Mapping[str, Any],
) -> dict[str, Any]:
    """The run as a whole: what its designs show, and in which box, fixed beforehand.

    Args:
      setup: of the run.
      entries: of designs.json.
      right: which test images each is right on, as in correct.json.
      took: what the run took, by `RunTracker.stop`.
    """
    worst = {
        _objective(setup).key: float(setup.goals.targets[0]),
        "accuracy": setup.config.targets.worst_accuracy,
    }
    box = {"reference_point": worst, "best_cost": setup.least}
    return (
        claims(entries, box | dict(took), scores(entries, right)).summary()
        | box
        | dict(took)
        | {
            "test_images": len(next(iter(right.values()))[0]),
            "devices": placement.described(setup.trainer.mesh),
        }
    )
