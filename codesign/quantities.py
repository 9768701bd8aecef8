"""Quantities by their names in files, which end in their units: "energy_j", "edp_js"."""

from __future__ import annotations

# Last words of names and the units they stand for.
_UNITS = {
    "s": "s",
    "j": "J",
    "js": "J s",
    "mm2": "mm²",
    "kgco2e": "kgCO2e",
    "kgco2es": "kgCO2e s",
}


def unit_of(key: str) -> str | None:
    """The unit that a name ends in, as it is written; None where it ends in none."""
    return _UNITS.get(key.rpartition("_")[2]) if "_" in key else None


def without_unit(key: str) -> str:
    """A name in words, its unit left out: "carbon_delay_kgco2es" is "carbon-delay"."""
    return (key if unit_of(key) is None else key.rpartition("_")[0]).replace("_", "-")
