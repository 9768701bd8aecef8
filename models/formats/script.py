"""What a TorchScript archive holds beside its tensors: settings of its modules, and its code.

The code is Python text that PyTorch compiles; here it is only searched, see `script_config`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from codesign.models.dialect import LAYER_NORM_EPSILON
from codesign.models.formats.pickles import ScriptModule
from codesign.models.formats.tensor import Tensor

# A module may stand at several places; a file that nests more than this is an attack.
_MOST_MODULES, _DEEPEST = 200_000, 100
_GELU = re.compile(r"torch\.gelu_?\(([^\n]*)")
_SIGMOID = re.compile(r"torch\.sigmoid_?\(")
_QUICK = 1.702  # of x * sigmoid(1.702 x)
_QUICK_LITERAL = re.compile(r"\b1\.7020?\d*\b")
# A call of layer_norm, by another name in scripted code: input, width, weight, bias and, where it
# is not torch's default, epsilon.
_NORM = re.compile(r"\(\w+,\s+\[(\d+)\],\s+\w+,\s+\w+(?:,\s+(\d[\d.e+-]*))?[,)]")

_Plain: TypeAlias = bool | int | float | str | None
Setting: TypeAlias = _Plain | tuple[_Plain, ...]


@dataclasses.dataclass(frozen=True)
class Script:
    """A TorchScript archive.

    Attributes:
      tensors: parameters and buffers by their dotted names.
      settings: plain values, and tuples of them, that its modules keep, by dotted names.
      code: its texts, one after the other.
      constants: shapes of the tensors that stand in the code.
      activations: those of "gelu", "gelu_tanh" and "quick_gelu" that the code computes.
      epsilons: of layer norms in the code, by their width.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Setting]
    code: str = ""
    constants: tuple[tuple[int, ...], ...] = ()
    activations: frozenset[str] = frozenset()
    epsilons: Mapping[int, frozenset[float]] = dataclasses.field(default_factory=dict)

    def setting(self, pattern: str) -> Setting:
        """The first setting whose whole name matches; None also where there is none."""
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
    settings: dict[str, Setting] = {}
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
                settings[name] = tuple(value) if isinstance(value, (list, tuple)) else value
        waiting += reversed(inner)
    text = "\n".join(code)
    held = constants if isinstance(constants, (list, tuple)) else ()
    fixed = [c for c in held if isinstance(c, Tensor)]
    return Script(
        tensors,
        settings,
        text,
        tuple(tuple(c.shape) for c in fixed),
        _activations(text, fixed),
        _epsilons(text),
    )


def _is_setting(value: Any) -> bool:
    several = value if isinstance(value, (list, tuple)) else [value]
    return all(n is None or type(n) in (bool, int, float, str) for n in several)


def _activations(code: str, constants: Iterable[Tensor]) -> frozenset[str]:
    found = {"gelu_tanh" if "tanh" in arguments else "gelu" for arguments in _GELU.findall(code)}
    if _SIGMOID.search(code) and (_QUICK_LITERAL.search(code) or _holds_quick(constants)):
        found.add("quick_gelu")
    return frozenset(found)


def _holds_quick(constants: Iterable[Tensor]) -> bool:
    """Whether 1.702, perhaps in half precision, is among the constants of traced code."""
    scalars = [c for c in constants if np.prod(c.shape, dtype=int) == 1]
    return any(abs(float(np.float64(c.read()).ravel()[0]) - _QUICK) < 0.01 for c in scalars)


def _epsilons(code: str) -> dict[int, frozenset[float]]:
    found: dict[int, set[float]] = {}
    for width, epsilon in _NORM.findall(code):
        try:
            found.setdefault(int(width), set()).add(float(epsilon or LAYER_NORM_EPSILON))
        except ValueError:  # of thousands of digits, or no number at all
            continue
    return {width: frozenset(epsilons) for width, epsilons in found.items()}
