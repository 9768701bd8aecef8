"""What the commands that run a CONFIG share."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codesign.errors import UserError
from codesign.termination import Terminated, raised

# Which command runs a config of which class, by name: to import them all would take seconds.
_COMMANDS = {
    "codesign.search.hardware.HardwareConfig": "search",
    "codesign.surrogate.config.AblationConfig": "ablate",
    "codesign.train.config.SearchConfig": "search",
    "codesign.train.dress.classifier_config.ClassifierDressConfig": "dress",
    "codesign.train.dress.config.DressConfig": "dress",
    "codesign.train.finetune.config.FinetuneConfig": "finetune",
}
_NOUNS = {
    "ablate": "ablation",
    "dress": "training of subnets",
    "finetune": "fine-tuning",
    "search": "search",
}


def load(args: argparse.Namespace) -> Any:
    """The config of the command line, overrides applied, every field checked.

    Raises:
      UserError: a config that cannot be read, one of another command or of none, or a field
        that holds what it may not.
    """
    from codesign.constraints import check_config
    from codesign.overrides import load_config

    config = load_config(args.config, args.overrides)
    command = _command_of(type(config))
    if command != args.command_name:
        noun, kind = _NOUNS[args.command_name], type(config).__name__
        if command is not None:
            raise UserError(f"{args.config} is no {noun}; try codesign {command} {args.config}")
        raise UserError(
            f"{args.config} is no {noun}: its config is a {kind}, where codesign "
            f"{args.command_name} runs a {_classes(args.command_name)}"
        )
    check_config(config)
    return config


def _command_of(kind: type) -> str | None:
    """The command that runs a config of this class, or of one that it derives from."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)
    return next((_COMMANDS[name] for name in names if name in _COMMANDS), None)


def _classes(command: str) -> str:
    return " or ".join(name for name, runs in _COMMANDS.items() if runs == command)


def out_folder(args: argparse.Namespace) -> Path:
    """Where the run goes: --out, or runs/ and the config's name."""
    from codesign.overrides import config_name

    return Path(args.out if args.out is not None else Path("runs") / config_name(args.config))


def resume_command(args: argparse.Namespace) -> str:
    """The command that continues an interrupted run: the same, with --resume."""
    out = ["--out", args.out] if args.out is not None else []
    given = [f"--{name}" for name in ("distributed", "json") if getattr(args, name, False)]
    check = getattr(args, "check", None)
    if check is not None:
        given.append("--check" if check else "--no-check")
    words = ["codesign", args.command_name, args.config, *args.overrides, *out, *given]
    return shlex.join([*words, "--resume"])


@contextlib.contextmanager
def kept_when_stopped(args: argparse.Namespace, *, alone: bool = True) -> Iterator[None]:
    """Ctrl-C and SIGTERM within end in a line that tells how to go on.

    Args:
      args: of the command line.
      alone: False: one of several processes, which JAX brings to agree about SIGTERM.
    """
    again = resume_command(args)
    try:
        with raised() if alone else contextlib.nullcontext():
            yield
    except KeyboardInterrupt:
        message = f"interrupted; the run is kept: {again} continues it"
        raise KeyboardInterrupt(message) from None
    except Terminated:
        message = f"stopped by SIGTERM; the run is kept: {again} continues it"
        raise Terminated(message) from None
