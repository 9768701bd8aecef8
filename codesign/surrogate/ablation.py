"""Ablation: every surrogate against every oracle, at several budgets of samples.

Analytic, learned and corrected surrogates are held against points that none was fitted on:
single GEMMs, whole designs, one CLIP on a pool of accelerators, and pairs of neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from codesign.scenario import Scenario
from codesign.surrogate import acquisition, gradients, metrics
from codesign.surrogate.config import FEWEST_SAMPLES, AblationConfig
from codesign.surrogate.designs import Batch, batch, design_costs, with_raw_area
from codesign.surrogate.evidence import Evidence, subsets
from codesign.surrogate.files import Fitted
from codesign.surrogate.fitting import Job, fit_many
from codesign.surrogate.models import KINDS, Ensemble, Inputs, Kind, Prediction, base
from codesign.surrogate.points import FACTORS, Samples, observe, take

Row = dict[str, Any]
Buying = Literal["none", "random", "active"]
QUANTITIES = ("cycles", "energy_pj")


class Tables(NamedTuple):
    """What an ablation finds, as rows of plain values.

    Attributes:
      errors: accuracy per surrogate, budget, level (GEMMs, designs, pool) and metric.
      gradients: agreement of slopes.
      regrets: what a surrogate's optimum costs over the oracle's own.
      points: truth and prediction of each held-out GEMM and design, at the largest budget.
    """

    errors: list[Row]
    gradients: list[Row]
    regrets: list[Row]
    points: list[Row]


class Trial(NamedTuple):
    """A surrogate to be held against an oracle, or one of several repetitions of it.

    Attributes:
      surrogate: "analytic", "learned" or "corrected".
      buying: how its samples were bought.
      budget: how many there are.
      seed: repetition.
      predicted: its costs of all points, [N].
      ensemble, rows: weights and samples, where it has any.
    """

    surrogate: str
    buying: Buying
    budget: int
    seed: int
    predicted: Prediction
    ensemble: Ensemble | None = None
    rows: np.ndarray | None = None

    @property
    def labels(self) -> Row:
        """Columns that say which trial a row is of."""
        return {
            "surrogate": self.surrogate,
            "buying": self.buying,
            "budget": self.budget,
            "seed": self.seed,
        }


def trials(
    evidence: Evidence, config: AblationConfig, say: Callable[[str], None]
) -> Iterator[Trial]:
    """Fits every surrogate at every budget, bought at random and actively."""
    seen = {kind: observe(kind, evidence.samples.points) for kind in KINDS}
    yield Trial("analytic", "none", 0, 0, base(seen["corrected"]))
    everything = len(evidence.train)
    if everything < FEWEST_SAMPLES:
        say(f"{everything} samples to fit on are too few: only the analytic model is compared")
        return
    budgets = [*(b for b in sorted(set(config.budgets)) if b < everything), everything]
    orders = [
        np.random.default_rng([config.seed, seed]).permutation(evidence.train)
        for seed in range(config.seeds)
    ]
    for kind in KINDS:
        fitter = _Fitter(kind, seen[kind], evidence.samples.truth, config)
        for budget in budgets:
            say(f"{kind}: {budget} samples")
            yield from fitter.fit([order[:budget] for order in orders], "random")
        if len(budgets) > 2:
            yield from _active(fitter, orders, budgets[:-1], config.rounds, say)


class _Fitter(NamedTuple):
    """Fits ensembles of one kind to rows of one oracle's samples."""

    kind: Kind
    seen: Inputs
    truth: Prediction
    config: AblationConfig

    def fit(self, rows: Sequence[np.ndarray], how: Buying) -> list[Trial]:
        """One trial for each seed's rows."""
        jobs = [Job(r, self.config.seed + 1000 * seed) for seed, r in enumerate(rows)]
        ensembles = fit_many(self.kind, self.seen, self.truth, jobs, self.config.fit)
        return [
            Trial(self.kind, how, len(r), seed, _at(ensemble, self.seen), ensemble, r)
            for seed, (r, ensemble) in enumerate(zip(rows, ensembles, strict=True))
        ]


