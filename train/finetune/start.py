"""Where a fine-tuning begins: a checkpoint with its processor, or an untrained network."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.errors import UserError
from codesign.models import CLIP
from codesign.models.dialect import Dialect
from codesign.models.formats import ImageSettings, Processor, load_clip, load_processor
from codesign.models.formats.processor import make_processor, read_tokenizer
from codesign.train.data import Source, train_tokenizer
from codesign.train.data.captions import captions as class_captions
from codesign.train.finetune.config import FinetuneConfig

# The words of a vocabulary are looked for in so many samples.
_MOST_SAMPLES = 100_000


class Start(NamedTuple):
    """The network before its first step, and what prepares its inputs."""

    model: CLIP
    processor: Processor


def start(config: FinetuneConfig, source: Source) -> Start:
    """The network and the processor that a config begins with.

    Args:
      config: names a checkpoint, or the dimensions of an untrained network.
      source: training data, whose words make the vocabulary where there is no tokenizer.

    Raises:
      UserError: a checkpoint that cannot be read, or dimensions no CLIP can have.
    """
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    if config.checkpoint is not None:
        model = load_clip(config.checkpoint, image=config.image, dtype=dtype, remat=config.remat)
        return Start(model, load_processor(config.checkpoint, model, tokenizer=config.tokenizer))
    wanted = config.untrained
    if config.image is not None:
        wanted = dataclasses.replace(wanted, image=config.image)
    settings = ImageSettings(size=wanted.image)
    if wanted.channels == 1:
        settings = dataclasses.replace(settings, mean=(0.5,), std=(0.5,))
    if config.tokenizer is not None:
        tokenizer = read_tokenizer(config.tokenizer)
    else:
        tokenizer = train_tokenizer(_texts(source))
    processor = make_processor(settings, tokenizer, wanted.context)
    vocab, end = len(processor.tokenizer), processor.tokenizer.eos_token_id


    def new() -> CLIP:
        return CLIP(
            dataclasses.replace(wanted, vocab=vocab),
            rngs=nnx.Rngs(config.seed), dtype=dtype, remat=config.remat,
            # By default texts are read at their largest id, as OpenAI's are.
            dialect=Dialect(end_of_text=None if end == vocab - 1 else end),
        )  # fmt: skip

    try:
        graphdef = nnx.graphdef(nnx.eval_shape(new))
    except ValueError as error:
        raise UserError(f"untrained: {error}") from None
    # One program: drawn one by one, each array would be compiled for.
    return Start(nnx.merge(graphdef, jax.jit(lambda: nnx.state(new()))()), processor)


def _texts(source: Source) -> list[str]:
    """Every caption of the classes, and of the first samples."""
    of_classes = class_captions(source.class_names, source.templates)
    of_samples = (source.captions(i) for i in range(min(len(source), _MOST_SAMPLES)))
    return [*itertools.chain(*of_classes), *itertools.chain.from_iterable(of_samples)]
