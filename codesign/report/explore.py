"""What a report's script reads: designs, curves and breakdowns of runs as one JSON value.

Pure functions of what a run folder holds. Every quantity has one unit for a whole page, which the
axes, the table and the tooltips share; names are made printable here and are text to the script.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from codesign.printable import printable
from codesign.quantities import fixed_unit_of, unit_of, words_of
from codesign.report import entries
from codesign.report.text import MISSING, is_number, prefixed, significant

if TYPE_CHECKING:  # it starts JAX
    from codesign.report.operators import Split

Row = Mapping[str, Any]
# What is larger is no quantity of this field, and axes overflow on their way to it.
_LARGEST = 1e30
# Points of a curve: more are not told apart on a screen.
_MOST_POINTS = 150
# Shares: label, name of their standard error, whether more is better.
_SHARES = {
    "accuracy": ("accuracy", "accuracy_standard_error", True),
    "recall_at_1": ("recall@1", "recall_at_1_standard_error", True),
    "density": ("weights kept", "", False),
}
# What goes across at first, where the run has it.
_ACROSS = ("carbon_kgco2e", "macs", "density")
_ORDER = (
    "latency_s",
    "energy_j",
    "area_mm2",
    "carbon_kgco2e",
    "operational_kgco2e",
    "embodied_kgco2e",
    "tops",
    "dram_gb",
    "macs",
)


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One number of every design, in the unit that a page shows it in.

    Attributes:
      key: its name in files.
      label: in words, without the unit.
      unit: as shown, "ms"; "" where it has none.
      factor: times a file's number gives the unit's.
      more: whether more of it is better.
      of: the file's number of an entry; None where it is not known.
      error: its standard error, likewise.
    """

    key: str
    label: str
    unit: str
    factor: Decimal
    more: bool
    of: Callable[[Row], float | None]
    error: Callable[[Row], float | None]

    @property
    def heading(self) -> str:
        """Label and unit, as axes and tables have it: "latency, ms"."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def value(self, design: Row) -> float | None:
        """The number in the unit; None where there is none that can be drawn."""
        return _scaled(self.of(design), self.factor)

    def spread(self, design: Row) -> float | None:
        """The standard error in the unit."""
        return _scaled(self.error(design), self.factor)

    def text(self, design: Row) -> str:
        """The number as a table shows it: "1.23", "68.0 ± 1.5"."""
        value, error = self.of(design), self.error(design)
        if not is_number(value):
            return MISSING
        shown = self._digits(value)
        return shown if not is_number(error) else f"{shown} ± {self._digits(error)}"

    def _digits(self, value: float) -> str:
        number = Decimal(value) * self.factor
        if self.unit == "%" and abs(number) < 10**7:
            return f"{number:.1f}"
        return significant(number, 3)


def _scaled(value: float | None, factor: Decimal) -> float | None:
    if not is_number(value) or not abs(Decimal(value) * factor) <= _LARGEST:
        return None
    return float(f"{Decimal(value) * factor:.6g}")


def quantities(designs: Iterable[Row]) -> list[Quantity]:
    """What at least one of the designs has a number of, accuracies first."""
    designs = list(designs)
    costs = [d["costs"] for d in designs if isinstance(d.get("costs"), Mapping)]
    keys = dict.fromkeys(key for each in costs for key in each)
    known = [key for key in _ORDER if key in keys]
    known += [key for key in keys if key not in _ORDER and unit_of(key)]
    found = [
        Quantity(key, words, "%", Decimal(100), more, _own(key), _own(error))
        for key, (words, error, more) in _SHARES.items()
        if any(entries.number(design, key) is not None for design in designs)
    ]
    for key in known:
        values = [v for d in designs if (v := entries.cost(d, key)) is not None]
        if values:
            unit, factor = _unit(key, values)
            label = printable(words_of(key))
            found.append(
                Quantity(key, label, unit, factor, key == "tops", _cost(key), lambda _: None)
            )
    return found


def _own(key: str) -> Callable[[Row], float | None]:
    return lambda design: entries.number(design, key)


def _cost(key: str) -> Callable[[Row], float | None]:
    return lambda design: entries.cost(design, key)


def _unit(key: str, values: Sequence[float]) -> tuple[str, Decimal]:
    """The prefix that suits the middle one of the values, and the factor that goes with it."""
    fixed = fixed_unit_of(key)
    if fixed is not None:
        return fixed, Decimal(1)
    middle = sorted(map(abs, values))[len(values) // 2]
    return prefixed(middle, "MAC" if key == "macs" else unit_of(key) or "")


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One choice of the design space.

    Attributes:
      path: where it stands in an entry, ("architecture", "vision", "layers").
      label: in words.
    """

    path: tuple[str, ...]
    label: str

    def value(self, design: Row) -> float | None:
        """Its number in a design."""
        part: Any = design
        for key in self.path:
            part = part.get(key) if isinstance(part, Mapping) else None
        return _scaled(part, Decimal(1)) if is_number(part) else None


