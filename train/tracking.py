"""Wall time of our own run; its energy and carbon where CodeCarbon is installed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from codesign import checks
from codesign.cost.carbon import g_per_kwh

SAMPLE_EVERY_S = 15
# What tells the grid of the machine: as scenario.use_grid, a name or gCO2e/kWh.
RUN_GRID = "CODESIGN_RUN_GRID"
_USUAL_GRID = "california"


def run_grid() -> str | float:
    """The grid that a run's own carbon is of.

    Raises:
      UserError: there is no grid of that name, or of that intensity.
    """
    text = os.environ.get(RUN_GRID) or _USUAL_GRID
    try:
        grid: str | float = float(text)
    except ValueError:
        grid = text
    told: str | float = checks.electricity("use_grid")(grid, RUN_GRID)
    return told


class RunTracker:
    """Measures from construction on, on top of what a resumed run took before.

    Carbon by CodeCarbon's offline tracker, of the extra codesign[footprint]. Without it, or where
    an earlier part of the run went without, there is none: a guess would look like a measurement.

    A context manager: however a run ends, no thread that samples outlives it.
    """

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        self._before = dict(before or {})
        self._started = time.monotonic()
        measured = not self._before or "run_carbon_kgco2e" in self._before
        self._grid = run_grid()
        self._tracker = _started_tracker(self._grid) if measured else None

    def __enter__(self) -> RunTracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker is not None:
            _stop(self._tracker)  # does nothing the second time

    def so_far(self) -> dict[str, float]:
        """Wall time (s) and carbon (kgCO2e), where measured, until now, earlier parts included."""
        return self._total(None if self._tracker is None else self._tracker.flush() or 0.0)

    def stop(self) -> dict[str, Any]:
        """Totals of the run: wall_time_s; where measured, run_carbon_kgco2e, run_energy_kwh and
        the run_grid."""
        if self._tracker is None:
            return self._total(None)
        total: dict[str, Any] = dict(self._total(_stop(self._tracker) or 0.0))
        total["run_grid"] = self._grid
        last = self._tracker.final_emissions_data
        if last.emissions:
            kwh_per_kg = last.energy_consumed / last.emissions
            total["run_energy_kwh"] = total["run_carbon_kgco2e"] * kwh_per_kg
        return total

    def _total(self, carbon_kgco2e: float | None) -> dict[str, float]:
        elapsed_s = time.monotonic() - self._started
        total = {"wall_time_s": self._before.get("wall_time_s", 0.0) + elapsed_s}
        if carbon_kgco2e is not None:
            before = self._before.get("run_carbon_kgco2e", 0.0)
            total["run_carbon_kgco2e"] = before + carbon_kgco2e
        return total


def _stop(tracker: Any) -> Any:
    """Stops CodeCarbon's tracker and waits for the threads that sampled; what it emitted.

    A timer of it that fires while it is cancelled starts the next one, and so on for ever; one
    that was cancelled takes a moment to end.
    """
    schedulers = [part for part in vars(tracker).values() if hasattr(part, "_run")]
    emitted = tracker.stop()
    until = time.monotonic() + SAMPLE_EVERY_S  # what hangs ends with the process
    while (timers := _timers(schedulers)) and time.monotonic() < until:
        for scheduler in schedulers:
            scheduler.stop()
        for timer in timers:
            timer.join(max(0.0, until - time.monotonic()))
    return emitted


def _timers(schedulers: Sequence[Any]) -> list[threading.Thread]:
    """The timers that schedulers of CodeCarbon have started and that have not ended."""
    starts = [scheduler._run for scheduler in schedulers]
    every = (thread for thread in threading.enumerate() if isinstance(thread, threading.Timer))
    return [timer for timer in every if timer.function in starts]


def _started_tracker(grid: str | float) -> Any:
    """CodeCarbon's tracker of a machine on a grid, or None where that is not installed."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ModuleNotFoundError as error:
        if error.name != "codecarbon":
            raise
        return None
    # It announces itself before the log level it is given below is in force.
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    tracker = OfflineEmissionsTracker(
        country_iso_code="USA",  # it wants one, and takes the intensity
        force_carbon_intensity_g_co2e_kwh=float(g_per_kwh("use_grid", grid)),
        measure_power_secs=SAMPLE_EVERY_S,
        output_methods=[],  # no file, no server: what is measured goes into the run's own
        log_level="critical",
        allow_multiple_runs=True,
    )
    tracker.start()
    return tracker
