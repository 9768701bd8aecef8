"""Training runs from Python: what `codesign search`, `finetune` and `dress` do."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.errors import UserError
from codesign.progress import OnProgress

if TYPE_CHECKING:
    from codesign.runs import Run
    from codesign.train.config import SearchConfig
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
