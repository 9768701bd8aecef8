"""Design files: one design as JSON, checked field by field on the way in.

The same object is an entry of a run's designs.json; what a run measured on it (costs,
accuracy, ...) is passed over on reading, so that a found design can be priced again.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign import checks
from codesign.accelerator import Accelerator
from codesign.architecture import (
    ACTIVATIONS,
    ELASTIC,
    TOWERS,
    Architecture,
    Tower,
    clip_vit_b16,
)
from codesign.cost import tables
from codesign.cost.dram import PARTS as DRAM_PARTS
from codesign.cost.physical import PRECISIONS_BITS
from codesign.costing import NAMES as COSTINGS
from codesign.costing import PHYSICAL, default_scenario
from codesign.errors import UserError, did_you_mean
from codesign.json_text import read_json
from codesign.renamed import RETIRED_OF_SCENARIO, current_keys, warn_retired, without_retired
from codesign.runs import jsonable
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices
from codesign.userfile import is_member

# Every accelerator parameter is a power of two within these bounds, in a design file, in the
# choices of a search and in `estimate`: past them the cost tables are extrapolated, not
# measured. The published grid (`AcceleratorChoices()`) is a part of them.
ACCELERATOR_BOUNDS: dict[str, tuple[float, float]] = {
    "cores": (1, 16),
    "pe_x": (1, 1024),
    "pe_y": (1, 1024),
    "l2_kib": (1, 4096),
    "l2_bytes_per_cycle": (1, 512),
    "glb_mib": (1 / 64, 64),
    "channels": (1, 16),
}
# What a run adds to a design; see report/.
RESULT_KEYS = frozenset(
    (
        "costs",
        "accuracy",
        "recall_at_1",
        "feasible",
        "pareto",
        "role",
        "target_carbon_kgco2e",
        "limits",
        "limit_violation",
        "subnets",
        "seed",
        "costing",
    )
)
_INPUT_KEYS = ("name", "architecture", "accelerator", "scenario", "sparsity")
_MOST_INDEX_BITS = 32


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


def load_design(
    path: str | os.PathLike[str], name: str | None = None, *, own_subnets: bool = True
) -> Design:
    """Reads a design file, or one entry of a designs.json.

    Args:
      path: a JSON file that holds one design, or a list of designs.
      name: the entry to take from a list.
      own_subnets: as in `parse_design`.

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
    return parse_design(obj, str(path), default_name=path.stem, own_subnets=own_subnets)


def load_designs(path: str | os.PathLike[str]) -> list[Design]:
    """Reads every design of a designs.json.

    Args:
      path: a JSON file that holds a list of designs.

    Raises:
      UserError: one line that names the file, the design, the field and the mend.
    """
    path = Path(path)
    obj = _read(path)
    if not isinstance(obj, list):
        raise UserError(f"{path}: holds no list of designs")
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in obj]
    return [
        parse_design(entry, f"{path}, {name or f'entry {i}'}", default_name=f"entry {i}")
        for i, (entry, name) in enumerate(zip(obj, names, strict=True))
    ]


def parse_design(
    obj: Any, where: str = "", default_name: str = "design", *, own_subnets: bool = True
) -> Design:
    """A design from parsed JSON.

    Args:
      obj: the object, as design_to_json makes it; keys left out of its parts take the
        defaults: CLIP ViT-B/16 (`clip_vit_b16`), `Accelerator()`, `Scenario()`.
      where: what to call the object in messages, such as its file's name.
      default_name: the name of a design without one.
      own_subnets: whether its subnet_shares are of its own sparsities; otherwise of a family
        that is yet to be loaded, and not counted here.

    Raises:
      UserError: one line that names the field and the mend.
    """
    try:
        design = _design(obj, default_name)
        if own_subnets:
            _check_shares(design)
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from error
    return design


def under_costing(design: Design, name: str) -> Design:
    """The design priced by a costing, in that costing's own scenario.

    A design that already states the costing keeps its scenario.

    Raises:
      UserError: there is no costing of that name.
    """
    if _costing(name, "--costing") == design.scenario.costing:
        return design
    return dataclasses.replace(design, scenario=default_scenario(name))


