"""What heads and hidden units of each layer's own add to a search whose layers are alike.

    python benchmarks/layers_that_differ.py --out runs/layers --seeds 0 1 2

In a network of the space all layers of a tower have as many heads and hidden units. Here layers are
let differ: from the best uniform network for each of six costs, by the elastic supernet's loss on
validation images, each layer of a tower may go or come back and gets its own number of heads and of
hidden units. Steps along these dimensions, and pairs of steps, are taken while the loss falls and
the cost on the best accelerator stays within the target: the descent of a relaxation by true
differences, so that no rounding is lost. Both fronts are judged on the test images, by the
supernet as it is and after equally long tuning with the same batches.

Prints the hypervolumes of every seed, and over the seeds the ratio with Student's 95 % interval.
Ten minutes a seed on two cores. The supernet's training goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from elastic_supernet import elastic_supernet

from codesign.configs.quickstart import config as QUICKSTART
from codesign.cost.execution import Execution
from codesign.cost.model import Costs, Stored, costs_of
from codesign.cost.table import CostTable
from codesign.models import Gates
from codesign.models.gates import TowerGates
from codesign.search.front import best_under, cheapest, network_shape
from codesign.search.objectives import feasible, metric
from codesign.search.pareto import hypervolume
from codesign.search.statistics import mean_interval
from codesign.space import DesignSpace
from codesign.train.losses import normalise
from codesign.train.search.compare_config import ELASTIC_STEPS
from codesign.train.search.population import losses_of, moved
from codesign.train.search.proxy import Examples, examples, proxy_of
from codesign.train.search.run import Searched
from codesign.train.search.setup import Setup
from machine import here

Array = jax.Array
_AT_ONCE = 64  # networks looked at together
_PAIRS = 48  # of steps, looked at in a round
_ROUNDS = 40


class Layout:
    """Networks whose layers differ as rows of choice indices.

    Of each tower its width, whether each layer is there, each layer's heads, and its hidden units.
    """

    def __init__(self, space: DesignSpace, layer_rank: dict[str, np.ndarray]) -> None:
        self.space, self.rank = space, layer_rank
        lengths = [1 + 3 * len(rank) for rank in layer_rank.values()]
        ends = np.cumsum(lengths)
        self.slices = dict(zip(layer_rank, map(slice, ends - lengths, ends), strict=True))
        self.last = self.row(space.part(space.steps, "architecture"))

    def part(self, x: Any, tower: str) -> tuple[Any, Any, Any, Any]:
        """Width [], and layers that are there, heads, hidden units [L], of a row [d]."""
        own, layers = x[self.slices[tower]], len(self.rank[tower])
        return (own[0], *(own[1 + i * layers : 1 + (i + 1) * layers] for i in range(3)))

    def row(self, network: np.ndarray) -> np.ndarray:
        """The row [d] of a network of the space, given by its choice indices."""
        parts = []
        for tower, rank in self.rank.items():
            layers, width, heads, ffn = (int(i) for i in self.space.part(network, tower))
            kept = rank < self.space.towers[tower].layers[layers]
            parts += [[width], kept, np.full(len(rank), heads), np.full(len(rank), ffn)]
        return np.concatenate(parts).astype(np.int32)

    def steps(self, x: np.ndarray) -> np.ndarray:
        """Single steps [n, d] from a row that lead to another network."""
        idle = np.zeros(len(x), bool)
        for tower, own in self.slices.items():
            gone = self.part(x, tower)[1] == 0
            idle[own] = [False, *np.zeros_like(gone), *gone, *gone]
        every = np.concatenate([sign * np.eye(len(x), dtype=np.int32) for sign in (1, -1)])
        inside = ((x + every >= 0) & (x + every <= self.last)).all(axis=1)
        return every[inside & ~(every != 0)[:, idle].any(axis=1)]

    def gates(self, x: Array) -> Gates:
        """Of a row in the supernet."""
        gates = {}
        for tower, choices in self.space.towers.items():
            width, kept, heads, ffn = self.part(x, tower)
            gates[tower] = TowerGates(
                layers=kept.astype(jnp.float32),
                heads=_open(choices.heads, heads),
                ffn=_open(choices.ffn, ffn),
                channels=_open(choices.width, width),
            )
        return Gates(**gates)

    def costs(self, x: Array, table: CostTable, stored: Stored) -> Costs:
        """Costs [accelerators] of a row: the table's, layer by layer."""
        runs = []
        for tower in self.space.towers:
            width, kept, heads, ffn = self.part(x, tower)
            layers = table.layer[tower].map(lambda t, at=(width, heads, ffn): t[at])
            there = kept.astype(jnp.float32)
            runs.append(layers.map(lambda t, there=there: jnp.tensordot(there, t, 1)))
            runs.append(table.outside[tower].map(lambda t, width=width: t[width]))
        run, chip = jax.tree.map(
            lambda t: jnp.reshape(t, -1), (functools.reduce(Execution.then, runs), table.chip)
        )
        return costs_of(run, chip, table.scenario, stored).totals()


