"""A ResNet in a run: its data, and what is measured and delivered of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from codesign.dress.masks import Masks
from codesign.dress.packed import PackedFamily
from codesign.dress.rows import RowSpec
from codesign.dress.trees import kernel_specs
from codesign.errors import UserError
from codesign.models.formats import ImageSettings
from codesign.models.formats.processor import Pictures
from codesign.models.resnet import ResNet, layer_macs, subnet_macs
from codesign.models.resnet_family import pack_resnet
from codesign.train import placement
from codesign.train.classifier import (
    Classifier,
    ClassifierTask,
    Variables,
    decayed_kernels,
    make_optimizer,
    norm_names,
    split_classifier,
)
from codesign.train.data import Source, SourceConfig, evaluation_batches, open_source
from codesign.train.dress.classifier_config import ClassifierDressConfig
from codesign.train.network import drawn
from codesign.train.optim import warmup_cosine
from codesign.train.progress import Display

Array = jax.Array

_MOST_EVALUATED_AT_ONCE = 256


def open_labelled(
    config: SourceConfig, classes: int, progress: Callable[[int, int], Any] | None = None
) -> Source:
    """Opens pictures that all have one of the network's classes.

    Args:
      config: what to open.
      classes: of the network.
      progress: see `open_source`.

    Raises:
      UserError: data that cannot be opened, a picture without a class or of another.
    """
    source = open_source(config, progress)
    odd = np.flatnonzero((source.labels < 0) | (source.labels >= classes))
    if odd.size:
        where, label = source.where(int(odd[0])), int(source.labels[odd[0]])
        what = "has no class" if label < 0 else f"is of class {label}"
        raise UserError(
            f"{where} {what}: the network has the classes 0 to {classes - 1}"
            + (f"; set --network.classes to {int(source.labels.max()) + 1}" if label > 0 else "")
        )
    return source


@functools.partial(jax.jit, static_argnames="classifier")
def _right(variables: Variables, images: Array, labels: Array, classifier: Classifier) -> Array:
    logits = classifier.infer(variables, classifier.normalised(images))
    return jnp.sum(jnp.argmax(logits, axis=-1) == labels)


def measure(
    networks: Sequence[Variables],
    classifier: Classifier,
    pictures: Pictures,
    source: Source,
    *,
    batch_size: int,
    threads: int = 4,
    progress: Callable[[int], Any] = lambda _: None,
) -> list[dict[str, Any]]:
    """What one or several networks get right of the pictures of a source, read once.

    Args:
      networks: M of them, of one graph.
      classifier: the graph.
      pictures: prepares the pictures.
      source: pictures with classes.
      batch_size: B.
      threads: that read and decode.
      progress: called with the number of pictures done since the last call.

    Returns:
      Of each network {"images": N, "skipped": {"count", "examples"},
      "classification": {"classes", "top_1"}}; the accuracy is a share in [0, 1].

    Raises:
      UserError: no readable picture.
    """
    images, counts = 0, []
    with evaluation_batches(source, pictures, batch_size=batch_size, threads=threads) as batches:
        for chosen, pixels in batches:
            labels = np.full(batch_size, -1, np.int32)
            labels[: len(chosen)] = source.labels[chosen]
            counts.append([_right(network, pixels, labels, classifier) for network in networks])
            images += len(chosen)
            progress(len(chosen))
        skipped = batches.skipped
    if not images:
        raise UserError(f"{source.name}: no picture could be read; {skipped}")
    return [
        {
            "images": images,
            "skipped": {"count": skipped.count, "examples": list(skipped.examples)},
            "classification": {"classes": len(source.class_names), "top_1": float(count / images)},
        }
        for count in np.sum(np.asarray(counts), axis=0)
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierSubject:
    """A ResNet in a run; see `task.Subject`."""

    config: ClassifierDressConfig
    task: ClassifierTask
    params: nnx.State
    stats: nnx.State
    fixed: nnx.State
    source: Source
    processor: Pictures
    validation: Source | None
    mesh: Mesh
    dtype: Any
    norms: tuple[str, ...]

    def optimizer(
        self, steps: int, lr: float, warmup_steps: int
    ) -> tuple[optax.GradientTransformation, Any]:
        """SGD or AdamW; see `make_optimizer`."""
        optim = self.config.optim
        rate = warmup_cosine(lr, warmup_steps, max(1, steps), optim.final_lr)
        decays = decayed_kernels(self.params)
        return make_optimizer(optim.kind, rate, optim.weight_decay, decays), rate

    def norm_optimizer(self, steps: int, lr: float) -> optax.GradientTransformation | None:
        """Adam; at rate 0 none."""
        return optax.adam(warmup_cosine(lr, 0, steps, 0.0)) if lr else None

    def specs(self, include: Sequence[str], exclude: Sequence[str]) -> dict[str, RowSpec]:
        """Row layouts of the leaves called "kernel"."""
        return kernel_specs(self.params, include, exclude)

    def model(self, network: nnx.State, stats: nnx.State) -> Variables:
        """The arrays of a network on this process's first device."""
        arrays: Variables = placement.local(Variables(network, stats, self.fixed))
        return arrays

    def evaluate(self, models: Sequence[Variables]) -> list[dict[str, Any]]:
        """Top-1 accuracy of each."""
        assert self.validation is not None
        return measure(
            models,
            self.task.classifier,
            self.processor,
            self.validation,
            batch_size=min(_MOST_EVALUATED_AT_ONCE, self.config.optim.batch_size),
            threads=self.config.threads,
        )

    def pack(
        self,
        model: Variables,
        masks: Masks,
        specs: Mapping[str, RowSpec],
        sparsities: Sequence[float],
        own: Sequence[Mapping[str, Any]],
    ) -> PackedFamily:
        """See `pack_resnet`."""
        return pack_resnet(
            self.task.classifier.model(model),
            self.processor.settings,
            self.source.class_names,
            masks,
            specs,
            sparsities,
            own,
        )

    def save_inputs(self, folder: Path) -> None:
        """Makes the folder only: the packed family holds the image settings."""
        folder.mkdir(exist_ok=True)

    def costs(self, masks: Masks, k: int | None) -> dict[str, Any]:
        """Multiply-accumulates per image."""
        network, size = self.config.network, self.config.pictures.size
        if k is None:
            return {"macs": sum(layer_macs(network, size).values())}
        kept = {name: int((np.asarray(x) > k).sum()) for name, x in masks.levels.items()}
        return {"macs": subnet_macs(network, size, kept)}


def open_classifier(config: ClassifierDressConfig, display: Display) -> ClassifierSubject:
    """Data and network of a run.

    Raises:
      UserError: what cannot be used.
    """
    mesh = placement.mesh_for(config.optim.batch_size, fsdp=config.fsdp)
    display.says("opening the data", chapter="data")
    classes, pictures = config.network.classes, config.pictures
    source = open_labelled(config.train, classes, display.indexing)
    validation = None
    if config.validation.path:
        validation = open_labelled(config.validation, classes, display.indexing)
    settings = ImageSettings(size=pictures.size, mean=pictures.mean, std=pictures.std)
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32

    def new() -> ResNet:
        return ResNet(config.network, rngs=nnx.Rngs(config.seed), dtype=dtype)

    model = drawn(new)
    # Shifted and mirrored they are where they are read.
    classifier, variables = split_classifier(model, settings.mean, settings.std)
    params, stats, rest = placement.put_split(variables, mesh)
    return ClassifierSubject(
        config,
        ClassifierTask(classifier, config.loss.label_smoothing, mesh),
        params,
        stats,
        rest,
        source,
        Pictures(settings),
        validation,
        mesh,
        dtype,
        norm_names(model),
    )