def design_to_json(design: Design) -> dict[str, Any]:
    """The design as plain JSON values; parse_design gives the same design back."""
    plain: dict[str, Any] = jsonable(design)
    return plain


def checked_scenario(scenario: Scenario, where: str = "scenario") -> Scenario:
    """A scenario made in Python, such as a config's, checked as strictly as a file's.

    Returns:
      The same with its values as a file's become: 22 of 22.0, a tuple of a list.

    Raises:
      UserError: one line that names the field and the mend.
    """
    values = {
        key: check(getattr(scenario, key), f"{where}.{key}")
        for key, check in _SCENARIO_CHECKS.items()
    }
    return dataclasses.replace(scenario, **values)


def checked_design(
    architecture: Architecture, accelerator: Accelerator, scenario: Scenario
) -> tuple[Architecture, Accelerator, Scenario]:
    """A design made in Python, checked as strictly as a file's, with its values as a file's are.

    Raises:
      UserError: one line that names the field and the mend.
    """
    check_kinds(architecture, accelerator, scenario)
    towers: dict[str, Any] = {
        name: Tower(
            **{
                key: checks.dimension(size, f"architecture.{name}.{key}")
                for key, size in vars(tower).items()
            }
        )
        for name, tower in architecture.towers.items()
    }
    made = dataclasses.replace(architecture, **towers, **_checked_outside(architecture))
    chip = {key: _grid_value(key, getattr(accelerator, key)) for key in ACCELERATOR_BOUNDS}
    return made, Accelerator(**chip), checked_scenario(scenario)


def check_relaxed(architecture: Architecture, accelerator: Accelerator, scenario: Scenario) -> None:
    """Checks what can be known of a design whose dimensions may be relaxed, batched or traced.

    Raises:
      UserError: one line that names the field and the mend.
    """
    check_kinds(architecture, accelerator, scenario)
    _checked_outside(architecture)
    for key, check in _SCENARIO_CHECKS.items():
        for value in checks.known(getattr(scenario, key)):
            check(value, f"scenario.{key}")
    for name, tower in architecture.towers.items():
        for key, size in vars(tower).items():
            checks.within(size, f"architecture.{name}.{key}", 0, checks.LARGEST_DIMENSION)
    for key, bounds in ACCELERATOR_BOUNDS.items():
        checks.within(getattr(accelerator, key), f"accelerator.{key}", *bounds)


def check_kinds(architecture: Any, accelerator: Any, scenario: Any) -> None:
    """Refuses whatever is no design's part, such as a model's name."""
    parts: list[tuple[str, Any, type]] = [
        ("architecture", architecture, Architecture),
        ("accelerator", accelerator, Accelerator),
        ("scenario", scenario, Scenario),
    ]
    if isinstance(architecture, Architecture):
        towers = architecture.towers.items()
        parts += [(f"architecture.{name}", tower, Tower) for name, tower in towers]
    for name, value, kind in parts:
        if not isinstance(value, kind):
            shown = checks.show(value)
            raise UserError(f"{name} is {shown}: it must be a codesign {kind.__name__}")


def _checked_outside(architecture: Architecture) -> dict[str, Any]:
    """What an architecture says beside its towers."""
    values = {
        field.name: _architecture_value(field.name, getattr(architecture, field.name))
        for field in dataclasses.fields(Architecture)
        if field.name not in TOWERS
    }
    _check_patch(architecture)
    return values


def check_choices(choices: AcceleratorChoices, where: str = "space") -> None:
    """Checks that every accelerator a search may choose is one that a design file may hold.

    Raises:
      UserError: one line that names the field and the mend.
    """
    for key in ACCELERATOR_BOUNDS:
        for value in getattr(choices, key):
            _grid_value(key, value, where)


def _read(path: Path) -> Any:
    if not path.exists():
        raise UserError(f"there is no design file {path}")
    return read_json(path)


