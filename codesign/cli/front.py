"""`codesign front`: the best designs of a finished search under other limits or scenarios."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from codesign.cli.arguments import add_command
from codesign.cli.output import console, print_json


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands,
        "front",
        run,
        "the exact front of a finished search, also under other limits and scenarios; no training",
        usage="codesign front RUN [--out FILE] [--json] [--FIELD VALUE ...]",
        epilog="Fields are those of the search's scenario, limits, targets and accelerator, such "
        "as --limits.latency_s 0.02 --scenario.use_grid sweden --targets.mode energy. Accuracies "
        "are the elastic supernet's, before any tuning of a network: they rank designs.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a search with an elastic phase")
    parser.add_argument("--out", metavar="FILE", help="also write the designs there, as JSON")
    parser.set_defaults(overridable=True)


def run(args: argparse.Namespace) -> int:
    """`codesign front`."""
    from codesign.constraints import check_config
    from codesign.overrides import overridden
    from codesign.runs import jsonable, read_run, write_json
    from codesign.train.search.fronts import front_config, new_front

    folder = read_run(args.run)
    config = overridden(front_config(folder), args.overrides)
    check_config(config)
    found: dict[str, Any] = jsonable(new_front(folder, config))
    if args.out is not None:
        write_json(Path(args.out), found["designs"])
    if args.json:
        print_json({"run": str(folder.path)} | found)
        return 0
    from codesign.report.tables import designs_table

    out = console()
    out.print(designs_table(found["designs"], tuned=False))
    out.print(
        f"{found['feasible']:,} of {found['networks']:,} networks meet the limits; "
        f"{len(found['front']['proxy_loss'])} are on the front, as the elastic supernet ranks them "
        f"by {found['images']:,} images",
    )
    if args.out is not None:
        out.print(f"designs: {args.out}", soft_wrap=True)
    return 0
