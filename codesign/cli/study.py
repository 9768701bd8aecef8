"""`codesign study`: findings of a paper computed anew, beside the published figures."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codesign.cli import configured
from codesign.cli.arguments import add_config_command
from codesign.cli.results import Result, compute_run, print_results
from codesign.kinds import STUDY


def add(commands: Any) -> None:
    """The parser of the command."""
    add_config_command(
        commands,
        "study",
        run,
        "compute the findings of a paper anew, beside its figures, without training (paper: "
        "CATransformers); writes a run folder",
        example="--tops '[2,8]'",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign study`: what there is to do is codesign.study's."""
    config = configured.load(args)  # Before what takes seconds to import: it may be misspelt.
    from codesign.report.paper import write_report
    from codesign.study.paper import RESULT, study_paper

    compute = functools.partial(study_paper, config)
    out = compute_run(args, config, STUDY, RESULT, compute, write_report)
    print_studies([out], args.json)
    return 0


def print_studies(folders: Sequence[Path], as_json: bool) -> None:
    """The verdicts of each study, and where its report is."""
    from codesign.report.paper import read_result, verdicts_table

    def shown(result: Result) -> Iterator[Any]:
        yield verdicts_table(result)
        for finding in result["findings"]:
            for costing, verdict in finding["verdicts"].items():
                yield f"{finding['name']}, {costing}: {verdict['why']}"

    print_results({folder: read_result(folder) for folder in folders}, as_json, shown)