def _open(choices: tuple[int, ...], index: Array) -> Array:
    """Gates [..., units] of the first units, as many as choices [...] say."""
    counts = jnp.asarray(choices)[index]
    return (jnp.arange(choices[-1]) < counts[..., None]).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Supernet:
    """An elastic supernet, and what its networks cost and lose; hashed by identity."""

    setup: Setup
    state: Searched
    layout: Layout
    stored: Stored  # [accelerators], the same DRAM for all networks

    @classmethod
    def of(cls, setup: Setup, state: Searched) -> Supernet:
        space, table, rest = setup.space, setup.tables.dense, state.fixed.rest
        rank = {t: np.asarray(rest[t]["blocks"]["layer_rank"][...]) for t in space.towers}
        ends = (jnp.zeros(len(space.steps), int), jnp.asarray(space.steps))
        smallest, largest = map(table.stored_on_every_accelerator, ends)
        if not np.array_equal(smallest.dram_gb, largest.dram_gb):
            raise SystemExit("networks of the space need DRAM of different sizes")
        return cls(setup, state, Layout(space, rank), largest)

    @functools.cached_property
    def _costs(self) -> Callable[[Array], Array]:
        config, table = self.setup.config, self.setup.tables.dense

        def of(x: Array) -> Array:
            costs = self.layout.costs(x, table, self.stored)
            value = metric(costs, config.targets.mode)
            return jnp.min(jnp.where(feasible(costs, config.limits), value, jnp.inf))

        return jax.jit(lambda rows: jax.lax.map(of, rows, batch_size=8))

    def costs(self, rows: np.ndarray) -> np.ndarray:
        """Of rows [n, d], each on its best accelerator within the limits."""
        return _in_blocks(self._costs, rows)

    def judged(self, params: Any, x: Array, held: Examples) -> tuple[Array, Array]:
        """Loss of one row, and the share of images that it gets right."""
        network = self.setup.trainer.task.student
        model, gates = network.clip(params.clip, self.state.fixed.rest), self.layout.gates(x)
        images = model.encode_image(network.normalised(held.images), gates)[0]
        classes, templates, tokens = held.ids.shape
        texts = model.encode_text(jnp.reshape(held.ids, (-1, tokens)), gates)[0]
        texts = normalise(jnp.mean(texts.reshape(classes, templates, -1), axis=1))
        logits = jnp.exp(model.logit_scale[...]) * jnp.einsum(
            "ME,KE->MK", images, texts, precision=jax.lax.Precision.HIGHEST
        )
        targets = jnp.asarray(held.targets)
        likely = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)
        return -jnp.mean(likely), jnp.mean(jnp.argmax(logits, axis=1) == targets)

    def losses_on(self, held: Examples) -> Callable[[np.ndarray], np.ndarray]:
        """The supernet's loss of rows [n, d] on some images."""
        params = self.state.trained.params
        every = jax.jit(
            lambda rows: jax.lax.map(lambda x: self.judged(params, x, held)[0], rows, batch_size=8)
        )
        return functools.partial(_in_blocks, every)

    def refined(
        self, x: np.ndarray, target: float, losses: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """The row that steps lead to from x [d], of no higher loss and within the target."""
        (loss,) = losses(x[None])
        for _ in range(_ROUNDS):
            steps = self.layout.steps(x)
            cost, change = self.costs(x + steps), losses(x + steps) - loss
            (before,) = self.costs(x[None])
            # A pair may cost a little more than the sum says, which the next look at it tells.
            pairs = [
                (change[i] + change[j], steps[i] + steps[j])
                for i, j in itertools.combinations(range(len(steps)), 2)
                if cost[i] + cost[j] - before <= target and (steps[i] != -steps[j]).any()
            ]
            tried = [*pairs, *((change[i], steps[i]) for i in np.flatnonzero(cost <= target))]
            tried = sorted(tried, key=lambda found: float(found[0]))[:_PAIRS]
            if not tried:
                break
            others = np.array([x + step for _, step in tried])
            found = np.where(self.costs(others) <= target, losses(others), np.inf)
            if found.min() >= loss:
                break
            x, loss = others[np.argmin(found)], found.min()
        return x

    def tuned(self, rows: np.ndarray) -> Any:
        """Weights [n + 1, ...] of the whole supernet and of rows [n, d], tuned side by side.

        All learn from the whole one, as in a search.
        """
        setup, fixed = self.setup, self.state.fixed
        trainer, schedule, size = setup.trainer, setup.config.schedule, 1
        every = jnp.asarray(np.concatenate([self.layout.last[None], rows]))
        learns = jnp.arange(len(every)) > 0
        params = jax.tree.map(
            lambda x: jnp.repeat(x[None], len(every), axis=0), self.state.trained.params
        )

        def loss(params: Any, batch: Any) -> Array:
            out, _ = jax.vmap(
                lambda p, x: trainer.task.forward(p, (), fixed, batch, self.layout.gates(x))
            )(params, every)
            teacher = jax.lax.stop_gradient(jax.tree.map(lambda x: x[0], out))
            of_one = jax.tree.map(lambda x: x[:, None], out)
            weights = jnp.ones((len(every), 1))
            losses, far = losses_of(trainer.task, params, of_one, weights, teacher, batch)
            return jnp.sum(losses) + trainer.distillation * jnp.sum(learns * far)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, opt_state: Any, drawn: Any, key: Array) -> tuple[Any, Any]:
            batch = trainer.batch(drawn, setup.constants.data, key)
            return moved(trainer, jax.grad(loss)(params, batch), params, opt_state)

        opt_state = jax.vmap(trainer.optimizer.init)(params)
        first, key = schedule.warmup_steps + schedule.elastic_steps, jax.random.key(0)
        with setup.feed.open() as data:
            for i in range(schedule.tune_steps):
                drawn = jax.tree.map(lambda x: x[0], data.read(first + i, size, size).data)
                params, opt_state = step(params, opt_state, drawn, jax.random.fold_in(key, i))
        return params


