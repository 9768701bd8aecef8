"""Our own run's time and carbon, with CodeCarbon or without it."""

import contextlib
import sys
import threading
import time
import types

import pytest

from codesign.cost import carbon
from codesign.errors import UserError
from codesign.report import footprint
from codesign.report.text import MISSING
from codesign.train import tracking
from codesign.train.tracking import RunTracker


class Tracker:
    """Stands in for CodeCarbon's: half a gram so far, one at the end, at 200 g a kWh."""

    final_emissions_data = types.SimpleNamespace(emissions=1e-3, energy_consumed=5e-3)

    def __init__(self, **_):
        self.running = False

    def start(self):
        self.running = True

    def flush(self):
        return 5e-4

    def stop(self):
        self.running = False
        return 1e-3


@pytest.fixture
def installed(monkeypatch):
    made = types.ModuleType("codecarbon")
    made.OfflineEmissionsTracker = Tracker
    monkeypatch.setitem(sys.modules, "codecarbon", made)


def test_carbon_is_that_of_all_parts_of_a_run(installed):
    with RunTracker({"wall_time_s": 60.0, "run_carbon_kgco2e": 2e-3}) as tracker:
        assert tracker.so_far()["run_carbon_kgco2e"] == pytest.approx(2.5e-3)
        total = tracker.stop()
    assert total["wall_time_s"] >= 60
    assert total["run_carbon_kgco2e"] == pytest.approx(3e-3)
    assert total["run_energy_kwh"] == pytest.approx(15e-3)


def test_a_run_without_codecarbon_reports_its_time_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with RunTracker() as tracker:
        assert set(tracker.so_far()) == {"wall_time_s"}
        summary = tracker.stop()
    assert set(summary) == {"wall_time_s"}
    assert dict(footprint.facts(summary))["carbon of this run"] == (
        "not measured: install codesign[footprint]"
    )


def test_part_of_a_runs_carbon_is_not_called_its_carbon(installed):
    with RunTracker({"wall_time_s": 60.0}) as tracker:
        assert set(tracker.so_far()) == {"wall_time_s"}
        assert set(tracker.stop()) == {"wall_time_s"}


def test_a_run_that_goes_on_tells_nothing_of_carbon_yet():
    assert {value for _, value in footprint.facts({})} == {MISSING}


class Restarting:
    """CodeCarbon's scheduler at its worst: a timer fires while it is stopped, and restarts it."""

    def __init__(self):
        self.stops, self._entered = 0, threading.Event()
        self._fires(after_s=0.0)
        assert self._entered.wait(10)

    def _fires(self, after_s):
        self._timer = threading.Timer(after_s, self._run)
        self._timer.start()

    def _run(self):
        self._entered.set()
        time.sleep(0.2)  # meanwhile it is stopped for the first time
        if self.stops == 1:
            self._fires(after_s=3600.0)

    def stop(self):
        self.stops += 1
        self._timer.cancel()


def timers():
    return [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


@pytest.mark.parametrize("stopped_before", [True, False])
def test_no_thread_that_samples_outlives_a_run(installed, monkeypatch, stopped_before):
    before = timers()
    made = []

    def start(tracker):
        tracker._scheduler = Restarting()
        made.append(tracker._scheduler)

    def stop(tracker):
        if tracker._scheduler is not None:
            tracker._scheduler.stop()
        tracker._scheduler = None  # as CodeCarbon does
        return 1e-3

    monkeypatch.setattr(Tracker, "start", start)
    monkeypatch.setattr(Tracker, "stop", stop)
    with contextlib.suppress(KeyError), RunTracker() as tracker:
        assert timers() != before
        if stopped_before:
            tracker.stop()
            assert timers() == before
        raise KeyError
    assert timers() == before and made[0].stops == 2


def test_no_timer_of_codecarbon_outlives_a_run(monkeypatch):
    pytest.importorskip("codecarbon")
    before = timers()
    monkeypatch.setattr(tracking, "SAMPLE_EVERY_S", 0.005)
    for _ in range(3):
        with RunTracker():
            time.sleep(0.05)
            assert timers() != before
            # The waiting itself has more time.
            monkeypatch.setattr(tracking, "SAMPLE_EVERY_S", 60)
        assert timers() == before
        monkeypatch.setattr(tracking, "SAMPLE_EVERY_S", 0.005)


def test_codecarbon_itself_measures_where_it_is_installed():
    pytest.importorskip("codecarbon")
    with RunTracker() as tracker:
        sum(range(10**7))
        assert set(tracker.so_far()) == {"wall_time_s", "run_carbon_kgco2e"}
        assert tracker.stop()["run_carbon_kgco2e"] >= 0


@pytest.mark.parametrize(
    ("told", "grid", "g_per_kwh"),
    [("", "california", 224.0), ("sweden", "sweden", None), ("55.5", 55.5, 55.5), ("0", 0, 0.0)],
)
def test_carbon_is_of_the_grid_that_is_told(told, grid, g_per_kwh, monkeypatch):
    """By CodeCarbon itself: carbon over energy is the grid's."""
    pytest.importorskip("codecarbon")
    monkeypatch.setenv(tracking.RUN_GRID, told)
    with RunTracker() as tracker:
        time.sleep(0.2)
        total = tracker.stop()
    assert total["run_grid"] == grid
    expected = 1e-3 * (carbon.g_per_kwh("use_grid", grid) if g_per_kwh is None else g_per_kwh)
    if expected:
        assert total["run_carbon_kgco2e"] / total["run_energy_kwh"] == pytest.approx(expected)
    else:
        assert total["run_carbon_kgco2e"] == 0


@pytest.mark.parametrize("told", ["swedn", "0.224", "-3", "nan"])
def test_a_grid_that_is_none_is_one_line(told, monkeypatch):
    monkeypatch.setenv(tracking.RUN_GRID, told)
    with pytest.raises(UserError, match=tracking.RUN_GRID):
        RunTracker()
