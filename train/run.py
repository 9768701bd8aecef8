"""A training run of any kind of model, from data to report.

Chapters, in the order things happen: the subject, which is data, network and what prepares its
inputs; the stages; each stage's state, new or restored, and its loop; the last evaluation; what
is delivered; report. Fine-tuning is one stage. DRESS is three: the dense network is trained;
all subnets are trained jointly while their masks follow the weights; each subnet's norms become
its own.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from codesign.constraints import check_config
from codesign.dress.masks import check_floor, densities, kernel_sizes, loss_weights, subnet_masks
from codesign.dress.rows import RowSpec
from codesign.dress.trees import named_leaves, pick
from codesign.errors import UserError
from codesign.model_card import write_run_cards
from codesign.models.subnets import FAMILY
from codesign.overrides import config_to_json
from codesign.progress import OnProgress
from codesign.quantities import percents
from codesign.renamed import former_names
from codesign.report.finetune import headline, write_report
from codesign.runs import SUMMARY, RunFolder
from codesign.train import placement
from codesign.train.check import due
from codesign.train.checkpoints import Saved
from codesign.train.classifier_subject import open_classifier
from codesign.train.clip_subject import open_clip
from codesign.train.data import repeats
from codesign.train.dress.classifier_config import ClassifierDressConfig
from codesign.train.dress.config import DressConfig, SubnetTrainingConfig
from codesign.train.feed import StreamFeed
from codesign.train.finetune.config import FinetuneConfig
from codesign.train.loggers import open_loggers
from codesign.train.loop import Intervals, Loop
from codesign.train.profile import PROFILE, Profile
from codesign.train.progress import Display
from codesign.train.rollback import summary_of
from codesign.train.stages import Stage, run_stages, session
from codesign.train.step import Trainer, TrainState, objective, train_step
from codesign.train.subnets import (
    JointState,
    PostState,
    SubnetTrainer,
    joint_objective,
    joint_step,
    post_objective,
    post_step,
    subnet_of,
)
from codesign.train.task import NetworkSubject, Subject

Config: TypeAlias = FinetuneConfig | DressConfig | ClassifierDressConfig
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
    profile: int = 0,
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
      profile: steps of each stage to trace, see `codesign.train.profile`; 0: none.

    Returns:
      What summary.json holds.

    Raises:
      UserError: data, checkpoints or settings that cannot be used.
      RunError: a loss that is not finite, a checkpoint that does not fit.
    """
    check_config(config)
    names = STAGES if isinstance(config, SubnetTrainingConfig) else (FINETUNE,)
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
                feed=StreamFeed(
                    subject.source, subject.processor, config, subject.mesh, says=display.note
                ),
                checks=due(check),
                dtype=subject.dtype,
                notes={"layout": _LAYOUT},
                profile=Profile(folder.path / PROFILE, profile),
            )
            training = training_of(config, subject, loop)
            summary = training.finish(training.train(saved)) | tracker.stop() | summary_of(folder)
            opened.write(summary["steps"], {"summary": summary})
    if jax.process_index() == 0:
        folder.write_json(SUMMARY, summary)
        write_run_cards(folder.path, config_to_json(config))
        write_report(folder.path)
    return summary


@dataclasses.dataclass(frozen=True, eq=False)
class Training(abc.ABC):
    """A subject, its stages and their loop; a subclass for each kind of training."""

    config: Config
    subject: Subject
    loop: Loop

    @property
    @abc.abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """All of them, in order.

        Raises:
          UserError: subnets that do not suit the network.
        """

    @abc.abstractmethod
    def models(self, state: Any) -> list[Any]:
        """The networks that a state delivers."""

    @abc.abstractmethod
    def deliver(self, state: Any) -> dict[str, Any]:
        """Writes the networks of the last state to disk; what summary.json says of them."""

    def dense_stage(self, name: str, steps: int, warmup_steps: int, ema: float = 0.0) -> Stage:
        """Training of the network as it is, from the subject's parameters."""
        subject, key = self.subject, self._key
        optimizer, rate = subject.optimizer(steps, self.config.optim.lr, warmup_steps)
        trainer = Trainer(subject.task, optimizer, rate, ema, subject.mesh)
        return Stage(
            name,
            steps,
            lambda _: trainer.init(subject.params, subject.stats),
            lambda s, b: train_step(s, subject.fixed, b, key, trainer),
            objective=lambda s, b: objective(s, subject.fixed, b, key, trainer),
        )

    @property
    def _key(self) -> jax.Array:
        return jax.random.key(self.config.seed)

    def train(self, saved: Saved | None) -> Any:
        """Runs all stages from the start, or from the saved checkpoint; the last state."""
        evaluate = None if self.subject.validation is None else self.evaluated
        return run_stages(self.loop, self.stages, saved, self.subject.mesh, evaluate, _current)

    def measured(self, models: Sequence[Any]) -> list[dict[str, Any]]:
        """Evaluates each network on the validation data."""
        return self.subject.evaluate(models)

    def evaluated(self, state: Any) -> tuple[dict[str, Any], str]:
        """Evaluates the one network of a state: for metrics.jsonl, and in a line."""
        (found,) = self.measured(self.models(state))
        return found, headline(found)

    def finish(self, state: Any) -> dict[str, Any]:
        """Evaluates the last state and delivers it."""
        devices = {"devices": placement.described(self.subject.mesh)}
        return {"steps": self.stages[-1].end} | self.deliver(state) | devices

    def dense_model(self, state: TrainState) -> Any:
        """The network of a dense stage."""
        subject = self.subject
        return subject.model(subject.task.network(state.delivered), state.stats)


