"""DRAM as a part that can be bought: a row of data/dram.csv on a number of channels.

Bandwidth, energy of an access, power of a device that waits or sleeps, the PHY on the chip, and
the carbon of dies and packages all follow from the one technology, its channels and a capacity.
The capacity follows what the device holds, in densities that exist. All of it is differentiable
in channels and contents; a capacity has the slope of the contents, as `rounding.ceil` has that of
its argument. docs/cost-model.md has the equations.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost import tables
from codesign.cost.rounding import ceil
from codesign.cost.scaling import scaling
from codesign.errors import did_you_mean
from codesign.scenario import Scenario

GIB = 2.0**30
# The table of parts and its column of names.
PARTS = ("dram", "technology")
# Factors on columns of a row that count while an inference runs; components may have others.
FACTORS: Mapping[str, Any] = MappingProxyType(
    {"phy_mm2": 1.0, "phy_pj_per_bit": 1.0, "active_mw": 1.0}
)
_MILLI = 1e-3


class Part(NamedTuple):
    """A row of data/dram.csv, plain numbers; of one channel where no other unit is named.

    Attributes:
      data_rate_mts: transfers a second of a pin, 1e6.
      channel_bits: data pins.
      usable_share: share of pins x rate that reads and writes together get.
      access_pj_per_bit: of the device, its interface included.
      phy_pj_per_bit: of the chip's side.
      phy_mm2: of the chip's side, at 22 nm.
      active_mw, idle_mw: standby between accesses, and powered down.
      refresh_mw_per_gb: on top of either.
      self_refresh_mw_per_gb: of a device that keeps its contents and nothing else; powered down
        it takes no less.
      densities_gb: capacities of a channel that exist, increasing.
      channels_per_package: of the package that is usual.
      die_g_per_gb: carbon of dies before yield.
      package_g: carbon of a package.
    """

    data_rate_mts: float
    channel_bits: float
    usable_share: float
    access_pj_per_bit: float
    phy_pj_per_bit: float
    phy_mm2: float
    active_mw: float
    idle_mw: float
    refresh_mw_per_gb: float
    self_refresh_mw_per_gb: float
    densities_gb: tuple[float, ...]
    channels_per_package: float
    die_g_per_gb: float
    package_g: float


class Port(NamedTuple):
    """What a chip sees of its DRAM; shapes follow the accelerator's leaves.

    Attributes:
      bytes_per_cycle: usable bandwidth; how reads and writes share it is the costing's.
      access_pj: one byte read or written, device and PHY.
      standby_w: power while an inference runs, whatever the capacity.
      phy_mm2: area on the chip.
    """

    bytes_per_cycle: Any
    access_pj: Any
    standby_w: Any
    phy_mm2: Any


class Devices(NamedTuple):
    """The DRAM that an accelerator comes with; shapes broadcast.

    Attributes:
      capacity_gb: of all channels, binary GB.
      refresh_w: power of refresh while an inference runs.
      between_j: energy from the end of an inference to the start of the next.
      kgco2e: carbon of making it, by part.
    """

    capacity_gb: Any
    refresh_w: Any
    between_j: Any
    kgco2e: dict[str, Any]


@functools.cache
def _row(technology: str) -> Part:
    known = tables.table(*PARTS)
    if technology not in known:
        raise ValueError(
            f"scenario.dram_technology: unknown technology '{technology}'; "
            f"{did_you_mean(technology, known)}"
        )
    row = known[technology]
    numbers = {
        name: tuple(map(float, row[name].split())) if name == "densities_gb" else float(row[name])
        for name in Part._fields
    }
    return Part(**numbers)  # type: ignore[arg-type]


def part(scenario: Scenario) -> Part:
    """The scenario's DRAM technology with the fields that it sets itself.

    A channel of other pins is as many of the row's, side by side on one command bus.

    Raises:
      ValueError: there is no such technology.
    """
    own = {
        "data_rate_mts": scenario.dram_data_rate_mts,
        "usable_share": scenario.dram_usable_share,
        "package_g": scenario.dram_package_g,
    }
    given: dict[str, Any] = {name: x for name, x in own.items() if x is not None}
    row = _row(scenario.dram_technology)._replace(**given)
    if scenario.dram_channel_bits is None:
        return row
    wide = scenario.dram_channel_bits / row.channel_bits
    return row._replace(
        channel_bits=scenario.dram_channel_bits,
        phy_mm2=wide * row.phy_mm2,
        active_mw=wide * row.active_mw,
        idle_mw=wide * row.idle_mw,
        densities_gb=tuple(wide * density for density in row.densities_gb),
        channels_per_package=row.channels_per_package / wide,
    )


def port(
    accelerator: Accelerator, scenario: Scenario, factors: Mapping[str, Any] = FACTORS
) -> Port:
    """The DRAM as the chip sees it.

    The PHY's area shrinks with the square root of logic's: half of it is pins and analogue.

    Args:
      accelerator: the chip.
      scenario: of which technology its DRAM is.
      factors: on the row's columns, as of `FACTORS`.

    Raises:
      ValueError: there is no such technology.
    """
    row, channels = part(scenario), accelerator.channels
    bytes_per_s = channels * row.channel_bits / 8 * row.data_rate_mts * 1e6 * row.usable_share
    return Port(
        bytes_per_cycle=bytes_per_s / scenario.clock_hz,
        access_pj=8 * (row.access_pj_per_bit + factors["phy_pj_per_bit"] * row.phy_pj_per_bit),
        standby_w=channels * _MILLI * factors["active_mw"] * row.active_mw,
        phy_mm2=channels
        * factors["phy_mm2"]
        * row.phy_mm2
        * scaling(scenario.node_nm).logic_area ** 0.5,
    )


def capacity_gb(contents_bytes: Any, channels: Any, scenario: Scenario) -> Any:
    """Capacity of all channels that holds the contents, or the scenario's own, binary GB.

    Args:
      contents_bytes: weights, live activations and cache; [...].
      channels: of equal capacity; [...].
      scenario: with the share of the system on top of them.
    """
    if scenario.dram_gb is not None:
        return scenario.dram_gb + 0.0 * (contents_bytes + channels)
    needed = contents_bytes / GIB + scenario.dram_system_gb
    if scenario.dram_capacity == "continuous":
        return needed + 0.0 * channels
    return channels * _density_gb(needed / channels, part(scenario).densities_gb)


def _density_gb(needed: Any, densities: tuple[float, ...]) -> Any:
    """The least density that holds so much, or as many of the largest as ranks; slope 1."""
    needed = jnp.asarray(needed, jnp.float32)
    *smaller, largest = densities
    least = largest * ceil(needed / largest)
    for density in reversed(smaller):
        least = jnp.where(needed <= density, density, least)
    return needed + jax.lax.stop_gradient(least - needed)


def packages(channels: Any, scenario: Scenario) -> Any:
    """Packages that so many channels come in; the derivative of its ceil is 1."""
    return ceil(jnp.asarray(channels, jnp.float32) / part(scenario).channels_per_package)


def devices(
    capacity: Any, channels: Any, number: Any, latency_s: Any, scenario: Scenario
) -> Devices:
    """The DRAM of a capacity: what it takes to make, and while the chip does nothing.

    Args:
      capacity: binary GB of all channels, as `capacity_gb`.
      channels: of it.
      number: of its packages, as `packages`.
      latency_s: of one inference, after which it waits for the next.
      scenario: how often there is one, and what the DRAM does between.
    """
    row = part(scenario)
    of_use_s, without_use_s = scenario.seconds_between
    waiting_s = jnp.maximum(of_use_s - latency_s, 0.0)
    refresh_w = _MILLI * row.refresh_mw_per_gb * capacity
    asleep_w = _MILLI * row.self_refresh_mw_per_gb * capacity
    # A row's idle power is of one density, and a device awake does all that one asleep does.
    idle_w = jnp.maximum(refresh_w + _MILLI * row.idle_mw * channels, asleep_w)
    between_w = {"self_refresh": asleep_w, "standby": idle_w, "off": 0.0 * capacity}[
        scenario.dram_between
    ]
    night_w = between_w if scenario.dram_between == "off" else asleep_w
    return Devices(
        capacity_gb=capacity,
        refresh_w=refresh_w,
        between_j=between_w * waiting_s + night_w * without_use_s,
        kgco2e={
            "dram": _MILLI * row.die_g_per_gb * capacity / scenario.dram_yield,
            "dram_packages": _MILLI * row.package_g * number,
        },
    )
