"""`codesign workload`: what a model computes."""

from __future__ import annotations

import argparse
from typing import Any

from codesign.cli.arguments import add_command
from codesign.cli.output import console, print_json


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands,
        "workload",
        run,
        "operators, MACs and parameters of a model",
        epilog="MODEL is a published model, such as clip-vit-b-16, carbonclip-s, tinyclip-39m-16, "
        "vit-b-16, bert-base, llama-3-8b; a folder with a HuggingFace config.json, or such a file; "
        "a design file; or OWNER/NAME on the HuggingFace hub.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model's name, file or folder")
    parser.add_argument("--tokens", metavar="N", type=int, help="length of the text (default: 512)")
    parser.add_argument("--phase", help="of a decoder: prefill (default) or decode")
    parser.add_argument(
        "--context", metavar="N", type=int, help="tokens in a decoder's cache (default: 512)"
    )
    parser.add_argument("--name", help="the design to take from a list of designs")


def run(args: argparse.Namespace) -> int:
    """`codesign workload`."""
    from codesign.report.workload import gemms_table, model_line, model_to_json, vector_ops_table
    from codesign.workload import load_model

    model = load_model(
        args.model, tokens=args.tokens, phase=args.phase, context=args.context, design=args.name
    )
    if args.json:
        print_json(model_to_json(model))
        return 0
    out = console()
    out.print(model_line(model))
    out.print(gemms_table(model))
    out.print(vector_ops_table(model))
    return 0
