"""`codesign ablate`: how accurate the surrogates are, and which effects of the model decide."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.cli import configured
from codesign.cli.arguments import add_config_command
from codesign.cli.output import console, print_json
from codesign.errors import UserError
from codesign.kinds import ABLATION, EFFECTS
from codesign.termination import Terminated, raised

if TYPE_CHECKING:
    from codesign.search.effects import EffectsConfig


def add(commands: Any) -> None:
    """The parser of the command."""
    add_config_command(
        commands,
        "ablate",
        run,
        "how accurate the surrogates are against the oracles, or which effects of the cost model "
        "decide the choice of an accelerator (effects); writes a run folder",
        example="--seeds 1",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign ablate`: the comparison itself is codesign.surrogate.run's."""
    from codesign.overrides import config_name, config_to_json

    config = configured.load(args)  # Before what takes seconds to import: it may be misspelt.
    from codesign.search.effects import EffectsConfig

    if isinstance(config, EffectsConfig):
        return _ablate_effects(config, args)
    from codesign.report.ablation import write_report
    from codesign.runs import RunFolder
    from codesign.surrogate.run import check_new, run_ablation

    name, out = config_name(args.config), configured.out_folder(args)
    check_new(out)
    made = {"name": name, "kind": ABLATION.name, "command": args.command_line}
    folder = RunFolder.create(out, config_to_json(config), **made)
    kept = f"what was bought and compared is kept, the latter in {out}"
    try:
        with raised():
            run_ablation(config, folder, console(stderr=True))
            write_report(folder.path)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {kept}") from None
    except Terminated:
        raise Terminated(f"stopped by SIGTERM; {kept}") from None
    print_ablations([folder.path], args.json)
    return 0


def _ablate_effects(config: EffectsConfig, args: argparse.Namespace) -> int:
    """`codesign ablate effects`: what there is to do is codesign.search.effects'."""
    from codesign.overrides import config_name, config_to_json
    from codesign.report.effects import write_report
    from codesign.runs import RunFolder
    from codesign.search.effects import RESULT, ablate_effects

    name, out = config_name(args.config), configured.out_folder(args)
    if (out / RESULT).exists():
        raise UserError(f"{out} already holds an ablation of effects; --out FOLDER for another")
    made = {"name": name, "kind": EFFECTS.name, "command": args.command_line}
    folder = RunFolder.create(out, config_to_json(config), **made)
    progress = console(stderr=True)
    found = ablate_effects(config, lambda line: progress.print(line, soft_wrap=True))
    folder.write_json(RESULT, found)
    write_report(folder.path)
    print_effects([folder.path], args.json)
    return 0


def print_effects(folders: Sequence[Path], as_json: bool) -> None:
    """The table of each ablation of effects, and where its report is."""
    from codesign.report.effects import effects_table, notes, read_result
    from codesign.runs import REPORT

    results = {folder: read_result(folder) for folder in folders}
    if as_json:
        found = [{"run": str(f), "report": str(f / REPORT)} | r for f, r in results.items()]
        print_json(found[0] if len(found) == 1 else found)
        return
    out = console()
    for folder, result in results.items():
        out.print(effects_table(result))
        for text in (*notes(result), f"report: {folder / REPORT}"):
            out.print(text, soft_wrap=True)


def print_ablations(folders: Sequence[Path], as_json: bool) -> None:
    """The headline of each comparison, and where its report is."""
    from codesign.json_text import read_json
    from codesign.report.ablation import headline, headline_table
    from codesign.runs import REPORT
    from codesign.surrogate.config import RESULT

    results = {folder: read_json(folder / RESULT) for folder in folders}
    if as_json:
        short = [
            {"run": str(f), "report": str(f / REPORT), "oracles": r["oracles"]} | headline(r)
            for f, r in results.items()
        ]
        print_json(short[0] if len(short) == 1 else short)
        return
    out = console()
    for folder, result in results.items():
        out.print(headline_table(result))
        out.print(f"report: {folder / REPORT}", markup=False, highlight=False, soft_wrap=True)
