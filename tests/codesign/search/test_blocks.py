"""Tables in blocks of accelerators: the bits of the whole table, in a part of its memory."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from codesign.cost import table as table_module
from codesign.cost.table import BlockedTable, build_table, table_bytes
from codesign.search.front import every_network, unmet
from codesign.search.grid import Aim, best_accelerators, best_for_each
from codesign.search.objectives import FunctionLimit, Limits
from codesign.space import AcceleratorChoices

pytestmark = pytest.mark.usefixtures("quick_compilation")

# With crowded ones, and some equal in all but area.
GRID = AcceleratorChoices((1, 2, 4), (4, 8, 16), (2, 4), (4, 8), (8, 16), (1 / 64, 1 / 8), (1, 2))


@pytest.fixture(scope="module")
def wide(table):
    """A table of 288 chips, made at once."""
    return build_table(dataclasses.replace(table.space, accelerator=GRID), table.scenario)


@pytest.fixture
def blocked(wide, monkeypatch):
    """The same in blocks, of which the last is not full."""
    monkeypatch.setattr(table_module, "ACCELERATORS_AT_ONCE", 50)
    return BlockedTable(wide.space, wide.scenario)


def twice_the_energy_j(costs):
    return 2 * costs.energy_j


def halfway(wide, of):
    """A cost that half of the chips exceed with the largest network."""
    return float(np.median(of(wide.on_every_accelerator(every_network(wide.space)[-1]))))


def test_a_table_of_many_accelerators_is_that_made_at_once(blocked, wide):
    made = build_table(wide.space, wide.scenario)
    jax.tree.map(np.testing.assert_array_equal, made, wide)
    assert table_bytes(wide.space, wide.scenario) == sum(x.nbytes for x in jax.tree.leaves(wide))


@pytest.mark.parametrize("mode", ["carbon", pytest.param("tops", marks=pytest.mark.slow)])
def test_the_best_accelerators_are_those_of_the_whole_table_to_the_bit(blocked, wide, mode):
    networks = every_network(wide.space)
    area = halfway(wide, lambda costs: costs.area_mm2)
    own = FunctionLimit(twice_the_energy_j, halfway(wide, twice_the_energy_j))
    for limits in (
        Limits(area_mm2=area, latency_s=halfway(wide, lambda costs: costs.latency_s)),
        Limits(tops=halfway(wide, lambda costs: costs.tops), functions=(own,)),
        Limits(area_mm2=1e-6),
    ):
        whole = best_accelerators(wide, networks, mode, limits)
        found = best_accelerators(blocked, networks, mode, limits)
        np.testing.assert_array_equal(found.value, whole.value)
        # "tops" has many equal ones: the first of all is taken.
        np.testing.assert_array_equal(found.accelerator, whole.accelerator)
    first = whole.accelerator[:2]
    indices = np.asarray(wide.accelerator_indices(first))
    np.testing.assert_array_equal(blocked.accelerator_indices(first), indices)


def test_chips_that_break_a_limit_are_not_mapped(blocked, wide, monkeypatch):
    mapped = []
    run_on = table_module.run_on

    def counted(workloads, chips, techs):
        mapped.append(len(chips.cores))
        return run_on(workloads, chips, techs)

    monkeypatch.setattr(table_module, "run_on", counted)
    limits = Limits(area_mm2=halfway(wide, lambda costs: costs.area_mm2))
    networks, at_once = every_network(wide.space), table_module.ACCELERATORS_AT_ONCE
    best_accelerators(blocked, networks, "carbon", limits)
    assert sum(mapped) <= wide.accelerators / 2 + at_once
    # Both aims of one pass; a chip is left out where it can serve neither.
    mapped.clear()
    best_for_each(blocked, networks, [Aim("carbon", limits), Aim("energy", Limits())])
    assert mapped == [at_once] * -(-wide.accelerators // at_once)


@pytest.mark.slow
def test_what_nothing_meets_is_told_in_the_same_words(blocked, wide):
    limits = Limits(
        area_mm2=1.0001 * float(np.min(wide.chip.area_mm2["all"])),
        latency_s=halfway(wide, lambda costs: costs.latency_s) / 20,
    )
    assert unmet(blocked, limits) == unmet(wide, limits)


@pytest.mark.slow
def test_an_accelerator_too_small_for_an_operator_is_left_out(table, monkeypatch):
    """The whole table refuses it, as its infinities do not interpolate."""
    small = dataclasses.replace(table.space.accelerator, l2_kib=(0.001, 4))
    space = dataclasses.replace(table.space, accelerator=small)
    with pytest.raises(ValueError, match="raise l2_kib or glb_mib"):
        build_table(space, table.scenario)
    monkeypatch.setattr(table_module, "ACCELERATORS_AT_ONCE", 3)
    found = best_accelerators(
        BlockedTable(space, table.scenario), every_network(space), "carbon", Limits()
    )
    fitting = dataclasses.replace(space, accelerator=dataclasses.replace(small, l2_kib=(4,)))
    expected = best_accelerators(
        build_table(fitting, table.scenario), every_network(space), "carbon", Limits()
    )
    np.testing.assert_array_equal(found.value, expected.value)


MEASURE = r"""
import dataclasses, re, sys
from pathlib import Path
import numpy as np
from codesign.configs import clip_b16
from codesign.cost import table as table_module
from codesign.cost.execution import Execution
from codesign.cost.table import BlockedTable, build_table, table_bytes
from codesign.search.grid import best_accelerators
from codesign.search.objectives import Limits
from codesign.space import WIDE_GRID

def mapped(workloads, chips, techs):
    # Mapping them would take hours.
    ones = [np.ones((w.m.shape[0], len(chips.cores)), np.float32) for w in workloads]
    return [Execution({"all": x}, {"all": x.copy()}) for x in ones]

table_module.run_on = mapped
scenario = clip_b16.config.scenario
space = clip_b16.config.design_space(image=224, channels=3, context=77, vocab=49408)
networks = np.zeros((4, len(space.steps)), np.int32)
small = dataclasses.replace(WIDE_GRID, cores=(1,), pe_x=(32,))
peaks = []
for grid in (small, WIDE_GRID):
    space = dataclasses.replace(space, accelerator=grid)
    kind = build_table if sys.argv[1] == "whole" and grid is WIDE_GRID else BlockedTable
    best_accelerators(kind(space, scenario), networks, "carbon", Limits())
    # Not getrusage's, which begins with the peak of the process that started this one.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    peaks.append(1024 * int(peak[1]))
print((peaks[1] - peaks[0]) / table_bytes(space, scenario))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="as Linux tells it")
def test_the_memory_of_blocks_is_a_part_of_the_table_s():
    """Peak on the wide grid beyond that on one block, in units of the whole table of 0.9 GB."""
    grown = {
        how: float(
            subprocess.run(
                [sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=True
            ).stdout.split()[-1]
        )
        for how in ("blocks", "whole")
    }
    # What is known of each chip alone; the whole table, and one tower's part of it twice.
    assert grown["blocks"] < 0.4 and 0.75 < grown["whole"] < 2.25, grown
