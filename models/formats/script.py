"""What a TorchScript archive tells beside its tensors: settings of its modules, and its code.

The code is Python text that PyTorch compiles; here it is only searched for the activation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from codesign.models.formats.pickles import ScriptModule
from codesign.models.formats.tensor import Tensor

# A module may stand at several places; a file that nests more than this is an attack.
_MOST_MODULES, _DEEPEST = 200_000, 100
_GELU = re.compile(r"torch\.gelu_?\(([^\n]*)")
_SIGMOID = re.compile(r"torch\.sigmoid_?\(")
_QUICK = 1.702  # of x * sigmoid(1.702 x)
_QUICK_LITERAL = re.compile(r"\b1\.7020?\d*\b")


@dataclasses.dataclass(frozen=True)
class Script:
    """A TorchScript archive.

    Attributes:
      tensors: parameters and buffers by their dotted names.
      settings: whole numbers, and tuples of them, that its modules keep, by dotted names.
      activation: "gelu", "gelu_tanh" or "quick_gelu", where its code computes that alone.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, int | tuple[int, ...]]
    activation: str | None

    def setting(self, pattern: str) -> int | tuple[int, ...] | None:
        """The first setting whose whole name matches."""
        return next((v for name, v in self.settings.items() if re.fullmatch(pattern, name)), None)


def read_script(root: ScriptModule, code: Iterable[str], constants: Any) -> Script:
    """Collects what a tree of modules holds.

    Args:
      root: the module.
      code: texts of the archive.
      constants: what the code calls CONSTANTS.

    Raises:
      ValueError: modules without end.
    """
    tensors: dict[str, Tensor] = {}
    settings: dict[str, int | tuple[int, ...]] = {}
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    visited = 0
    while waiting:
        prefix, node, depth = waiting.pop()
        children = vars(node) if isinstance(node, ScriptModule) else node
        visited += 1
        if visited > _MOST_MODULES or depth > _DEEPEST:
            raise ValueError("its modules are nested without end")
        inner = []
        for key, value in children.items():
            name = f"{prefix}{key}"
            if isinstance(value, Tensor):
                tensors[name] = value.renamed(name)
            elif isinstance(value, (ScriptModule, dict)):
                inner.append((f"{name}.", value, depth + 1))
            elif _is_setting(value):
                settings[name] = value if isinstance(value, int) else tuple(value)
        waiting += reversed(inner)
    return Script(tensors, settings, _activation("\n".join(code), constants))


def _is_setting(value: Any) -> bool:
    several = value if isinstance(value, (list, tuple)) else [value]
    return all(type(n) is int for n in several)


def _activation(code: str, constants: Any) -> str | None:
    found = {"gelu_tanh" if "tanh" in arguments else "gelu" for arguments in _GELU.findall(code)}
    if _SIGMOID.search(code) and (_QUICK_LITERAL.search(code) or _holds_quick(constants)):
        found.add("quick_gelu")
    return found.pop() if len(found) == 1 else None


def _holds_quick(constants: Any) -> bool:
    """Whether 1.702, perhaps in half precision, is among the constants of traced code."""
    scalars = [
        c
        for c in (constants if isinstance(constants, (list, tuple)) else ())
        if isinstance(c, Tensor) and np.prod(c.shape, dtype=int) == 1
    ]
    return any(abs(float(np.float64(c.read()).ravel()[0]) - _QUICK) < 0.01 for c in scalars)
