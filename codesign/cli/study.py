"""`codesign study`: findings of a paper computed anew, beside the published figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codesign.cli import configured
from codesign.cli.arguments import add_config_command
from codesign.cli.output import console, print_json
from codesign.errors import UserError
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
    from codesign.overrides import config_name, config_to_json

    config = configured.load(args)  # Before what takes seconds to import: it may be misspelt.
    from codesign.report.paper import write_report
    from codesign.runs import RunFolder
    from codesign.study.paper import RESULT, study_paper

    name, out = config_name(args.config), configured.out_folder(args)
    if (out / RESULT).exists():
        raise UserError(f"{out} already holds a study of a paper; --out FOLDER for another")
    folder = RunFolder.create(out, config_to_json(config), name=name, kind=STUDY.name)
    progress = console(stderr=True)
    found = study_paper(config, lambda line: progress.print(line, soft_wrap=True))
    folder.write_json(RESULT, found)
    write_report(folder.path)
    print_studies([folder.path], args.json)
    return 0


def print_studies(folders: Sequence[Path], as_json: bool) -> None:
    """The verdicts of each study, and where its report is."""
    from codesign.report.paper import read_result, verdicts_table
    from codesign.runs import REPORT

    results = {folder: read_result(folder) for folder in folders}
    if as_json:
        found = [{"run": str(f), "report": str(f / REPORT)} | r for f, r in results.items()]
        print_json(found[0] if len(found) == 1 else found)
        return
    out = console()
    for folder, result in results.items():
        out.print(verdicts_table(result))
        for finding in result["findings"]:
            for costing, verdict in finding["verdicts"].items():
                out.print(f"{finding['name']}, {costing}: {verdict['why']}", soft_wrap=True)
        out.print(f"report: {folder / REPORT}", soft_wrap=True)
