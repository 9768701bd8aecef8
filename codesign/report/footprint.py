"""What a run itself took: time, energy, carbon, as lines of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codesign.report import text
from codesign.report.entries import number


def facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of what summary.json tells; MISSING where the run has not ended.

    Carbon is measured where the extra codesign[footprint] is installed, and never guessed.
    """
    energy_kwh, carbon_kg = (number(summary, f"run_{x}") for x in ("energy_kwh", "carbon_kgco2e"))
    carbon = text.si(carbon_kg, "kgCO2e")
    if carbon_kg is None and number(summary, "wall_time_s") is not None:
        carbon = "not measured: install codesign[footprint]"
    return [
        ("wall time", text.duration(summary.get("wall_time_s"))),
        ("energy of this run", text.si(None if energy_kwh is None else energy_kwh * 1e3, "Wh")),
        ("carbon of this run", carbon),
    ]
