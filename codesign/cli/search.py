"""`codesign search`: co-design of a CLIP and an accelerator, or of an accelerator alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.cli import configured
from codesign.cli.output import console, print_json
from codesign.cli.training import add_training_command, trained, tried
from codesign.kinds import HARDWARE

if TYPE_CHECKING:
    from codesign.report.claims import Claims
    from codesign.search.hardware import HardwareConfig, HardwareSearch
    from codesign.train.config import SpaceConfig


def add(commands: Any) -> None:
    """The parser of the command."""
    add_training_command(
        commands,
        "search",
        run,
        "search architectures and accelerators together; writes a run folder",
        example="--seed 1",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign search`: the run itself is train.search's."""
    from codesign.errors import UserError
    from codesign.overrides import config_name

    if args.dry_run:
        return tried(args)
    config = configured.load(args)  # Before what takes seconds to import: it may be misspelt.
    from codesign.report.claims import run_claims
    from codesign.runs import REPORT, jsonable, read_run
    from codesign.search.hardware import HardwareConfig

    if isinstance(config, HardwareConfig):
        if args.profile:
            raise UserError(f"--profile: {args.config} trains nothing; drop it")
        return _search_hardware(config, args)
    out, result = trained(args)
    if not result:  # the first of several processes has them
        return 0
    name = config_name(args.config)
    designs, summary = result["designs"], result["summary"]
    claims = run_claims(read_run(out))
    report = out / REPORT
    if args.json:
        found = {"run": str(out), "report": str(report), "designs": designs, "summary": summary}
        print_json(jsonable(found | {"savings": claims.savings}))
    else:
        print_run(name, designs, claims, str(report), config.space)
    return 0


def _search_hardware(config: HardwareConfig, args: argparse.Namespace) -> int:
    """`codesign search hardware`: a fixed model on the whole grid."""
    from codesign.fixed_model import hardware_of
    from codesign.overrides import config_to_json, given_fields
    from codesign.report.hardware import front_figure, hardware_table
    from codesign.runs import DESIGNS, RunFolder

    folder = None
    if args.out is not None:
        folder = RunFolder.create(
            Path(args.out),
            config_to_json(config),
            resume=args.resume,
            kind=HARDWARE.name,
            command=args.command_line,
        )
    found = hardware_of(config, given_fields(config, args.overrides))
    model, priced = found.model, found.search
    if folder is not None:
        folder.write_json(DESIGNS, found.designs)
        folder.write_bytes("front.png", front_figure(found.designs) or b"")
    if args.json:
        print_json(
            {
                "model": model.name,
                "task": model.task,
                "limits": config.limits.active(),
                "accelerators": priced.accelerators,
                "priced": len(priced.feasible),
                "feasible": int(priced.feasible.sum()),
                "designs": found.designs,
                **({"robust_share": found.robust_share} if found.robust_share else {}),
                "edges": [edge._asdict() for edge in found.edges],
            }
        )
        return 0
    out = console()
    out.print(
        f"{model.name}: {model.task}; {_counts_text(priced)}; {_dram_text(priced)} GB of DRAM",
    )
    out.print(hardware_table(found.designs))
    for name, share in found.robust_share.items():
        out.print(
            f"least-{name} stays within 2 % of the best under {100 * share:.0f} % of "
            f"{config.uncertainty} sets of components",
        )
    for edge in found.edges:
        option = edge.dimension.replace("accelerator.", "space.")
        out.print(edge.line(option), soft_wrap=True)
    return 0


def _counts_text(found: HardwareSearch) -> str:
    """How many accelerators there are, and what is known of them."""
    priced, meet = len(found.feasible), f"{found.feasible.sum():,}"
    if priced == found.accelerators:
        return f"{meet} of {priced:,} accelerators meet the limits"
    return (
        f"{found.accelerators:,} accelerators, {priced:,} of them priced, of which {meet} meet the "
        "limits: no other can be better"
    )


def _dram_text(found: HardwareSearch) -> str:
    """Capacities of the DRAM, from the least to the most where chips have different ones."""
    capacities = found.costs.dram_gb
    least, most = float(capacities.min()), float(capacities.max())
    return f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"


def print_run(
    name: str,
    designs: Sequence[dict[str, Any]],
    claims: Claims,
    report: str,
    space: SpaceConfig | None = None,
) -> None:
    """The designs found, what they show, what edges they lie on, and where the report is."""
    from codesign.report.tables import claim_rows, claims_table, designs_table
    from codesign.search.edges import chip_edges

    out = console()
    out.print(designs_table(designs, title=name))
    if claim_rows(claims):
        out.print(claims_table(claims))
    for line in claims.lines():
        out.print(line)
    for edge in [] if space is None else chip_edges(space.accelerator, designs):
        out.print(edge.line(f"space.{edge.dimension}"), soft_wrap=True)
    out.print(f"report: {report}", soft_wrap=True)
