"""Weights & Biases, by its own client, with its own settings and credentials."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import wandb

from codesign.errors import UserError
from codesign.train.loggers import Logged, error_line

# Where runs go unless WANDB_PROJECT says otherwise.
PROJECT = "codesign"


class WandB:
    """One run there; a context manager. Steps that it has already it passes over by itself."""

    errors: tuple[type[Exception], ...] = (wandb.Error,)

    def __init__(self, run: Any) -> None:
        self._run = run

    @property
    def id(self) -> str:
        """What the service calls the run."""
        return str(self._run.id)

    def __enter__(self) -> WandB:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)

    def flush(self) -> None:
        """Nothing: a process of its own has what was written."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""
        self._run.log(dict(numbers), step=step)


def open_logger(run: Logged) -> WandB:
    """A new run, or the one of before.

    Raises:
      UserError: no credentials, or no network.
    """
    project = None if os.environ.get("WANDB_PROJECT") else PROJECT
    try:
        started = wandb.init(
            project=project,
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
        )
    except wandb.Error as error:
        raise UserError(
            f"--loggers wandb: {error_line(error)}; WANDB_MODE=offline keeps the run in its folder"
        ) from None
    return WandB(started)
