"""Numbers of a Technology or a Traffic by flat names, such as "glb_read_pj"."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from codesign.cost.memories import LEVELS
from codesign.cost.technology import Technology
from codesign.cost.traffic import Traffic

_NAME = re.compile(rf"({'|'.join(LEVELS)})_(read_pj|write_pj|pj|words_per_cycle)")


def event(tech: Technology, name: str) -> Any:
    """The number; what DRAM reads cost stands for "dram_pj"."""
    found = _NAME.fullmatch(name)
    if found is None:
        return getattr(tech, name)
    level, way = found.groups()
    return getattr(tech, "read_pj" if way == "pj" else way)[level]


def with_events(tech: Technology, **values: Any) -> Technology:
    """The technology with other numbers."""
    for name, value in values.items():
        found = _NAME.fullmatch(name)
        if found is None:
            tech = dataclasses.replace(tech, **{name: value})
            continue
        level, way = found.groups()
        for field in ("read_pj", "write_pj") if way == "pj" else (way,):
            tech = dataclasses.replace(tech, **{field: getattr(tech, field) | {level: value}})
    return tech


def technology_of(**values: Any) -> Technology:
    """A technology of flat names."""
    empty = Technology(None, None, {}, {}, {}, None)
    return with_events(empty, **values)


def flat(traffic: Traffic) -> dict[str, Any]:
    """Numbers of a Traffic by flat names, such as "glb_read"."""
    moved = {
        f"{level}_{way}": words
        for way in ("read", "write")
        for level, words in getattr(traffic, way).items()
    }
    rest = {"register_fills": traffic.register_fills, "compute_cycles": traffic.compute_cycles}
    return moved | rest


def traffic_of_flat(values: dict[str, Any]) -> Traffic:
    """The Traffic of such numbers."""
    read, write = (
        {level: values[f"{level}_{way}"] for level in LEVELS[1:]} for way in ("read", "write")
    )
    return Traffic(read, write, values["register_fills"], values["compute_cycles"])
