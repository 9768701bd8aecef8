"""`codesign cost`: what a design costs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from codesign.cli.arguments import add_command
from codesign.cli.output import console, print_json
from codesign.errors import UserError

if TYPE_CHECKING:
    from codesign.design_file import Design


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands, "cost", run, "latency, energy, area and carbon of one design, by part"
    )
    parser.add_argument("file", metavar="FILE", help="a design as JSON, or a run's designs.json")
    parser.add_argument("--name", help="the design to take from a list of designs")
    parser.add_argument(
        "--costing",
        help="physical (default), or catransformers: the published reference's conventions "
        "and its scenario, to compare with its numbers",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign cost`."""
    from codesign.design_file import design_to_json, load_design, under_costing
    from codesign.report.tables import costs_table

    design = load_design(args.file, name=args.name)
    if args.costing is not None:
        design = under_costing(design, args.costing)
    costs = _costs(design)
    plain = design_to_json(design)
    if args.json:
        print_json(plain | {"costs": costs})
        return 0
    out = console()
    out.print(_design_line(plain), markup=False, highlight=False)
    out.print(costs_table(costs))
    return 0


def _costs(design: Design) -> dict[str, Any]:
    """The design's costs as plain numbers, in the order of designs.json."""
    from codesign.cost.estimate import estimate
    from codesign.runs import jsonable

    try:
        costs = estimate(design.architecture, design.accelerator, design.scenario)
    except ValueError as error:
        raise UserError(str(error)) from error
    fields = (
        "latency_s", "energy_j", "area_mm2", "tops",
        "operational_kgco2e", "embodied_kgco2e", "carbon_kgco2e", "breakdown",
    )  # fmt: skip
    plain: dict[str, Any] = jsonable({field: getattr(costs, field) for field in fields})
    return plain


def _design_line(plain: dict[str, Any]) -> str:
    from codesign.report.tables import accelerator_text, tower_text

    towers = plain["architecture"]
    chip = ", ".join(accelerator_text(plain["accelerator"]))
    vision, text = tower_text(towers["vision"]), tower_text(towers["text"])
    return f"{plain['name']}: vision {vision}, text {text}; {chip}"
