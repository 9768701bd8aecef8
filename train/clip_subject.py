"""A CLIP in a run: where it begins, and what is measured and delivered of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from codesign.architecture import Architecture
from codesign.dress.masks import Masks
from codesign.dress.packed import PackedFamily
from codesign.dress.rows import RowSpec
from codesign.errors import UserError
from codesign.models import CLIP
from codesign.models.dialect import Dialect
from codesign.models.formats import (
    ImageSettings,
    Processor,
    load_clip,
    load_processor,
    save_clip,
)
from codesign.models.formats.files import TOKENIZER_FILES, locate_side_files
from codesign.models.formats.image_settings import image_settings
from codesign.models.formats.processor import make_processor
from codesign.models.formats.tokenizer_files import read_tokenizer
from codesign.models.subnets import norm_parameters, pack_clip, subnet_specs
from codesign.printable import short_repr
from codesign.train import placement
from codesign.train.clip import ClipTask, Fixed, States, Weights, chunks_of, make_optimizer
from codesign.train.data import Source, open_source, train_tokenizer
from codesign.train.data.captions import captions as class_captions
from codesign.train.finetune.config import ClipTrainingConfig
from codesign.train.network import Network, drawn
from codesign.train.optim import warmup_cosine
from codesign.train.progress import Display
from codesign.train.zero_shot import evaluate_source

# The words of a vocabulary are looked for in so many samples.
_MOST_SAMPLES = 100_000
# Texts by which two tokenizers are held against each other.
_MOST_COMPARED = 256
_MOST_EVALUATED_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, eq=False)
class ClipSubject:
    """A CLIP in a run; see `task.Subject`."""

    config: ClipTrainingConfig
    task: ClipTask
    params: Weights
    stats: Any
    fixed: Fixed
    source: Source
    processor: Processor
    validation: Source | None
    mesh: Mesh
    dtype: Any

    def optimizer(
        self, steps: int, lr: float, warmup_steps: int
    ) -> tuple[optax.GradientTransformation, Any]:
        """AdamW; see `make_optimizer`."""
        return make_optimizer(self.config, self.params.clip, steps, lr, warmup_steps)

    def norm_optimizer(self, steps: int, lr: float) -> optax.GradientTransformation:
        """Adam under clipping."""
        optim = self.config.optim
        rate = warmup_cosine(lr, 0, steps, 0.0)
        return optax.chain(
            optax.clip_by_global_norm(optim.clip_norm),
            optax.adam(rate, b2=optim.beta2, eps=optim.epsilon),
        )

    def specs(self, include: Sequence[str], exclude: Sequence[str]) -> dict[str, RowSpec]:
        """Row layouts of the blocks' kernels."""
        return subnet_specs(self.model(self.params.clip, ()), include, exclude)

    @property
    def norms(self) -> tuple[str, ...]:
        """Scales and biases of LayerNorm."""
        return tuple(norm_parameters(self.model(self.params.clip, ())))

    def model(self, network: nnx.State, stats: Any) -> CLIP:
        """The CLIP of these parameters, whole on this process's first device."""
        return self.task.student.clip(*placement.local((network, self.fixed.rest)))

    def evaluate(self, models: Sequence[CLIP]) -> list[dict[str, Any]]:
        """Zero-shot classification and retrieval of each; see `evaluate_source`."""
        assert self.validation is not None
        size = min(_MOST_EVALUATED_AT_ONCE, self.config.optim.batch_size)
        return [
            evaluate_source(
                clip, self.processor, self.validation, threads=self.config.threads, batch_size=size
            )
            for clip in models
        ]

    def save(self, model: CLIP, folder: Path) -> None:
        """A native checkpoint with its processor."""
        save_clip(model, folder, "native", overwrite=True)
        self.processor.save(folder)

    def pack(
        self,
        model: CLIP,
        masks: Masks,
        specs: Mapping[str, RowSpec],
        sparsities: Sequence[float],
        own: Sequence[Mapping[str, Any]],
    ) -> PackedFamily:
        """See `pack_clip`."""
        return pack_clip(model, masks, specs, sparsities, norms=own)

    def save_inputs(self, folder: Path) -> None:
        """The processor."""
        self.processor.save(folder)

    def costs(self, masks: Masks, k: int | None) -> dict[str, Any]:
        """Nothing: `codesign cost` prices a family of CLIPs."""
        return {}


def open_clip(config: ClipTrainingConfig, display: Display) -> ClipSubject:
    """Data, network and teacher of a run.

    Raises:
      UserError: what cannot be used.
    """
    mesh = placement.mesh_for(config.optim.batch_size, config.optim.micro_batches, config.fsdp)
    display.says("opening the data", chapter="data")
    source = open_source(config.train, display.indexing)
    validation = None
    if config.validation.path:
        validation = open_source(config.validation, display.indexing)
    begun = start(
        source,
        checkpoint=config.checkpoint,
        untrained=config.untrained,
        image=config.image,
        tokenizer=config.tokenizer,
        bfloat16=config.bfloat16,
        remat=config.remat,
        seed=config.seed,
    )
    split: Any = nnx.split(begun.model, nnx.Param, ...)
    graphdef, params, rest = split
    network, states = (
        (None, None) if config.loss.teacher is None else _teacher(config, begun, source)
    )
    task = ClipTask(
        student=Network(graphdef, begun.processor.settings),
        loss_config=config.loss,
        mesh=mesh,
        teacher=network,
        lock=config.lock,
        micro_batches=config.optim.micro_batches,
        chunks=chunks_of(config.optim.logits_chunk, mesh),
    )
    weights, fixed = Weights(params, jnp.zeros((), jnp.float32)), Fixed(rest, states)
    return ClipSubject(
        config,
        task,
        placement.put_split(weights, mesh),
        (),
        placement.put_split(fixed, mesh),
        source,
        begun.processor,
        validation,
        mesh,
        begun.model.vision.dtype,
    )


