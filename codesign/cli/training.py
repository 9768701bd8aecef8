"""What the commands that train a checkpoint share."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codesign.cli import configured, peers
from codesign.cli.arguments import add_config_command, add_run_options
from codesign.cli.output import console, stdout_to_stderr
from codesign.kinds import kind_of


def add_training_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> None:
    """A command that trains by a CONFIG, by one process or several."""
    parser = add_config_command(
        commands,
        name,
        run,
        summary,
        more="[--resume] [--[no-]check] [--loggers NAMES] [--distributed] ",
        example=example,
    )
    add_run_options(parser)
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, which find each other as jax.distributed does (SLURM, Open "
        "MPI, TPU pods; else JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID)",
    )


def trained(args: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Trains by the config of the command line; the run folder and what its runner returns."""
    from codesign.overrides import config_name, config_to_json

    if args.distributed:
        again = configured.resume_command(args)
        joined = peers.go_on_in_child(
            lost="another process of this run has ended, and tells why itself; the run is kept: "
            f"{again} by all of them continues it",
            absent="--distributed: the other processes have not come; start all of them within "
            "five minutes, with the same JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES",
        )
    config = configured.load(args)
    from codesign.train.loggers import check_loggers
    from codesign.train.placement import join_processes, shared_folder

    check_loggers(args.loggers or ())

    name, out = config_name(args.config), configured.out_folder(args)
    with (
        peers.left_at_once() if args.distributed else contextlib.nullcontext(),
        configured.kept_when_stopped(args, alone=not args.distributed),
        stdout_to_stderr() if args.distributed else contextlib.nullcontext(),
    ):
        if args.distributed:
            join_processes()
            joined()
        kind = kind_of(type(config))
        assert kind is not None, "refused as it was loaded"
        folder = shared_folder(
            out, config_to_json(config), resume=args.resume, name=name, kind=kind.name
        )
        run = kind.runner()
        shown = console(stderr=True)
        return folder.path, run(config, folder, shown, check=args.check, loggers=args.loggers)
