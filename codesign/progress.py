"""What is told of work under way to whoever asked to hear of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is. `print` takes it as it is.

    Attributes:
      phase: of the run, "joint"; "evaluating" and the like of a single job.
      step: steps of the phase that are done, or pictures.
      end: how many there are.
      metrics: the newest line of metrics.jsonl; empty where there is none.
    """

    phase: str
    step: int
    end: int
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        told = f", {losses_text(self.metrics['loss'])}" if "loss" in self.metrics else ""
        return f"{self.phase}: {self.step} of {self.end}{told}"


def losses_text(losses: Any) -> str:
    """The loss of one network, or the range of several; None is one that is not finite."""
    if isinstance(losses, float):
        return f"loss {losses:.3f}"
    finite = [loss for loss in losses or () if loss is not None]
    return f"loss {min(finite):.3f}..{max(finite):.3f}" if finite else "loss not finite"


OnProgress: TypeAlias = Callable[[Progress], object]
