"""`codesign compare`: the product's searches held against black-box ones on the same problem."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codesign.cli import configured
from codesign.cli.arguments import add_config_command, add_run_options
from codesign.cli.output import console
from codesign.cli.results import print_results
from codesign.kinds import COMPARISON

# Fields of a comparison that the config of a search lacks: their options, and what they take.
_OWN = {
    "methods": ("+", "NAME", "of random, nsga2, tpe, gp, joint, elastic (all)"),
    "seeds": ("+", "SEED", "of warm-up, data and methods (0 1 2)"),
    "trials": (None, "N", "architectures that each rival tunes and measures (32)"),
    "startup": (None, "N", "of these, at random before a model has something to go by (8)"),
    "hardware": (
        None,
        "HOW",
        "exact: the best accelerator of each architecture; searched: rivals search it too (exact)",
    ),
    "side_by_side": (None, "N", "trials proposed together that are tuned in one program (1)"),
}


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_config_command(
        commands,
        "compare",
        run,
        "hold the searches against random search, NSGA-II, TPE and Bayesian optimisation on the "
        "problem of a search's CONFIG",
        more="[--methods NAME ...] [--seeds SEED ...] [--trials N] [--resume] ",
        example="--limits.latency_s 5e-4",
    )
    add_run_options(parser)
    parser.set_defaults(load=load)
    for name, (nargs, metavar, text) in _OWN.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=name, nargs=nargs, metavar=metavar, help=text
        )


def load(args: argparse.Namespace) -> Any:
    """The comparison of the command line: of a search's config, or its own."""
    from codesign.overrides import load_config

    config = load_config(args.config, (), args.command_name)
    from codesign.api.runs import config_of
    from codesign.train.search.compare_config import comparison_of

    return config_of(
        args.command_name, comparison_of(config), [*_own_overrides(args), *args.overrides]
    )


def run(args: argparse.Namespace) -> int:
    """`codesign compare`: the comparison itself is train.search.compare's."""
    from codesign.overrides import config_name, config_to_json

    config = load(args)
    args.overrides = [*_own_overrides(args), *args.overrides]
    from codesign.runs import RunFolder
    from codesign.train.search.compare import run_compare

    name, out = config_name(args.config), configured.out_folder(args)
    if args.out is None and not args.config.endswith(".json"):
        out = out.with_name(f"{out.name}-compare")  # runs/CONFIG is the search's own
    with configured.kept_when_stopped(args):
        folder = RunFolder.create(
            out,
            config_to_json(config),
            resume=args.resume,
            name=name,
            kind=COMPARISON.name,
            command=args.command_line,
        )
        run_compare(config, folder, console(stderr=True), check=args.check)
    print_comparisons([out], args.json)
    return 0


def _own_overrides(args: argparse.Namespace) -> list[str]:
    """The options of a comparison as overrides of its fields: --seeds 0 1 as --seeds=[0,1]."""
    found = []
    for name in _OWN:
        value = getattr(args, name)
        if isinstance(value, list):
            value = value[0] if value[0].startswith("[") else f"[{','.join(value)}]"
        if value is not None:
            found.append(f"--{name}={value}")
    return found


def print_comparisons(folders: Sequence[Path], as_json: bool) -> None:
    """The table of each comparison, what it shows, and where its report is."""
    from codesign.report.compare import claims_json, comparison_table, lines, read_result

    print_results(
        {folder: read_result(folder) for folder in folders},
        as_json,
        lambda result: [comparison_table(result), *lines(result)],
        lambda result: result | claims_json(result),
    )
