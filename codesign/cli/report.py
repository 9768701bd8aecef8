"""`codesign report`: reports of finished runs."""

from __future__ import annotations

import argparse
from typing import Any

from codesign.cli.ablate import print_ablations
from codesign.cli.arguments import add_command
from codesign.cli.output import console, print_json
from codesign.cli.search import print_run
from codesign.errors import UserError


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands, "report", run, "rebuild the reports of runs; compare several runs"
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, such as runs/NAME")


def run(args: argparse.Namespace) -> int:
    """`codesign report`."""
    from codesign.report import ablation

    ablations = [path for path in args.runs if ablation.is_ablation(path)]
    if not ablations:
        return _report_searches(args)
    if len(ablations) < len(args.runs):
        raise UserError(f"{ablations[0]} is an ablation, others are not: report on them apart")
    print_ablations([ablation.write_report(path).parent for path in ablations], args.json)
    return 0


def _report_searches(args: argparse.Namespace) -> int:
    from codesign.report import write_report
    from codesign.report.tables import comparison_table, run_summary, savings
    from codesign.runs import jsonable, read_run

    # All are read before one is written: a misspelt folder leaves the others as they were.
    runs = [read_run(path) for path in args.runs]
    reports = [write_report(run.path) for run in runs]
    summaries = [run_summary(run.name, run.designs, run.summary) for run in runs]
    if args.json:
        print_json([
            {"run": str(run.path), "report": str(report)}
            | summary
            | {"savings": jsonable(savings(run.designs))}
            for run, report, summary in zip(runs, reports, summaries, strict=True)
        ])  # fmt: skip
        return 0
    for run, report in zip(runs, reports, strict=True):
        print_run(run.name, run.designs, str(report))
    if len(runs) > 1:
        console().print(comparison_table(summaries))
    return 0
