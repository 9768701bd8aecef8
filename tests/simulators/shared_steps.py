"""Runs of one process that trace and compile their steps once for all of an equal config."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from codesign.train import run


@contextlib.contextmanager
def shared_steps() -> Iterator[None]:
    """A context in which runs of an equal config have one trainer of each kind.

    A trainer is static under jit and hashed by identity, so each run's own, though it says the
    same, would compile every step once more.
    """
    opened = run.subject_of
    asked: list[str] = []
    trainers: dict[Any, Any] = {}

    def subject_of(config: run.Config, *rest: Any) -> Any:
        asked[:] = [repr(dataclasses.replace(config, stall_s=None))]
        return opened(config, *rest)

    def kept(kind: type) -> Any:
        def trainer(*fields: Any, **more: Any) -> Any:
            return trainers.setdefault((kind, *asked), kind(*fields, **more))

        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "subject_of", subject_of)
        for kind in (run.Trainer, run.SubnetTrainer):
            patch.setattr(run, kind.__name__, kept(kind))
        yield
