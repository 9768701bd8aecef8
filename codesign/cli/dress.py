"""`codesign dress`: nested row-sparse subnets of one CLIP or one classifier."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from codesign.cli.output import console, print_json
from codesign.cli.training import add_training_command, trained, tried
from codesign.kinds import CLASSIFIER_DRESS, kind_of_run
from codesign.quantities import percents

if TYPE_CHECKING:
    from rich.table import Table


def add(commands: Any) -> None:
    """The parser of the command."""
    add_training_command(
        commands,
        "dress",
        run,
        "train nested row-sparse subnets of one CLIP or ResNet (DRESS); writes a run and the "
        "packed family",
        example="--subnets.sparsities '[0.8,0.9]'",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign dress`: the run itself is train.run's."""
    if args.dry_run:
        return tried(args)
    folder, summary = trained(args)
    from codesign.report.finetune import subnets_table
    from codesign.runs import REPORT

    family, report = str(folder / summary["family"]), str(folder / REPORT)
    if args.json:
        print_json({"run": str(folder)} | summary | {"family": family, "report": report})
        return 0
    out = console()
    is_classifier = kind_of_run(folder) is CLASSIFIER_DRESS
    out.print(_classifiers_table(summary) if is_classifier else subnets_table(summary))
    out.print(f"family: {family}", soft_wrap=True)
    out.print(f"report: {report}", soft_wrap=True)
    return 0


def _classifiers_table(summary: Mapping[str, Any]) -> Table:
    """The subnets of a classifier side by side."""
    from rich import box
    from rich.table import Table

    from codesign.report.text import MISSING, percent, share_of

    table = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    for heading in ("sparsity", "weights kept", "million MACs", "of the dense", "top-1"):
        table.add_column(heading, justify="right")
    subnets = summary["subnets"]
    shares = percents([subnet["sparsity"] for subnet in subnets])
    for sparsity, subnet in zip(shares, subnets, strict=True):
        found = subnet.get("validation")
        table.add_row(
            sparsity,
            percent(subnet["density"]),
            f"{subnet['macs'] / 1e6:.3g}",
            percent(subnet["macs"] / summary["macs"]),
            share_of(found["classification"]["top_1"], found["images"]) if found else MISSING,
        )
    return table
