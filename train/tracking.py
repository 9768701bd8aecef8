"""Wall time, energy and carbon of our own run, by CodeCarbon's offline tracker."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

SAMPLE_EVERY_S = 15
# Grid the run itself is charged to, known to CodeCarbon without a network.
COUNTRY, REGION = "USA", "california"


class RunTracker:
    """Measures from construction on, on top of what a resumed run took before.

    A context manager: however a run ends, no thread that samples outlives it.
    """

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        from codecarbon import OfflineEmissionsTracker

        # It announces itself before the log level it is given below is in force.
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        self._before = dict(before or {})
        self._started = time.monotonic()
        self._tracker = OfflineEmissionsTracker(
            country_iso_code=COUNTRY,
            region=REGION,
            measure_power_secs=SAMPLE_EVERY_S,
            output_methods=[],  # no file, no server: what is measured goes into the run's own
            log_level="critical",
            allow_multiple_runs=True,
        )
        self._tracker.start()

    def __enter__(self) -> RunTracker:
        return self

    def __exit__(self, *_: object) -> None:
        self._tracker.stop()  # does nothing the second time

    def so_far(self) -> dict[str, float]:
        """Wall time (s) and carbon (kgCO2e) until now, earlier parts included."""
        return self._total(self._tracker.flush() or 0.0)

    def stop(self) -> dict[str, Any]:
        """Totals of the run: wall_time_s, run_carbon_kgco2e, run_energy_kwh."""
        total = self._total(self._tracker.stop() or 0.0)
        last = self._tracker.final_emissions_data
        if last.emissions:
            kwh_per_kg = last.energy_consumed / last.emissions
            total["run_energy_kwh"] = total["run_carbon_kgco2e"] * kwh_per_kg
        return total

    def _total(self, carbon_kgco2e: float) -> dict[str, float]:
        elapsed_s = time.monotonic() - self._started
        return {
            "wall_time_s": self._before.get("wall_time_s", 0.0) + elapsed_s,
            "run_carbon_kgco2e": self._before.get("run_carbon_kgco2e", 0.0) + carbon_kgco2e,
        }
