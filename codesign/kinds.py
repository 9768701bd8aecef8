"""The kinds of runs: the config, command, runner and report of each, in one table.

Classes and functions stand here by name: to import them all would take seconds.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.json_text import read_json

_CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of run.

    Attributes:
      name: as config.json has it.
      command: that runs it.
      config: its class.
      run: the function that trains it: (config, folder, console, check=, on_progress=,
        loggers=, profile=) -> its results; "": no training, the command itself does what there is
        to do.
      report: the function that writes the report of a run's folder.
      a_run: what such a run is called; runs of one name can be compared.
    """

    name: str
    command: str
    config: str
    run: str
    report: str
    a_run: str

    def config_class(self) -> Any:
        """`config`, imported."""
        return _imported(self.config)

    def runner(self) -> Any:
        """`run`, imported."""
        return _imported(self.run)

    def reporter(self) -> Any:
        """`report`, imported."""
        return _imported(self.report)


_TRAINING = "codesign.train.run.run_training", "codesign.report.finetune.write_report"
SEARCH = Kind(
    "search",
    "search",
    "codesign.train.config.SearchConfig",
    "codesign.train.search.run.run_search",
    "codesign.report.html.write_report",
    "a search",
)
HARDWARE = Kind(
    "hardware",
    "search",
    "codesign.search.hardware.HardwareConfig",
    "",
    SEARCH.report,
    SEARCH.a_run,
)
ABLATION = Kind(
    "ablation",
    "ablate",
    "codesign.surrogate.config.AblationConfig",
    "",
    "codesign.report.ablation.write_report",
    "an ablation",
)
EFFECTS = Kind(
    "effects",
    "ablate",
    "codesign.search.effects.EffectsConfig",
    "",
    "codesign.report.effects.write_report",
    "an ablation of effects",
)
STUDY = Kind(
    "study",
    "study",
    "codesign.study.config.PaperConfig",
    "",
    "codesign.report.paper.write_report",
    "a study of a paper",
)
COMPARISON = Kind(
    "comparison",
    "compare",
    "codesign.train.search.compare_config.CompareConfig",
    "codesign.train.search.compare.run_compare",
    "codesign.report.compare.write_report",
    "a comparison",
)
FINETUNE = Kind(
    "finetune",
    "finetune",
    "codesign.train.finetune.config.FinetuneConfig",
    *_TRAINING,
    "a fine-tuning",
)
DRESS = Kind(
    "dress", "dress", "codesign.train.dress.config.DressConfig", *_TRAINING, FINETUNE.a_run
)
CLASSIFIER_DRESS = Kind(
    "classifier-dress",
    "dress",
    "codesign.train.dress.classifier_config.ClassifierDressConfig",
    *_TRAINING,
    FINETUNE.a_run,
)
KINDS = (
    SEARCH,
    HARDWARE,
    ABLATION,
    EFFECTS,
    STUDY,
    COMPARISON,
    FINETUNE,
    DRESS,
    CLASSIFIER_DRESS,
)


def kind_of(config: type) -> Kind | None:
    """The kind with a config of this class, or of one that it derives from."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in config.__mro__)
    by_config = {kind.config: kind for kind in KINDS}
    return next((by_config[name] for name in names if name in by_config), None)


def kind_of_run(folder: str | os.PathLike[str]) -> Kind:
    """The kind of the run that a folder holds, which also may have no config or a damaged one.

    Runs of before had no "kind" in their config.json; they are told by what is in it.
    """
    path = Path(folder) / _CONFIG
    record = read_json(path) if path.is_file() else None
    record = record if isinstance(record, Mapping) else {}
    named = next((kind for kind in KINDS if kind.name == record.get("kind")), None)
    return named or _kind_of_old_run(Path(folder), record.get("config"))


def _kind_of_old_run(folder: Path, config: Any) -> Kind:
    if (folder / "ablation.json").is_file():
        return ABLATION
    if not isinstance(config, Mapping):
        return SEARCH
    if {"train", "optim", "subnets", "network"} <= config.keys():
        return CLASSIFIER_DRESS
    if {"train", "optim", "loss"} <= config.keys():
        return DRESS if "subnets" in config else FINETUNE
    return HARDWARE if "model" in config and "optim" not in config else SEARCH


def _imported(name: str) -> Any:
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module), function)
