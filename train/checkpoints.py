"""Orbax checkpoints of a run, and of the networks it delivers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from codesign.errors import RunError

KEPT = 2


def plain(tree: Any) -> list[np.ndarray]:
    """The leaves of a pytree as host arrays, in order.

    A state is stored as its leaves: its structure is code's to know, and changes of a
    library's classes do not make old checkpoints unreadable.
    """
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def refill(tree: Any, leaves: list[Any]) -> Any:
    """The pytree with its leaves replaced; the reverse of `plain`.

    Raises:
      RunError: leaves of another number or shape.
    """
    old, structure = jax.tree.flatten(tree)
    same = len(old) == len(leaves) and all(
        np.shape(a) == np.shape(b) for a, b in zip(old, leaves, strict=True)
    )
    if not same:
        raise RunError("the checkpoint is of another network; use another --out")
    return jax.tree.unflatten(structure, leaves)


@dataclasses.dataclass(frozen=True)
class Saved:
    """A restored checkpoint: steps taken, the phase they were in, its leaves, and notes."""

    step: int
    phase: str
    leaves: list[Any]
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run folder; a context manager that waits for pending writes."""

    def __init__(self, folder: Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT)
        self._manager = ocp.CheckpointManager(folder / "steps", options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, step: int, phase: str, state: Any, notes: dict[str, Any]) -> None:
        """Writes aside and renames, in the background."""
        leaves = {str(i): leaf for i, leaf in enumerate(plain(state))}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(leaves),
                meta=ocp.args.JsonSave({"phase": phase, "notes": notes}),
            ),
        )

    def latest(self) -> Saved | None:
        """The newest complete checkpoint; None where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore()),
        )
        leaves = [restored.state[str(i)] for i in range(len(restored.state))]
        return Saved(step, restored.meta["phase"], leaves, restored.meta["notes"])
