"""The joint search, from data to report.

Chapters, in the order things happen: data; the table of exact costs; references and
targets; warm-up of the supernet; one ordering of its units by importance; relaxed
designs and weights trained together; the snap to discrete designs; training of the
chosen networks; slicing and measuring; report.

Interrupted at any moment, the same command with --resume goes on from the newest
checkpoint: batches, augmentation, ordering and snap are functions of the seed, the step
and the state alone, so the result is the same.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console

from codesign.constraints import check_config
from codesign.models import CLIP, full_gates, reorder, taylor_importance
from codesign.report.correct import CORRECT, correct_json
from codesign.report.html import write_report
from codesign.runs import RunFolder
from codesign.train import measure, placement
from codesign.train.check import due
from codesign.train.checkpoints import Checkpoints, Saved, refill
from codesign.train.config import SearchConfig
from codesign.train.data import batch_indices, template_indices
from codesign.train.family import Batch, Family, Members, member_params, plain_loss
from codesign.train.loop import JOINT, PHASES, TUNE, WARMUP, Loop
from codesign.train.progress import Display, resume_metrics
from codesign.train.setup import Setup, prepare, start_family, start_warmup
from codesign.train.snap import snap
from codesign.train.tracking import RunTracker


def run_search(
    config: SearchConfig, folder: RunFolder, console: Console, *, check: bool | None = None
) -> dict[str, Any]:
    """Runs a search, or the rest of one, and writes everything into the folder.

    Args:
      config: what to search.
      folder: where to write.
      console: where to show progress.
      check: whether the first step of each phase is checked against its plainly compiled loss
        (`codesign.train.check`); None: on CPUs.

    Returns:
      {"designs": entries of designs.json, "summary": of summary.json}.

    Raises:
      UserError: data, space or limits that cannot be used.
      RunError: a loss that is not finite, a checkpoint that does not fit.
    """
    check_config(config)
    with Checkpoints(folder.checkpoints) as checkpoints, Display(console) as display:
        saved = checkpoints.latest(PHASES, display.says) if folder.resumed else None
        with RunTracker(saved.notes if saved else None) as tracker:
            setup = prepare(config, display)
            measure.save_tokenizer(setup.data, folder)
            resume_metrics(folder, saved.step if saved else 0, display)
            loop = Loop(setup, folder, checkpoints, tracker, display, checks=due(check))
            family, rest = train(loop, saved)
            display.says("slicing and measuring the networks")
            designs, right = measure.designs(setup, family, rest, folder)
            summary = measure.summary(setup, designs, right) | tracker.stop()
    folder.write_json(CORRECT, correct_json(right))
    folder.write_json("designs.json", designs)
    folder.write_json("summary.json", summary)
    write_report(folder.path)
    return {"designs": designs, "summary": summary}


def train(loop: Loop, saved: Saved | None) -> tuple[Family, nnx.State]:
    """All training, from wherever the saved checkpoint stands.

    Returns:
      The tuned family, its designs discrete, and the state it shares (layer ranks).
    """
    setup, display = loop.setup, loop.display
    schedule = setup.config.schedule
    warmed = schedule.warmup_steps
    joined = warmed + schedule.joint_steps
    tuned = joined + schedule.tune_steps

    graphdef, params, rest = _split(setup.model)
    whole = placement.replicated(setup.trainer.mesh)
    family = start_warmup(setup, params)
    phase = saved.phase if saved else WARMUP
    if saved and phase != WARMUP:
        family = start_family(setup, params, warmed)
    if saved:
        family, rest = refill((family, rest), saved.leaves)
    family, rest = placement.put((family, rest), whole)

    if phase == WARMUP:
        alone = Members(*(x[:1] for x in setup.members))
        family = loop.run(WARMUP, family, alone, rest, warmed)
        display.says("ordering units by importance")
        supernet = nnx.merge(graphdef, member_params(family.params, 0), rest)
        ordered = order_units(setup, supernet)
        _, params, rest = _split(ordered)
        family, rest = placement.put((start_family(setup, params, warmed), rest), whole)
    if phase != TUNE:
        family = loop.run(JOINT, family, setup.members, rest, joined)
        display.says("snapping to discrete designs")
        family = placement.put(snap(setup, family, rest), whole)
        loop = dataclasses.replace(loop, checks=False)  # tuning runs the program just checked
    settled = setup.members._replace(searched=jnp.zeros_like(setup.members.searched))
    family = loop.run(TUNE, family, placement.put(settled, whole), rest, tuned)
    return family, rest


def _split(model: CLIP) -> tuple[nnx.GraphDef[CLIP], nnx.State, nnx.State]:
    """The network's graph, its weights and the rest of its state."""
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = split
    return graphdef, params, rest


def order_units(setup: Setup, model: CLIP) -> CLIP:
    """The supernet with its units in order of importance, by one first-order pass."""
    schedule, optim = setup.config.schedule, setup.config.optim
    # Steps past the training's own, so that the measure is of other batches' draws.
    draw = [
        f(setup.config.seed, 10**6, schedule.order_batches, optim.batch_size, n)
        for f, n in (
            (batch_indices, setup.dataset.images.shape[0]),
            (template_indices, setup.dataset.caption_ids.shape[1]),
        )
    ]
    labels = setup.dataset.labels[draw[0]]
    batches = Batch(
        setup.dataset.images[draw[0]], setup.dataset.caption_ids[labels, draw[1]], labels
    )
    _, params, rest = _split(model)
    loss = jax.tree_util.Partial(functools.partial(plain_loss, setup.trainer), params, rest)
    return reorder(model, taylor_importance(loss, full_gates(setup.trainer.largest), batches))
