"""`codesign prune`: a smaller CLIP of a checkpoint's most important units."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.cli.arguments import add_command
from codesign.cli.checkpoint import (
    add_checkpoint_options,
    card_beside,
    load,
    notes_to_stderr,
    write_network_card,
)
from codesign.cli.evaluate import add_source, source_config
from codesign.cli.output import console, print_json, shards_to_stderr
from codesign.errors import UserError
from codesign.printable import printable
from codesign.userfile import is_member

if TYPE_CHECKING:
    from codesign.architecture import Architecture
    from codesign.models import CLIP, Gates


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = add_command(
        commands,
        "prune",
        run,
        "cut a smaller CLIP out of a checkpoint, keeping its most important units",
        epilog="The result is not trained: codesign finetune goes on from it.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a folder, a hub name")
    parser.add_argument("out", metavar="OUT", help="a new folder, in the format of --to")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--keep",
        nargs="+",
        metavar="SHARE",
        help="share of every dimension, 0.5, or of some: ffn=0.5 vision.layers=0.75 text=0.5",
    )
    size.add_argument("--design", metavar="FILE", help="take the towers of a design, as JSON")
    parser.add_argument("--name", help="the design to take from a list of designs")
    parser.add_argument(
        "--method",
        choices=_Methods(("taylor", "loss", "magnitude")),
        metavar="NAME",
        help="importance by first-order taylor (default), by the measured rise of the loss, "
        "slower, by magnitude, which needs no data, or by FILE.py:NAME, a function of your own",
    )
    parser.add_argument(
        "--importance",
        metavar="FILE",
        help="read the scores from this file, or where it is missing write them there",
    )
    parser.add_argument("--data", metavar="DATA", help="pictures to measure importance on")
    add_source(parser, split="train")
    parser.add_argument("--samples", type=int, default=1024, metavar="N", help="(default: 1024)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="(default: 32)")
    parser.add_argument(
        "--groups",
        type=int,
        default=16,
        metavar="N",
        help="of --method loss: parts of FFN units and channels that are taken out (default: 16)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="that decode")
    parser.add_argument("--tokenizer", help="folder or hub name, where it is not the checkpoint's")
    parser.add_argument(
        "--to", choices=("native", "openclip", "hf"), default="native", help="(default: native)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT")
    add_checkpoint_options(parser)


def run(args: argparse.Namespace) -> int:
    """`codesign prune`."""
    from codesign.model_card import shown_name
    from codesign.models.formats import save_clip
    from codesign.models.formats.assemble import parameter_count
    from codesign.models.prune import prune
    from codesign.report.tables import tower_text

    with notes_to_stderr() as told:
        clip = load(args, args.checkpoint)
        architecture = _architecture(args, clip)
        scores, method = _scores(args, clip)
        try:
            small = prune(clip, architecture, scores)
        except ValueError as error:
            raise UserError(str(error)) from None
        save_clip(small, args.out, args.to, overwrite=args.overwrite, like=args.checkpoint)
    before, after = parameter_count(clip), parameter_count(small)
    how = f"{method} importance" + (f" on {shown_name(args.data)}" if args.data else "")
    card = card_beside(args.checkpoint).without("Measured", "Costs", "Subnets")
    card = card.adding(
        "Training", f"Pruned by {how} to {after:,} of {before:,} parameters, and not trained since."
    )
    write_network_card(args.out, args.to, small, card)
    if args.json:
        print_json(
            {
                "out": args.out,
                "architecture": dataclasses.asdict(small.architecture),
                "parameters": after,
                "parameters_before": before,
                "method": method,
                "notes": told,
            }
        )
        return 0
    vision, text = (
        tower_text(dataclasses.asdict(tower)) for tower in (architecture.vision, architecture.text)
    )
    left = f"{after:,} of {before:,} parameters"
    print(f"{printable(args.out)}: vision {vision}, text {text}; {left}")
    return 0


def _architecture(args: argparse.Namespace, clip: CLIP) -> Architecture:
    """What is asked for; only the towers, the rest stays the checkpoint's."""
    from codesign.design_file import load_design
    from codesign.models.prune import scaled

    if args.design is not None:
        towers = load_design(args.design, name=args.name).architecture
        return dataclasses.replace(clip.architecture, vision=towers.vision, text=towers.text)
    try:
        return scaled(clip.architecture, _shares(args.keep))
    except ValueError as error:
        raise UserError(f"--keep: {error}") from None


class _Methods(tuple[str, ...]):
    """The methods that are known, and whatever is "FILE.py:NAME"."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or is_member(name)


def _shares(words: list[str]) -> float | dict[str, float]:
    """ "0.5" alone, or "ffn=0.5" and the like."""
    try:
        if len(words) == 1 and "=" not in words[0]:
            return float(words[0])
        pairs = [word.split("=") for word in words]
        if len(shares := {name: float(share) for name, share in pairs}) == len(pairs):
            return shares
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise UserError(f"--keep {' '.join(words)}: {twice} is there twice; give it once")
    except ValueError:
        raise UserError(
            f"--keep {' '.join(words)}: expected one share such as 0.5, or pairs such as ffn=0.5"
        ) from None


def _scores(args: argparse.Namespace, clip: CLIP) -> tuple[Gates, str]:
    """From the file, or measured and then kept in it; and by what method."""
    from codesign.models.importance import score_units
    from codesign.models.importance_file import (
        importance_method,
        load_importance,
        save_importance,
    )

    if args.importance is not None and Path(args.importance).exists():
        stored = importance_method(args.importance) or "unknown"
        if args.method not in (None, stored):
            raise UserError(
                f"--method {args.method}: {args.importance} holds scores by {stored}; drop "
                "--method, or name another --importance file to measure into"
            )
        return load_importance(args.importance, clip), stored
    method = args.method or "taylor"
    batches, own = None, is_member(method)
    if method != "magnitude" and not (own and args.data is None):
        if args.data is None:
            raise UserError(
                f"--method {method} measures importance on pictures: give --data, or use "
                "--method magnitude"
            )
        from codesign.models.formats import load_processor
        from codesign.train.calibrate import calibration_batches
        from codesign.train.data import open_source, repeats

        processor = load_processor(args.checkpoint, clip, tokenizer=args.tokenizer)
        console(stderr=True).print("measuring importance")
        source = open_source(source_config(args), shards_to_stderr())
        if warning := repeats(args.batch_size, len(source), "batch-size"):
            console(stderr=True).print(warning)
        batches = calibration_batches(
            source,
            processor,
            samples=args.samples,
            batch_size=args.batch_size,
            seed=args.seed,
            threads=args.threads,
        )
    try:
        scores = score_units(clip, batches, method, groups=args.groups)
    except ValueError as error:
        raise UserError(str(error)) from None
    if args.importance is not None:
        save_importance(args.importance, scores, clip, method)
    return scores, method
