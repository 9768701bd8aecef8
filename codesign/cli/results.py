"""What the commands share that compute a result and report it: ablations, studies, comparisons."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from codesign.cli import configured
from codesign.cli.output import console, print_json
from codesign.errors import UserError
from codesign.kinds import Kind

Result = Mapping[str, Any]
Says = Callable[[str], None]


def compute_run(
    args: argparse.Namespace,
    config: Any,
    kind: Kind,
    file: str,
    compute: Callable[[Says], Result],
    write_report: Callable[[Path], Path],
) -> Path:
    """A new run folder with a result and its report; the folder.

    Args:
      args: of the command line.
      config: of the run.
      kind: of the run.
      file: of the result, in the folder.
      compute: the result; it is given what shows a line of progress.
      write_report: of a run folder.

    Raises:
      UserError: the folder holds a result.
    """
    from codesign.overrides import config_name, config_to_json
    from codesign.runs import RunFolder

    out = configured.out_folder(args)
    if (out / file).exists():
        raise UserError(f"{out} already holds {kind.a_run}; --out FOLDER for another")
    folder = RunFolder.create(
        out,
        config_to_json(config),
        name=config_name(args.config),
        kind=kind.name,
        command=args.command_line,
    )
    progress = console(stderr=True)
    found = compute(lambda line: progress.print(line, soft_wrap=True))
    folder.write_json(file, found)
    write_report(folder.path)
    return folder.path


def print_results(
    results: Mapping[Path, Any],
    as_json: bool,
    shown: Callable[[Any], Iterable[Any]],
    numbers: Callable[[Any], Result] = dict,
) -> None:
    """Results of runs, by their folders, and where their reports are.

    Args:
      results: what was read of each.
      as_json: JSON in place of tables and lines; of one run an object, of several a list.
      shown: tables and lines of a result.
      numbers: what JSON has of a result.
    """
    from codesign.runs import REPORT

    if as_json:
        found = [
            {"run": str(folder), "report": str(folder / REPORT), **numbers(result)}
            for folder, result in results.items()
        ]
        print_json(found[0] if len(found) == 1 else found)
        return
    out = console()
    for folder, result in results.items():
        for part in (*shown(result), f"report: {folder / REPORT}"):
            out.print(part, soft_wrap=isinstance(part, str))