def _pick(entries: list[Any], name: str | None, where: str) -> Any:
    if not entries:
        raise UserError(f"{where}: the list holds no design")
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
    if "architecture" not in obj and "model" in obj:
        raise UserError(_no_architecture(obj["model"]))
    for key in ("architecture", "accelerator"):
        if key not in obj:
            raise UserError(f"missing key '{key}'; {{}} takes its defaults")
    name = obj.get("name", default_name)
    if not isinstance(name, str) or not name:
        raise UserError(f"name: expected text, got {checks.show(name)}")
    return Design(
        name=name,
        architecture=_architecture(obj["architecture"]),
        accelerator=_accelerator(obj["accelerator"]),
        scenario=_scenario(_without_code(obj.get("scenario", {}))),
        sparsity=_sparsity(obj.get("sparsity", [])),
    )


def _check_shares(design: Design) -> None:
    shares, subnets = design.scenario.subnet_shares, max(1, len(design.sparsity))
    if shares is not None and len(shares) != subnets:
        raise UserError(
            f"scenario.subnet_shares: {len(shares)} shares for {subnets} subnets; give one for "
            "each sparsity"
        )


def _no_architecture(model: Any) -> str:
    """Why an entry of `search hardware` that names only its model cannot be priced again."""
    return (
        f"no design can express the model {checks.show(model)}: an architecture is a CLIP whose "
        f"towers have heads of one width; price it with codesign search hardware --model {model}"
    )


def _without_code(obj: Any) -> Any:
    """A file's scenario. Files of designs come from others: unlike configs they run nothing.

    Raises:
      UserError: it names a costing of a Python file.
    """
    if isinstance(obj, Mapping) and is_member(obj.get("costing")):
        raise UserError(
            f"scenario.costing: a design file runs no code such as {checks.show(obj['costing'])}; "
            "leave it out, and give --costing or in Python Scenario(costing=...)"
        )
    return obj