def _in_blocks(function: Callable[[Array], Array], rows: np.ndarray) -> np.ndarray:
    """A function of rows [n, d], compiled for one number of them."""
    padded = np.concatenate([rows, np.repeat(rows[:1], -len(rows) % _AT_ONCE, axis=0)])
    blocks = [padded[i : i + _AT_ONCE] for i in range(0, len(padded), _AT_ONCE)]
    return np.concatenate([np.asarray(function(jnp.asarray(b))) for b in blocks])[: len(rows)]


def fronts(net: Supernet) -> tuple[np.ndarray, np.ndarray]:
    """Of every target the best uniform row and what it leads to where layers may differ, [T, d]."""
    setup, space = net.setup, net.setup.space
    config, table = setup.config, setup.tables.dense
    held = examples(
        setup.held_out.validation, setup.processor, config.schedule.proxy_images, config.threads
    )
    params, fixed = net.state.trained.params, net.state.fixed
    proxy = proxy_of(setup.trainer.task.student, params, fixed, space, held)
    cost = np.asarray(cheapest(table, config.targets.mode, config.limits).value)
    targets = np.asarray(setup.goals.targets)[np.asarray(setup.goals.searched) > 0]
    best = best_under(cost, proxy.loss.reshape(-1), targets)
    networks = np.stack(np.unravel_index(best, network_shape(space)), axis=-1)
    uniform = np.array([net.layout.row(network) for network in networks])
    np.testing.assert_allclose(net.costs(uniform), cost[best], rtol=1e-5)
    losses = net.losses_on(held)
    differing = [
        net.refined(x, float(target), losses) for x, target in zip(uniform, targets, strict=True)
    ]
    before, after = losses(uniform), losses(np.array(differing))
    for x, y, a, b in zip(uniform, differing, before, after, strict=True):
        print(f"  validation loss {a:.3f} -> {b:.3f}: {x.tolist()} -> {y.tolist()}", flush=True)
    return uniform, np.array(differing)


def hypervolumes(net: Supernet) -> dict[str, tuple[float, float]]:
    """Of the uniform front and of that whose layers differ, on test images, by what judged."""
    setup, config = net.setup, net.setup.config
    sides = fronts(net)
    test = setup.held_out.test
    held = examples(test, setup.processor, len(test), config.threads)
    rows, params = np.concatenate(sides), net.state.trained.params
    accuracy = jax.jit(lambda params, x: net.judged(params, x, held)[1])
    tuned = net.tuned(rows)
    judged = {
        "untuned": [float(accuracy(params, x)) for x in rows],
        "tuned": [
            float(accuracy(jax.tree.map(lambda w, i=i: w[i + 1], tuned), x))
            for i, x in enumerate(rows)
        ],
    }
    costs, half = net.costs(rows), len(sides[0])
    box = {
        "worst_cost": float(setup.goals.targets[0]),
        "best_cost": setup.least,
        "worst_accuracy": config.targets.worst_accuracy,
    }
    found = {}
    for name, accuracies in judged.items():
        print(f"  {name}: {np.round(accuracies, 3).tolist()}")
        found[name] = (
            hypervolume(costs[:half], accuracies[:half], **box),
            hypervolume(costs[half:], accuracies[half:], **box),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    print(here())
    every = []
    for seed in args.seeds:
        supernet = elastic_supernet(QUICKSTART, seed, ELASTIC_STEPS, args.out / str(seed))
        every.append(hypervolumes(Supernet.of(*supernet)))
        for name, (alike, differing) in every[-1].items():
            print(f"seed {seed}, {name}: alike {alike:.3f}, differing {differing:.3f}", flush=True)
    for name in every[0]:
        mean, interval = mean_interval([found[name][1] / found[name][0] for found in every])
        between = "" if interval is None else f" ({interval.low:.3f} to {interval.high:.3f})"
        print(f"{name}: hypervolume where layers differ {mean:.3f}{between} times that where not")


if __name__ == "__main__":
    main()
