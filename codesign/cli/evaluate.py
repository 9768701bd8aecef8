"""`codesign eval`: what a checkpoint can do."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from codesign.cli.arguments import add_command
from codesign.cli.checkpoint import add_checkpoint_options, load, notes_to_stderr
from codesign.cli.output import console, print_json, shards_to_stderr
from codesign.errors import UserError

if TYPE_CHECKING:
    from codesign.models.resnet_family import ResNetFamily


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands,
        "eval",
        run,
        "zero-shot classification and image-text retrieval of a checkpoint; accuracy of a "
        "classifier's subnets",
        epilog="DATA with labels gives zero-shot classification, DATA with captions retrieval: a "
        "folder of class folders, a table of captions (.csv, .tsv, .jsonl), parquet files or a hub "
        "name, tar shards of WebDataset ('shards/{000..099}.tar'), or digits, which is installed.",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a file, a folder, a hub name, or a run's clip/"
    )
    parser.add_argument("--data", metavar="DATA", required=True, help="pictures to evaluate on")
    add_source(parser, split="test")
    parser.add_argument("--tokenizer", help="folder or hub name, where it is not the checkpoint's")
    add_checkpoint_options(parser)
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="(default: 64)")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="that decode")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")


def add_source(parser: argparse.ArgumentParser, split: str) -> None:
    """Options that say how --data is read."""
    parser.add_argument("--split", default=split, help=f"of the data (default: {split})")
    parser.add_argument("--limit", type=int, metavar="N", help="use only so many pictures")
    parser.add_argument("--classes", metavar="FILE", help="class names, one a line, or JSON")
    parser.add_argument(
        "--templates",
        default="auto",
        metavar="NAME",
        help="prompt ensemble: imagenet, cifar, photo, digits, a file with one template a line "
        "(default: what suits the data)",
    )


def source_config(args: argparse.Namespace) -> Any:
    """The `SourceConfig` of these options."""
    from codesign.train.data import SourceConfig

    return SourceConfig(
        path=args.data,
        split=args.split,
        limit=args.limit,
        classes=args.classes,
        templates=args.templates,
    )


def run(args: argparse.Namespace) -> int:
    """`codesign eval`."""
    import jax.numpy as jnp

    from codesign.models.formats import load_processor
    from codesign.models.resnet_family import is_resnet_family, load_resnet_family
    from codesign.report.finetune import measures_table
    from codesign.train.data import open_source
    from codesign.train.progress import counting
    from codesign.train.zero_shot import evaluate_source

    dtype = jnp.bfloat16 if args.bfloat16 else jnp.float32
    if is_resnet_family(args.checkpoint):
        return _run_classifier(args, load_resnet_family(args.checkpoint), dtype)
    with notes_to_stderr():
        clip = load(args, args.checkpoint, dtype=dtype)
    processor = load_processor(args.checkpoint, clip, tokenizer=args.tokenizer)
    source = open_source(source_config(args), shards_to_stderr())
    with counting(console(stderr=True), "evaluating", len(source)) as progress:
        result = evaluate_source(
            clip,
            processor,
            source,
            batch_size=args.batch_size,
            threads=args.threads,
            progress=progress,
        )
    if args.json:
        architecture = dataclasses.asdict(clip.architecture)
        print_json(
            {
                "checkpoint": args.checkpoint,
                "data": args.data,
                "split": args.split,
                "architecture": architecture,
                **result,
            }
        )
        return 0
    console().print(measures_table(result))
    return 0


def _run_classifier(args: argparse.Namespace, family: ResNetFamily, dtype: Any) -> int:
    """The accuracy of one subnet of a classifier's family."""
    from codesign.api.networks import (
        check_subnet,
        evaluate_classifier,
        open_labelled_source,
    )
    from codesign.report.text import share_of
    from codesign.train.progress import counting

    for option in ("image", "activation", "head_dim", "weights", "tokenizer"):
        if getattr(args, option) is not None:
            name = option.replace("_", "-")
            raise UserError(f"--{name} is for a CLIP; {args.checkpoint} is a ResNet's family")
    check_subnet(args.checkpoint, args.subnet, len(family))
    source = open_labelled_source(family, source_config(args), shards_to_stderr())
    with counting(console(stderr=True), "evaluating", len(source)) as progress:
        result = evaluate_classifier(
            family,
            args.subnet,
            source,
            dtype=dtype,
            batch_size=args.batch_size,
            threads=args.threads,
            progress=progress,
        )
    if args.json:
        print_json(
            {
                "checkpoint": args.checkpoint,
                "subnet": args.subnet,
                "data": args.data,
                "split": args.split,
                "network": dataclasses.asdict(family.config),
                **result,
            }
        )
        return 0
    top_1 = share_of(result["classification"]["top_1"], result["images"])
    console().print(f"top-1 {top_1} of {result['images']:,} images")
    return 0
