"""Quantities by their names in files, most of which end in their units: "energy_j", "edp_js"."""

from __future__ import annotations

from collections.abc import Sequence

# Last words of names and the units they stand for.
_UNITS = {
    "s": "s",
    "j": "J",
    "js": "J s",
    "mm2": "mm²",
    "kgco2e": "kgCO2e",
    "kgco2es": "kgCO2e s",
}
# Of quantities whose names do not, units that take no prefix.
_FIXED = {"tops": "TOPS", "dram_gb": "GB"}
# What is not called by its name.
_WORDS = {
    "tops": "peak",
    "dram_gb": "DRAM",
    "macs": "products",
    "carbon_kgco2e": "total carbon",
    "operational_kgco2e": "operational carbon",
    "embodied_kgco2e": "embodied carbon",
}


def unit_of(key: str) -> str | None:
    """The unit that a name ends in, as it is written; None where it ends in none."""
    return _UNITS.get(key.rpartition("_")[2]) if "_" in key else None


def without_unit(key: str) -> str:
    """A name in words, its unit left out: "carbon_delay_kgco2es" is "carbon-delay"."""
    return (key if unit_of(key) is None else key.rpartition("_")[0]).replace("_", "-")


def fixed_unit_of(key: str) -> str | None:
    """The unit of a quantity that is always shown in one; None of any other."""
    return _FIXED.get(key)


def words_of(key: str) -> str:
    """What a quantity is called: "peak" of "tops"."""
    return _WORDS.get(key) or without_unit(key).replace("-", " ")


def percents(shares: Sequence[float]) -> list[str]:
    """Shares as "50%": with decimals where it takes them to tell two apart, or from 0 and 100 %."""
    for decimals in range(6):
        found = [f"{share:.{decimals}%}" for share in shares]
        ends = {f"{end:.{decimals}%}" for end in (0, 1) if end not in shares}
        if len(set(found)) == len(set(shares)) and not ends & set(found):
            break
    return found
