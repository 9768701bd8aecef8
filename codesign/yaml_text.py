"""YAML of configs, read and written as plain values: one meaning for every text.

Of YAML 1.2's core, so that 1e-3 is a number and "no", a date or 1:30 are text. Anchors are refused:
a file of a few of them stands for any number of values.
"""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar

import yaml

from codesign.errors import UserError
from codesign.openers import read_bounded
from codesign.printable import short_repr

_MOST_BYTES = 2**20
_PLAIN = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", [*"-+0123456789"]),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?",
        [*"-+.0123456789"],
    ),
}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Without anchors, and with each key once."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="an alias; write its value out", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for name, _ in node.value:
            key = self.construct_object(name, deep=True)
            if not isinstance(key, str):
                problem = f"the key {short_repr(key)} is no text"
            elif key in seen:
                problem = f"{short_repr(key)} is there twice; give it once"
            else:
                seen.add(key)
                continue
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=name.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes what the loader would take for something else than text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (_Loader, _Dumper):
    for _tag, (_pattern, _first) in _PLAIN.items():
        _kind.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)
_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", items, flow_style=not any(isinstance(x, dict) for x in items)
    ),
)
_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node))
)
_Loader.add_constructor(
    "tag:yaml.org,2002:float", lambda loader, node: float(loader.construct_scalar(node))
)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The values of a YAML file.

    Raises:
      UserError: one line: it is missing, too large, not YAML, or has a key twice or an alias.
    """
    try:
        return yaml.load(read_bounded(path, _MOST_BYTES, "a config"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f" at line {mark.line + 1} column {mark.column + 1}"
        raise UserError(f"{path} is no YAML: {error.problem}{place}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no YAML: {why}") from error


def yaml_text(values: Any) -> str:
    """Plain values as YAML: a line for each that has a name."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
