"""`codesign convert`: a checkpoint in another format."""

from __future__ import annotations

import argparse
from typing import Any

from codesign.cli.arguments import add_command
from codesign.cli.checkpoint import add_checkpoint_options, load, notes_to_stderr
from codesign.cli.output import print_json


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands, "convert", run, "rewrite a CLIP checkpoint in another format"
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
    add_checkpoint_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT")


def run(args: argparse.Namespace) -> int:
    """`codesign convert`; what had to be assumed or padded goes to stderr."""
    import dataclasses

    from codesign.models.formats import save_clip

    with notes_to_stderr() as told:
        clip = load(args, args.source)
        save_clip(clip, args.out, args.to, pad=args.pad, overwrite=args.overwrite, like=args.source)
    architecture = dataclasses.asdict(clip.architecture)
    if args.json:
        print_json({"out": args.out, "to": args.to, "architecture": architecture, "notes": told})
        return 0
    from codesign.report.tables import tower_text

    vision, text = (tower_text(architecture[tower]) for tower in ("vision", "text"))
    print(f"{args.out}: vision {vision}, text {text}")
    return 0
