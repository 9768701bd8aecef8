"""What a run itself took: time, energy, carbon, and how many devices of its designs pay it back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from codesign.printable import printable
from codesign.report import text
from codesign.report.entries import number
from codesign.report.savings import Saving
from codesign.search import statistics


@dataclasses.dataclass(frozen=True)
class Payback:
    """After how many devices a design has saved what the run that found it emitted.

    Attributes:
      design: its name.
      reference: what the devices would have been otherwise.
      run_carbon_kgco2e: of the run, as it was measured.
      saved_kgco2e: by each device, over its lifetime.
      devices: the least number that saves as much as the run emitted.
      devices_interval: that number at the ends of the saving's interval, the smaller first; None
        in place of the larger: the saving may be none.
    """

    design: str
    reference: str
    run_carbon_kgco2e: float
    saved_kgco2e: float
    devices: int
    devices_interval: tuple[int, int | None]

    def __str__(self) -> str:
        """A sentence for people."""
        low, high = self.devices_interval
        most = "never" if high is None else f"{high:,}"
        return (
            f"this run emitted {text.si(self.run_carbon_kgco2e, 'kgCO2e')}: {self.devices:,} "
            f"device{'s' * (self.devices != 1)} with {printable(self.design)} in place of "
            f"{printable(self.reference)} pay it back "
            f"({100 * statistics.COVERAGE:.0f} % interval {low:,} to {most})"
        )


def paybacks(summary: Mapping[str, Any], savings: Sequence[Saving]) -> list[Payback]:
    """For every saving that is there and has its interval; none where the run was not measured."""
    run_kg = number(summary, "run_carbon_kgco2e")
    found = []
    for saving in savings:
        saved, interval = saving.saved_kgco2e, saving.saved_share_interval
        if run_kg is None or run_kg < 0 or interval is None or saving.design is None:
            continue
        devices = _devices(run_kg, saved or 0.0)
        least = _devices(run_kg, interval.high * saving.carbon_kgco2e)
        if devices is None or least is None:
            continue
        most = _devices(run_kg, interval.low * saving.carbon_kgco2e)
        assert saved is not None
        found.append(
            Payback(saving.design, saving.reference, run_kg, saved, devices, (least, most))
        )
    return found


def _devices(run_kg: float, saved_kg: float) -> int | None:
    """Devices that save so much together; None where each saves nothing, or next to nothing."""
    if saved_kg <= 0 or not math.isfinite(run_kg / saved_kg):
        return None
    return math.ceil(run_kg / saved_kg)


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
