"""The `codesign` program.

Results go to stdout, progress to stderr, so that a result can always be piped; with
--json the result is one JSON value. Bad input ends in one line and exit code 2, a
failure in one line and exit code 1, Ctrl-C in 130. Whatever else goes wrong is a bug and
shows its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

# Heavy modules (JAX, matplotlib) are imported by the commands that need them: help is instant.
from codesign.errors import RunError, UserError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from codesign.design_file import Design
    from codesign.search.hardware import HardwareConfig

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Piped output has no width of its own; the widest table needs this much.
_PIPE_WIDTH = 110


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
      argv: arguments after the program's name; default: those of the process.

    Returns:
      The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # Here, where a closed pipe is still caught.
    except UserError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python flushes stdout once more at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        place = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror}{place}", 1)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130


def _fail(error: object, code: int) -> int:
    print(f"codesign: {error}", file=sys.stderr)
    return code


def _run(argv: list[str]) -> int:
    _check_command(argv)
    args, extra = _parser().parse_known_args(argv)
    if args.command not in (_search, _ablate) and extra:
        raise UserError(f"unexpected argument '{extra[0]}'; see codesign {argv[0]} --help")
    args.overrides = extra
    command: Callable[[argparse.Namespace], int] = args.command
    return command(args)


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, raised like every other bad input."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class _ConfigHelp(argparse.Action):
    """--help of commands that take a CONFIG: after one, its fields too."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any
    ) -> None:
        from codesign.overrides import config_names, format_overrides

        if getattr(namespace, "config", None):
            more = format_overrides(namespace.config).rstrip()
        else:
            more = f"configs: {', '.join(config_names()) or 'none'}"
        print(f"{parser.format_help()}\n{more}")
        parser.exit()


