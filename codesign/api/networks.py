"""Networks of checkpoints and families from Python: `codesign eval` and `codesign prune`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from codesign.errors import UserError
from codesign.progress import OnProgress, Progress

if TYPE_CHECKING:
    from codesign.architecture import Architecture
    from codesign.models import CLIP
    from codesign.models.formats import Processor
    from codesign.models.importance import Criterion
    from codesign.models.resnet_family import ResNetFamily
    from codesign.train.data import Source, SourceConfig


def evaluate(
    checkpoint: str | os.PathLike[str] | CLIP,
    data: str | os.PathLike[str] | SourceConfig | Source,
    *,
    processor: Processor | None = None,
    subnet: int | None = None,
    split: str = "test",
    limit: int | None = None,
    classes: str | None = None,
    templates: str = "auto",
    batch_size: int = 64,
    threads: int = 4,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Zero-shot classification and retrieval of a checkpoint, as `codesign eval`.

        cd.evaluate("openai/clip-vit-base-patch16", "pets", split="validation")["zero_shot"]

    Args:
      checkpoint: a CLIP's file, folder or hub name; a packed family, with `subnet`; or a CLIP
        that is loaded, with its `processor`.
      data: pictures with labels, captions or both, of any format (docs/data.md); "digits" is
        installed. A `SourceConfig` or a `Source` says all of it: the four following arguments are
        not looked at.
      processor: prepares pictures and texts; default: the checkpoint's.
      subnet: of a family, 0 is the densest.
      split: of the data.
      limit: use only so many pictures.
      classes: file with the classes' names.
      templates: prompt ensemble.
      batch_size: pictures embedded at once.
      threads: that decode.
      progress: called with a `Progress` after each batch.

    Returns:
      What `codesign eval --json` prints of it, a dict with "images", the number of pictures,
      "skipped", with labels "zero_shot" (its "top_1" is a share), and with captions "retrieval";
      of a classifier's subnet "classification".

    Raises:
      UserError: a checkpoint or data that cannot be used.
    """
    from codesign.constraints import Count, Few, check_arguments
    from codesign.models.formats import load_processor
    from codesign.models.resnet_family import is_resnet_family, load_resnet_family
    from codesign.train.data import Source, SourceConfig, open_source
    from codesign.train.zero_shot import evaluate_source

    check_arguments("evaluate", batch_size=(Count, batch_size), threads=(Few, threads))
    config = (
        data
        if isinstance(data, (Source, SourceConfig))
        else SourceConfig(
            path=os.fspath(data), split=split, limit=limit, classes=classes, templates=templates
        )
    )
    if isinstance(checkpoint, (str, os.PathLike)):
        path = os.fspath(checkpoint)
        if is_resnet_family(path):
            family = load_resnet_family(path)
            check_subnet(path, subnet, len(family))
            if isinstance(config, Source):
                raise UserError("evaluate: a classifier's pictures are named, not a Source")
            source = open_labelled_source(family, config)
            told = _Counted(progress, len(source))
            return evaluate_classifier(
                family, subnet or 0, source, batch_size=batch_size, threads=threads, progress=told
            )
        clip = load_network(path, subnet=subnet)
        processor = processor or load_processor(path, clip)
    elif processor is None:
        raise UserError("evaluate: a CLIP that is loaded needs its processor")
    elif subnet is not None:
        raise UserError(f"evaluate: subnet {subnet} is of a family; a loaded CLIP has none")
    else:
        clip = checkpoint
    source = config if isinstance(config, Source) else open_source(config)
    return evaluate_source(
        clip,
        processor,
        source,
        batch_size=batch_size,
        threads=threads,
        progress=_Counted(progress, len(source)),
    )