class Start(NamedTuple):
    """The network before its first step, and what prepares its inputs."""

    model: CLIP
    processor: Processor


def start(
    source: Source,
    *,
    checkpoint: str | None,
    untrained: Architecture,
    image: int | None = None,
    tokenizer: str | None = None,
    settings: ImageSettings | None = None,
    bfloat16: bool = False,
    remat: bool = False,
    seed: int = 0,
) -> Start:
    """The network and the processor that a run begins with.

    Args:
      source: training data, whose words make the vocabulary where there is no tokenizer.
      checkpoint: a file, folder or hub name in any format; None: an untrained network.
      untrained: its dimensions, where there is no checkpoint.
      image: side of the images, pixels, where it is not the checkpoint's.
      tokenizer: folder or hub name; None: the checkpoint's own, or the training captions' words.
      settings: how images become numbers, where there is no checkpoint; None: as usual.
      bfloat16: compute in bfloat16.
      remat: recompute each block in the backward pass.
      seed: of initial weights.

    Raises:
      UserError: a checkpoint that cannot be read, or dimensions no CLIP can have.
    """
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    if checkpoint is not None:
        model = load_clip(checkpoint, image=image, dtype=dtype, remat=remat)
        return Start(model, load_processor(checkpoint, model, tokenizer=tokenizer))
    wanted = untrained if image is None else dataclasses.replace(untrained, image=image)
    if settings is None:
        settings = ImageSettings(size=wanted.image)
        if wanted.channels == 1:
            settings = dataclasses.replace(settings, mean=(0.5,), std=(0.5,))
    words = train_tokenizer(_texts(source)) if tokenizer is None else read_tokenizer(tokenizer)
    processor = make_processor(settings, words, wanted.context)
    vocab, end = len(processor.tokenizer), processor.tokenizer.eos_token_id

    def new() -> CLIP:
        return CLIP(
            dataclasses.replace(wanted, vocab=vocab),
            rngs=nnx.Rngs(seed),
            dtype=dtype,
            remat=remat,
            # By default texts are read at their largest id, as OpenAI's are.
            dialect=Dialect(end_of_text=None if end == vocab - 1 else end),
        )

    try:
        return Start(drawn(new), processor)
    except ValueError as error:
        raise UserError(f"untrained: {error}") from None


def _texts(source: Source) -> list[str]:
    """Every caption of the classes, and of the first samples."""
    of_classes = class_captions(source.class_names, source.templates)
    of_samples = (source.captions(i) for i in range(min(len(source), _MOST_SAMPLES)))
    return [*itertools.chain(*of_classes), *itertools.chain.from_iterable(of_samples)]


def _read_otherwise(processor: Processor, path: str, model: CLIP, source: Source) -> str | None:
    """A text of the source that a checkpoint's own tokenizer, if it has one, reads otherwise."""
    folder = locate_side_files(path)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    theirs, texts = load_processor(path, model), _texts(source)
    some = texts[:: -(-len(texts) // _MOST_COMPARED) or 1]
    differ = (processor.texts(some) != theirs.texts(some)).any(axis=1) if some else np.zeros(0)
    return some[int(np.argmax(differ))] if differ.any() else None


def _teacher(config: ClipTrainingConfig, begun: Start, source: Source) -> tuple[Network, States]:
    """The teacher, able to read the student's inputs."""
    path, ours = str(config.loss.teacher), begun.model.architecture
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    model = load_clip(path, image=ours.image, dtype=dtype)
    settings = dataclasses.replace(image_settings(locate_side_files(path), path), size=ours.image)
    theirs = model.architecture
    for name in ("vocab", "context", "channels"):
        if getattr(ours, name) != getattr(theirs, name):
            raise UserError(
                f"--loss.teacher {path}: its {name} is {getattr(theirs, name)}, the student's "
                f"{getattr(ours, name)}; both must read the same inputs"
            )
    if (text := _read_otherwise(begun.processor, path, model, source)) is not None:
        raise UserError(
            f"--loss.teacher {path}: its tokenizer reads {short_repr(text)} otherwise than the "
            "student's; both must read the same inputs"
        )
    if config.loss.features and ours.projection != theirs.projection:
        raise UserError(
            f"--loss.features: the teacher embeds in {theirs.projection} dimensions, the student "
            f"in {ours.projection}; set it to 0, --loss.distillation works across widths"
        )
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = split
    return Network(graphdef, settings), (params, rest)
