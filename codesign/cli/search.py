"""`codesign search`: co-design of a CLIP and an accelerator, or of an accelerator alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.cli import configured
from codesign.cli.arguments import add_config_command
from codesign.cli.output import console, print_json
from codesign.errors import UserError

if TYPE_CHECKING:
    from codesign.search.hardware import HardwareConfig


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_config_command(
        commands,
        "search",
        run,
        "search architectures and accelerators together; writes a run folder",
        more="[--resume] ",
        example="--seed 1",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")


def run(args: argparse.Namespace) -> int:
    """`codesign search`: the run itself is train.joint's."""
    from codesign.overrides import config_name, config_to_json
    from codesign.report.tables import savings
    from codesign.runs import RunFolder, jsonable
    from codesign.search.hardware import HardwareConfig

    config = configured.load(args)
    if isinstance(config, HardwareConfig):
        return _search_hardware(config, args)
    name, out = config_name(args.config), configured.out_folder(args)
    folder = RunFolder.create(out, config_to_json(config), resume=args.resume, name=name)
    try:
        from codesign.train.joint import run_search

        result = run_search(config, folder, console(stderr=True))
    except KeyboardInterrupt:
        again = configured.resume_command(args)
        message = f"interrupted; the run is kept: {again} continues it"
        raise KeyboardInterrupt(message) from None
    designs, summary = result["designs"], result["summary"]
    report = folder.path / "report.html"
    if args.json:
        found = {"run": str(out), "report": str(report), "designs": designs, "summary": summary}
        print_json(jsonable(found | {"savings": savings(designs)}))
    else:
        print_run(name, designs, str(report))
    return 0


def _search_hardware(config: HardwareConfig, args: argparse.Namespace) -> int:
    """`codesign search hardware`: a fixed model on the whole grid."""
    from codesign.cost.estimate import longest_row, with_index_bits
    from codesign.costing import costing_of
    from codesign.overrides import config_to_json
    from codesign.report.hardware import front_figure, hardware_designs, hardware_table
    from codesign.runs import DESIGNS, RunFolder
    from codesign.search.hardware import search_hardware, settled_scenario
    from codesign.workload import clip_workload, load_model

    folder = None
    if args.out is not None:
        folder = RunFolder.create(Path(args.out), config_to_json(config), resume=args.resume)
    model = load_model(
        config.model, tokens=config.tokens, phase=config.phase, context=config.context
    )
    try:
        scenario = settled_scenario(config, model.parameters)
        workload: Any = model.operators.under(costing_of(scenario))
        if model.sparsity and model.architecture is not None:
            scenario = with_index_bits(scenario, longest_row(model.architecture))
            workload = [
                clip_workload(model.architecture, costing_of(scenario), 1 - sparsity)
                for sparsity in model.sparsity
            ]
        found = search_hardware(workload, config.space, scenario, config.limits)
    except ValueError as error:
        raise UserError(str(error)) from error
    designs = hardware_designs(model, scenario, found)
    if folder is not None:
        folder.write_json(DESIGNS, designs)
        folder.write_bytes("front.png", front_figure(designs))
    if args.json:
        print_json({
            "model": model.name, "task": model.task, "limits": config.limits.active(),
            "accelerators": len(found.feasible), "feasible": int(found.feasible.sum()),
            "designs": designs,
        })  # fmt: skip
        return 0
    out = console()
    out.print(
        f"{model.name}: {model.task}; {found.feasible.sum():,} of {len(found.feasible):,} "
        f"accelerators meet the limits; {scenario.dram_gb:g} GB of DRAM",
        markup=False, highlight=False,
    )  # fmt: skip
    out.print(hardware_table(designs))
    return 0


def print_run(name: str, designs: Sequence[dict[str, Any]], report: str) -> None:
    """The designs found, what they save, and where the report is."""
    from codesign.report.tables import designs_table, savings

    out = console()
    out.print(designs_table(designs, title=name))
    for saving in savings(designs):
        out.print(str(saving), markup=False, highlight=False)
    out.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