def prune(
    checkpoint: str | os.PathLike[str] | CLIP,
    keep: float | Mapping[str, float] | Architecture,
    data: str | os.PathLike[str] | SourceConfig | Source | None = None,
    *,
    method: Literal["taylor", "loss", "magnitude"] | str | Criterion = "taylor",
    processor: Processor | None = None,
    samples: int = 1024,
    batch_size: int = 32,
    groups: int = 16,
    seed: int = 0,
    threads: int = 4,
) -> CLIP:
    """A smaller CLIP of a checkpoint's most important units, as `codesign prune`; not trained.

        small = cd.prune("openai/clip-vit-base-patch16", 0.5, "shards/*.tar")
        cd.save_clip(small, "small", "hf")

    Args:
      checkpoint: a CLIP's file, folder or hub name, or a CLIP that is loaded, which is left as it
        is.
      keep: a share of every dimension; shares by name, {"ffn": 0.5, "vision.layers": 0.75}; or
        an architecture, such as a design's, whose towers are taken.
      data: pictures to measure importance on, of their train split; none for "magnitude".
      method: importance by first-order Taylor, by the measured rise of the loss, by the weights'
        size, or by a function of your own of the CLIP and the batches (None without data), or
        "FILE.py:NAME" of one.
      processor: prepares pictures and texts; default: the checkpoint's.
      samples: pictures.
      batch_size: of these that the contrastive loss sees together.
      groups: of "loss": parts of FFN units and channels that are taken out.
      seed: of the samples.
      threads: that decode.

    Raises:
      UserError: a checkpoint or data that cannot be used; a share or an architecture that does
        not fit; no data where the method needs some.
    """
    from codesign.architecture import Architecture
    from codesign.constraints import Count, Few, PositiveShare, Seed, check_arguments
    from codesign.models.formats import load_processor
    from codesign.models.importance import score_units
    from codesign.models.prune import prune as pruned
    from codesign.models.prune import scaled
    from codesign.train.calibrate import calibration_batches
    from codesign.train.data import Source, SourceConfig, open_source
    from codesign.userfile import is_member

    check_arguments(
        "prune",
        samples=(Count, samples),
        batch_size=(Count, batch_size),
        groups=(Count, groups),
        seed=(Seed, seed),
        threads=(Few, threads),
    )
    if not isinstance(keep, (Mapping, Architecture)):
        check_arguments("prune", keep=(PositiveShare, keep))
    path, batches = None, None
    if isinstance(checkpoint, (str, os.PathLike)):
        path = os.fspath(checkpoint)
        clip = load_network(path)
    else:
        clip = checkpoint
    own = callable(method) or is_member(method)
    if method != "magnitude" and data is None and not own:
        raise UserError(
            f"prune: method {method} measures importance on pictures: give data, or method "
            "magnitude"
        )
    if method != "magnitude" and data is not None:
        if processor is None:
            if path is None:
                raise UserError("prune: a CLIP that is loaded needs its processor")
            processor = load_processor(path, clip)
        if isinstance(data, Source):
            source = data
        elif isinstance(data, SourceConfig):
            source = open_source(data)
        else:
            source = open_source(SourceConfig(path=os.fspath(data)))
        batches = calibration_batches(
            source,
            processor,
            samples=samples,
            batch_size=batch_size,
            seed=seed,
            threads=threads,
        )
    try:
        if isinstance(keep, Architecture):
            small = dataclasses.replace(clip.architecture, vision=keep.vision, text=keep.text)
        else:
            small = scaled(clip.architecture, keep)
        return pruned(clip, small, score_units(clip, batches, method, groups=groups))
    except ValueError as error:
        raise UserError(f"prune: {error}") from None


def load_network(
    path: str | os.PathLike[str],
    *,
    subnet: int | None = None,
    image: int | None = None,
    **more: Any,
) -> CLIP:
    """A checkpoint's CLIP, or one subnet of a packed family.

    Args:
      path: a file, a folder or a hub name.
      subnet: of a family, 0 is the densest.
      image: change the image size.
      **more: as `load_clip` takes; of a family, those of computing.

    Raises:
      UserError: no checkpoint there, a family without `subnet`, or options that contradict it.
    """
    from codesign.models.formats import load_clip, with_image_size
    from codesign.models.subnets import load_family

    path = os.fspath(path)
    if subnet is None:
        _check_no_family(path)
        return load_clip(path, image=image, **more)
    family = load_family(path)
    check_subnet(path, subnet, len(family))
    told = {name: more.pop(name, None) for name in ("activation", "head_dim", "weights")}
    if told["activation"] is not None or told["head_dim"] is not None:
        raise UserError(f"{path} tells its activation and head width itself; leave them out")
    if told["weights"] is not None:
        raise UserError(f"{path} holds one set of weights; leave --weights out")
    clip = family.clip(subnet, **more)
    return clip if image is None else with_image_size(clip, image)


def check_subnet(path: str, subnet: int | None, subnets: int) -> None:
    """Raises UserError for a number that none of a family's subnets has, or for none."""
    if subnet is None:
        raise UserError(f"{path} is a family: choose --subnet, 0 to {subnets - 1}")
    if not 0 <= subnet < subnets:
        raise UserError(f"--subnet {subnet}: {path} has subnets 0 to {subnets - 1}")


def open_labelled_source(
    family: ResNetFamily, config: SourceConfig, on_shards: Any = lambda done, of: None
) -> Source:
    """The pictures that a classifier's family can be evaluated on.

    Raises:
      UserError: data without the classes that it tells apart.
    """
    from codesign.train.classifier_subject import open_labelled

    return open_labelled(config, family.config.classes, on_shards)


def evaluate_classifier(
    family: ResNetFamily,
    subnet: int,
    source: Source,
    *,
    dtype: Any = None,
    batch_size: int = 64,
    threads: int = 4,
    progress: Any = lambda _: None,
) -> dict[str, Any]:
    """The accuracy of one subnet of a classifier's family; see `evaluate`."""
    import jax.numpy as jnp

    from codesign.models.formats.processor import Pictures
    from codesign.train.classifier import split_classifier
    from codesign.train.classifier_subject import measure

    settings = family.pictures
    classifier, variables = split_classifier(
        family.at(subnet, dtype=jnp.float32 if dtype is None else dtype),
        settings.mean,
        settings.std,
    )
    return measure(
        [variables],
        classifier,
        Pictures(settings),
        source,
        batch_size=batch_size,
        threads=threads,
        progress=progress,
    )[0]


def _check_no_family(path: str) -> None:
    """Raises UserError for a family, which holds several networks."""
    from codesign.dress.packed import described
    from codesign.models.subnets import family_file

    about = described(family_file(path))
    if about is not None:
        last = len(about["sparsities"]) - 1
        raise UserError(f"{path} is a family of subnets: choose one with --subnet, 0 to {last}")


class _Counted:
    """Adds up pictures, and tells of them."""

    def __init__(self, told: OnProgress | None, end: int) -> None:
        self._told, self._done, self._end = told, 0, end

    def __call__(self, more: int) -> None:
        self._done += more
        if self._told is not None:
            self._told(Progress("evaluating", self._done, self._end))
