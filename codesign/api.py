"""What the command line does, as functions; `import codesign as cd` has the public ones.

Everything heavy is imported where it is used, as in the commands, which call these functions or
what these call.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from codesign.errors import UserError
from codesign.progress import OnProgress, Progress

if TYPE_CHECKING:
    from codesign.architecture import Architecture
    from codesign.fixed_model import Hardware
    from codesign.models import CLIP
    from codesign.models.formats import Processor
    from codesign.models.importance import Criterion
    from codesign.models.resnet_family import ResNetFamily
    from codesign.runs import Run
    from codesign.scenario import Scenario
    from codesign.search.objectives import Limits, Mode
    from codesign.space import AcceleratorChoices
    from codesign.train.config import SearchConfig
    from codesign.train.data import Source, SourceConfig
    from codesign.train.dress.classifier_config import ClassifierDressConfig
    from codesign.train.dress.config import DressConfig
    from codesign.train.finetune.config import FinetuneConfig

_NOUNS = {
    "ablate": "ablation",
    "compare": "comparison",
    "dress": "training of subnets",
    "finetune": "fine-tuning",
    "search": "search",
    "study": "study of a paper",
}


def search(
    config: str | os.PathLike[str] | SearchConfig,
    fields: Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    check: bool | None = None,
    loggers: Sequence[str] | None = None,
    profile: int = 0,
    progress: OnProgress | None = None,
) -> Run:
    """Searches architectures and accelerators together, as `codesign search`.

        run = cd.search("quickstart", {"seed": 1}, progress=print)
        run.front()

    Args:
      config: a config by name, by the path of a Python file or of a run's config.json, or itself.
      fields: other values of its fields by dotted name, {"schedule.joint_steps": 100}.
      out: folder of the run; default: a temporary one, removed when the process ends.
      resume: continue the run in `out`; where there is none, start one.
      check: whether the first step of each phase is checked against its plainly compiled loss;
        default: on CPUs.
      loggers: where metrics go beside the folder, of "tensorboard", "wandb" and "mlflow"; default:
        TensorBoard, or for a resumed run those of before.
      profile: steps of each stage to trace by JAX's profiler, once it is compiled, into the run's
        folder profile/; default: none.
      progress: called with a `Progress` whenever steps are done; what it raises ends the run, as
        it is in its last checkpoint.

    Returns:
      The run, with designs, summary and metrics; `run.path` has reports and checkpoints.

    Raises:
      UserError: a config, data, space or limits that cannot be used; a folder with another run.
      RunError: a loss that is not finite, a full disk, a checkpoint that does not fit.
    """
    return _trained("search", config, fields, out, resume, check, loggers, profile, progress)


def finetune(
    config: str | os.PathLike[str] | FinetuneConfig,
    fields: Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    check: bool | None = None,
    loggers: Sequence[str] | None = None,
    profile: int = 0,
    progress: OnProgress | None = None,
) -> Run:
    """Trains a CLIP on captioned pictures, as `codesign finetune`.

        run = cd.finetune("clip", {"checkpoint": "small", "train.path": "shards/*.tar"})
        clip = cd.load_clip(run.path / "clip")

    Args:
      config: as of `search`.
      fields: as of `search`.
      out: as of `search`.
      resume: as of `search`.
      check: as of `search`.
      loggers: as of `search`.
      profile: as of `search`.
      progress: as of `search`.

    Returns:
      The run; `run.path / "clip"` is the checkpoint.

    Raises:
      UserError: a config, checkpoint or data that cannot be used; a folder with another run.
      RunError: a loss that is not finite, a full disk, a checkpoint that does not fit.
    """
    return _trained("finetune", config, fields, out, resume, check, loggers, profile, progress)


def dress(
    config: str | os.PathLike[str] | DressConfig | ClassifierDressConfig,
    fields: Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    check: bool | None = None,
    loggers: Sequence[str] | None = None,
    profile: int = 0,
    progress: OnProgress | None = None,
) -> Run:
    """Trains nested row-sparse subnets of a CLIP or a ResNet, as `codesign dress`.

        run = cd.dress("digits_dress", out="subnets")
        family = cd.load_family(run.path / "family")

    Args:
      config: as of `search`.
      fields: as of `search`.
      out: as of `search`.
      resume: as of `search`.
      check: as of `search`.
      loggers: as of `search`.
      profile: as of `search`.
      progress: as of `search`.

    Returns:
      The run; `run.path / "family"` is the packed family.

    Raises:
      UserError: a config, checkpoint or data that cannot be used; a folder with another run.
      RunError: a loss that is not finite, a full disk, a checkpoint that does not fit.
    """
    return _trained("dress", config, fields, out, resume, check, loggers, profile, progress)


def search_hardware(
    model: str | os.PathLike[str],
    limits: Limits | None = None,
    scenario: Scenario | None = None,
    *,
    space: AcceleratorChoices | None = None,
    objectives: Sequence[Mode] | None = None,
    uncertainty: int | None = None,
    name: str | None = None,
    tokens: int | None = None,
    phase: Literal["prefill", "decode"] | None = None,
    context: int | None = None,
) -> Hardware:
    """The best accelerators of a fixed model on a grid, exactly, as `codesign search hardware`.

        found = cd.search_hardware("tinyclip-39m-16", cd.Limits(latency_s=0.02, tops=20))
        found.designs[0]["accelerator"]

    Args:
      model: a published model's name, a HuggingFace folder, or a design file.
      limits: hard limits; default: none.
      scenario: where and how the device lives; of a design file, fields that differ from the
        default change the file's own. DRAM too small for the model is enlarged, unless it differs
        from the default.
      space: the grid; default: the wide one, of the catransformers costing the published one.
      objectives: what to find the least of; default: carbon, latency and energy.
      uncertainty: sets of components under which the best are held against their rivals.
      name: the design to take from a list of designs.
      tokens: length of a text or prompt, of models that take any.
      phase: of a decoder.
      context: tokens in a decoder's cache.

    Raises:
      UserError: no such model; no accelerator fits it, keeps up with the scenario's inferences or
        meets the limits.
    """
    from codesign.constraints import check_config
    from codesign.fixed_model import hardware_of
    from codesign.printable import short_repr
    from codesign.scenario import Scenario
    from codesign.search.hardware import HardwareConfig
    from codesign.search.objectives import Limits

    if not isinstance(model, (str, os.PathLike)):
        raise UserError(
            f"search_hardware: model is {short_repr(model)}: it must be a published model's name, "
            "a HuggingFace folder or a design file"
        )
    if limits is not None and not isinstance(limits, Limits):
        raise UserError(
            f"search_hardware: limits is {short_repr(limits)}: it must be codesign Limits"
        )
    given: dict[str, Any] = dict(vars(limits if limits is not None else Limits()))
    if space is not None:
        given |= {"space": space, "grid": "wide"}
    if objectives is not None:
        given["objectives"] = tuple(objectives) if isinstance(objectives, list) else objectives
    config = HardwareConfig(
        **given,
        model=os.fspath(model),
        name=name,
        tokens=tokens,
        phase=phase,
        context=context,
        scenario=scenario if scenario is not None else Scenario(),
        uncertainty=uncertainty,
    )
    check_config(config)
    return hardware_of(config)


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
    from codesign.models.formats import load_processor
    from codesign.models.resnet_family import is_resnet_family, load_resnet_family
    from codesign.train.data import Source, SourceConfig, open_source
    from codesign.train.zero_shot import evaluate_source

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
    from codesign.models.formats import load_processor
    from codesign.models.importance import score_units
    from codesign.models.prune import prune as pruned
    from codesign.models.prune import scaled
    from codesign.train.calibrate import calibration_batches
    from codesign.train.data import Source, SourceConfig, open_source
    from codesign.userfile import is_member

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


def config_of(command: str, config: Any, overrides: Sequence[str] = ()) -> Any:
    """The config that a command runs, overrides applied, every field checked.

    Args:
      command: "search", "compare", "finetune", "dress" or "ablate".
      config: its name or path, or itself.
      overrides: as on the command line, ["--optim.lr", "3e-4"].

    Raises:
      UserError: a config that cannot be read, one of another command or of none, or a field
        that holds what it may not.
    """
    from codesign.constraints import check_config
    from codesign.kinds import KINDS, kind_of
    from codesign.overrides import load_config, overridden

    named = os.fspath(config) if isinstance(config, (str, os.PathLike)) else None
    config = (
        overridden(config, overrides) if named is None else load_config(named, overrides, command)
    )
    found = kind_of(type(config))
    if found is None or found.command != command:
        noun, kind = _NOUNS[command], type(config).__name__
        if found is not None:
            mend = f"try codesign {found.command} {named or ''}".rstrip()
            raise UserError(f"{named or f'a {kind}'} is no {noun}; {mend}")
        classes = " or ".join(kind.config for kind in KINDS if kind.command == command)
        what = (
            f"a {kind} is no {noun}"
            if named is None
            else (f"{named} is no {noun}: its config is a {kind}")
        )
        raise UserError(f"{what}, where codesign {command} runs a {classes}")
    check_config(config)
    return config


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


def _trained(
    command: str,
    config: Any,
    fields: Mapping[str, Any] | None,
    out: str | os.PathLike[str] | None,
    resume: bool,
    check: bool | None,
    loggers: Sequence[str] | None,
    profile: int,
    progress: OnProgress | None,
) -> Run:
    """Trains by a config; the run that lies in the folder then."""
    from rich.console import Console

    from codesign.kinds import kind_of
    from codesign.overrides import config_name, config_to_json
    from codesign.printable import short_repr
    from codesign.runs import RunFolder, read_run

    name = config_name(os.fspath(config)) if isinstance(config, (str, os.PathLike)) else None
    config = config_of(command, config, _overrides(fields or {}))
    kind = kind_of(type(config))
    assert kind is not None, "refused before"
    if not kind.run:
        raise UserError(f"{name or type(config).__name__} trains nothing; see search_hardware")
    if resume and out is None:
        raise UserError(f"{command}: resume continues the run in a folder: give out")
    if type(profile) is not int or profile < 0:
        raise UserError(
            f"{command}: profile is {short_repr(profile)}: it must be a whole number of steps, or 0"
        )
    from codesign.train.loggers import check_loggers

    check_loggers(loggers or ())
    with _folder(out) as (path, kept):
        folder = RunFolder.create(
            path,
            config_to_json(config),
            resume=resume,
            kind=kind.name,
            name=name or (path.name if kept else kind.name),
        )
        kind.runner()(
            config,
            folder,
            Console(quiet=True, force_terminal=False),
            check=check,
            on_progress=progress,
            loggers=loggers,
            profile=profile,
        )
        return read_run(path)


@contextlib.contextmanager
def _folder(out: str | os.PathLike[str] | None) -> Iterator[tuple[Path, bool]]:
    """Where a run goes, and whether it stays there.

    A temporary folder goes with a failure, else with the process: whoever has only the path of
    a returned run, or a file in it, can use it as long.
    """
    if out is not None:
        yield Path(out), True
        return
    path = Path(tempfile.mkdtemp(prefix="codesign-"))
    try:
        yield path, False
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    atexit.register(shutil.rmtree, path, ignore_errors=True)


def _overrides(fields: Mapping[str, Any]) -> list[str]:
    """Fields and Python values as the command line has them."""
    from codesign.runs import jsonable

    def text(name: str, value: Any) -> str:
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        return plain if isinstance(plain, str) else json.dumps(jsonable(plain, name))

    return [f"--{name}={text(name, value)}" for name, value in fields.items()]
