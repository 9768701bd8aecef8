"""What the commands that read a checkpoint share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.compilation_cache import ignore_damage
from codesign.printable import printable

if TYPE_CHECKING:
    from codesign.model_card import Card, Format
    from codesign.models import CLIP


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Options for what a file does not tell."""
    parser.add_argument("--image", type=int, metavar="PIXELS", help="change the image size")
    parser.add_argument(
        "--activation",
        choices=("gelu", "quick_gelu"),
        help="where no config beside the checkpoint tells it",
    )
    parser.add_argument(
        "--head-dim",
        type=int,
        nargs="+",
        metavar="N",
        help="channels of a head (of vision and of text), where no config tells it",
    )
    parser.add_argument(
        "--weights",
        choices=("raw", "averaged"),
        help="of a training checkpoint with both: those of its last step, or their average over "
        "the steps (default)",
    )
    parser.add_argument(
        "--subnet",
        type=int,
        metavar="K",
        help="of a packed family (codesign dress): which subnet, 0 is the densest",
    )


def load(args: argparse.Namespace, path: str, **more: Any) -> CLIP:
    """The checkpoint at `path`, under these options."""
    from codesign.api.networks import load_network

    head_dim = args.head_dim
    if head_dim is not None:
        head_dim = head_dim[0] if len(head_dim) == 1 else tuple(head_dim)
    return load_network(
        path,
        subnet=args.subnet,
        image=args.image,
        activation=args.activation,
        head_dim=head_dim,
        weights=args.weights,
        **more,
    )


def card_beside(source: str) -> Card:
    """What the model card beside a checkpoint tells, and of a hub name that it comes from there."""
    from codesign.model_card import read_card
    from codesign.models.formats.files import hub_repository, locate_side_files

    local = Path(os.path.expanduser(source))
    card = read_card(locate_side_files(source))
    repository = None if local.exists() else hub_repository(source)
    if repository is None:
        return card
    name, revision = repository
    at = f" at revision {revision}" if revision is not None else ""
    card = dataclasses.replace(card, header=dict(card.header) | {"base_model": name})
    return card.adding("Training", f"From `{name}`{at} of the HuggingFace hub.")


def write_network_card(out: str, format: Format, clip: CLIP, card: Card) -> None:
    """The model card of a CLIP that was written to the folder `out`; beside a single file none."""
    from codesign.model_card import network_card, write_card
    from codesign.models.formats.assemble import parameter_count

    place = Path(os.path.expanduser(out))
    if not place.is_dir():
        return
    a, dialect = clip.architecture, clip.dialect
    uniform = all(
        not told.ragged and tower.heads * (told.head_dim or a.head_dim) == tower.width
        for tower, told in ((a.vision, dialect.vision), (a.text, dialect.text))
    )
    count = parameter_count(clip)
    dimensions = dataclasses.asdict(a) | {"dialect": dataclasses.asdict(dialect)}
    write_card(place, network_card(card, format, dimensions, parameters=count, uniform=uniform))


@contextlib.contextmanager
def notes_to_stderr() -> Iterator[list[str]]:
    """What had to be assumed goes to stderr, a line each, and into the list."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        ignore_damage()
        yield told
    told += [str(note.message) for note in notes if note.category is UserWarning]
    for note in told:
        print(f"codesign: {printable(note)}", file=sys.stderr)
