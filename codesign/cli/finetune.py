"""`codesign finetune`: contrastive training of a CLIP checkpoint."""

from __future__ import annotations

import argparse
from typing import Any

from codesign.cli.output import console, print_json
from codesign.cli.training import add_training_command, trained, tried


def add(commands: Any) -> None:
    """The parser of the command."""
    add_training_command(
        commands,
        "finetune",
        run,
        "train a CLIP checkpoint on captioned images, with a teacher or without; writes a run",
        example="--optim.lr 1e-4",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign finetune`: the run itself is train.run's."""
    if args.dry_run:
        return tried(args)
    folder, summary = trained(args)
    from codesign.report.finetune import measures_table
    from codesign.runs import REPORT

    clip, report = str(folder / summary["clip"]), str(folder / REPORT)
    if args.json:
        print_json({"run": str(folder)} | summary | {"clip": clip, "report": report})
        return 0
    out = console()
    if "validation" in summary:
        out.print(measures_table(summary["validation"]))
    out.print(f"checkpoint: {clip}", soft_wrap=True)
    out.print(f"report: {report}", soft_wrap=True)
    return 0
