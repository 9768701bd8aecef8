"""`codesign cost`: what a design costs."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.cli.arguments import add_command
from codesign.cli.output import console, print_json
from codesign.constraints import MOST_SETS
from codesign.errors import UserError
from codesign.printable import printable

if TYPE_CHECKING:
    from codesign.cost.estimate import Subnet
    from codesign.cost.model import Costs
    from codesign.design_file import Design


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands, "cost", run, "latency, energy, area and carbon of a design, by part"
    )
    parser.add_argument(
        "file",
        metavar="DESIGN",
        help="a design as JSON, or a run's designs.json, of which all are priced; a CLIP's name or "
        "HuggingFace folder, such as tinyclip-39m-16, on the default chip in the default scenario",
    )
    parser.add_argument("--name", help="the design to take from a list of designs, priced by part")
    parser.add_argument(
        "--family",
        help="price the subnets of this packed family on the design's chip, in its scenario, "
        "layer by layer as they were pruned",
    )
    parser.add_argument(
        "--costing",
        help="physical (default), or catransformers: the published reference's conventions "
        "and its scenario, to compare with its numbers; or FILE.py:NAME of your own",
    )
    parser.add_argument(
        "--uncertainty",
        metavar="SETS",
        nargs="?",
        type=int,
        const=256,
        help="the interval of each cost that the ranges of published silicon leave, by pricing "
        "the design with so many sets of components drawn from them (256)",
    )


def run(args: argparse.Namespace) -> int:
    """`codesign cost`."""
    if args.uncertainty is not None and not 2 <= args.uncertainty <= MOST_SETS:
        raise UserError(f"--uncertainty: expected 2 to {MOST_SETS:,} sets, got {args.uncertainty}")
    if _names_a_file(args.file) and not Path(args.file).exists():
        raise UserError(f"there is no design file {args.file}")  # before JAX is started
    designs, are_a_list = _designs(args)
    priced = [_priced(design, args) for design in designs]
    for found in priced:
        if overload := found.overload():
            of = f"{printable(found.design.name)}: " if are_a_list else ""
            print(f"codesign: warning: {of}{overload}", file=sys.stderr)
    if are_a_list:
        return _print_all(priced, args)
    (found,) = priced
    from codesign.report.costs import subnet_json
    from codesign.report.tables import costs_table, intervals_table, subnets_table

    subnets = [subnet_json(subnet) for subnet in found.subnets]
    if args.json:
        print_json(found.plain() | ({"subnets": subnets} if subnets else {}))
        return 0
    out = console()
    out.print(_design_line(found.plain()))
    out.print(costs_table(found.plain()["costs"]))
    if found.intervals:
        out.print(intervals_table(found.intervals))
    if subnets:
        out.print(subnets_table(subnets))
    return 0


def _print_all(priced: Sequence[_Priced], args: argparse.Namespace) -> int:
    """A list of designs: a line each."""
    from codesign.report.costs import subnet_json
    from codesign.report.tables import priced_table

    if args.json:
        print_json(
            [
                found.plain()
                | ({"subnets": [subnet_json(s) for s in found.subnets]} if found.subnets else {})
                for found in priced
            ]
        )
    else:
        console().print(priced_table([found.plain() for found in priced]))
    return 0


def _names_a_file(design: str) -> bool:
    return design.endswith(".json") or design.startswith((".", "/", "~")) or design.count("/") > 1


def _designs(args: argparse.Namespace) -> tuple[list[Design], bool]:
    """A design file's designs, or a model on the default chip; and whether it is a list."""
    from codesign.accelerator import Accelerator
    from codesign.design_file import Design, load_design, load_designs
    from codesign.json_text import read_json
    from codesign.workload import load_model

    path = Path(args.file)
    content = read_json(path) if path.is_file() else {"model_type": None}
    if isinstance(content, list) and content and args.name is None and args.family is None:
        return load_designs(path), True
    if not isinstance(content, dict) or "model_type" not in content:
        # A family brings its own subnets, of which the file's shares are.
        return [load_design(path, name=args.name, own_subnets=args.family is None)], False
    model = load_model(args.file, design=args.name)
    if model.architecture is None:
        raise UserError(
            f"{args.file}: no design can express it, as an architecture is a CLIP whose towers "
            f"have heads of one width; price it with codesign search hardware --model {args.file}"
        )
    return [Design(model.name, model.architecture, Accelerator())], False


@dataclasses.dataclass(frozen=True)
class _Priced:
    """A design, its costs in all and by subnet, and intervals over so many sets of components."""

    design: Design
    costs: Costs
    subnets: list[Subnet]
    intervals: dict[str, tuple[float, float]]
    sets: int | None

    @property
    def latency_s(self) -> float:
        """Of an inference, on average over the subnets."""
        if not self.subnets:
            return float(self.costs.latency_s)
        return sum(subnet.share * subnet.costs.latency_s for subnet in self.subnets)

    def overload(self) -> str | None:
        """That the chip cannot keep up, where it cannot."""
        from codesign.cost.capacity import overload_message

        return overload_message(self.latency_s, self.design.scenario)

    def plain(self) -> dict[str, Any]:
        """The design as in a file, with its costs."""
        from codesign.cost.capacity import busy_share
        from codesign.design_file import design_to_json
        from codesign.report.costs import costs_json

        busy = {"busy_share": busy_share(self.latency_s, self.design.scenario)}
        ranges = {"uncertainty": {"sets": self.sets} | self.intervals} if self.intervals else {}
        return design_to_json(self.design) | {"costs": costs_json(self.costs) | busy} | ranges


def _priced(design: Design, args: argparse.Namespace) -> _Priced:
    """A design under the costing that is asked for."""
    from codesign.cost.capacity import OverloadWarning
    from codesign.design_file import under_costing

    if args.costing is not None:
        design = under_costing(design, args.costing)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OverloadWarning)  # said in a line of its own
            priced, costs, subnets = _costs(design, args.family)
            intervals = _intervals(priced, args.family, args.uncertainty)
            return _Priced(priced, costs, subnets, intervals, args.uncertainty)
    except ValueError as error:
        raise UserError(str(error)) from error


def _costs(design: Design, family: str | None) -> tuple[Design, Costs, list[Subnet]]:
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


def _intervals(
    design: Design, family: str | None, samples: int | None
) -> dict[str, tuple[float, float]]:
    """Interval of each cost over sets of components; none where no sets are asked for."""
    if samples is None:
        return {}
    import jax
    import numpy as np

    from codesign.cost.demand import dense_demand, family_demand, sparse_demand
    from codesign.cost.uncertainty import intervals, uncertain_costs

    a, scenario = design.architecture, design.scenario
    if family is not None:
        from codesign.models.subnets import load_family

        demand = family_demand(a, scenario, load_family(family).packed.densities())
    elif design.sparsity:
        demand = sparse_demand(a, scenario, design.sparsity)
    else:
        demand = dense_demand(a, scenario)
    chip = jax.tree.map(lambda x: np.asarray([x]), design.accelerator)
    works, shares, contents, scenario = demand
    return intervals(uncertain_costs(works, shares, chip, scenario, samples, contents=contents))


def _design_line(plain: dict[str, Any]) -> str:
    from codesign.report.tables import accelerator_text, tower_text

    towers = plain["architecture"]
    chip = ", ".join(accelerator_text(plain["accelerator"]))
    vision, text = tower_text(towers["vision"]), tower_text(towers["text"])
    return f"{plain['name']}: vision {vision}, text {text}; {chip}"
