"""The state dicts in what a training program saved, wherever in it they are.

PyTorch's programs put weights under "state_dict", "model", "module", "model_ema" and many more
names, beside an optimizer's state. So every dict with tensors in it counts, by its path, but
those under names that tell of no weights; lists are looked into as well.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from pathlib import Path
from typing import Any

from codesign.errors import UserError
from codesign.models.formats.pickles import Inert
from codesign.models.formats.tensor import Tensor

# Gradients and moments may be kept by the weights' own names.
_NO_WEIGHTS = re.compile(
    r"optim(?!i[sz]ed|al)|sched|scaler|exp_avg|momentum|moment$|(^|_)(grad|gradients?|rng|loss)(_|$)"
)
# State dicts are near the root; a file that nests without end is not followed.
_DEEPEST, _MOST_NODES = 8, 100_000
_NODES = (dict, list, tuple)
_SHOWN = 5
_USUAL = ("model", "module", "state_dict", "net", "network", "clip", "ema", "model_ema")


@dataclasses.dataclass(frozen=True)
class SavedTensors:
    """The tensors of a saved object by their place there, such as "model_ema"; "" is the whole.

    Attributes:
      dicts: those that have names.
      lists: those that have none, as some averages over the steps of a training are kept.
    """

    dicts: dict[str, dict[str, Tensor]]
    lists: dict[str, list[Tensor]]


def state_dicts(saved: Any, path: Path) -> SavedTensors:
    """Every dict and list of tensors.

    Args:
      saved: as `read_torch` gives it.
      path: the file, for messages.

    Raises:
      UserError: there is no dict of tensors.
    """
    found = SavedTensors({}, {})
    waiting: collections.deque[tuple[tuple[str, ...], Any]] = collections.deque([((), saved)])
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_NODES:
        keys, node = waiting.popleft()
        if not isinstance(node, _NODES) or id(node) in seen or len(keys) > _DEEPEST:
            continue
        seen.add(id(node))
        # By dict's own method, since a pickle can give an OrderedDict attributes.
        items = list(dict.items(node) if isinstance(node, dict) else enumerate(node))
        tensors = {k: v.renamed(k) for k, v in items if isinstance(v, Tensor) and type(k) is str}
        unnamed = [v for k, v in items if isinstance(v, Tensor) and type(k) is not str]
        place = ".".join(keys)
        if tensors:
            found.dicts[place] = tensors
        if unnamed:
            found.lists[place] = unnamed
        named = isinstance(node, dict)
        waiting += [
            ((*keys, str(key)), v)
            for key, v in items
            if isinstance(v, _NODES)
            and (not named or (type(key) is str and not _NO_WEIGHTS.search(key.lower())))
        ]
    if not found.dicts:
        raise UserError(f"{path} {_instead(saved)}")
    return found


def _instead(saved: Any) -> str:
    """What a file without a state dict holds."""
    if isinstance(saved, type):
        return "holds a class, not a state dict"
    if isinstance(saved, Inert) and not saved:
        return (
            f"holds a whole object ('{saved.named}'), not a state dict; save its state_dict() alone"
        )
    if isinstance(saved, dict):
        for key, value in dict.items(saved):
            if isinstance(value, Inert) and not value and key in _USUAL:
                return (
                    f"holds a whole object ('{value.named}') under '{key}', not a state dict; "
                    "save its state_dict() alone"
                )
        keys = [key[:100] for key in dict.keys(saved) if isinstance(key, str)][:_SHOWN]
        return f"holds no state dict: its entries are {', '.join(keys) or 'none'}"
    return f"holds a {type(saved).__name__}, not a state dict"
