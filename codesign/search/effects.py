"""`codesign ablate effects`: which details of the cost model decide the choice of a chip.

Each effect of cost/effects.py is left out alone. In the world without it the best accelerator of a
grid is chosen, exactly, for every model and limit; priced with all effects, it costs more than the
best choice there, its regret, or misses a limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np

from codesign.accelerator import ON_CHIP, Accelerator
from codesign.bounds import Ge, Le, MinLen
from codesign.constraints import LARGEST, Count, PositiveChoices
from codesign.cost.capacity import busy_share
from codesign.cost.chips import accelerator_grid, costs_on_chips, in_float32, run_on, technologies
from codesign.cost.effects import EFFECTS, NAMES, Effect, effect_of
from codesign.cost.execution import Execution
from codesign.cost.model import Costs
from codesign.cost.technology import Technology, tops
from codesign.cost.world import World
from codesign.costing import PHYSICAL
from codesign.errors import UserError
from codesign.runs import jsonable
from codesign.scenario import Scenario
from codesign.search.hardware import accelerator_at, unmet, with_contents
from codesign.search.objectives import Limits, Mode, feasible, least_index, objective
from codesign.space import JOINT_GRID, AcceleratorChoices
from codesign.workload import Workload
from codesign.workload.load import Model, load_model

# What is found, in the run's folder.
RESULT = "effects.json"
Row: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class EffectsConfig:
    """What choices of accelerators owe to single effects of the cost model.

    Attributes:
      models: published models, HuggingFace configs or design files, of which the network alone
        counts (`codesign workload`).
      effects: those to leave out, one at a time.
      objective: what an accelerator is chosen for.
      slack: limits of latency, in times of each model's fastest accelerator.
      latency_s: limits of latency of all models instead, s.
      limits: further limits that every choice meets.
      tokens: length of a text or prompt, of models that take any.
      phase: "prefill" or "decode", of decoders.
      context: tokens in a decoder's cache.
      space: the grid of accelerators; those above `limits.tops` are left out of it.
      scenario: where and how the devices live.
    """

    models: Annotated[tuple[str, ...], MinLen(1)] = (
        "clip-vit-b-16",
        "tinyclip-39m-16",
        "tinyclip-8m-16",
        "carbonclip-s",
    )
    effects: Annotated[tuple[str, ...], MinLen(1)] = NAMES
    objective: Mode = "carbon"
    slack: Annotated[tuple[Annotated[float, Ge(1), Le(LARGEST)], ...], MinLen(1)] = (1.25, 2.0, 4.0)
    latency_s: PositiveChoices | None = None
    limits: Limits = Limits(tops=20.0)
    tokens: Count | None = None
    phase: Literal["prefill", "decode"] | None = None
    context: Count | None = None
    space: AcceleratorChoices = JOINT_GRID
    scenario: Scenario = Scenario()

    def check(self) -> None:
        """Raises UserError for effects that are none, and fields that contradict each other."""
        for name in self.effects:
            try:
                effect_of(name)
            except ValueError as error:
                raise UserError(f"--effects: {error}") from error
        for field in ("models", "effects"):
            names = getattr(self, field)
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"--{field}: '{twice}' is there twice; give it once")
        if self.limits.latency_s is not None:
            raise UserError("--limits.latency_s: latencies have limits of their own; set latency_s")
        if self.scenario.costing != PHYSICAL.name:
            raise UserError(
                f"--scenario.costing: effects are left out of the {PHYSICAL.name} costing, not of "
                f"{self.scenario.costing}; drop it"
            )


class Choice(NamedTuple):
    """What leaving out an effect does to one choice.

    Attributes:
      accelerator: index of the one chosen without the effect; None: none seems to meet the
        limits.
      predicted: its objective without the effect.
      actual: its objective with all effects; infinite where it does not fit.
      misses: limits it then misses, by key, and by what share.
      regret: share by which it then exceeds the best choice's; None where it misses a limit.
    """

    accelerator: int | None
    predicted: float = float("nan")
    actual: float = float("nan")
    misses: dict[str, float] = {}  # noqa: RUF012 -- never changed
    regret: float | None = None


def ablate_effects(
    config: EffectsConfig, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Leaves out every effect of a config, one at a time.

    Args:
      config: checked.
      say: is told of the progress.

    Returns:
      Plain values: "objective", "accelerators" (how many), "limits"; "effects", each with "name"
      and "without"; "best", the choice with all effects for every model and limit; "choices", one
      for every model, limit and effect, with what it costs, misses and regrets.

    Raises:
      UserError: a model that does not exist or is a family; a scenario that cannot be priced;
        limits that no accelerator meets.
    """
    models = _models(config)
    chips = _grid(config)
    effects = tuple(effect_of(name) for name in config.effects)
    full = World.of(config.scenario)
    worlds = [full, *(_without(effect, full) for effect in effects)]
    names = ["all effects", *(f"without {effect.name}" for effect in effects)]
    try:
        priced = priced_in_worlds(worlds, models, chips, lambda i: say(names[i]))
        truth, *ablated = priced
        best, choices = [], []
        for m, model in enumerate(models):
            for limits in _each_limit(config, truth[m]):
                reference = chosen(truth[m], limits, config)
                if reference is None:
                    raise ValueError(f"{model.name}: {_why_none(truth[m], limits, config)}")
                where = {"model": model.name, "latency_s": limits.latency_s}
                best.append(where | _best_json(chips, truth[m], reference, config))
                for effect, costs in zip(effects, ablated, strict=True):
                    choice = choice_without(truth[m], costs[m], reference, limits, config)
                    choices.append(
                        where | {"effect": effect.name} | _choice_json(chips, choice, reference)
                    )
    except ValueError as error:
        raise UserError(str(error)) from error
    found: dict[str, Any] = jsonable(
        {
            "objective": objective(config.objective).key,
            "accelerators": len(chips.cores),
            "limits": config.limits.active(),
            "effects": [{"name": e.name, "without": e.without} for e in effects],
            "best": best,
            "choices": choices,
        }
    )
    return found


