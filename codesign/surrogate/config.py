"""Typed configuration of an ablation; configs/ holds an instance of it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices, TowerChoices

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
        layers=(6, 8, 10, 12), width=(384, 512, 640, 768), heads=(6, 8, 10, 12),
        ffn=(1024, 1536, 1920, 2304, 2688, 3072),
    )  # fmt: skip
    text: TowerChoices = TowerChoices(
        layers=(6, 8, 10, 12), width=(256, 384, 512), heads=(4, 6, 8),
        ffn=(1024, 1280, 1536, 1792, 2048),
    )  # fmt: skip
    patch: tuple[int, ...] = (16, 32)
    accelerator: AcceleratorChoices = AcceleratorChoices()


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

    train: int = 1000
    gemms: int = 200
    designs: int = 40
    neighbourhoods: int = 20
    pool: int = 60

    def __post_init__(self) -> None:
        for name, count in dataclasses.asdict(self).items():
            if count < 0:
                raise ValueError(f"{name} is {count}: it must not be negative")


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

    members: int = 5
    hidden: tuple[int, ...] = (48, 48)
    steps: int = 1500
    batch_size: int = 96
    lr: float = 5e-3
    weight_decay: float = 1e-3
    validation: float = 0.15
    checks: int = 50
    huber: float = 0.3

    def __post_init__(self) -> None:
        for name in ("members", "steps", "batch_size", "checks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: at least 1 is needed")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation is {self.validation}: a share between 0 and 1 is needed")
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
      scenario: clock, bandwidths, and what carbon is computed with.
      fit: how ensembles are fitted.
      seed: of points, weights and batches.
    """

    oracles: tuple[str, ...] = ("zigzag", "exact")
    points: Literal["stored", "drawn"] = "stored"
    purchases: int = 0
    processes: int = 2
    budgets: tuple[int, ...] = (50, 150, 300)
    rounds: int = 2
    seeds: int = 2
    top_share: float = 0.1
    plan: PlanConfig = PlanConfig()
    space: SampleSpace = SampleSpace()
    scenario: Scenario = Scenario()
    fit: FitConfig = FitConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("processes", 0), ("purchases", 0), ("rounds", 1), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: at least {least} is needed")
        if not self.oracles:
            raise ValueError("oracles is empty: name at least one")
        if self.scenario.costing != "physical" or self.scenario.precision_bits != 8:
            raise ValueError("scenario: oracles price physical costs at 8 bits only")
        if not 0 < self.top_share <= 1:
            raise ValueError(f"top_share is {self.top_share}: a share of 1 or less is needed")
        if any(b < FEWEST_SAMPLES for b in self.budgets):
            raise ValueError(f"budgets {self.budgets}: at least {FEWEST_SAMPLES} samples each")


