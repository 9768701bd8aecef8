"""`codesign dress`: nested row-sparse subnets of one CLIP."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from codesign.cli.output import console, print_json
from codesign.cli.training import add_training_command, trained


def add(commands: Any) -> None:
    """The parser of the command."""
    add_training_command(
        commands,
        "dress",
        run,
        "train nested row-sparse subnets of one CLIP (DRESS); writes a run and the packed family",
        example="--subnets.sparsities '[0.8,0.9]'",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign dress`: the run itself is train.dress.run's."""
    from codesign.report.finetune import subnets_table
    from codesign.runs import REPORT

    folder, summary = trained(args, _runner)
    family, report = str(folder / summary["family"]), str(folder / REPORT)
    if args.json:
        print_json({"run": str(folder)} | summary | {"family": family, "report": report})
        return 0
    out = console()
    out.print(subnets_table(summary))
    out.print(f"family: {family}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _runner() -> Callable[..., dict[str, Any]]:
    from codesign.train.dress.run import run_dress

    return run_dress