def dimensions(designs: Sequence[Row]) -> list[Dimension]:
    """The dimensions that two of the designs differ in."""
    paths: dict[tuple[str, ...], None] = {}
    for design in designs:
        for group in ("architecture", "accelerator"):
            paths |= dict.fromkeys(_paths(design.get(group), (group,)))
    found = [Dimension(path, _dimension_words(path)) for path in paths]
    return [d for d in found if len({d.value(x) for x in designs} - {None}) > 1]


def _paths(part: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if isinstance(part, Mapping) and len(path) < 4:
        return [p for key, value in part.items() for p in _paths(value, (*path, str(key)))]
    # A group that is a number itself is no group.
    return [path] if is_number(part) and len(path) > 1 else []


_DIMENSION_WORDS = {
    "pe_x": "PEs across",
    "pe_y": "PEs down",
    "l2_kib": "L2, KiB",
    "l2_bytes_per_cycle": "L2, B/cycle",
    "glb_mib": "GLB, MiB",
    "channels": "DRAM channels",
    "ffn": "FFN units",
}


def _dimension_words(path: tuple[str, ...]) -> str:
    *above, key = path[1:]
    last = _DIMENSION_WORDS.get(key, printable(key).replace("_", " "))
    return " ".join([*map(printable, above), last])


def group_of(design: Row) -> str:
    """What kind of design it is, for the legend: "found", "reference", "best", "front"."""
    role = design.get("role")
    if role is not None:
        return printable(role)
    name = str(design.get("name", ""))
    return {"least": "best", "front": "front"}.get(name.partition("-")[0], "found")


def island(
    runs: Mapping[str, Sequence[Row]],
    curves: Sequence[Row] = (),
    splits: Sequence[Split | None] = (),
) -> dict[str, Any]:
    """What the page's script reads.

    Args:
      runs: entries of designs.json by the run's name; one run or several.
      curves: of `curves` and others.
      splits: of all designs one after the other, where they are known.

    Returns:
      Plain JSON values: "axes", "dimensions", "runs", "designs" with "values" of the axes,
      "errors" of them, and "dimensions", in their order; "breakdowns"; "curves".
    """
    designs = [design for each in runs.values() for design in each]
    of_run = [i for i, each in enumerate(runs.values()) for _ in each]
    axes, dims = quantities(designs), dimensions(designs)
    known = {axis.key for axis in axes}
    y = "accuracy" if "accuracy" in known else "carbon_kgco2e"
    x = next((key for key in _ACROSS if key in known and key != y), "latency_s")
    return {
        "runs": [printable(name) for name in runs],
        "axes": [
            {"key": printable(a.key), "label": a.label, "unit": a.unit, "more": a.more}
            for a in axes
        ],
        "x": x,
        "y": y,
        "dimensions": [d.label for d in dims],
        "designs": [
            {
                "name": printable(design.get("name", MISSING)),
                "run": run,
                "group": group_of(design),
                "feasible": design.get("feasible") is not False,
                "values": [axis.value(design) for axis in axes],
                "errors": [axis.spread(design) for axis in axes],
                "dimensions": [d.value(design) for d in dims],
            }
            for run, design in zip(of_run, designs, strict=True)
        ],
        "breakdowns": breakdowns(designs, splits),
        "curves": list(curves),
    }


_FIELDS = {
    "carbon_kgco2e": "carbon",
    "energy_j": "energy",
    "latency_s": "latency",
    "area_mm2": "area",
    "embodied_kgco2e": "embodied carbon",
}


def breakdowns(designs: Sequence[Row], splits: Sequence[Split | None] = ()) -> list[dict[str, Any]]:
    """Costs of each design by part and by operator.

    Args:
      designs: entries of designs.json.
      splits: of each of them; none are known where it is empty.

    Returns:
      {"label", "unit", "parts": names, "values": a list a design, None where not known}, of each
      breakdown that a design has. Each adds up to the design's cost.
    """
    splits = list(splits) or [None] * len(designs)
    pairs = list(zip(designs, splits, strict=True))
    by_part = {key: [_parts(d, s, key) for d, s in pairs] for key in _FIELDS}
    by_operator = {key: [_operators(d, s, key) for d, s in pairs] for key in tuple(_FIELDS)[:3]}
    made = [
        _breakdown(f"{_FIELDS[key]} by {way}", key, columns)
        for key in _FIELDS
        for way, of in (("part", by_part), ("operator", by_operator))
        if any(columns := of.get(key, []))
    ]
    return made


def _parts(design: Row, split: Split | None, key: str) -> dict[str, float]:
    """By part, as the run wrote it down, else as it was priced again."""
    if key == "carbon_kgco2e":
        return _carbon(design, _parts(design, split, "energy_j"), "in use: ") | {
            f"embodied: {part}": kg for part, kg in _parts(design, split, "embodied_kgco2e").items()
        }
    costs = design.get("costs")
    written = costs.get("breakdown") if isinstance(costs, Mapping) else None
    own = written.get(key) if isinstance(written, Mapping) else None
    if not isinstance(own, Mapping):
        own = split.parts.get(key, {}) if split else {}
    return {printable(part): float(value) for part, value in own.items() if is_number(value)}


def _operators(design: Row, split: Split | None, key: str) -> dict[str, float]:
    """By operator, and what belongs to none."""
    if split is None:
        return {}
    if key == "carbon_kgco2e":
        embodied = entries.cost(design, "embodied_kgco2e")
        used = _carbon(design, _operators(design, split, "energy_j"), "")
        return used if embodied is None else used | {"embodied": embodied}
    own = split.operators[key]
    if key == "latency_s":
        return own
    rest = (entries.cost(design, key) or 0.0) - sum(own.values())
    return own | {"between inferences, and refresh": max(rest, 0.0)}


def _carbon(design: Row, energy: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Carbon in use, which is energy's times a constant."""
    kg, total = entries.cost(design, "operational_kgco2e"), sum(energy.values())
    if kg is None or not total:
        return {}
    return {prefix + part: kg * (joules / total) for part, joules in energy.items()}


def _breakdown(label: str, key: str, columns: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    parts = list(dict.fromkeys(part for column in columns for part in column))
    totals = [sum(column.values()) for column in columns if column]
    unit, factor = prefixed(sorted(map(abs, totals))[len(totals) // 2], unit_of(key) or "")
    return {
        "label": label,
        "unit": unit,
        "parts": [part.replace("_", " ") for part in parts],
        "values": [
            [_rounded(_scaled(column.get(part, 0.0), factor)) for part in parts] if column else None
            for column in columns
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def curves(
    metrics: Sequence[Row], names: Sequence[str] = (), fixed: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Losses and costs of each network over the steps, and each relaxed dimension of a search.

    Args:
      metrics: rows of metrics.jsonl.
      names: of the searched designs, whose losses come last.
      fixed: of the networks that are not searched, whose losses come first.

    Returns:
      {"label", "unit", "series": [{"name", "points": [[step, value], ...]}], "phases":
      [[first step, name], ...]}, thinned out to `_MOST_POINTS` a series.
    """
    rows = [row for row in metrics if is_number(row.get("step")) and abs(row["step"]) < _LARGEST]
    keys = dict.fromkeys(str(key) for row in rows for key in row)
    losses = [key for key in keys if key == "loss" or key.endswith("_loss")]
    # What all phases have comes before what one has, their sum before its terms.
    losses.sort(key=lambda key: (-sum(key in row for row in rows), key != "loss"))
    costs = [key for key in keys if unit_of(key)]
    found = [_curve(key, [(r["step"], r.get(key)) for r in rows], names, fixed) for key in losses]
    found += [_curve(key, [(r["step"], r.get(key)) for r in rows], names, ()) for key in costs]
    relaxed = [row for row in rows if isinstance(row.get("relaxed"), Mapping)]
    for key in dict.fromkeys(str(key) for row in relaxed for key in row["relaxed"]):
        line = [(row["step"], row["relaxed"].get(key)) for row in relaxed]
        found.append(_curve(key, line, names, ()))
    phases: list[list[Any]] = []
    for row in rows:
        phase = printable(row.get("phase") or "")
        if phase not in ("", "validation") and (not phases or phases[-1][1] != phase):
            phases.append([row["step"], phase])
    return [curve | {"phases": phases} for curve in found if _varies(curve)]


def _varies(curve: Row) -> bool:
    return len({value for line in curve["series"] for _, value in line["points"]}) > 1


def _curve(
    key: str, values: Sequence[tuple[int, Any]], names: Sequence[str], fixed: Sequence[str]
) -> dict[str, Any]:
    """One number of each network over the steps, in the unit that suits it."""
    lists = [(step, v if isinstance(v, list) else [v]) for step, v in values if v is not None]
    count = max((len(v) for _, v in lists), default=0)
    known = next((n for n in ([*fixed, *names], names) if len(n) == count), None)
    known = known or ["network"] * (count == 1) or [f"network {i}" for i in range(count)]
    # A phase that trains one network for all designs has one loss.
    shared = [(step, v[0]) for step, v in lists if len(v) == 1 < count]
    own = [(step, v) for step, v in lists if len(v) > 1 or count == 1]
    lines = [("all networks", shared)] + [
        (name, [(step, v[i]) for step, v in own if i < len(v)]) for i, name in enumerate(known)
    ]
    every = [abs(v) for _, line in lines for _, v in line if is_number(v)]
    unit, factor = "", Decimal(1)
    if every and unit_of(key):
        unit, factor = prefixed(sorted(every)[len(every) // 2], unit_of(key) or "")
    words = words_of(key) if unit_of(key) else key
    return {
        "label": printable(words).replace(".", " ").replace("_", " "),
        "unit": unit,
        "series": [
            {"name": printable(name), "points": points}
            for name, line in lines
            if (points := _thinned(line, factor))
        ],
    }


def _thinned(line: Sequence[tuple[int, Any]], factor: Decimal) -> list[list[float]]:
    """Evenly spaced ones of the points that can be drawn, the last one included."""
    points = [[s, y] for s, v in line if is_number(v) and (y := _scaled(v, factor)) is not None]
    every = -(-len(points) // _MOST_POINTS) or 1
    return points[::-1][::every][::-1]


def json_island(value: Any) -> str:
    """JSON that may stand in a script element: no text in it can end that, or begin another."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