class _Version(argparse.Action):
    """--version, read from the installed package only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import importlib.metadata

        print(f"codesign {importlib.metadata.version('codesign')}")
        parser.exit()


_COMMANDS = ("search", "cost", "workload", "ablate", "convert", "report")


def _check_command(argv: list[str]) -> None:
    if argv and not argv[0].startswith("-") and argv[0] not in _COMMANDS:
        hint = did_you_mean(argv[0], _COMMANDS)
        raise UserError(f"there is no command '{argv[0]}'; {hint}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="codesign",
        description="Differentiable co-design of CLIP models and edge accelerators.",
        epilog="codesign COMMAND --help tells more.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_search(commands)
    _add_cost(commands)
    _add_workload(commands)
    _add_ablate(commands)
    _add_convert(commands)
    _add_report(commands)
    return parser


def _add_command(commands: Any, name: str, run: Any, summary: str, **more: Any) -> Any:
    parser = commands.add_parser(
        name, help=summary, allow_abbrev=False,
        description=summary[0].upper() + summary[1:] + ".", **more,
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON, and nothing else, on stdout"
    )
    parser.set_defaults(command=run)
    return parser


def _add_search(commands: Any) -> None:
    parser = _add_config_command(
        commands,
        "search",
        _search,
        "search architectures and accelerators together; writes a run folder",
        more="[--resume] ",
        example="--seed 1",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")


def _add_config_command(
    commands: Any, name: str, run: Any, summary: str, *, more: str = "", example: str
) -> Any:
    """A command that runs a CONFIG, any of whose fields can be given on the command line."""
    parser = _add_command(
        commands, name, run, summary, add_help=False,
        usage=f"codesign {name} CONFIG [--out DIR] {more}[--json] [--FIELD VALUE ...]",
        epilog=f"codesign {name} CONFIG --help lists the config's fields; any of them is "
        f"overridden by --FIELD VALUE, such as {example}.",
    )  # fmt: skip
    parser.add_argument("config", metavar="CONFIG", help="name of a config, or path of a .py file")
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/CONFIG)")
    parser.add_argument("-h", "--help", action=_ConfigHelp, nargs=0, help="show this and exit")
    return parser


def _add_cost(commands: Any) -> None:
    parser = _add_command(
        commands, "cost", _cost, "latency, energy, area and carbon of one design, by part"
    )
    parser.add_argument("file", metavar="FILE", help="a design as JSON, or a run's designs.json")
    parser.add_argument("--name", help="the design to take from a list of designs")
    parser.add_argument(
        "--costing",
        help="physical (default), or catransformers: the published reference's conventions "
        "and its scenario, to compare with its numbers",
    )


def _add_workload(commands: Any) -> None:
    parser = _add_command(
        commands, "workload", _workload, "operators, MACs and parameters of a model",
        epilog="MODEL is a published model, such as clip-vit-b-16, carbonclip-s, tinyclip-39m-16, "
        "vit-b-16, bert-base, llama-3-8b; a folder with a HuggingFace config.json, or such a file; "
        "a design file; or OWNER/NAME on the HuggingFace hub.",
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="a model's name, file or folder")
    parser.add_argument("--tokens", metavar="N", type=int, help="length of the text (default: 512)")
    parser.add_argument("--phase", help="of a decoder: prefill (default) or decode")
    parser.add_argument(
        "--context", metavar="N", type=int, help="tokens in a decoder's cache (default: 512)"
    )
    parser.add_argument("--name", help="the design to take from a list of designs")


def _add_ablate(commands: Any) -> None:
    _add_config_command(
        commands,
        "ablate",
        _ablate,
        "how accurate the surrogates are against the oracles; writes a run folder",
        example="--seeds 1",
    )


def _add_convert(commands: Any) -> None:
    parser = _add_command(
        commands, "convert", _convert, "rewrite a CLIP checkpoint in another format"
    )
    parser.add_argument("source", metavar="IN", help="a checkpoint: file, folder or hub name")
    parser.add_argument("out", metavar="OUT", help="a new folder, or for openclip NAME.safetensors")
    parser.add_argument(
        "--to", required=True, choices=("hf", "openclip", "native"),
        help="HuggingFace, OpenCLIP or Orbax",
    )  # fmt: skip
    parser.add_argument(
        "--pad", action="store_true",
        help="to hf: fill up with zeros what was pruned, where the config cannot express it",
    )  # fmt: skip
    parser.add_argument("--image", type=int, metavar="PIXELS", help="change the image size")
    parser.add_argument(
        "--activation", choices=("gelu", "quick_gelu"), help="where no config beside IN tells it"
    )
    parser.add_argument(
        "--head-dim", type=int, nargs="+", metavar="N",
        help="channels of a head (of vision and of text), where no config beside IN tells it",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT")


def _add_report(commands: Any) -> None:
    parser = _add_command(
        commands, "report", _report, "rebuild the reports of runs; compare several runs"
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, such as runs/NAME")


def _search(args: argparse.Namespace) -> int:
    """`codesign search`: the run itself is train.joint's."""
    from codesign.overrides import config_name, config_to_json, load_config
    from codesign.report.tables import savings
    from codesign.runs import RunFolder, jsonable
    from codesign.search.hardware import HardwareConfig
    from codesign.surrogate.config import AblationConfig

    config = load_config(args.config, args.overrides)
    _check_scenarios(config)
    name = config_name(args.config)
    if isinstance(config, HardwareConfig):
        return _search_hardware(config, args)
    if isinstance(config, AblationConfig):
        raise UserError(f"{args.config} is no search; try codesign ablate {args.config}")
    out = Path(args.out if args.out is not None else Path("runs") / name)
    folder = RunFolder.create(out, config_to_json(config), resume=args.resume, name=name)
    try:
        from codesign.train.joint import run_search

        result = run_search(config, folder, _console(stderr=True))
    except KeyboardInterrupt:
        again = _resume_command(args)
        message = f"interrupted; the run is kept: {again} continues it"
        raise KeyboardInterrupt(message) from None
    designs, summary = result["designs"], result["summary"]
    report = folder.path / "report.html"
    if args.json:
        found = {"run": str(out), "report": str(report), "designs": designs, "summary": summary}
        _print_json(jsonable(found | {"savings": savings(designs)}))
    else:
        _print_run(name, designs, str(report))
    return 0