def _sparsity(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise UserError(f"sparsity: expected a list such as [0.5, 0.9], got {checks.show(value)}")
    levels = tuple(checks.number(x, f"sparsity[{i}]") for i, x in enumerate(value))
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
        else:
            values[key] = _architecture_value(key, value)
    made = dataclasses.replace(default, **values)
    _check_patch(made)
    return made


def _architecture_value(key: str, value: Any) -> int | str:
    """A field of an Architecture beside its towers."""
    check = _activation if key == "activation" else checks.dimension
    return check(value, f"architecture.{key}")


def _check_patch(made: Architecture) -> None:
    if made.image % made.patch:
        nearest = {max(made.image // made.patch + i, 1) * made.patch for i in (0, 1)}
        raise UserError(
            f"architecture.patch: {made.patch} does not divide image {made.image}; set image "
            f"to {' or '.join(map(str, sorted(nearest)))}, or another patch"
        )


def _tower(obj: Any, default: Tower, where: str) -> Tower:
    obj = _mapping(obj, where)
    _check_keys(obj, ELASTIC, where)
    values = {key: checks.dimension(value, f"{where}.{key}") for key, value in obj.items()}
    return dataclasses.replace(default, **values)


def _activation(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in ACTIVATIONS:
        hint = did_you_mean(str(value), ACTIVATIONS)
        raise UserError(f"{where}: unknown activation {checks.show(value)}; {hint}")
    return value


def _accelerator(obj: Any) -> Accelerator:
    obj = current_keys(_mapping(obj, "accelerator"), "accelerator")
    _check_keys(obj, ACCELERATOR_BOUNDS, "accelerator")
    values = {key: _grid_value(key, value) for key, value in obj.items()}
    return Accelerator(**values)


def _grid_value(key: str, value: Any, where: str = "accelerator") -> int | float:
    return checks.power_of_two(value, f"{where}.{key}", *ACCELERATOR_BOUNDS[key])


def _scenario(obj: Any) -> Scenario:
    obj = current_keys(_mapping(obj, "scenario"), "scenario")
    obj = without_retired(obj, RETIRED_OF_SCENARIO, "scenario")
    _check_keys(obj, _SCENARIO_CHECKS, "scenario")
    values = {key: _SCENARIO_CHECKS[key](value, f"scenario.{key}") for key, value in obj.items()}
    base = default_scenario(values.get("costing", PHYSICAL.name))
    technology = values.get("dram_technology", base.dram_technology)
    if base.costing == PHYSICAL.name and technology not in tables.table(*DRAM_PARTS):
        # Once a physical scenario named the DRAM's carbon alone.
        del values["dram_technology"]
        warn_retired(
            f"scenario.dram_technology {technology}",
            "a technology is one part for bandwidth, energy and carbon now; "
            f"{base.dram_technology} is taken",
        )
    return dataclasses.replace(base, **values)


def _mapping(obj: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(obj, Mapping):
        raise UserError(f"{where}: expected an object {{...}}, got {checks.show(obj)}")
    return obj


def _check_keys(obj: Mapping[str, Any], valid: Any, where: str) -> None:
    for key in obj:
        if key not in valid:
            raise UserError(f"{where}.{key}: unknown key; {did_you_mean(key, valid)}")


def _costing(value: Any, where: str) -> str:
    if is_member(value):
        try:
            default_scenario(value)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    elif value not in COSTINGS:
        hint = did_you_mean(str(value), COSTINGS)
        raise UserError(f"{where}: unknown {checks.show(value)}; {hint}")
    return str(value)


def _subnet_shares(value: Any, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise UserError(f"{where}: expected a list such as [0.2, 0.8], got {checks.show(value)}")
    shares = tuple(checks.positive(x, f"{where}[{i}]", zero=True) for i, x in enumerate(value))
    if abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"{where}: the shares add up to {sum(shares):g}; they must give 1")
    return shares


_SCENARIO_CHECKS: dict[str, checks.Check] = {
    "use_grid": checks.electricity("use_grid"),
    "fab_grid": checks.electricity("act_grid_location"),
    "node_nm": checks.number_in_table("logic_scaling", "node_nm", "nm"),
    "precision_bits": checks.one_of(*PRECISIONS_BITS),
    "gas_abatement_pct": checks.one_of(95, 97, 99),
    "logic_yield": checks.share,
    "defects_per_cm2": checks.optional(checks.positive),
    "dram_yield": checks.share,
    "dram_gb": checks.optional(
        checks.plausible(1e-6, 4096, "GB", {"MB": 1e-3, "bytes": 1e-9}, zero=True)
    ),
    "dram_capacity": checks.one_name("devices", "continuous"),
    "dram_system_gb": checks.plausible(1e-6, 4096, "GB", {"MB": 1e-3, "bytes": 1e-9}, zero=True),
    "dram_technology": checks.name_in_tables(DRAM_PARTS, ("act_dram", "technology")),
    "dram_data_rate_mts": checks.optional(
        checks.plausible(10, 20_000, "MT/s", {"GT/s": 1e3, "T/s": 1e-6})
    ),
    "dram_channel_bits": checks.optional(checks.whole_up_to(1024, least=1)),
    "dram_usable_share": checks.optional(checks.share),
    "dram_package_g": checks.optional(lambda x, where: checks.positive(x, where, zero=True)),
    "dram_between": checks.one_name("self_refresh", "standby", "off"),
    "inferences_per_s": checks.positive,
    "texts_per_image": lambda x, where: checks.positive(x, where, zero=True),
    "hours_per_day": checks.hours,
    "lifetime_years": checks.plausible(
        1 / 365, 100, "years", {"days": 1 / 365, "hours": 1 / 8760, "s": 1 / 31_536_000}
    ),
    "clock_mhz": checks.plausible(1, 10_000, "MHz", {"Hz": 1e-6, "GHz": 1e3, "kHz": 1e-3}),
    "glb_bytes_per_cycle": checks.plausible(1 / 8, 1 << 20, "bytes", {"bits": 1 / 8}),
    "hand_over": checks.flag,
    "resident_weights": checks.flag,
    "operator_start_cycles": functools.partial(checks.positive, zero=True),
    "gated_leakage": functools.partial(checks.positive, most=1, zero=True),
    "index_bits": checks.whole_up_to(_MOST_INDEX_BITS),
    "subnet_shares": _subnet_shares,
    "costing": _costing,
}
