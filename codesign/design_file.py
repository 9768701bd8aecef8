"""Design files: one design as JSON, checked field by field on the way in.

The same object is an entry of a run's designs.json; what a run measured on it (costs,
accuracy, ...) is passed over on reading, so that a found design can be priced again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from codesign.accelerator import Accelerator
from codesign.architecture import ELASTIC, TOWERS, Architecture, Tower, clip_vit_b16
from codesign.cost import tables
from codesign.cost.technology import PRECISIONS_BITS
from codesign.costing import NAMES as COSTINGS
from codesign.costing import PHYSICAL, conventional
from codesign.errors import UserError, did_you_mean
from codesign.runs import jsonable
from codesign.scenario import Scenario

ACTIVATIONS = ("gelu", "quick_gelu")
# Every accelerator parameter is a power of two within these bounds: past them the cost
# tables are extrapolated, not measured.
ACCELERATOR_BOUNDS: dict[str, tuple[float, float]] = {
    "cores": (1, 16),
    "pe_x": (1, 1024),
    "pe_y": (1, 1024),
    "l2_kib": (1, 4096),
    "l2_words_per_cycle": (1, 512),
    "glb_mib": (1 / 64, 64),
}
# What a run adds to a design; see report/.
RESULT_KEYS = frozenset((
    "costs", "accuracy", "recall_at_1", "feasible", "pareto", "role", "target_carbon_kgco2e",
    "limits", "limit_violation", "subnets", "seed", "costing",
))  # fmt: skip
_INPUT_KEYS = ("name", "architecture", "accelerator", "scenario", "sparsity")
_MOST_INDEX_BITS = 32
# Larger than any real dimension, small enough that no product overflows.
_LARGEST_DIMENSION = 1_000_000


@dataclasses.dataclass(frozen=True)
class Design:
    """One point of the design space, with where it lives.

    Attributes:
      name: what reports call it.
      architecture: the CLIP, integers throughout.
      accelerator: the chip, powers of two throughout.
      scenario: the design's life.
      sparsity: of the subnets it switches between, increasing; empty: one dense network.
    """

    name: str
    architecture: Architecture
    accelerator: Accelerator
    scenario: Scenario = dataclasses.field(default_factory=Scenario)
    sparsity: tuple[float, ...] = ()


def load_design(path: str | os.PathLike[str], name: str | None = None) -> Design:
    """Reads a design file, or one entry of a designs.json.

    Args:
      path: a JSON file that holds one design, or a list of designs.
      name: the entry to take from a list.

    Returns:
      The design; without a "name" of its own it takes the file's.

    Raises:
      UserError: one line that names the file, the field and the mend.
    """
    path = Path(path)
    obj = _read(path)
    if isinstance(obj, list):
        obj = _pick(obj, name, str(path))
    elif name is not None and (not isinstance(obj, dict) or obj.get("name") != name):
        raise UserError(f"{path}: holds one design, and it is not named '{name}'; drop --name")
    return parse_design(obj, str(path), default_name=path.stem)


def parse_design(obj: Any, where: str = "", default_name: str = "design") -> Design:
    """A design from parsed JSON.

    Args:
      obj: the object, as design_to_json makes it; keys left out of its parts take the
        defaults: CLIP ViT-B/16 (`clip_vit_b16`), `Accelerator()`, `Scenario()`.
      where: what to call the object in messages, such as its file's name.
      default_name: the name of a design without one.

    Raises:
      UserError: one line that names the field and the mend.
    """
    try:
        return _design(obj, default_name)
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from error


def under_costing(design: Design, name: str) -> Design:
    """The design priced by a costing, in that costing's own scenario.

    A design that already states the costing keeps its scenario.

    Raises:
      UserError: there is no costing of that name.
    """
    if _costing(name, "--costing") == design.scenario.costing:
        return design
    return dataclasses.replace(design, scenario=conventional(name))


def design_to_json(design: Design) -> dict[str, Any]:
    """The design as plain JSON values; parse_design gives the same design back."""
    plain: dict[str, Any] = jsonable(design)
    return plain


def check_scenario(scenario: Scenario, where: str = "scenario") -> None:
    """Checks a scenario made in Python, such as a config's, as strictly as a file's.

    Raises:
      UserError: one line that names the field and the mend.
    """
    for key, check in _SCENARIO_CHECKS.items():
        check(getattr(scenario, key), f"{where}.{key}")


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no design file {path}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file; a design file is JSON") from error
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise UserError(f"{path} is not JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply for a design") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"key '{key}' is given twice; keep one")
    return dict(pairs)


def _refuse_constant(text: str) -> Any:
    raise UserError(f"{text} is no value of a design; give a finite number")


def _pick(entries: list[Any], name: str | None, where: str) -> Any:
    names = [str(entry.get("name")) for entry in entries if isinstance(entry, dict)]
    if name is None:
        shown = ", ".join(names) or "none"
        raise UserError(f"{where}: holds a list of designs; pick one with --name ({shown})")
    found = [e for e in entries if isinstance(e, dict) and str(e.get("name")) == name]
    if len(found) != 1:
        problem = f"{len(found)} designs are" if found else "no design is"
        hint = "names must be unique" if found else did_you_mean(name, names)
        raise UserError(f"{where}: {problem} named '{name}'; {hint}")
    return found[0]


def _design(obj: Any, default_name: str) -> Design:
    obj = _mapping(obj, "the design")
    _check_top_keys(obj)
    for key in ("architecture", "accelerator"):
        if key not in obj:
            raise UserError(f"missing key '{key}'; {{}} takes its defaults")
    name = obj.get("name", default_name)
    if not isinstance(name, str) or not name:
        raise UserError(f"name: expected text, got {_show(name)}")
    design = Design(
        name=name,
        architecture=_architecture(obj["architecture"]),
        accelerator=_accelerator(obj["accelerator"]),
        scenario=_scenario(obj.get("scenario", {})),
        sparsity=_sparsity(obj.get("sparsity", [])),
    )
    shares, subnets = design.scenario.subnet_shares, max(1, len(design.sparsity))
    if shares is not None and len(shares) != subnets:
        raise UserError(
            f"scenario.subnet_shares: {len(shares)} shares for {subnets} subnets; give one for "
            "each sparsity"
        )
    return design


def _sparsity(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise UserError(f"sparsity: expected a list such as [0.5, 0.9], got {_show(value)}")
    levels = tuple(_number(x, f"sparsity[{i}]") for i, x in enumerate(value))
    for i, level in enumerate(levels):
        if not 0 <= level < 1:
            raise UserError(f"sparsity[{i}]: {level:g} is outside [0, 1); it is the share of zeros")
        if i and level <= levels[i - 1]:
            raise UserError(f"sparsity[{i}]: {level:g} follows {levels[i - 1]:g}; increase them")
    return levels


def _check_top_keys(obj: Mapping[str, Any]) -> None:
    for key in obj:
        if key in _INPUT_KEYS or key in RESULT_KEYS:
            continue
        hint = did_you_mean(key, _INPUT_KEYS)
        # A run may come to record more of a design; a misspelt input key still shows.
        if "costs" not in obj or hint.startswith("did you mean"):
            raise UserError(f"{key}: unknown key; {hint}")


def _architecture(obj: Any) -> Architecture:
    obj = _mapping(obj, "architecture")
    default = clip_vit_b16()
    _check_keys(obj, [field.name for field in dataclasses.fields(Architecture)], "architecture")
    values: dict[str, Any] = {}
    for key, value in obj.items():
        where = f"architecture.{key}"
        if key in TOWERS:
            values[key] = _tower(value, getattr(default, key), where)
        elif key == "activation":
            values[key] = _activation(value, where)
        else:
            values[key] = _dimension(value, where)
    made = dataclasses.replace(default, **values)
    if made.image % made.patch:
        nearest = {max(made.image // made.patch + i, 1) * made.patch for i in (0, 1)}
        raise UserError(
            f"architecture.patch: {made.patch} does not divide image {made.image}; set image "
            f"to {' or '.join(map(str, sorted(nearest)))}, or another patch"
        )
    return made


def _tower(obj: Any, default: Tower, where: str) -> Tower:
    obj = _mapping(obj, where)
    _check_keys(obj, ELASTIC, where)
    values = {key: _dimension(value, f"{where}.{key}") for key, value in obj.items()}
    return dataclasses.replace(default, **values)


def _activation(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in ACTIVATIONS:
        hint = did_you_mean(str(value), ACTIVATIONS)
        raise UserError(f"{where}: unknown activation {_show(value)}; {hint}")
    return value


def _accelerator(obj: Any) -> Accelerator:
    obj = _mapping(obj, "accelerator")
    _check_keys(obj, ACCELERATOR_BOUNDS, "accelerator")
    values = {key: _grid_value(key, value) for key, value in obj.items()}
    return Accelerator(**values)


def _grid_value(key: str, value: Any) -> int | float:
    """A power of two within the parameter's bounds; an int where it is whole."""
    where = f"accelerator.{key}"
    number = _number(value, where)
    low, high = ACCELERATOR_BOUNDS[key]
    exponent = math.log2(max(number, low))
    around = (2.0 ** math.floor(exponent), 2.0 ** math.ceil(exponent))
    nearest = sorted({min(max(value, low), high) for value in around})
    if number not in nearest:
        shown = " or ".join(f"{value:g}" for value in nearest)
        raise UserError(
            f"{where}: {number:g} is off the grid; use {shown} "
            f"(a power of two from {low:g} to {high:g})"
        )
    return int(number) if number.is_integer() else number


