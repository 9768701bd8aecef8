"""A classifier's DRESS run: three stages, then the packed family, measured subnet by subnet.

Stages: the dense network is trained; all subnets are trained jointly while their masks follow
the weights; each subnet's BatchNorm statistics, scales and biases become its own. A checkpoint
names its stage, so that --resume goes on within any of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from codesign.constraints import check_config
from codesign.dress.masks import check_floor, densities, kernel_sizes, loss_weights, subnet_masks
from codesign.dress.rows import RowSpec
from codesign.dress.trees import kernel_specs, named_leaves, pick
from codesign.errors import UserError
from codesign.models.formats import ImageSettings
from codesign.models.resnet import ResNet, layer_macs, subnet_macs
from codesign.models.resnet_family import pack_resnet
from codesign.models.subnets import FAMILY
from codesign.report.finetune import write_report
from codesign.report.text import share_of
from codesign.runs import SUMMARY, RunFolder
from codesign.train import placement
from codesign.train.check import due
from codesign.train.checkpoints import Checkpoints, Saved, refill
from codesign.train.data import ImageTextBatch, Source
from codesign.train.dress.classifier import Variables, norm_names, split_classifier
from codesign.train.dress.classifier_config import ClassifierDressConfig, as_clips
from codesign.train.dress.classifier_data import PictureProcessor, measure, open_labelled
from codesign.train.dress.classifier_step import (
    ClassifierTrainer,
    Metrics,
    PostState,
    State,
    count_right,
    decayed_kernels,
    dense_step,
    joint_step,
    make_optimizer,
    member_variables,
    post_step,
)
from codesign.train.dress.config import staged
from codesign.train.dress.run import DELIVERED, DENSE, JOINT, POST, STAGES
from codesign.train.finetune.loop import Loop
from codesign.train.optim import warmup_cosine
from codesign.train.progress import Display
from codesign.train.tracking import RunTracker

_MOST_EVALUATED_AT_ONCE = 256


def run_classifier_dress(
    config: ClassifierDressConfig, folder: RunFolder, console: Console, *,
    check: bool | None = None,
) -> dict[str, Any]:
    """Runs a classifier's DRESS training, or the rest of one, and writes all into the folder.

    Args:
      config: what to train.
      folder: where to write.
      console: where to show progress.
      check: as of `run_finetune`.

    Returns:
      What summary.json holds.

    Raises:
      UserError: data or settings that cannot be used.
      RunError: a loss that is not finite, a checkpoint that does not fit.
    """
    check_config(config)
    with Checkpoints(folder.checkpoints) as checkpoints, Display(console) as display:
        saved = checkpoints.latest(STAGES, display.says) if folder.resumed else None
        with RunTracker(saved.notes.get("tracker") if saved else None) as tracker:
            run = _prepare(config, folder, checkpoints, tracker, display, checks=due(check))
            state = run.train(saved)
            summary = run.finish(state) | tracker.stop()
    if jax.process_index() == 0:
        folder.write_json(SUMMARY, summary)
        write_report(folder.path)
    return summary


class Stage(NamedTuple):
    """One of the three.

    Attributes:
      name: in metrics and checkpoints.
      end: one past its last step, counted over all stages.
      begin: the state before it, of that after the stage before.
      step: (state, batch) -> the next state and metrics.
      members: numbers of the networks that are measured in it.
    """

    name: str
    end: int
    begin: Callable[[Any], Any]
    step: Callable[[Any, ImageTextBatch], tuple[Any, Metrics]]
    members: Sequence[int]


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierRun:
    """What a run needs and never changes.

    Attributes:
      config: the configuration.
      loop: its loop.
      validation: data to evaluate on, or None.
      trainer: the steps' constants; each stage has its own optimizer.
      variables: of the network before the first step.
      specs: of the pruned kernels.
    """

    config: ClassifierDressConfig
    loop: Loop
    validation: Source | None
    trainer: ClassifierTrainer
    variables: Variables
    specs: dict[str, RowSpec]

    @property
    def subnets(self) -> range:
        """Numbers of the subnets."""
        return range(self.trainer.subnets)

    def stages(self) -> tuple[Stage, ...]:
        """All of them, in order."""
        subnets, key = self.config.subnets, jax.random.key(self.config.seed)
        dense = self._staged(subnets.dense_steps, self.config.optim.lr)
        joint = self._staged(subnets.joint_steps, subnets.joint_lr)
        rate = warmup_cosine(subnets.post_lr, 0, subnets.post_steps, 0.0)
        post = dataclasses.replace(
            self.trainer, post_optimizer=optax.adam(rate) if subnets.post_lr else None
        )
        also_dense = subnets.dense_member
        members = jnp.asarray([-1, *self.subnets] if also_dense else self.subnets, jnp.int32)
        shares = loss_weights(
            (*((0.0,) if also_dense else ()), *subnets.sparsities), subnets.gamma
        )
        joint_end = subnets.dense_steps + subnets.joint_steps
        return (
            Stage(
                DENSE, subnets.dense_steps, dense.begin,
                lambda s, b: dense_step(s, b.images, b.labels, key, dense), (-1,),
            ),
            Stage(
                JOINT, joint_end, joint.begin_joint,
                lambda s, b: joint_step(s, b.images, b.labels, members, shares, key, joint),
                self.subnets,
            ),
            Stage(
                POST, joint_end + subnets.post_steps, post.begin_post,
                lambda s, b: post_step(s, b.images, b.labels, key, post), self.subnets,
            ),
        )  # fmt: skip

    def _staged(self, steps: int, lr: float) -> ClassifierTrainer:
        optim = staged(as_clips(self.config), steps, lr).optim
        rate = warmup_cosine(optim.lr, optim.warmup_steps, max(1, steps), optim.final_lr)
        optimizer = make_optimizer(
            self.config.optim.kind, rate, optim.weight_decay,
            decayed_kernels(self.variables.params),
        )  # fmt: skip
        return dataclasses.replace(self.trainer, optimizer=optimizer)

    def train(self, saved: Saved | None) -> PostState:
        """All stages, from wherever the saved checkpoint stands."""
        place = self.loop.resumed_at(saved)
        state: Any = self.variables
        begin = 0
        for stage in self.stages():
            state = stage.begin(state)
            if saved is not None:
                if saved.phase != stage.name:
                    continue  # is over: its state only told the shapes of the next
                state, begin, saved = refill(state, saved.leaves), saved.step, None
            state = placement.put(state, placement.replicated(self.loop.mesh))
            evaluate = None
            if self.validation is not None:
                evaluate = functools.partial(self._evaluated, stage.members)
            state, place = self.loop.run(
                stage.name, state, place, begin, stage.end, stage.step, evaluate
            )
            begin = stage.end
        assert isinstance(state, PostState)
        return state

    def measured(self, state: State | PostState, members: Sequence[int]) -> list[dict[str, Any]]:
        """What each member makes of the validation data."""
        assert self.validation is not None
        local = _local(state)
        numbers = jnp.asarray(members, jnp.int32)

        def right(images: np.ndarray, labels: np.ndarray) -> jax.Array:
            return count_right(local, numbers, images, labels, self.trainer.classifier)

        return measure(
            right, self.loop.processor, self.validation, threads=self.config.threads,
            batch_size=min(_MOST_EVALUATED_AT_ONCE, self.config.optim.batch_size),
        )  # fmt: skip

    def _evaluated(
        self, members: Sequence[int], state: State | PostState
    ) -> tuple[dict[str, Any], str]:
        """For the loop."""
        found = self.measured(state, members)
        accuracies = [
            share_of(result["classification"]["top_1"], result["images"]) for result in found
        ]
        if members == (-1,):
            return found[0], f"top-1 {accuracies[0]}"
        line = "; ".join(
            f"{sparsity:.0%} sparse: top-1 {accuracy}"
            for sparsity, accuracy in zip(self.config.subnets.sparsities, accuracies, strict=True)
        )
        return {"subnets": found}, line

    def finish(self, state: PostState) -> dict[str, Any]:
        """The family on disk, and what each of its subnets can do at what cost."""
        loop, config = self.loop, self.config
        state = _local(state)
        own = named_leaves(state.stats) | state.norms
        stored = {name: np.asarray(values) for name, values in own.items()}
        model = self.trainer.classifier.model(member_variables(state, 0))
        nnx.update(model, state.params)
        packed = pack_resnet(
            model, loop.processor.settings, loop.source.class_names,
            jax.tree.map(np.asarray, state.masks), self.specs, config.subnets.sparsities,
            [{name: values[k] for name, values in stored.items()} for k in self.subnets],
        )  # fmt: skip
        if jax.process_index() == 0:
            place = loop.folder.path / DELIVERED
            place.mkdir(exist_ok=True)
            packed.save(place / FAMILY)
        entries: list[dict[str, Any]] = [
            {"sparsity": sparsity, "density": float(density), "macs": self._macs(state, k)}
            for k, (sparsity, density) in enumerate(
                zip(config.subnets.sparsities, np.asarray(densities(state.masks)), strict=True)
            )
        ]
        if self.validation is not None:
            loop.display.says("evaluating every subnet")
            for entry, found in zip(entries, self.measured(state, self.subnets), strict=True):
                entry["validation"] = found
        return {
            "steps": self.stages()[-1].end,
            "family": f"{DELIVERED}/{FAMILY}",
            "bytes": dataclasses.asdict(packed.sizes()),
            "macs": sum(layer_macs(config.network, config.pictures.size).values()),
            "subnets": entries,
            "devices": placement.described(loop.mesh),
        }

    def _macs(self, state: PostState, k: int) -> int:
        kept = {name: int((np.asarray(x) > k).sum()) for name, x in state.masks.levels.items()}
        return subnet_macs(self.config.network, self.config.pictures.size, kept)


def _new(make: Callable[[], ResNet]) -> ResNet:
    """A new network; one program, as each array drawn alone would be compiled for."""
    model: ResNet = nnx.merge(
        nnx.graphdef(nnx.eval_shape(make)), jax.jit(lambda: nnx.state(make()))()
    )
    return model


def _local(state: Any) -> Any:
    """Replicated arrays as they are on this process's first device."""
    return jax.tree.map(lambda x: x.addressable_data(0), state)