def _search_hardware(config: HardwareConfig, args: argparse.Namespace) -> int:
    """`codesign search hardware`: a fixed model on the whole grid."""
    from codesign.costing import costing_of
    from codesign.overrides import config_to_json
    from codesign.report.hardware import front_figure, hardware_designs, hardware_table
    from codesign.runs import DESIGNS, RunFolder
    from codesign.search.hardware import search_hardware, settled_scenario
    from codesign.workload import load_model

    folder = None
    if args.out is not None:
        folder = RunFolder.create(Path(args.out), config_to_json(config), resume=args.resume)
    model = load_model(
        config.model, tokens=config.tokens, phase=config.phase, context=config.context
    )
    try:
        scenario = settled_scenario(config, model.parameters)
        workload = model.operators.under(costing_of(scenario))
        found = search_hardware(workload, config.space, scenario, config.limits)
    except ValueError as error:
        raise UserError(str(error)) from error
    designs = hardware_designs(model, scenario, found)
    if folder is not None:
        folder.write_json(DESIGNS, designs)
        folder.write_bytes("front.png", front_figure(designs))
    if args.json:
        _print_json({
            "model": model.name, "task": model.task, "limits": config.limits.active(),
            "accelerators": len(found.feasible), "feasible": int(found.feasible.sum()),
            "designs": designs,
        })  # fmt: skip
        return 0
    console = _console()
    console.print(
        f"{model.name}: {model.task}; {found.feasible.sum():,} of {len(found.feasible):,} "
        f"accelerators meet the limits; {scenario.dram_gb:g} GB of DRAM",
        markup=False, highlight=False,
    )  # fmt: skip
    console.print(hardware_table(designs))
    return 0


def _check_scenarios(config: Any) -> None:
    """Refuses a config's impossible scenario now rather than at its first pricing."""
    import dataclasses

    from codesign.design_file import check_scenario
    from codesign.scenario import Scenario

    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Scenario):
            check_scenario(value, f"--{field.name}")


def _resume_command(args: argparse.Namespace) -> str:
    """The command that continues an interrupted search: the same, with --resume."""
    out = ["--out", args.out] if args.out is not None else []
    as_json = ["--json"] if args.json else []
    words = ["codesign", "search", args.config, *args.overrides, *out, *as_json, "--resume"]
    return shlex.join(words)


def _print_run(name: str, designs: Sequence[dict[str, Any]], report: str) -> None:
    from codesign.report.tables import designs_table, savings

    console = _console()
    console.print(designs_table(designs, title=name))
    for saving in savings(designs):
        console.print(str(saving), markup=False, highlight=False)
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)


def _cost(args: argparse.Namespace) -> int:
    """`codesign cost`."""
    from codesign.design_file import design_to_json, load_design, under_costing
    from codesign.report.tables import costs_table

    design = load_design(args.file, name=args.name)
    if args.costing is not None:
        design = under_costing(design, args.costing)
    costs = _costs(design)
    plain = design_to_json(design)
    if args.json:
        _print_json(plain | {"costs": costs})
        return 0
    console = _console()
    console.print(_design_line(plain), markup=False, highlight=False)
    console.print(costs_table(costs))
    return 0


def _workload(args: argparse.Namespace) -> int:
    """`codesign workload`."""
    from codesign.workload import load_model
    from codesign.workload.table import gemms_table, model_line, model_to_json, vector_ops_table

    model = load_model(
        args.model, tokens=args.tokens, phase=args.phase, context=args.context, design=args.name
    )
    if args.json:
        _print_json(model_to_json(model))
        return 0
    console = _console()
    console.print(model_line(model), markup=False, highlight=False)
    console.print(gemms_table(model))
    console.print(vector_ops_table(model))
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


