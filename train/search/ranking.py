"""Every network of a space ranked by the elastic supernet, and the best for each target."""

from __future__ import annotations

import jax
import numpy as np

from codesign.runs import RunFolder
from codesign.search.front import best_under, cheapest, network_shape
from codesign.search.proxy_file import PROXY, Ranked, proxy_bytes
from codesign.train.clip import Fixed, Weights
from codesign.train.search.proxy import examples, proxy_of
from codesign.train.search.setup import Setup


def ranked_start(setup: Setup, params: Weights, fixed: Fixed, folder: RunFolder) -> np.ndarray:
    """First designs [N, d] of the candidates: those searched get the best for their target.

    Families of subnets start as they would without a ranking, which is of dense networks. The
    ranking goes into the folder, where `codesign front` finds it.
    """
    config, space = setup.config, setup.space
    held = examples(
        setup.held_out.validation,
        setup.processor,
        config.schedule.proxy_images,
        config.threads,
        config.seed,
    )
    proxy = proxy_of(setup.trainer.task.student, params, fixed, space, held)
    if jax.process_index() == 0:
        ranked = Ranked(proxy, space.largest(), len(held.images))
        folder.write_bytes(PROXY, proxy_bytes(ranked))
    start = setup.start.copy()
    if setup.tables.sparse is not None:
        return start
    table = setup.tables.dense
    choice = cheapest(table, config.targets.mode, config.limits)
    searched = np.flatnonzero(np.asarray(setup.goals.searched))
    targets = np.asarray(setup.goals.targets)[searched]
    best = best_under(np.asarray(choice.value), proxy.loss.reshape(-1), targets)
    networks = np.stack(np.unravel_index(best, network_shape(table.space)), axis=-1)
    chips = np.asarray(table.accelerator_indices(choice.accelerator[best]))
    start[searched] = np.concatenate([networks, chips], axis=1)
    return start
