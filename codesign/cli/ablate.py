"""`codesign ablate`: how accurate the surrogates are, and which effects of the model decide."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.cli import configured
from codesign.cli.arguments import add_config_command
from codesign.cli.output import console
from codesign.cli.results import compute_run, print_results
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
    from codesign.report.effects import write_report
    from codesign.search.effects import RESULT, ablate_effects

    compute = functools.partial(ablate_effects, config)
    out = compute_run(args, config, EFFECTS, RESULT, compute, write_report)
    print_effects([out], args.json)
    return 0


def print_effects(folders: Sequence[Path], as_json: bool) -> None:
    """The table of each ablation of effects, and where its report is."""
    from codesign.report.effects import effects_table, notes, read_result

    results = {folder: read_result(folder) for folder in folders}
    print_results(results, as_json, lambda result: [effects_table(result), *notes(result)])


def print_ablations(folders: Sequence[Path], as_json: bool) -> None:
    """The headline of each comparison, and where its report is."""
    from codesign.json_text import read_json
    from codesign.report.ablation import headline, headline_table
    from codesign.surrogate.config import RESULT

    print_results(
        {folder: read_json(folder / RESULT) for folder in folders},
        as_json,
        lambda result: [headline_table(result)],
        lambda result: {"oracles": result["oracles"]} | headline(result),
    )
