"""A run in words: what was searched, its limits, its scenario, and the command that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.kinds import HARDWARE, kind_of_run
from codesign.printable import printable, shell_line
from codesign.quantities import fixed_unit_of, unit_of, words_of
from codesign.report.text import amount, is_number
from codesign.runs import Run

Row = Mapping[str, Any]


def lead(run: Run) -> str:
    """What the run is, in a sentence without its full stop."""
    if kind_of_run(run.path) is HARDWARE:
        model = _config(run).get("model")
        of = f" of {printable(model)}" if isinstance(model, str) else ""
        return f"Exact search of the accelerators{of}, a model that stays as it is"
    return "Joint search of CLIP architectures and their accelerators"


def in_words(run: Run) -> list[tuple[str, str]]:
    """(name, sentence) of what was searched, its limits and its scenario."""
    config = _config(run)
    said = [
        ("Searched for", _sought(config)),
        ("Limits", limits_text(config)),
        ("Scenario", scenario_text(_scenario(run))),
    ]
    return [(name, words) for name, words in said if words]


def _config(run: Run) -> Row:
    config = run.record.get("config")
    return config if isinstance(config, Mapping) else {}


def _scenario(run: Run) -> Row:
    """The scenario of the designs, which is complete, or the config's."""
    given = [design.get("scenario") for design in run.designs] + [_config(run).get("scenario")]
    return next((x for x in given if isinstance(x, Mapping) and x), {})


def _sought(config: Row) -> str:
    targets, objectives = config.get("targets"), config.get("objectives")
    if isinstance(targets, Mapping) and isinstance(targets.get("mode"), str):
        return f"accuracy at low {printable(targets['mode'])}"
    if isinstance(objectives, list) and objectives:
        return "least " + ", least ".join(map(printable, objectives))
    return ""


def limits_text(config: Row) -> str:
    """The hard limits: "latency at most 50.0 ms; peak at most 20 TOPS"."""
    limits = config.get("limits")
    if not isinstance(limits, Mapping):  # of a hardware search, whose limits are fields of its own
        limits = {key: x for key, x in config.items() if unit_of(key) or fixed_unit_of(key)}
    known = [(str(key), value) for key, value in limits.items() if is_number(value)]
    return "; ".join(f"{printable(words_of(k))} at most {amount(k, x)}" for k, x in known)


def scenario_text(scenario: Row) -> str:
    """Where devices are made and live, of what a scenario says of it."""
    n = lambda key: _number(scenario.get(key))  # noqa: E731
    grid = lambda key: _grid(scenario.get(key))  # noqa: E731
    sentences = [
        [
            ("inferences_per_s", f"{n('inferences_per_s')} inferences a second"),
            ("hours_per_day", f"{n('hours_per_day')} hours a day"),
            ("lifetime_years", f"for {n('lifetime_years')} years"),
            ("use_grid", f"on {grid('use_grid')}"),
        ],
        [
            ("node_nm", f"a chip of {n('node_nm')} nm"),
            ("precision_bits", f"{n('precision_bits')}-bit words"),
            ("clock_mhz", f"{n('clock_mhz')} MHz"),
            ("dram_technology", f"DRAM {printable(scenario.get('dram_technology'))}"),
            ("fab_grid", f"made on {grid('fab_grid')}"),
        ],
        [("costing", f"costs by the {printable(scenario.get('costing'))} conventions")],
    ]
    said = [", ".join(t for key, t in each if scenario.get(key) is not None) for each in sentences]
    return "; ".join(filter(None, said))


def _number(value: Any) -> str:
    return f"{value:g}" if is_number(value) else printable(value)


def _grid(value: Any) -> str:
    return f"{value:g} gCO2e/kWh" if is_number(value) else f"the grid of {printable(value)}"


def command(record: Row, folder: Path) -> tuple[str, str]:
    """What the command is, and the command itself.

    That which made the run; of a run that Python made, or an older version, one that repeats it.

    What cannot be printed is escaped, and does not run as it is.

    Args:
      record: config.json.
      folder: of the run.
    """
    made = record.get("command")
    if isinstance(made, list) and made and all(isinstance(word, str) for word in made):
        return "Made by", printable(shell_line(made))
    place = f"runs/{folder.resolve().name}"
    again = ["codesign", kind_of_run(folder).command, f"{place}/config.json"]
    again += ["--out", f"{place}-again"]
    return "Repeated by, with the folder's own path", printable(shell_line(again))