def _scenario(obj: Any) -> Scenario:
    obj = _mapping(obj, "scenario")
    _check_keys(obj, _SCENARIO_CHECKS, "scenario")
    values = {key: _SCENARIO_CHECKS[key](value, f"scenario.{key}") for key, value in obj.items()}
    return dataclasses.replace(conventional(values.get("costing", PHYSICAL.name)), **values)


def _mapping(obj: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(obj, Mapping):
        raise UserError(f"{where}: expected an object {{...}}, got {_show(obj)}")
    return obj


def _check_keys(obj: Mapping[str, Any], valid: Any, where: str) -> None:
    for key in obj:
        if key not in valid:
            raise UserError(f"{where}.{key}: unknown key; {did_you_mean(key, valid)}")


def _number(value: Any, where: str) -> float:
    # JSON's true is Python's 1; 1e999 is read as infinity.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{where}: expected a number, got {_show(value)}")
    if abs(value) > 1e18:
        raise UserError(f"{where}: {value} is far out of range; give a smaller number")
    return float(value)


def _dimension(value: Any, where: str) -> int:
    number = _number(value, where)
    if not number.is_integer():
        raise UserError(f"{where}: expected a whole number, got {_show(value)}")
    if not 1 <= number <= _LARGEST_DIMENSION:
        raise UserError(f"{where}: expected 1 to {_LARGEST_DIMENSION}, got {_show(value)}")
    return int(number)


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def _positive(value: Any, where: str, most: float = math.inf, zero: bool = False) -> float:
    number = _number(value, where)
    if number > most or number < 0 or (number == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        top = f" and at most {most:g}" if most < math.inf else ""
        raise UserError(f"{where}: expected {least}{top}, got {_show(value)}")
    return number


def _share(value: Any, where: str) -> float:
    return _positive(value, where, most=1)


def _hours(value: Any, where: str) -> float:
    return _positive(value, where, most=24)


def _not_negative(value: Any, where: str) -> float:
    return _positive(value, where, zero=True)


def _grid(table: str, column: str) -> Callable[[Any, str], str | float]:
    """A check for an electricity grid: a name in `table`, or its gCO2e/kWh."""

    def check(value: Any, where: str) -> str | float:
        if not isinstance(value, str):
            return _not_negative(value, where)
        return _in_table(table, column)(value, where)

    return check


def _in_table(table: str, column: str) -> Callable[[Any, str], Any]:
    """A check for a name (or number) in a column of a table in cost/data."""

    def check(value: Any, where: str) -> Any:
        names = tuple(tables.table(table, column))
        # The column is text; 22 and 22.0 both mean its "22".
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, bool) or text not in names:
            raise UserError(f"{where}: unknown {_show(value)}; {did_you_mean(text, names)}")
        return value if isinstance(value, str) else int(value)

    return check


def _abatement(value: Any, where: str) -> int:
    if isinstance(value, bool) or value not in (95, 97, 99):
        raise UserError(f"{where}: expected 95, 97 or 99, got {_show(value)}")
    return int(value)


def _node(value: Any, where: str) -> int:
    _number(value, where)
    node: int = _in_table("logic_scaling", "node_nm")(value, where)
    return node


def _precision(value: Any, where: str) -> int:
    if isinstance(value, bool) or value not in PRECISIONS_BITS:
        raise UserError(f"{where}: expected 4, 8 or 16, got {_show(value)}")
    return int(value)


def _defects(value: Any, where: str) -> float | None:
    return None if value is None else _positive(value, where)


def _costing(value: Any, where: str) -> str:
    if value not in COSTINGS:
        raise UserError(f"{where}: unknown {_show(value)}; {did_you_mean(str(value), COSTINGS)}")
    return str(value)


def _dram(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: expected a name, got {_show(value)}")
    name: str = _in_table("act_dram", "technology")(value, where)
    return name


def _index_bits(value: Any, where: str) -> int:
    number = _number(value, where)
    if not number.is_integer() or not 0 <= number <= _MOST_INDEX_BITS:
        raise UserError(
            f"{where}: expected a whole number of 0 to {_MOST_INDEX_BITS}, got {_show(value)}"
        )
    return int(number)


def _subnet_shares(value: Any, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise UserError(f"{where}: expected a list such as [0.2, 0.8], got {_show(value)}")
    shares = tuple(_not_negative(x, f"{where}[{i}]") for i, x in enumerate(value))
    if abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"{where}: the shares add up to {sum(shares):g}; they must give 1")
    return shares


_SCENARIO_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "use_grid": _grid("use_grid", "location"),
    "fab_grid": _grid("act_grid_location", "location"),
    "node_nm": _node,
    "precision_bits": _precision,
    "gas_abatement_pct": _abatement,
    "logic_yield": _share,
    "defects_per_cm2": _defects,
    "dram_yield": _share,
    "dram_gb": _not_negative,
    "dram_technology": _dram,
    "inferences_per_s": _positive,
    "hours_per_day": _hours,
    "lifetime_years": _positive,
    "clock_mhz": _positive,
    "dram_words_per_cycle": _positive,
    "glb_words_per_cycle": _positive,
    "index_bits": _index_bits,
    "subnet_shares": _subnet_shares,
    "costing": _costing,
}