@jax.jit
def _predict_at(ensemble: Ensemble, seen: Inputs) -> Prediction:
    return ensemble.at(seen)


def _at(ensemble: Ensemble, seen: Inputs) -> Prediction:
    return jax.tree.map(np.asarray, _predict_at(ensemble, seen))


def _active(
    fitter: _Fitter,
    orders: Sequence[np.ndarray],
    budgets: Sequence[int],
    rounds: int,
    say: Callable[[str], None],
) -> Iterator[Trial]:
    """From the smallest budget on, buys where the members of the last ensemble disagree."""
    where = acquisition.positions(fitter.seen)
    rows = [order[: budgets[0]] for order in orders]
    current = fitter.fit(rows, "active")
    for low, high in itertools.pairwise(budgets):
        for size in np.unique(np.geomspace(low, high, rounds + 1)[1:].round().astype(int)):
            say(f"{fitter.kind}: {size} samples, bought where the ensemble disagrees")
            rows = [
                np.concatenate([trial.rows, _bought(trial, order, fitter.seen, where, size)])
                for trial, order in zip(current, orders, strict=True)
            ]
            current = fitter.fit(rows, "active")
        yield from current


def _bought(
    trial: Trial, order: np.ndarray, seen: Inputs, where: np.ndarray, size: int
) -> np.ndarray:
    """Rows of `order` that a trial buys to have `size` of them."""
    assert trial.ensemble is not None and trial.rows is not None
    left = np.setdiff1d(order, trial.rows)
    score = acquisition.disagreement(trial.ensemble, take(seen, left))
    return left[acquisition.choose(score, where[left], size - len(trial.rows))]


def compare(
    evidence: Evidence, config: AblationConfig, say: Callable[[str], None]
) -> tuple[Tables, list[Fitted]]:
    """Holds every surrogate against one oracle.

    Returns:
      The tables, and the ensembles fitted to all samples, one of each kind.
    """
    levels = list(_levels(evidence, config))
    tables = Tables([], [], [], [])
    final: list[Trial] = []
    fitted: list[Fitted] = []
    for trial in trials(evidence, config, say):
        everything = trial.budget in (0, len(evidence.train)) and trial.buying != "active"
        shown = everything and trial.seed == 0
        for level in levels:
            predicted = level.of(trial.predicted)
            tables.errors.extend(
                _errors(level, predicted, trial, evidence.oracle, config.top_share)
            )
            if level.name == "pool":
                tables.regrets.extend(_regrets(level, predicted, trial, evidence.oracle))
            if shown:
                tables.points.extend(_points(level, predicted, trial, evidence.oracle))
        if shown:
            final.append(trial)
        if shown and trial.ensemble is not None and trial.rows is not None:
            samples = take(evidence.samples, trial.rows)
            fitted.append(
                Fitted(trial.ensemble, samples, evidence.oracle, evidence.fingerprint, config.fit)
            )
    tables.gradients.extend(_slopes(evidence, final, say))
    return tables, fitted


class _Level(NamedTuple):
    """Things of one kind whose truth is known, [T].

    Attributes:
      name: "gemm", "design" or "pool".
      of: costs of all points to {metric: values [T]}.
      truth: the same of the oracle.
      subsets: flags [T] by name.
    """

    name: str
    of: Callable[[Prediction], Mapping[str, np.ndarray]]
    truth: Mapping[str, np.ndarray]
    subsets: Mapping[str, np.ndarray]


def _levels(evidence: Evidence, config: AblationConfig) -> Iterator[_Level]:
    samples = evidence.samples
    if len(evidence.gemms):

        def gemms(costs: Prediction) -> Mapping[str, np.ndarray]:
            return dict(zip(QUANTITIES, take(costs, evidence.gemms), strict=True))

        kinds = take(subsets(samples.points), evidence.gemms)
        yield _Level("gemm", gemms, gemms(samples.truth), kinds)
    for name, designs in (("design", evidence.designs), ("pool", evidence.pool)):
        if designs:
            yield _design_level(name, batch(designs, config.scenario), samples, config.scenario)


