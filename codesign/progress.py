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
        losses = self.metrics.get("loss")
        if losses is None:
            told = ""
        elif isinstance(losses, float):
            told = f", loss {losses:.3f}"
        else:
            told = f", loss {min(losses):.3f}..{max(losses):.3f}"
        return f"{self.phase}: {self.step} of {self.end}{told}"


OnProgress: TypeAlias = Callable[[Progress], object]
