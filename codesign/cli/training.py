"""What the commands that train a checkpoint share."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.cli import configured, peers
from codesign.cli.arguments import add_config_command, add_run_options
from codesign.cli.output import console, print_json, stdout_to_stderr
from codesign.errors import UserError
from codesign.kinds import kind_of

if TYPE_CHECKING:
    from rich.table import Table


def add_training_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> None:
    """A command that trains by a CONFIG, by one process or several."""
    parser = add_config_command(
        commands,
        name,
        run,
        summary,
        more="[--resume] [--[no-]check] [--loggers NAMES] [--profile N] [--distributed] "
        "[--dry-run] ",
        example=example,
    )
    add_run_options(parser)
    parser.add_argument(
        "--profile",
        type=_steps,
        metavar="N",
        default=0,
        help="trace N steps of each stage by JAX's profiler, once it is compiled, into the run's "
        "folder profile/, for TensorBoard or Perfetto",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="tell shapes, memory, sharding and steps, take a step of each stage on noise, and "
        "write nothing",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, which find each other as jax.distributed does (SLURM, Open "
        "MPI, TPU pods; else JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID)",
    )


def _steps(text: str) -> int:
    """A whole number of steps, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of steps above 0")
    return int(text)


def tried(args: argparse.Namespace) -> int:
    """`--dry-run` of a command: what the run would take."""
    for option in ("distributed", "resume", "profile"):
        if getattr(args, option):
            raise UserError(f"--dry-run starts no run: drop --{option}")
    config = configured.load(args)
    kind = kind_of(type(config))
    if kind is None or not kind.run:
        raise UserError(f"--dry-run: {args.config} trains nothing; drop it")
    from codesign.train.dry_run import dry_run

    found = dry_run(config, console(stderr=True))
    if args.json:
        print_json(found)
        return 0
    out = console()
    out.print(_plan_table(found))
    for line in _plan_lines(found):
        out.print(line, soft_wrap=True)
    return 0


def _plan_table(found: Mapping[str, Any]) -> Table:
    """The stages of a dry run."""
    from rich import box
    from rich.table import Table

    from codesign.report.text import MISSING, duration

    table = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    table.add_column("stage")
    for heading in ("steps", "weights", "optimizer", "activations", "peak", "loss", "a call"):
        table.add_column(heading, justify="right")

    for stage in found["stages"]:
        memory = stage.get("memory_bytes", {})
        table.add_row(
            stage["name"],
            f"{stage['steps']:,}",
            _mebibytes(stage["parameters_bytes"]),
            _mebibytes(stage["optimizer_bytes"]),
            _mebibytes(memory.get("activations")),
            _mebibytes(memory.get("peak")),
            f"{stage['loss']:.4g}" if "loss" in stage else MISSING,
            duration(stage.get("step_s")),
        )
    return table


def _mebibytes(count: int | None) -> str:
    from codesign.report.text import MISSING, significant

    return MISSING if count is None else f"{significant(count / 2**20, 3)} MiB"


def _plan_lines(found: Mapping[str, Any]) -> list[str]:
    """What else there is to tell of a dry run."""
    batch = ", ".join(f"{name} {list(shape)}" for name, shape in found["batch"].items())
    numbers = sum(math.prod(shape) for shape in found["shapes"].values())
    devices, parts = found["devices"], found["mesh"]["fsdp"]
    held = "on every one" if parts == 1 else f"split over {parts} of them"
    snap = found["snap_bytes"]
    return [
        f"batch: {batch}; {found['chunk_steps']} steps a call",
        f"parameters: {numbers:,} in {len(found['shapes'])} arrays",
        f"sharding: {devices['count']} x {devices['kind']}, {found['batch_per_device']} examples "
        f"of a batch on each; weights and optimizer {held}",
        *([f"snapping may hold {_mebibytes(snap)} more, candidates twice"] if snap else []),
        "memory is of one device; nothing was written",
    ]


def trained(args: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Trains by the config of the command line; the run folder and what its runner returns."""
    from codesign.overrides import config_name, config_to_json

    if args.distributed:
        again = configured.resume_command(args)
        joined = peers.go_on_in_child(
            lost="another process of this run has ended, and tells why itself; the run is kept: "
            f"{again} by all of them continues it",
            absent="--distributed: the other processes have not come; start all of them within "
            "five minutes, with the same JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES",
        )
    config = configured.load(args)
    from codesign.train.loggers import check_loggers
    from codesign.train.placement import join_processes, shared_folder

    check_loggers(args.loggers or ())

    name, out = config_name(args.config), configured.out_folder(args)
    with (
        peers.left_at_once() if args.distributed else contextlib.nullcontext(),
        configured.kept_when_stopped(args, alone=not args.distributed),
        stdout_to_stderr() if args.distributed else contextlib.nullcontext(),
    ):
        if args.distributed:
            join_processes()
            joined()
        kind = kind_of(type(config))
        assert kind is not None, "refused as it was loaded"
        folder = shared_folder(
            out,
            config_to_json(config),
            resume=args.resume,
            name=name,
            kind=kind.name,
            command=args.command_line,
        )
        run = kind.runner()
        shown = console(stderr=True)
        return folder.path, run(
            config,
            folder,
            shown,
            check=args.check,
            loggers=args.loggers,
            profile=args.profile,
        )
