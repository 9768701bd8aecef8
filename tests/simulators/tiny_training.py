"""What tests of whole trainings share: a network that takes seconds, its data, and how to run."""

from pathlib import Path
from typing import Any

from rich.console import Console

from codesign.architecture import Architecture, Tower
from codesign.overrides import config_to_json
from codesign.runs import RunFolder
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.run import run_training

NETWORK = Architecture(
    vision=Tower(layers=2, width=16, heads=2, ffn=32),
    text=Tower(layers=1, width=16, heads=2, ffn=32),
    patch=4,
    image=8,
    channels=1,
    context=12,
    projection=16,
    head_dim=8,
)
DIGITS = SourceConfig(path="digits")
HELD_OUT = SourceConfig(path="digits", split="validation", limit=60)
SHIFTED = AugmentConfig(crop_scale=(1.0, 1.0), shift=1)
QUIET = Console(quiet=True)


def run(
    config: Any,
    path: Path,
    resume: bool = False,
    check: bool | None = False,
    console: Console = QUIET,
) -> dict[str, Any]:
    """A training, or the rest of one, in the folder; what its summary holds."""
    folder = RunFolder.create(path, config_to_json(config), resume=resume)
    return run_training(config, folder, console, check=check)
