"""`codesign finetune`: contrastive training of a CLIP checkpoint."""

from __future__ import annotations

import argparse
from typing import Any

from codesign.cli import configured
from codesign.cli.arguments import add_config_command
from codesign.cli.output import console, print_json


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_config_command(
        commands,
        "finetune",
        run,
        "train a CLIP checkpoint on captioned images, with a teacher or without; writes a run",
        more="[--resume] [--distributed] ",
        example="--optim.lr 1e-4",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")
    parser.add_argument(
        "--distributed", action="store_true",
        help="one of several processes, which find each other as jax.distributed does (SLURM, Open "
        "MPI, TPU pods; else JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """`codesign finetune`: the run itself is train.finetune.run's."""
    from codesign.overrides import config_name, config_to_json
    from codesign.report.finetune import measures_table
    from codesign.runs import REPORT

    config = configured.load(args)
    if args.distributed:
        from codesign.train.placement import join_processes

        join_processes()
    from codesign.train.placement import shared_folder

    name, out = config_name(args.config), configured.out_folder(args)
    folder = shared_folder(out, config_to_json(config), resume=args.resume, name=name)
    try:
        from codesign.train.finetune.run import run_finetune

        summary = run_finetune(config, folder, console(stderr=True))
    except KeyboardInterrupt:
        again = configured.resume_command(args)
        message = f"interrupted; the run is kept: {again} continues it"
        raise KeyboardInterrupt(message) from None
    clip, report = str(folder.path / summary["clip"]), str(folder.path / REPORT)
    if args.json:
        print_json({"run": str(out)} | summary | {"clip": clip, "report": report})
        return 0
    terminal = console()
    if "validation" in summary:
        terminal.print(measures_table(summary["validation"]))
    terminal.print(f"checkpoint: {clip}", markup=False, highlight=False, soft_wrap=True)
    terminal.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return 0
