"""`codesign push`: a folder to the HuggingFace hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from codesign.cli.arguments import add_command
from codesign.cli.output import print_json
from codesign.printable import printable


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands,
        "push",
        run,
        "upload a checkpoint's folder with its model card to the HuggingFace hub",
        epilog="The token is the hub's own: hf auth login, or HF_TOKEN.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="all its files are uploaded")
    parser.add_argument("repository", metavar="REPO", help="OWNER/NAME, made where it is missing")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--revision", metavar="BRANCH", help="made where it is missing (default: the main one)"
    )
    parser.add_argument("--message", metavar="TEXT", help="of the commit")


def run(args: argparse.Namespace) -> int:
    """`codesign push`."""
    from codesign.model_card import CARD
    from codesign.models.formats.hub import push_to_hub

    if not (Path(args.folder).expanduser() / CARD).is_file():
        print(f"codesign: {printable(args.folder)} has no model card, {CARD}", file=sys.stderr)
    url = push_to_hub(
        args.folder,
        args.repository,
        private=args.private,
        revision=args.revision,
        message=args.message,
    )
    if args.json:
        print_json({"folder": args.folder, "repository": args.repository, "url": url})
    else:
        print(url)
    return 0