def _grid(config: EffectsConfig) -> Accelerator:
    """The accelerators [A] within the limit of the peak, which is the same in all worlds."""
    chips = accelerator_grid(config.space)
    if config.limits.tops is None:
        return chips
    peak = np.asarray(tops(chips, config.scenario))
    within = peak <= config.limits.tops
    if not within.any():
        raise UserError(
            f"no accelerator of the grid meets tops <= {config.limits.tops:g}; "
            f"the least is {peak.min():.4g}"
        )
    some: Accelerator = jax.tree.map(lambda x: x[within], chips)
    return some


def _models(config: EffectsConfig) -> list[Model]:
    """The models of a config, with as many texts as its scenario has."""
    models: list[Model] = []
    for name in config.models:
        model = load_model(name, tokens=config.tokens, phase=config.phase, context=config.context)
        if model.sparsity:
            raise UserError(
                f"--models: {name} is a family of sparse subnets; give a dense network's design"
            )
        if model.name in [other.name for other in models]:
            raise UserError(f"--models: two are called '{model.name}'; rename one's file or folder")
        model = model.in_scenario(config.scenario)
        if config.scenario.dram_gb is not None:
            try:
                with_contents(config.scenario, model.memory, fixed=True)
            except ValueError as error:
                raise UserError(f"{name}: {error}") from error
        models.append(model)
    return models


def _without(effect: Effect, full: World) -> World:
    world = effect.leave_out(full)
    try:
        world.check()
    except ValueError as error:
        others = ",".join(each.name for each in EFFECTS if each is not effect)
        raise UserError(f"{effect.name}: {error}, or leave it: --effects '[{others}]'") from error
    return world


def priced_in_worlds(
    worlds: Sequence[World],
    models: Sequence[Model],
    chips: Accelerator,
    tell: Callable[[int], None] = lambda world: None,
) -> list[list[Costs]]:
    """Costs [A] of every model on every accelerator in every world: a list of models a world.

    Worlds in which all events cost alike share their mappings.

    Args:
      worlds: to price in.
      models: with as many texts an image as the worlds' scenarios have.
      chips: accelerators, leaves [A].
      tell: is told the index of each world before it is priced.

    Raises:
      ValueError: a scenario that cannot be priced.
    """
    chips = in_float32(chips)
    runs: dict[Hashable, list[Execution]] = {}
    found = []
    for i, one in enumerate(worlds):
        tell(i)
        # As numbers that programs take, so that worlds of other components share them.
        world = one.with_components(one.parts)
        techs = technologies(chips, world)
        key = _same_events(techs)
        if key not in runs:
            works = [model.operators.under(world.costing) for model in models]
            alone = [jax.tree.map(lambda x: np.asarray(x)[None], work) for work in works]
            runs[key] = _run_once_each(alone, chips, techs)
        costs = []
        for model, run in zip(models, runs[key], strict=True):
            # The world's DRAM is no smaller than the model's contents.
            own, contents = with_contents(world.scenario, model.memory, fixed=False)
            enough = dataclasses.replace(world, scenario=own)
            priced = costs_on_chips(run.map(lambda x: x[0]), chips, enough, contents)
            costs.append(jax.tree.map(_of_each(chips), priced))
        found.append(costs)
    return found