def _prepare(
    config: ClassifierDressConfig, folder: RunFolder, checkpoints: Checkpoints,
    tracker: RunTracker, display: Display, *, checks: bool,
) -> ClassifierRun:
    """Data, network and subnets.

    Raises:
      UserError: what cannot be used.
    """
    mesh = placement.make_mesh()
    try:
        placement.check_batch(mesh, config.optim.batch_size)
    except ValueError as error:
        raise UserError(str(error)) from None
    display.says("opening the data")
    classes = config.network.classes
    source = open_labelled(config.train, classes, display.indexing)
    validation = None
    if config.validation.path:
        validation = open_labelled(config.validation, classes, display.indexing)
    pictures = config.pictures
    settings = ImageSettings(size=pictures.size, mean=pictures.mean, std=pictures.std)
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    model = _new(lambda: ResNet(config.network, rngs=nnx.Rngs(config.seed), dtype=dtype))
    # Shifted and mirrored they are where they are read.
    classifier, variables = split_classifier(model, settings.mean, settings.std)
    subnets = config.subnets
    try:
        specs = kernel_specs(variables.params, subnets.include, subnets.exclude)
        sizes = kernel_sizes(pick(variables.params, specs), specs)
        check_floor(sizes, subnets.sparsities, subnets.floor)
    except ValueError as error:
        raise UserError(f"--subnets: {error}") from None
    trainer = ClassifierTrainer(
        classifier=classifier,
        optimizer=optax.identity(),  # each stage has its own
        masks_of=lambda params: subnet_masks(
            params, specs, subnets.sparsities, budget=subnets.budget, floor=subnets.floor
        ),
        subnets=len(subnets.sparsities),
        norms=norm_names(model),
        refresh_steps=subnets.refresh_steps,
        in_place=subnets.in_place,
        label_smoothing=config.loss.label_smoothing,
        vmapped=subnets.vmapped,
    )
    loop = Loop(
        config=as_clips(config), folder=folder, checkpoints=checkpoints, tracker=tracker,
        display=display, source=source, processor=PictureProcessor(settings), mesh=mesh,
        checks=checks, dtype=dtype,
    )  # fmt: skip
    return ClassifierRun(config, loop, validation, trainer, variables, specs)
