"""Trials of a black-box search: architectures tuned and measured as a search's own designs are.

A trial starts from the same ordered weights of the warm-up as the candidates of a search, sees the
same batches and learns from the same supernet as it goes on training; that supernet is trained
once, and what it says of every batch is kept. Networks are tuned under hard gates, which compute
what the networks cut out compute, so that one program serves all architectures.

Axes: n architectures side by side, d coordinates of a design, B examples of a batch.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.errors import RunError
from codesign.runs import ROLLED_BACK
from codesign.train import placement
from codesign.train.clip import Fixed, Weights
from codesign.train.feed import Place
from codesign.train.rollback import Streak
from codesign.train.search.measure import BATCH
from codesign.train.search.population import gates_at, params_of
from codesign.train.search.setup import Setup
from codesign.train.search.tune import Frame, Tuned, frame, tune_chunk
from codesign.train.zero_shot import evaluate_images

Array = jax.Array


class Result(NamedTuple):
    """What came of a trial.

    Attributes:
      validation: share of the validation images that the network got right.
      test: of the test images.
      wall_s: what it took, an equal part of what those side by side took.
    """

    validation: float
    test: float
    wall_s: float


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """Where the trials of one seed start.

    Attributes:
      setup: of a search without joint phase, whose candidates are tuned at once.
      params: the warm-up's weights, their units in order.
      fixed: what no step changes, in the same order.
      place: in the data, at the warm-up's end.
      taught: of every chunk of steps, what the supernet says of the batches.
      whole: the frame of so many networks that holds all of the space.
    """

    setup: Setup
    params: Weights
    fixed: Fixed
    place: Place
    taught: list[Any]
    whole: Callable[[int], Frame]

    @classmethod
    def start(cls, setup: Setup, params: Weights, fixed: Fixed, place: Place) -> Trials:
        """Trains the supernet once, as long as a trial takes."""
        largest = setup.space.part(setup.space.steps, "architecture")
        whole = functools.cache(lambda number: frame(setup, range(number), largest))
        before = cls(setup, params, fixed, place, [], whole)
        _, told = before._run(setup.space.steps[None], [])
        return dataclasses.replace(before, taught=told)

    def results(self, architectures: np.ndarray) -> list[Result]:
        """Tunes and measures architectures side by side.

        Args:
          architectures: choice indices [n, architecture_size].

        Raises:
          RunError: losses that are not finite, many in a row.
        """
        began = time.monotonic()
        setup = self.setup
        indices = np.zeros((len(architectures), len(setup.space.steps)), np.int64)
        indices[:, : setup.space.architecture_size] = architectures
        params, _ = self._run(indices, self.taught)
        shares = [self._measured(params_of(params, i), z) for i, z in enumerate(self._z(indices))]
        wall_s = (time.monotonic() - began) / len(architectures)
        return [Result(validation, test, wall_s) for validation, test in shares]

    def _z(self, indices: np.ndarray) -> Array:
        return jnp.asarray(self.setup.space.encode(indices), jnp.float32)

    def _run(self, indices: np.ndarray, taught: list[Any]) -> tuple[Weights, list[Any]]:
        """Weights after tuning, and what the first network said where there is no teacher yet."""
        setup, schedule = self.setup, self.setup.config.schedule
        trainer, begin = setup.trainer, schedule.warmup_steps
        replicated = placement.replicated(trainer.mesh)
        copies = jax.tree.map(lambda x: jnp.repeat(x[None], len(indices), axis=0), self.params)
        tuned = Tuned(copies, jax.vmap(trainer.optimizer.init)(copies))
        tuned = placement.put_split(tuned, trainer.mesh)
        sparse = placement.put(jnp.zeros(len(indices)), replicated)
        z = placement.put(self._z(indices), replicated)
        constants = setup.constants._replace(fixed=placement.put(self.fixed, replicated))
        key, told, streak = jax.random.key(setup.config.seed), [], Streak()
        whole = self.whole(len(indices))
        with setup.feed.open() as data:
            data.restore(self.place)
            size = schedule.chunk_steps
            for i, done in enumerate(range(0, schedule.tune_steps, size)):
                steps = min(size, schedule.tune_steps - done)
                chunk = data.read(begin + done, steps, size)
                said = taught[i] if taught else None
                chunk = chunk._replace(data=(chunk.data, said))
                tuned, metrics = tune_chunk(
                    tuned, z, sparse, begin + done, chunk, key, constants, whole
                )
                for step, bad in enumerate(np.asarray(metrics[ROLLED_BACK])[:steps]):
                    streak.saw(begin + done + step, bad)
                if streak.too_long is not None:
                    raise RunError(f"a trial: {streak.too_long}; lower --optim.lr")
                if not taught:
                    told.append(metrics["outputs"])
        return tuned.params, told

    def _measured(self, params: Weights, z: Array) -> tuple[float, float]:
        """Accuracy of one network on the validation and on the test images."""
        setup = self.setup
        network, fixed = placement.local((params, self.fixed))
        gates = gates_at(z, fixed, setup.space)
        supernet = setup.model(network, fixed)
        validation, test = (
            float(
                evaluate_images(
                    supernet,
                    setup.processor,
                    source,
                    batch_size=BATCH,
                    threads=setup.config.threads,
                    gates=gates,
                ).zero_shot.mean()
            )
            for source in (setup.held_out.validation, setup.held_out.test)
        )
        return validation, test