def _run_once_each(
    works: Sequence[Workload], chips: Accelerator, techs: Technology
) -> list[Execution]:
    """`run_on`; accelerators that differ in what no execution depends on are mapped once.

    Such as in their channels, where the DRAM has one bandwidth whatever their number.
    """
    matters = [getattr(chips, field) for field in ON_CHIP] + jax.tree.leaves(techs)
    _, first, which = np.unique(
        np.stack(matters, axis=-1), axis=0, return_index=True, return_inverse=True
    )
    few = jax.tree.map(lambda x: np.asarray(x)[np.sort(first)], (chips, techs))
    place = np.argsort(np.argsort(first))[which.reshape(-1)]
    return [run.map(lambda x: x[:, place]) for run in run_on(works, *few)]


def _same_events(techs: Technology) -> Hashable:
    leaves, structure = jax.tree.flatten(techs)
    return structure, tuple(np.asarray(leaf).tobytes() for leaf in leaves)


def _of_each(chips: Accelerator) -> Callable[[Any], np.ndarray]:
    return lambda x: np.broadcast_to(np.asarray(x), chips.cores.shape)


def _each_limit(config: EffectsConfig, costs: Costs) -> Iterator[Limits]:
    """The limits under which a model's accelerator is chosen, one latency after the other."""
    latencies = config.latency_s
    if latencies is None:
        allowed = _allowed(costs, config.limits, config)
        if not allowed.any():
            raise ValueError(_why_none(costs, config.limits, config))
        fastest = float(costs.latency_s[allowed].min())
        latencies = tuple(slack * fastest for slack in config.slack)
    for latency_s in latencies:
        yield dataclasses.replace(config.limits, latency_s=latency_s)


def _allowed(costs: Costs, limits: Limits, config: EffectsConfig) -> np.ndarray:
    """Which accelerators [A] meet the limits and keep up with the inferences."""
    keeps_up = busy_share(costs.latency_s, config.scenario) <= 1
    met: np.ndarray = np.asarray(feasible(costs, limits)) & keeps_up
    return met


def _why_none(costs: Costs, limits: Limits, config: EffectsConfig) -> str:
    keeps_up = busy_share(costs.latency_s, config.scenario) <= 1
    if not keeps_up.any():
        return (
            "no accelerator of the grid keeps up with scenario.inferences_per_s "
            f"{config.scenario.inferences_per_s:g}"
        )
    return unmet(costs, np.isfinite(costs.latency_s) & keeps_up, limits)


def chosen(costs: Costs, limits: Limits, config: EffectsConfig) -> int | None:
    """Index of the accelerator of least objective within the limits; None where none is.

    Args:
      costs: leaves [A].
      limits: hard limits.
      config: with the objective, and the scenario's inferences a second, to be kept up with.
    """
    allowed = _allowed(costs, limits, config)
    if not allowed.any():
        return None
    return least_index(objective(config.objective), costs, allowed)


def choice_without(
    truth: Costs, ablated: Costs, best: int, limits: Limits, config: EffectsConfig
) -> Choice:
    """The choice in a world that lacks an effect, held against the best of the full world.

    Args:
      truth: costs with all effects, leaves [A].
      ablated: without one.
      best: index of the choice with all effects.
      limits: of both choices.
      config: with objective and scenario.
    """
    index = chosen(ablated, limits, config)
    if index is None:
        return Choice(None)
    sought = objective(config.objective)
    predicted, actual = float(sought(ablated)[index]), float(sought(truth)[index])
    here: Costs = jax.tree.map(lambda x: float(x[index]), truth)
    exceeds = {bounded.key: bounded(here) / limit - 1 for bounded, limit in limits.bounds()}
    exceeds["inferences_per_s"] = busy_share(here.latency_s, config.scenario) - 1
    if _allowed(truth, limits, config)[index]:
        return Choice(index, predicted, actual, {}, actual / float(sought(truth)[best]) - 1)
    misses = {name: share for name, share in exceeds.items() if share > 0}
    return Choice(index, predicted, actual, misses)


def _best_json(chips: Accelerator, costs: Costs, index: int, config: EffectsConfig) -> Row:
    here = jax.tree.map(lambda x: float(x[index]), costs)
    return {
        "accelerator": accelerator_at(chips, index),
        "taken_s": here.latency_s,
        "value": float(objective(config.objective)(here)),
    }


def _choice_json(chips: Accelerator, choice: Choice, best: int) -> Row:
    """A choice as plain values; null for what it does not have."""
    index = choice.accelerator
    none = index is None
    fits = not none and bool(np.isfinite(choice.actual))
    return {
        "accelerator": None if index is None else accelerator_at(chips, index),
        "same": index == best,
        "fits": fits,
        "predicted": None if none else choice.predicted,
        "actual": choice.actual if fits else None,
        "regret": choice.regret,
        "misses": choice.misses if fits else {},
    }
