"""`codesign cost`: what a design costs."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.cli.arguments import add_command
from codesign.cli.output import console, print_json
from codesign.errors import UserError

if TYPE_CHECKING:
    from codesign.cost.estimate import Subnet
    from codesign.cost.model import Costs
    from codesign.design_file import Design


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands, "cost", run, "latency, energy, area and carbon of one design, by part"
    )
    parser.add_argument(
        "file", metavar="DESIGN",
        help="a design as JSON, or a run's designs.json; a CLIP's name or HuggingFace folder, "
        "such as tinyclip-39m-16, on the default chip in the default scenario",
    )  # fmt: skip
    parser.add_argument("--name", help="the design to take from a list of designs")
    parser.add_argument(
        "--family",
        help="price the subnets of this packed family on the design's chip, in its scenario, "
        "layer by layer as they were pruned",
    )
    parser.add_argument(
        "--costing",
        help="physical (default), or catransformers: the published reference's conventions "
        "and its scenario, to compare with its numbers",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign cost`."""
    if _names_a_file(args.file) and not Path(args.file).exists():
        raise UserError(f"there is no design file {args.file}")  # before JAX is started
    from codesign.cost.capacity import OverloadWarning, busy_share, overload_message
    from codesign.design_file import design_to_json, under_costing
    from codesign.report.costs import costs_json, subnet_json
    from codesign.report.tables import costs_table, subnets_table

    design = _design(args)
    if args.costing is not None:
        design = under_costing(design, args.costing)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OverloadWarning)  # said in a line of its own
            design, costs, subnets = _priced(design, args.family)
    except ValueError as error:
        raise UserError(str(error)) from error
    latency_s = costs.latency_s
    if subnets:
        latency_s = sum(subnet.share * subnet.costs.latency_s for subnet in subnets)
    if overload := overload_message(latency_s, design.scenario):
        print(f"codesign: warning: {overload}", file=sys.stderr)
    plain = design_to_json(design)
    if args.json:
        rows = {"subnets": [subnet_json(subnet) for subnet in subnets]} if subnets else {}
        busy = {"busy_share": busy_share(latency_s, design.scenario)}
        print_json(plain | {"costs": costs_json(costs) | busy} | rows)
        return 0
    out = console()
    out.print(_design_line(plain), markup=False, highlight=False)
    out.print(costs_table(costs_json(costs)))
    if subnets:
        out.print(subnets_table([subnet_json(subnet) for subnet in subnets]))
    return 0


def _names_a_file(design: str) -> bool:
    return design.endswith(".json") or design.startswith((".", "/", "~")) or design.count("/") > 1


def _design(args: argparse.Namespace) -> Design:
    """What is to be priced: a design file's, or a model's on the default chip."""
    from codesign.accelerator import Accelerator
    from codesign.design_file import Design, load_design
    from codesign.json_text import read_json
    from codesign.workload import load_model

    path = Path(args.file)
    content = read_json(path) if path.is_file() else {"model_type": None}
    if not isinstance(content, dict) or "model_type" not in content:
        # A family brings its own subnets, of which the file's shares are.
        return load_design(path, name=args.name, own_subnets=args.family is None)
    model = load_model(args.file, design=args.name)
    if model.architecture is None:
        raise UserError(
            f"{args.file}: no design can express it, as an architecture is a CLIP whose towers "
            f"have heads of one width; price it with codesign search hardware --model {args.file}"
        )
    return Design(model.name, model.architecture, Accelerator())


def _priced(
    design: Design, family: str | None
) -> tuple[Design, Costs, list[Subnet]]:
    """The design, or the family on its chip, and what it costs, in all and by subnet."""
    chip, scenario = design.accelerator, design.scenario
    if family is None and not design.sparsity:
        from codesign.cost.estimate import estimate

        return design, estimate(design.architecture, chip, scenario), []
    from codesign.cost.estimate import estimate_family, estimate_subnets, family_costs

    if family is None:
        subnets = estimate_subnets(design.architecture, chip, scenario, design.sparsity)
    else:
        from codesign.models.subnets import load_family

        trained = load_family(family)
        architecture = trained.architecture
        subnets = estimate_family(architecture, chip, scenario, trained.packed.densities())
        sparsity = tuple(subnet.sparsity for subnet in subnets)
        design = dataclasses.replace(design, architecture=architecture, sparsity=sparsity)
    return design, family_costs(subnets), subnets


def _design_line(plain: dict[str, Any]) -> str:
    from codesign.report.tables import accelerator_text, tower_text

    towers = plain["architecture"]
    chip = ", ".join(accelerator_text(plain["accelerator"]))
    vision, text = tower_text(towers["vision"]), tower_text(towers["text"])
    return f"{plain['name']}: vision {vision}, text {text}; {chip}"
