"""Our own run's time and carbon, with CodeCarbon or without it."""

import sys
import types

import pytest

from codesign.report import footprint
from codesign.report.text import MISSING
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


def test_codecarbon_itself_measures_where_it_is_installed():
    pytest.importorskip("codecarbon")
    with RunTracker() as tracker:
        sum(range(10**7))
        assert set(tracker.so_far()) == {"wall_time_s", "run_carbon_kgco2e"}
        assert tracker.stop()["run_carbon_kgco2e"] >= 0