def _design_level(name: str, group: Batch, samples: Samples, scenario: Scenario) -> _Level:
    def of(costs: Prediction) -> Mapping[str, np.ndarray]:
        return design_costs(group, costs, scenario)

    smooth = design_costs(group, samples.truth, scenario)
    # Where CACTI knows the buffers the area is not its own truth.
    raw = with_raw_area(group, smooth, scenario)
    truth = raw or {m: v for m, v in smooth.items() if m != "area_mm2"}
    starved = subsets(samples.points)["starved"][group.rows]
    time = samples.truth.cycles[group.rows] * np.asarray(group.workload.count)
    mostly = (time * starved).sum(axis=1) > 0.5 * time.sum(axis=1)
    return _Level(name, of, truth, {"all": np.ones(len(mostly), bool), "starved": mostly})


def _errors(
    level: _Level, predicted: Mapping[str, np.ndarray], trial: Trial, oracle: str, top_share: float
) -> Iterator[Row]:
    for subset, flags in level.subsets.items():
        for metric, truth in level.truth.items():
            if flags.any():
                yield {
                    "oracle": oracle,
                    **trial.labels,
                    "level": level.name,
                    "subset": subset,
                    "metric": metric,
                    **metrics.accuracy(truth[flags], predicted[metric][flags], top_share),
                }


def _regrets(
    level: _Level, predicted: Mapping[str, np.ndarray], trial: Trial, oracle: str
) -> Iterator[Row]:
    for metric, truth in level.truth.items():
        if metric != "area_mm2":
            yield {
                "oracle": oracle,
                **trial.labels,
                "metric": metric,
                "pool": len(truth),
                "chosen": int(np.argmin(predicted[metric])),
                "best": int(np.argmin(truth)),
                "regret": metrics.regret(truth, predicted[metric]),
            }


def _points(
    level: _Level, predicted: Mapping[str, np.ndarray], trial: Trial, oracle: str
) -> Iterator[Row]:
    for metric, truth in level.truth.items():
        for i, (t, p) in enumerate(zip(truth, predicted[metric], strict=True)):
            yield {
                "oracle": oracle,
                "surrogate": trial.surrogate,
                "level": level.name,
                "metric": metric,
                "index": i,
                "truth": float(t),
                "predicted": float(p),
            }


def _slopes(evidence: Evidence, final: Sequence[Trial], say: Callable[[str], None]) -> list[Row]:
    """Agreement of slopes among the neighbours, over all factors and over each."""
    points = take(evidence.samples.points, evidence.neighbours)
    pairs = gradients.one_factor_pairs(points)
    if not len(pairs.factor):
        return []
    say(f"slopes over {len(pairs.factor)} pairs of neighbours")
    paths = {kind: gradients.path_inputs(kind, points, pairs) for kind in KINDS}
    truth = gradients.change(take(evidence.samples.truth, evidence.neighbours), pairs)
    rows = []
    for trial in final:
        path = paths["learned" if trial.surrogate == "learned" else "corrected"]
        change = gradients.change(take(trial.predicted, evidence.neighbours), pairs)
        found = {"difference": change} | gradients.slopes(trial.ensemble, path)
        for factor, flags in _by_factor(pairs):
            for i, metric in enumerate(QUANTITIES):
                for estimate, values in found.items():
                    rows.append(
                        {
                            "oracle": evidence.oracle,
                            **trial.labels,
                            "factor": factor,
                            "metric": metric,
                            "estimate": estimate,
                            **gradients.agreement(truth[flags, i], values[flags, i]),
                        }
                    )
    return rows


def _by_factor(pairs: gradients.Pairs) -> Iterator[tuple[str, np.ndarray]]:
    yield "all", np.ones(len(pairs.factor), bool)
    for f in np.unique(pairs.factor):
        yield FACTORS[f], pairs.factor == f
