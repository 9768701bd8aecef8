"""A DRESS run: three stages, then the packed family, measured subnet by subnet.

Stages: the dense network is trained; all subnets are trained jointly while their masks follow
the weights; each subnet's LayerNorm scales and biases are trained alone. A checkpoint names its
stage, so that --resume goes on within any of them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from codesign.constraints import check_config
from codesign.dress.masks import apply, check_floor, densities, kernel_sizes
from codesign.dress.packed import PackedFamily
from codesign.dress.trees import pick, replace_leaves
from codesign.errors import UserError
from codesign.models import CLIP
from codesign.models.subnets import FAMILY, norm_parameters, pack_clip, subnet_specs
from codesign.report.finetune import headline, write_report
from codesign.runs import SUMMARY, RunFolder
from codesign.train import placement
from codesign.train.check import due
from codesign.train.checkpoints import Checkpoints, Saved, refill
from codesign.train.dress.config import DressConfig, staged
from codesign.train.dress.step import Dresser, JointState, PostState, joint_step, post_step
from codesign.train.finetune.loop import Place
from codesign.train.finetune.run import Run, prepare
from codesign.train.finetune.step import TrainState, make_optimizer
from codesign.train.optim import warmup_cosine
from codesign.train.progress import Display
from codesign.train.tracking import RunTracker

STAGES = DENSE, JOINT, POST = "dense", "subnets", "norms"
# The folder of the family in a run's; `load_family` and `load_processor` read it.
DELIVERED = "family"


def run_dress(
    config: DressConfig, folder: RunFolder, console: Console, *, check: bool | None = None
) -> dict[str, Any]:
    """Runs a DRESS training, or the rest of one, and writes everything into the folder.

    Args:
      config: what to train.
      folder: where to write.
      console: where to show progress.
      check: as of `run_finetune`.

    Returns:
      What summary.json holds.

    Raises:
      UserError: data, checkpoints or settings that cannot be used.
      RunError: a loss that is not finite, a checkpoint that does not fit.
    """
    check_config(config)
    subnets = config.subnets
    with Checkpoints(folder.checkpoints) as checkpoints, Display(console) as display:
        saved = checkpoints.latest(STAGES, display.says) if folder.resumed else None
        with RunTracker(saved.notes.get("tracker") if saved else None) as tracker:
            first = staged(config, subnets.dense_steps, config.optim.lr)
            run = prepare(first, folder, checkpoints, tracker, display, checks=due(check))
            dressing = Dressing(config, run, _dresser(config, run))
            state = dressing.train(saved)
            summary = dressing.finish(state) | tracker.stop()
    if jax.process_index() == 0:
        folder.write_json(SUMMARY, summary)
        write_report(folder.path)
    return summary


def _dresser(config: DressConfig, run: Run) -> Dresser:
    subnets = config.subnets
    try:
        specs = subnet_specs(run.network(run.params), subnets.include, subnets.exclude)
        sizes = kernel_sizes(pick(run.params, specs), specs)
        check_floor(sizes, subnets.sparsities, subnets.floor)
    except ValueError as error:
        raise UserError(f"--subnets: {error}") from None
    joint = staged(config, subnets.joint_steps, subnets.joint_lr)
    optimizer, rate = make_optimizer(joint, run.params)
    post = warmup_cosine(subnets.post_lr, 0, subnets.post_steps, 0.0)
    return Dresser(
        trainer=dataclasses.replace(run.trainer, optimizer=optimizer, learning_rate=rate),
        subnets=subnets,
        specs=specs,
        post_optimizer=optax.chain(
            optax.clip_by_global_norm(config.optim.clip_norm),
            optax.adam(post, b2=config.optim.beta2, eps=config.optim.epsilon),
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Dressing:
    """The stages' common things.

    Attributes:
      config: the configuration.
      run: data, network and loop.
      dresser: the steps' constants.
    """

    config: DressConfig
    run: Run
    dresser: Dresser

    def train(self, saved: Saved | None) -> PostState:
        """All stages, from wherever the saved checkpoint stands."""
        subnets, run = self.config.subnets, self.run
        dense_end = subnets.dense_steps
        joint_end = dense_end + subnets.joint_steps
        stage = saved.phase if saved else DENSE
        step = saved.step if saved else 0
        place = run.loop.resumed_at(saved)
        states = {DENSE: self._dense, JOINT: self._joint, POST: self._post}
        state: Any = states[stage](run.params)
        if saved is not None:
            state = refill(state, saved.leaves)
        state = placement.put(state, run.whole)

        def steps(name: str, state: Any, place: Place | None, end: int) -> Any:
            begin = max(step, {DENSE: 0, JOINT: dense_end, POST: joint_end}[name])
            evaluate = None if run.validation is None else functools.partial(self.evaluate, name)
            functions = {
                DENSE: run.step,
                JOINT: lambda s, b: joint_step(s, run.rest, run.teacher, b, self.dresser),
                POST: lambda s, b: post_step(s, run.rest, run.teacher, b, self.dresser),
            }
            return run.loop.run(name, state, place, begin, end, functions[name], evaluate)

        if stage == DENSE:
            state, place = steps(DENSE, state, place, dense_end)
            state = placement.put(self.dresser.begin_joint(state.weights), run.whole)
        if stage in (DENSE, JOINT):
            state, place = steps(JOINT, state, place, joint_end)
            state = placement.put(self._settled(state), run.whole)
        state, _ = steps(POST, state, place, joint_end + subnets.post_steps)
        return state

    def _dense(self, params: nnx.State) -> TrainState:
        return self.run.trainer.init(params)

    def _joint(self, params: nnx.State) -> JointState:
        return self.dresser.begin_joint(self._dense(params).weights)

    def _post(self, params: nnx.State) -> PostState:
        return self._settled(self._joint(params))

    def _settled(self, state: JointState) -> PostState:
        """After the joint stage: masks of the final weights, and norms to be each subnet's own."""
        masks = self.dresser.compiled_masks(state.weights.clip)
        norms = norm_parameters(self.run.trainer.student.clip(state.weights.clip, self.run.rest))
        return self.dresser.begin_post(state._replace(masks=masks), norms)

    def evaluate(self, stage: str, state: Any) -> tuple[dict[str, Any], str]:
        """What the network of the first stage, or each subnet, makes of the validation data."""
        if stage == DENSE:
            return self.run.evaluate(state)
        found = [self.run.measured(clip) for clip in self.subnets(state)]
        line = "; ".join(
            f"{sparsity:.0%} sparse: {headline(result)}"
            for sparsity, result in zip(self.config.subnets.sparsities, found, strict=True)
        )
        return {"subnets": found}, line

    def subnets(self, state: JointState | PostState) -> list[CLIP]:
        """Every subnet as it stands, zeros in place."""
        found = []
        for k in range(len(self.config.subnets.sparsities)):
            params = apply(state.weights.clip, state.masks, k)
            if isinstance(state, PostState):
                params = replace_leaves(params, {n: x[k] for n, x in state.norms.items()})
            found.append(self.run.network(params))
        return found

    def packed(self, state: PostState) -> PackedFamily:
        """The family as it is delivered."""
        subnets = self.config.subnets
        norms = {name: np.asarray(values) for name, values in state.norms.items()}
        return pack_clip(
            self.run.network(state.weights.clip),
            jax.tree.map(np.asarray, state.masks),
            self.dresser.specs,
            subnets.sparsities,
            norms=[
                {name: values[k] for name, values in norms.items()}
                for k in range(len(subnets.sparsities))
            ],
        )

    def finish(self, state: PostState) -> dict[str, Any]:
        """The family on disk, and what each of its subnets can do."""
        loop, subnets = self.run.loop, self.config.subnets
        packed = self.packed(state)
        if jax.process_index() == 0:
            place = loop.folder.path / DELIVERED
            loop.processor.save(place)
            packed.save(place / FAMILY)
        entries: list[dict[str, Any]] = [
            {"sparsity": sparsity, "density": float(density)}
            for sparsity, density in zip(
                subnets.sparsities, np.asarray(densities(state.masks)), strict=True
            )
        ]
        if self.run.validation is not None:
            loop.display.says("evaluating every subnet")
            for entry, clip in zip(entries, self.subnets(state), strict=True):
                entry["validation"] = self.run.measured(clip)
        return {
            "steps": subnets.dense_steps + subnets.joint_steps + subnets.post_steps,
            "family": f"{DELIVERED}/{FAMILY}",
            "bytes": dataclasses.asdict(packed.sizes()),
            "subnets": entries,
            "devices": placement.described(loop.mesh),
        }
