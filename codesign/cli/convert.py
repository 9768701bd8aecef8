"""`codesign convert`: a checkpoint in another format."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from codesign.cli.arguments import add_command
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
    parser.add_argument("--image", type=int, metavar="PIXELS", help="change the image size")
    parser.add_argument(
        "--activation", choices=("gelu", "quick_gelu"), help="where no config beside IN tells it"
    )
    parser.add_argument(
        "--head-dim", type=int, nargs="+", metavar="N",
        help="channels of a head (of vision and of text), where no config beside IN tells it",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT")


def run(args: argparse.Namespace) -> int:
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
        print_json({"out": args.out, "to": args.to, "architecture": architecture, "notes": told})
        return 0
    from codesign.report.tables import tower_text

    vision, text = (tower_text(architecture[tower]) for tower in ("vision", "text"))
    print(f"{args.out}: vision {vision}, text {text}")
    return 0
