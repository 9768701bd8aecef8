"""What the cost model would be without one of its effects.

An effect is a detail of the model: the start of an operator, the leakage of a chip that waits, the
PHY of the DRAM. Switched off, it leaves a simpler world, which is another scenario or another set
of components under the same formulas, so that designs can be chosen in the one and priced in the
other (search/effects.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from codesign.cost import tables
from codesign.cost.costing import CATRANSFORMERS, default_scenario
from codesign.cost.world import World
from codesign.errors import did_you_mean

# Transfers a second of a pin, 1e6, with which no DRAM is ever waited for.
_UNLIMITED_MTS = 1e9


class Effect(NamedTuple):
    """A detail of the cost model that can be left out.

    Attributes:
      name: of it.
      without: what holds where it is left out, a clause.
      leave_out: the world without it.
    """

    name: str
    without: str
    leave_out: Callable[[World], World]


def _scenario(**fields: Any) -> Callable[[World], World]:
    """The world with fields of its scenario replaced."""

    def change(world: World) -> World:
        return dataclasses.replace(world, scenario=dataclasses.replace(world.scenario, **fields))

    return change


def _nothing(*names: str) -> Callable[[World], World]:
    """The world with components that take no area, energy or power."""
    return _columns({name: ("energy_pj", "area_um2", "power_uw") for name in names})


def _columns(free: Mapping[str, tuple[str, ...]]) -> Callable[[World], World]:
    """The world with columns of components at 0, by component."""

    def change(world: World) -> World:
        zeros = {name: dict.fromkeys(columns, 0.0) for name, columns in free.items()}
        return _with_values(world, zeros)

    return change


def _with_values(world: World, values: Mapping[str, Mapping[str, float]]) -> World:
    """The world with numbers of components replaced, by component and column."""
    before = world.parts
    changed = {name: {**before.values[name], **columns} for name, columns in values.items()}
    return world.with_components(dataclasses.replace(before, values=before.values | changed))


def _dram(**factors: float) -> Callable[[World], World]:
    """The world with other factors on columns of the DRAM's row."""

    def change(world: World) -> World:
        dram = world.parts.dram | factors
        return world.with_components(dataclasses.replace(world.parts, dram=dram))

    return change


def _sram(world: World, **factors: float) -> World:
    sram = world.parts.sram | factors
    return world.with_components(dataclasses.replace(world.parts, sram=sram))


def _other_weights(world: World) -> World:
    """The world that streams its weights where this one lets them stay, and the reverse."""
    return _scenario(resident_weights=not world.resident_weights)(world)


def _without_leakage(world: World) -> World:
    dry = _columns(dict.fromkeys(world.parts.values, ("power_uw",)))(world)
    return _sram(dry, leakage=0.0)


def _cacti_memories(world: World) -> World:
    return _sram(world, **dict.fromkeys(world.parts.sram, 1.0))


def _library_arrays(world: World) -> World:
    rows = tables.table("components_library_22nm", "component").items()
    columns = ("energy_pj", "area_um2", "power_uw")
    return _with_values(world, {name: {c: float(row[c]) for c in columns} for name, row in rows})


def _as_the_reference(world: World) -> World:
    """The reference's costing, with what its scenario states; the rest stays."""
    name = CATRANSFORMERS.name
    stated = {field: getattr(default_scenario(name), field) for field in CATRANSFORMERS.scenario}
    scenario = dataclasses.replace(world.scenario, costing=name, **stated)
    return World.of(scenario)


EFFECTS = (
    Effect(
        "bandwidth",
        "the DRAM is never waited for",
        _scenario(dram_data_rate_mts=_UNLIMITED_MTS),
    ),
    Effect(
        "usable-share",
        "all of the DRAM's nominal bandwidth can be used",
        _scenario(dram_usable_share=1.0),
    ),
    Effect("standby", "open DRAM channels take no power between accesses", _dram(active_mw=0.0)),
    Effect(
        "self-refresh",
        "the DRAM takes no energy between inferences",
        _scenario(dram_between="off"),
    ),
    Effect(
        "phy",
        "the DRAM's PHY takes no area and no energy",
        _dram(phy_mm2=0.0, phy_pj_per_bit=0.0),
    ),
    Effect("capacity", "the DRAM is of 1 GB, whatever it holds", _scenario(dram_gb=1.0)),
    Effect("densities", "DRAM comes in any capacity", _scenario(dram_capacity="continuous")),
    Effect("packages", "packages of DRAM cost no carbon", _scenario(dram_package_g=0.0)),
    Effect("hand-over", "all activations cross the DRAM", _scenario(hand_over=False)),
    Effect(
        "weights",
        "weights that fit stay in the GLB between inferences; where they may stay, they do not",
        _other_weights,
    ),
    Effect("start-up", "operators start at once", _scenario(operator_start_cycles=0.0)),
    Effect(
        "control",
        "control and pads take no area, energy or power",
        _nothing("control", "pads"),
    ),
    Effect(
        "network",
        "wires and routers between cores and GLB take nothing",
        _nothing("router", "wire"),
    ),
    Effect("clock", "the clock takes no energy", _nothing("register_clock")),
    Effect("leakage", "nothing leaks", _without_leakage),
    Effect(
        "gating",
        "a chip that waits for an inference leaks nothing",
        _scenario(gated_leakage=0.0),
    ),
    Effect(
        "memories",
        "SRAM is as small and frugal as CACTI has it, not as silicon is",
        _cacti_memories,
    ),
    Effect(
        "arrays",
        "PEs and lanes are those of a 40 nm cell library, not of published silicon",
        _library_arrays,
    ),
    Effect("catransformers", "all is as in the published reference", _as_the_reference),
)
NAMES = tuple(effect.name for effect in EFFECTS)


def effect_of(name: str) -> Effect:
    """The effect of a name.

    Raises:
      ValueError: there is none.
    """
    for effect in EFFECTS:
        if effect.name == name:
            return effect
    raise ValueError(f"there is no effect '{name}'; {did_you_mean(name, NAMES)}")
