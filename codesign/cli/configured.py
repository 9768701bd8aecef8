"""What the commands that run a CONFIG share."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from codesign.errors import UserError

# Which command runs a config of which class, by name: to import them all would take seconds.
_COMMANDS = {
    "AblationConfig": "ablate",
    "ClassifierDressConfig": "dress",
    "DressConfig": "dress",
    "FinetuneConfig": "finetune",
}
_NOUNS = {
    "ablate": "ablation",
    "dress": "training of subnets",
    "finetune": "fine-tuning",
    "search": "search",
}


def load(args: argparse.Namespace) -> Any:
    """The config of the command line, overrides applied.

    Raises:
      UserError: a config that cannot be read, or one of another command.
    """
    from codesign.overrides import load_config

    config = load_config(args.config, args.overrides)
    command = _COMMANDS.get(type(config).__name__, "search")
    if command != args.command_name:
        noun = _NOUNS[args.command_name]
        raise UserError(f"{args.config} is no {noun}; try codesign {command} {args.config}")
    _check_scenarios(config)
    return config


def out_folder(args: argparse.Namespace) -> Path:
    """Where the run goes: --out, or runs/ and the config's name."""
    from codesign.overrides import config_name

    return Path(args.out if args.out is not None else Path("runs") / config_name(args.config))


def resume_command(args: argparse.Namespace) -> str:
    """The command that continues an interrupted run: the same, with --resume."""
    out = ["--out", args.out] if args.out is not None else []
    as_json = ["--json"] if args.json else []
    words = ["codesign", args.command_name, args.config, *args.overrides, *out, *as_json]
    return shlex.join([*words, "--resume"])


def _check_scenarios(config: Any) -> None:
    """Refuses a config's impossible scenario now rather than at its first pricing."""
    from codesign.design_file import check_scenario
    from codesign.scenario import Scenario

    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Scenario):
            check_scenario(value, f"--{field.name}")
