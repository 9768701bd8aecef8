"""A training run of any kind of model, from data to report.

Chapters, in the order things happen: the subject, which is data, network and what prepares its
inputs; the stages; each stage's state, new or restored, and its loop; the last evaluation; what
is delivered; report. Fine-tuning is one stage. DRESS is three: the dense network is trained;
all subnets are trained jointly while their masks follow the weights; each subnet's norms become
its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from codesign.constraints import check_config
from codesign.dress.masks import check_floor, densities, kernel_sizes, loss_weights, subnet_masks
from codesign.dress.rows import RowSpec
from codesign.dress.trees import named_leaves, pick
from codesign.errors import UserError
from codesign.model_card import write_run_cards
from codesign.models.subnets import FAMILY
from codesign.progress import OnProgress
from codesign.report.finetune import headline, write_report
from codesign.runs import SUMMARY, RunFolder
from codesign.train import placement
from codesign.train.check import due
from codesign.train.checkpoints import Saved
from codesign.train.classifier_subject import open_classifier
from codesign.train.clip_subject import open_clip
from codesign.train.data import repeats
from codesign.train.dress.classifier_config import ClassifierDressConfig
from codesign.train.feed import StreamFeed
from codesign.train.finetune.config import FinetuneConfig
from codesign.train.loggers import open_loggers
from codesign.train.loop import Intervals, Loop
from codesign.train.progress import Display
from codesign.train.stages import Stage, run_stages, session
from codesign.train.step import Trainer, TrainState, objective, train_step
from codesign.train.subnets import (
    JointState,
    PostState,
    SubnetTrainer,
    joint_objective,
    joint_step,
    member_of,
    post_objective,
    post_step,
)
from codesign.train.task import NetworkSubject, Subject

Config: TypeAlias = FinetuneConfig | ClassifierDressConfig
FINETUNE = "finetune"
STAGES = DENSE, JOINT, POST = "dense", "subnets", "norms"
# What a run delivers, in its folder: a network that `load_clip` reads, or a packed family.
DELIVERED_CLIP, DELIVERED_FAMILY = "clip", "family"
# Of the layout of states; checkpoints of before have none, see `_current`.
_LAYOUT = 2


def subject_of(config: Config, display: Display) -> Subject:
    """What a config trains: the one place that tells kinds of models apart.

    Raises:
      UserError: data, checkpoints or settings that cannot be used.
    """
    if isinstance(config, ClassifierDressConfig):
        return open_classifier(config, display)
    return open_clip(config, display)


def run_training(
    config: Config,
    folder: RunFolder,
    console: Console,
    *,
    check: bool | None = None,
    on_progress: OnProgress | None = None,
    loggers: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Runs a training, or the rest of one, and writes everything into the folder.

    Args:
      config: what to train.
      folder: where to write.
      console: where to show progress.
      check: whether the first step of each stage is checked against its plainly compiled loss
        (`codesign.train.check`); None: on CPUs.
      on_progress: called whenever steps are done.
      loggers: where metrics go beside the folder, see `codesign.train.loggers`; None: those that
        the run was started with, for a new one TensorBoard.

    Returns:
      What summary.json holds.

    Raises:
      UserError: data, checkpoints or settings that cannot be used.
      RunError: a loss that is not finite, a checkpoint that does not fit.
    """
    check_config(config)
    names = STAGES if hasattr(config, "subnets") else (FINETUNE,)
    with session(folder, console, names, on_progress) as (checkpoints, display, tracker, saved):
        subject = subject_of(config, display)
        if warning := repeats(config.optim.batch_size, len(subject.source)):
            display.says(warning)
        begun = saved.step if saved else 0
        with open_loggers(loggers, folder, begun, display.says) as opened:
            schedule = config.schedule
            loop = Loop(
                intervals=Intervals(
                    schedule.checkpoint_steps, schedule.evaluate_steps, schedule.log_steps
                ),
                folder=folder,
                checkpoints=checkpoints,
                loggers=opened,
                tracker=tracker,
                display=display,
                feed=StreamFeed(subject.source, subject.processor, config, subject.mesh),
                checks=due(check),
                dtype=subject.dtype,
                notes={"layout": _LAYOUT},
            )
            run = Run(config, subject, loop)
            summary = run.finish(run.train(saved)) | tracker.stop()
            opened.write(summary["steps"], {"summary": summary})
    if jax.process_index() == 0:
        folder.write_json(SUMMARY, summary)
        write_run_cards(folder.path)
        write_report(folder.path)
    return summary


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A subject, its stages and their loop."""

    config: Config
    subject: Subject
    loop: Loop

    @property
    def subnets(self) -> Any:
        """The config of the subnets; None: fine-tuning, which has none."""
        return getattr(self.config, "subnets", None)

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All of them, in order.

        Raises:
          UserError: subnets that do not suit the network.
        """
        subject, subnets, config = self.subject, self.subnets, self.config
        fixed, key, optim = subject.fixed, jax.random.key(config.seed), config.optim

        def dense(name: str, steps: int, warmup_steps: int) -> Stage:
            optimizer, rate = subject.optimizer(steps, optim.lr, warmup_steps)
            trainer = Trainer(subject.task, optimizer, rate, getattr(optim, "ema", 0.0))
            return Stage(
                name,
                steps,
                lambda _: trainer.init(subject.params, subject.stats),
                lambda s, b: train_step(s, fixed, b, key, trainer),
                objective=lambda s, b: objective(s, fixed, b, key, trainer),
            )

        if subnets is None:
            steps = config.schedule.steps
            return (dense(FINETUNE, steps, optim.warmup_steps),)
        trainer = self._subnet_trainer
        also_dense = (-1,) if subnets.dense_member else ()
        members = jnp.asarray([*also_dense, *range(trainer.subnets)], jnp.int32)
        sparsities = (*(0.0 for _ in also_dense), *subnets.sparsities)
        shares = loss_weights(sparsities, subnets.gamma)
        joint_end = subnets.dense_steps + subnets.joint_steps
        return (
            dense(DENSE, subnets.dense_steps, self._warmup(subnets.dense_steps)),
            Stage(
                JOINT,
                joint_end,
                lambda s: trainer.begin(s.params, s.stats),
                lambda s, b: joint_step(s, fixed, b, members, shares, key, trainer),
                objective=lambda s, b: joint_objective(s, fixed, b, members, shares, key, trainer),
            ),
            Stage(
                POST,
                joint_end + subnets.post_steps,
                trainer.begin_post,
                lambda s, b: post_step(s, fixed, b, key, trainer),
                objective=lambda s, b: post_objective(s, fixed, b, key, trainer),
            ),
        )

    def _warmup(self, steps: int) -> int:
        """A warm-up that fits into a stage."""
        return min(self.config.optim.warmup_steps, steps // 2)

    @functools.cached_property
    def specs(self) -> dict[str, RowSpec]:
        """Of the kernels that are pruned, by name."""
        subnets, subject = self.subnets, self.subject
        try:
            specs = subject.specs(subnets.include, subnets.exclude)
            kernels = pick(subject.task.network(subject.params), specs)
            check_floor(kernel_sizes(kernels, specs), subnets.sparsities, subnets.floor)
        except ValueError as error:
            raise UserError(f"--subnets: {error}") from None
        return specs

    @functools.cached_property
    def _subnet_trainer(self) -> SubnetTrainer:
        subnets, subject, specs = self.subnets, self.subject, self.specs
        steps = subnets.joint_steps
        optimizer, rate = subject.optimizer(steps, subnets.joint_lr, self._warmup(steps))
        return SubnetTrainer(
            task=subject.task,
            optimizer=optimizer,
            masks_of=lambda network: subnet_masks(
                network, specs, subnets.sparsities, budget=subnets.budget, floor=subnets.floor
            ),
            subnets=len(subnets.sparsities),
            norms=subject.norms,
            post_optimizer=subject.norm_optimizer(subnets.post_steps, subnets.post_lr),
            learning_rate=rate,
            refresh_steps=subnets.refresh_steps,
            in_place=subnets.in_place,
            vmapped=subnets.vmapped,
        )

    def train(self, saved: Saved | None) -> Any:
        """All stages, from wherever the saved checkpoint stands."""
        evaluate = None if self.subject.validation is None else self._evaluated
        return run_stages(self.loop, self.stages, saved, self.subject.mesh, evaluate, _current)

    def models(self, state: Any) -> list[Any]:
        """The network that a state delivers, or every subnet, zeros in place."""
        subject = self.subject
        if isinstance(state, TrainState):
            return [subject.model(subject.task.network(state.delivered), state.stats)]
        found = []
        for k in range(len(self.subnets.sparsities)):
            params, stats = member_of(state, k, subject.task)
            found.append(subject.model(subject.task.network(params), stats))
        return found

    def measured(self, models: Sequence[Any]) -> list[dict[str, Any]]:
        """What each network makes of the validation data."""
        return self.subject.evaluate(models)

    def _evaluated(self, state: TrainState | JointState | PostState) -> tuple[dict[str, Any], str]:
        """For the loop."""
        found = self.measured(self.models(state))
        if isinstance(state, TrainState):
            return found[0], headline(found[0])
        line = "; ".join(
            f"{sparsity:.0%} sparse: {headline(result)}"
            for sparsity, result in zip(self.subnets.sparsities, found, strict=True)
        )
        return {"subnets": found}, line

    def finish(self, state: Any) -> dict[str, Any]:
        """The last evaluation, and what the run delivers."""
        summary: dict[str, Any] = {"steps": self.stages[-1].end}
        delivered = self._network(state) if self.subnets is None else self._family(state)
        return summary | delivered | {"devices": placement.described(self.subject.mesh)}

    def _network(self, state: TrainState) -> dict[str, Any]:
        """The network on disk."""
        summary: dict[str, Any] = {"clip": DELIVERED_CLIP}
        models = self.models(state)
        if self.subject.validation is not None:
            self.loop.display.says("evaluating", chapter="evaluating")
            summary["validation"] = self.measured(models)[0]
        if jax.process_index() == 0:
            subject = cast(NetworkSubject, self.subject)
            subject.save(models[0], self.loop.folder.path / DELIVERED_CLIP)
        return summary

    def _family(self, state: PostState) -> dict[str, Any]:
        """The family on disk, and what each of its subnets can do at what cost."""
        subject, subnets = self.subject, self.subnets
        state = placement.local(state)
        masks = jax.tree.map(np.asarray, state.masks)
        own = {n: np.asarray(x) for n, x in (named_leaves(state.stats) | state.norms).items()}
        numbers = range(len(subnets.sparsities))
        packed = subject.pack(
            self._whole(state),
            masks,
            self.specs,
            subnets.sparsities,
            [{name: values[k] for name, values in own.items()} for k in numbers],
        )
        if jax.process_index() == 0:
            place = self.loop.folder.path / DELIVERED_FAMILY
            subject.save_inputs(place)
            packed.save(place / FAMILY)
        kept = np.asarray(densities(state.masks))
        entries: list[dict[str, Any]] = [
            {"sparsity": sparsity, "density": float(kept[k])} | subject.costs(masks, k)
            for k, sparsity in enumerate(subnets.sparsities)
        ]
        if subject.validation is not None:
            self.loop.display.says("evaluating every subnet", chapter="evaluating")
            for entry, found in zip(entries, self.measured(self.models(state)), strict=True):
                entry["validation"] = found
        return {
            "family": f"{DELIVERED_FAMILY}/{FAMILY}",
            "bytes": dataclasses.asdict(packed.sizes()),
            **subject.costs(masks, None),
            "subnets": entries,
        }

    def _whole(self, state: PostState) -> Any:
        """The shared weights, no zeros among them, with the densest subnet's statistics."""
        network: nnx.State = self.subject.task.network(state.params)
        return self.subject.model(network, jax.tree.map(lambda x: x[0], state.stats))


def _current(saved: Saved, state: Any) -> list[Any]:
    """The leaves of a checkpoint in the present order.

    States of networks with running statistics were once in another: a dense stage had the masks
    and K+1 copies of the statistics, and in the last stage masks came after the statistics.
    """
    leaves = saved.leaves
    if "layout" in saved.notes or not jax.tree.leaves(state.stats):
        return leaves
    count = {name: len(jax.tree.leaves(part)) for name, part in state._asdict().items()}
    params, stats, tail = count["params"], count["stats"], count["opt_state"] + 1
    if isinstance(state, TrainState):
        dense = [x[-1] for x in leaves[params : params + stats]]
        return [*leaves[:params], *dense, *leaves[-tail:]]
    if isinstance(state, PostState):
        middle = params + count["norms"] + stats
        norms_stats, masks = leaves[params:middle], leaves[middle:-tail]
        return [*leaves[:params], *masks, *norms_stats, *leaves[-tail:]]
    return leaves