class Finetuning(Training):
    """One stage; delivers the network."""

    config: FinetuneConfig

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The one stage."""
        optim, steps = self.config.optim, self.config.schedule.steps
        return (self.dense_stage(FINETUNE, steps, optim.warmup_steps, optim.ema),)

    def models(self, state: TrainState) -> list[Any]:
        """The network, or its average."""
        return [self.dense_model(state)]

    def deliver(self, state: TrainState) -> dict[str, Any]:
        """Writes the network."""
        summary: dict[str, Any] = {"clip": DELIVERED_CLIP}
        models = self.models(state)
        if self.subject.validation is not None:
            self.loop.display.says("evaluating", chapter="evaluating")
            summary["validation"] = self.measured(models)[0]
        if jax.process_index() == 0:
            subject = cast(NetworkSubject, self.subject)
            subject.save(models[0], self.loop.folder.path / DELIVERED_CLIP)
        return summary


class SubnetTraining(Training):
    """The three stages of DRESS; delivers the packed family of subnets."""

    config: DressConfig | ClassifierDressConfig

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The dense network, all subnets jointly, each subnet's norms."""
        subnets, fixed, key = self.config.subnets, self.subject.fixed, self._key
        trainer = self._trainer
        also_dense = (-1,) if subnets.train_dense else ()
        numbers = jnp.asarray([*also_dense, *range(trainer.subnets)], jnp.int32)
        sparsities = (*(0.0 for _ in also_dense), *subnets.sparsities)
        shares = loss_weights(sparsities, subnets.gamma)
        joint_end = subnets.dense_steps + subnets.joint_steps
        return (
            self.dense_stage(DENSE, subnets.dense_steps, self._warmup(subnets.dense_steps)),
            Stage(
                JOINT,
                joint_end,
                lambda s: trainer.begin(s.params, s.stats),
                lambda s, b: joint_step(s, fixed, b, numbers, shares, key, trainer),
                objective=lambda s, b: joint_objective(s, fixed, b, numbers, shares, key, trainer),
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
        """Row layouts of the sparsified kernels, by name."""
        subnets, subject = self.config.subnets, self.subject
        try:
            specs = subject.specs(subnets.include, subnets.exclude)
            kernels = pick(subject.task.network(subject.params), specs)
            check_floor(kernel_sizes(kernels, specs), subnets.sparsities, subnets.floor)
        except ValueError as error:
            raise UserError(f"--subnets: {error}") from None
        return specs

    @functools.cached_property
    def _trainer(self) -> SubnetTrainer:
        subnets, subject, specs = self.config.subnets, self.subject, self.specs
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
            begins_run=subnets.dense_steps == 0,
            mesh=subject.mesh,
        )

    def models(self, state: TrainState | JointState | PostState) -> list[Any]:
        """The dense network of the first stage, then every subnet, zeros in place."""
        if isinstance(state, TrainState):
            return [self.dense_model(state)]
        task = self.subject.task
        subnets = (subnet_of(state, k, task) for k in range(len(self.config.subnets.sparsities)))
        return [self.subject.model(task.network(params), stats) for params, stats in subnets]

    def evaluated(self, state: TrainState | JointState | PostState) -> tuple[dict[str, Any], str]:
        """Evaluates the dense network, or the subnets side by side."""
        if isinstance(state, TrainState):
            return super().evaluated(state)
        found = self.measured(self.models(state))
        line = "; ".join(
            f"{sparsity} sparse: {headline(result)}"
            for sparsity, result in zip(
                percents(self.config.subnets.sparsities), found, strict=True
            )
        )
        return {"subnets": found}, line

    def deliver(self, state: PostState) -> dict[str, Any]:
        """Writes the family; what each of its subnets can do at what cost."""
        subject, sparsities = self.subject, self.config.subnets.sparsities
        state = placement.local(state)
        masks = jax.tree.map(np.asarray, state.masks)
        own = {n: np.asarray(x) for n, x in (named_leaves(state.stats) | state.norms).items()}
        # The shared weights, no zeros among them, with the densest subnet's statistics.
        densest = jax.tree.map(lambda x: x[0], state.stats)
        packed = subject.pack(
            subject.model(subject.task.network(state.params), densest),
            masks,
            self.specs,
            sparsities,
            [{name: values[k] for name, values in own.items()} for k in range(len(sparsities))],
        )
        if jax.process_index() == 0:
            place = self.loop.folder.path / DELIVERED_FAMILY
            subject.save_inputs(place)
            packed.save(place / FAMILY)
        kept = np.asarray(densities(state.masks))
        entries: list[dict[str, Any]] = [
            {"sparsity": sparsity, "density": float(kept[k])} | subject.costs(masks, k)
            for k, sparsity in enumerate(sparsities)
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


def training_of(config: Config, subject: Subject, loop: Loop) -> Training:
    """The training that a config describes."""
    kind = SubnetTraining if isinstance(config, SubnetTrainingConfig) else Finetuning
    return kind(config, subject, loop)


__getattr__ = former_names(__name__, __name__, {"Run": "training_of"})


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
