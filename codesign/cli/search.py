"""`codesign search`: co-design of a CLIP and an accelerator, or of an accelerator alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.cli import configured
from codesign.cli.arguments import add_config_command, add_run_options
from codesign.cli.output import console, print_json
from codesign.errors import UserError

if TYPE_CHECKING:
    from codesign.report.claims import Claims
    from codesign.scenario import Scenario
    from codesign.search.hardware import HardwareConfig
    from codesign.workload import Model


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_config_command(
        commands,
        "search",
        run,
        "search architectures and accelerators together; writes a run folder",
        more="[--resume] [--[no-]check] ",
        example="--seed 1",
    )
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """`codesign search`: the run itself is train.joint's."""
    from codesign.overrides import config_name, config_to_json

    config = configured.load(args)  # Before what takes seconds to import: it may be misspelt.
    from codesign.report.claims import run_claims
    from codesign.runs import RunFolder, jsonable, read_run
    from codesign.search.hardware import HardwareConfig

    if isinstance(config, HardwareConfig):
        return _search_hardware(config, args)
    name, out = config_name(args.config), configured.out_folder(args)
    with configured.kept_when_stopped(args):
        folder = RunFolder.create(out, config_to_json(config), resume=args.resume, name=name)
        from codesign.train.joint import run_search

        result = run_search(config, folder, console(stderr=True), check=args.check)
    designs, summary = result["designs"], result["summary"]
    claims = run_claims(read_run(folder.path))
    report = folder.path / "report.html"
    if args.json:
        found = {"run": str(out), "report": str(report), "designs": designs, "summary": summary}
        print_json(jsonable(found | {"savings": claims.savings}))
    else:
        print_run(name, designs, claims, str(report))
    return 0


def _search_hardware(config: HardwareConfig, args: argparse.Namespace) -> int:
    """`codesign search hardware`: a fixed model on the whole grid."""
    from codesign.cost.estimate import longest_row, with_index_bits
    from codesign.costing import costing_of
    from codesign.overrides import config_to_json, given_fields
    from codesign.report.hardware import front_figure, hardware_designs, hardware_table
    from codesign.runs import DESIGNS, RunFolder
    from codesign.search.hardware import search_hardware, settled_scenario
    from codesign.workload import clip_workload, load_model

    folder = None
    if args.out is not None:
        folder = RunFolder.create(Path(args.out), config_to_json(config), resume=args.resume)
    model = load_model(
        config.model, tokens=config.tokens, phase=config.phase, context=config.context,
        design=config.name,
    )  # fmt: skip
    try:
        given = {
            path.removeprefix("scenario.")
            for path in given_fields(config, args.overrides)
            if path.startswith("scenario.")
        }
        scenario = settled_scenario(config, model.scenario, given)
        workload: Any = model.operators.under(costing_of(scenario))
        if model.sparsity and model.architecture is not None:
            scenario = with_index_bits(scenario, longest_row(model.architecture))
            workload = [
                clip_workload(model.architecture, costing_of(scenario), 1 - sparsity)
                for sparsity in model.sparsity
            ]
        scenario = _with_dram(scenario, model, fixed="dram_gb" in given)
        found = search_hardware(
            workload, config.space, scenario, config.limits, config.objectives
        )
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


def _with_dram(scenario: Scenario, model: Model, *, fixed: bool) -> Scenario:
    """The scenario with DRAM for the model, or for the subnets of its family."""
    from codesign.cost.estimate import weight_bytes
    from codesign.search.hardware import with_dram

    word, memory = scenario.word_bytes, model.memory
    weights = memory.weights * word
    if model.sparsity and model.architecture is not None:
        weights = max(weight_bytes(model.architecture, scenario, 1 - s) for s in model.sparsity)
    return with_dram(
        scenario, weights, memory.activations * word, memory.cache * word, fixed=fixed
    )


def print_run(
    name: str, designs: Sequence[dict[str, Any]], claims: Claims, report: str
) -> None:
    """The designs found, what they show, and where the report is."""
    from codesign.report.tables import claim_rows, claims_table, designs_table

    out = console()
    out.print(designs_table(designs, title=name))
    if claim_rows(claims):
        out.print(claims_table(claims))
    for line in claims.lines():
        out.print(line)
    out.print(f"report: {report}", soft_wrap=True)