def _ablate(args: argparse.Namespace) -> int:
    """`codesign ablate`: the comparison itself is codesign.surrogate.run's."""
    from codesign.overrides import config_name, config_to_json, load_config
    from codesign.report.ablation import write_report
    from codesign.runs import RunFolder
    from codesign.surrogate.config import AblationConfig
    from codesign.surrogate.run import check_new, run_ablation

    config = load_config(args.config, args.overrides)
    if not isinstance(config, AblationConfig):
        raise UserError(f"{args.config} is no ablation; try codesign search {args.config}")
    _check_scenarios(config)
    name = config_name(args.config)
    out = Path(args.out if args.out is not None else Path("runs") / name)
    check_new(out)
    folder = RunFolder.create(out, config_to_json(config), name=name)
    try:
        run_ablation(config, folder, _console(stderr=True))
        write_report(folder.path)
    except KeyboardInterrupt:
        message = f"interrupted; what was bought and compared is kept, the latter in {out}"
        raise KeyboardInterrupt(message) from None
    _print_ablations([folder.path], args.json)
    return 0


def _print_ablations(folders: Sequence[Path], as_json: bool) -> None:
    from codesign.report.ablation import headline, headline_table
    from codesign.runs import REPORT, read_json
    from codesign.surrogate.config import RESULT

    results = {folder: read_json(folder / RESULT) for folder in folders}
    if as_json:
        short = [
            {"run": str(f), "report": str(f / REPORT), "oracles": r["oracles"]} | headline(r)
            for f, r in results.items()
        ]
        _print_json(short[0] if len(short) == 1 else short)
        return
    console = _console()
    for folder, result in results.items():
        console.print(headline_table(result))
        console.print(f"report: {folder / REPORT}", markup=False, highlight=False, soft_wrap=True)


def _convert(args: argparse.Namespace) -> int:
    """`codesign convert`; what had to be assumed or padded goes to stderr."""
    import dataclasses
    import warnings

    from codesign.models.formats import load_clip, save_clip

    head_dim = args.head_dim
    if head_dim is not None:
        head_dim = head_dim[0] if len(head_dim) == 1 else tuple(head_dim)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        clip = load_clip(
            args.source, image=args.image, activation=args.activation, head_dim=head_dim
        )
        save_clip(clip, args.out, args.to, pad=args.pad, overwrite=args.overwrite, like=args.source)
    told = [str(note.message) for note in notes if note.category is UserWarning]
    for note in told:
        print(f"codesign: {note}", file=sys.stderr)
    architecture = dataclasses.asdict(clip.architecture)
    if args.json:
        _print_json({"out": args.out, "to": args.to, "architecture": architecture, "notes": told})
        return 0
    from codesign.report.tables import tower_text

    vision, text = (tower_text(architecture[tower]) for tower in ("vision", "text"))
    print(f"{args.out}: vision {vision}, text {text}")
    return 0


def _report(args: argparse.Namespace) -> int:
    """`codesign report`."""
    from codesign.report import ablation

    ablations = [path for path in args.runs if ablation.is_ablation(path)]
    if not ablations:
        return _report_searches(args)
    if len(ablations) < len(args.runs):
        raise UserError(f"{ablations[0]} is an ablation, others are not: report on them apart")
    _print_ablations([ablation.write_report(path).parent for path in ablations], args.json)
    return 0


def _report_searches(args: argparse.Namespace) -> int:
    from codesign.report import write_report
    from codesign.report.tables import comparison_table, run_summary, savings
    from codesign.runs import jsonable, read_run

    # All are read before one is written: a misspelt folder leaves the others as they were.
    runs = [read_run(path) for path in args.runs]
    reports = [write_report(run.path) for run in runs]
    summaries = [run_summary(run.name, run.designs, run.summary) for run in runs]
    if args.json:
        _print_json([
            {"run": str(run.path), "report": str(report)}
            | summary
            | {"savings": jsonable(savings(run.designs))}
            for run, report, summary in zip(runs, reports, summaries, strict=True)
        ])  # fmt: skip
        return 0
    for run, report in zip(runs, reports, strict=True):
        _print_run(run.name, run.designs, str(report))
    if len(runs) > 1:
        _console().print(comparison_table(summaries))
    return 0


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _print_json(obj: Any) -> None:
    print(json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False))
