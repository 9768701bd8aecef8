"""`codesign convert`: a checkpoint in another format."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from codesign.cli.arguments import add_command
from codesign.cli.checkpoint import (
    add_checkpoint_options,
    card_beside,
    load,
    notes_to_stderr,
    write_network_card,
)
from codesign.cli.output import print_json
from codesign.errors import UserError
from codesign.printable import printable

if TYPE_CHECKING:
    from codesign.models import CLIP

# Where an export runs by default.
PLATFORMS = ("cpu", "cuda", "tpu")


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(commands, "convert", run, "rewrite a CLIP checkpoint in another format")
    parser.add_argument("source", metavar="IN", help="a checkpoint: file, folder or hub name")
    parser.add_argument("out", metavar="OUT", help="a new folder, or for openclip NAME.safetensors")
    parser.add_argument(
        "--to",
        required=True,
        choices=("hf", "openclip", "native", "stablehlo", "onnx"),
        help="HuggingFace, OpenCLIP or Orbax; or programs that run without this package: "
        "StableHLO, and ONNX with the extra codesign[onnx]",
    )
    parser.add_argument(
        "--pad",
        action="store_true",
        help="to hf: fill up with zeros what was pruned, where the config cannot express it",
    )
    add_checkpoint_options(parser)
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="to stablehlo: a fixed batch, which some compilers need (default: any)",
    )
    parser.add_argument(
        "--platforms",
        nargs="+",
        metavar="NAME",
        help="to stablehlo: where it will run (default: cpu cuda tpu)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT")


def run(args: argparse.Namespace) -> int:
    """`codesign convert`; what had to be assumed or padded goes to stderr."""
    import dataclasses

    for option, value, to in (
        ("--batch", args.batch, "stablehlo"),
        ("--platforms", args.platforms, "stablehlo"),
        ("--pad", args.pad or None, "hf"),
    ):
        if value is not None and args.to != to:
            raise UserError(f"{option} is of --to {to}, not of {args.to}; leave it out")
    with notes_to_stderr() as told:
        clip = load(args, args.source)
        card = card_beside(args.source)
        _write(args, clip)
    for note in told:
        card = card.adding("Notes", printable(note))
    if args.image is not None:
        card = card.without("Measured", "Costs")
    if args.subnet is not None:
        # What is told is of the family.
        card = card.without("Measured", "Costs", "Subnets")
        card = card.adding("Training", f"Subnet {args.subnet} of the family.")
    write_network_card(args.out, args.to, clip, card.without("Costs") if args.pad else card)
    architecture = dataclasses.asdict(clip.architecture)
    if args.json:
        print_json({"out": args.out, "to": args.to, "architecture": architecture, "notes": told})
        return 0
    from codesign.report.tables import tower_text

    towers = clip.architecture.towers.items()
    sizes = ", ".join(f"{name} {tower_text(vars(tower))}" for name, tower in towers)
    print(f"{printable(args.out)}: {sizes}")
    return 0


def _write(args: argparse.Namespace, clip: CLIP) -> None:
    if args.to == "stablehlo":
        from codesign.models.formats.deploy import export_stablehlo

        export_stablehlo(
            clip,
            args.out,
            like=args.source,
            batch=args.batch,
            platforms=tuple(args.platforms or PLATFORMS),
            overwrite=args.overwrite,
        )
    elif args.to == "onnx":
        from codesign.models.formats.onnx_export import export_onnx

        export_onnx(clip, args.out, like=args.source, overwrite=args.overwrite)
    else:
        from codesign.models.formats import save_clip

        save_clip(clip, args.out, args.to, pad=args.pad, overwrite=args.overwrite, like=args.source)
