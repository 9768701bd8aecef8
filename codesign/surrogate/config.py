"""Typed configuration of an ablation; configs/ holds an instance of it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from codesign.bounds import Ge, Le, MinLen
from codesign.constraints import (
    LARGEST_COUNT,
    Count,
    CountChoices,
    InnerShare,
    Natural,
    NonNegative,
    Positive,
    PositiveShare,
    Seed,
    first_problem,
)
from codesign.errors import UserError
from codesign.oracle import SAMPLED_SCENARIO
from codesign.scenario import Scenario
from codesign.space import PUBLISHED_GRID, AcceleratorChoices, TowerChoices

# What an ablation finds, in its run folder.
RESULT = "ablation.json"
# Fewer samples than this leave nothing to hold out.
FEWEST_SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class SampleSpace:
    """CLIPs and accelerators that points are drawn from, evenly over the choices.

    Attributes:
      vision, text: choices of the towers.
      patch: choices of the image patch's side, pixels.
      accelerator: choices of the accelerator.
    """

    vision: TowerChoices = TowerChoices(
        layers=(6, 8, 10, 12),
        width=(384, 512, 640, 768),
        heads=(6, 8, 10, 12),
        ffn=(1024, 1536, 1920, 2304, 2688, 3072),
    )
    text: TowerChoices = TowerChoices(
        layers=(6, 8, 10, 12),
        width=(256, 384, 512),
        heads=(4, 6, 8),
        ffn=(1024, 1280, 1536, 1792, 2048),
    )
    patch: CountChoices = (16, 32)
    accelerator: AcceleratorChoices = PUBLISHED_GRID


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """How many points of each kind; of stored ones at most so many.

    Attributes:
      train: single GEMMs to fit on.
      gemms: single GEMMs held out.
      designs: whole designs held out, about 15 GEMMs each.
      neighbourhoods: GEMMs on an accelerator, and on each one a step along one axis away,
        for finite differences; about 10 points each.
      pool: accelerators among which one CLIP's best is sought, about 15 GEMMs each.
    """

    train: Natural = 1000
    gemms: Natural = 200
    designs: Natural = 40
    neighbourhoods: Natural = 20
    pool: Natural = 60


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How an ensemble is fitted.

    Attributes:
      members: networks of an ensemble.
      hidden: sizes of their hidden layers.
      steps: optimisation steps.
      batch_size: samples a step.
      lr: peak learning rate (Adam, cosine decay).
      weight_decay: decoupled, on every weight.
      validation: share of the samples that each member holds out, to stop by.
      checks: how often it looks at them.
      huber: logarithmic error, in units of the base's own, past which it counts linearly.
    """

    members: Count = 5
    hidden: CountChoices = (48, 48)
    steps: Count = 1500
    batch_size: Count = 96
    lr: Positive = 5e-3
    weight_decay: NonNegative = 1e-3
    validation: InnerShare = 0.15
    checks: Count = 50
    huber: Positive = 0.3

    def __post_init__(self) -> None:
        if (problem := first_problem(self)) is not None:
            raise ValueError(problem)
        if self.steps % self.checks:
            raise ValueError(f"steps, {self.steps}, must be a multiple of checks, {self.checks}")


@dataclasses.dataclass(frozen=True)
class AblationConfig:
    """An ablation of surrogates.

    Attributes:
      oracles: names, "zigzag" or "exact", or PACKAGE.MODULE:NAME or FILE.py:NAME of others.
      points: "stored": those whose samples come with the package; "drawn": from `space`.
      purchases: points that each oracle may be asked for where they are not stored.
      processes: processes that ask; 0: this one.
      budgets: samples to fit on; the whole of what there is comes on top.
      rounds: purchases between one budget and the next, where points are bought actively.
      seeds: repetitions, of which the mean is reported.
      top_share: k of the top-k recall, as a share of the designs.
      plan: points of each kind.
      space: CLIPs and accelerators that drawn points are of.
      scenario: clock, bandwidths, and what carbon is computed with; by default those of the
        stored points, at whose DRAM bandwidth alone there are some.
      fit: how ensembles are fitted.
      seed: of points, weights and batches.
    """

    oracles: Annotated[tuple[str, ...], MinLen(1)] = ("zigzag", "exact")
    points: Literal["stored", "drawn"] = "stored"
    purchases: Natural = 0
    processes: Natural = 2
    budgets: tuple[Annotated[int, Ge(FEWEST_SAMPLES), Le(LARGEST_COUNT)], ...] = (50, 150, 300)
    rounds: Count = 2
    seeds: Count = 2
    top_share: PositiveShare = 0.1
    plan: PlanConfig = PlanConfig()
    space: SampleSpace = SampleSpace()
    scenario: Scenario = SAMPLED_SCENARIO
    fit: FitConfig = FitConfig()
    seed: Seed = 0

    def check(self) -> None:
        """What no field alone can say.

        Raises:
          UserError: a space of points that are stored.
        """
        if self.points == "stored" and self.space != SampleSpace():
            raise UserError("--space is of drawn points: give --points drawn, or leave it out")
