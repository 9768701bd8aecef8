"""How much memory is left, by files of the system, and tables that it cannot hold."""

import dataclasses

import pytest

from codesign.configs import clip_b16
from codesign.cost.table import table_bytes
from codesign.errors import UserError
from codesign.space import JOINT_GRID, WIDE_GRID
from codesign.train import memory
from codesign.train.search import setup


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes what a system tells of its memory."""
    files = [tmp_path / name for name in ("meminfo", "limit", "used", "limit_1", "used_1")]
    monkeypatch.setattr(memory, "_MEMINFO", files[0])
    monkeypatch.setattr(memory, "_CGROUPS", (tuple(files[1:3]), tuple(files[3:])))

    def tell(**texts):
        for name, text in texts.items():
            (tmp_path / name).write_text(text)

    return tell


def test_the_least_of_what_the_system_and_its_groups_leave_is_free(system):
    assert memory.free_host_bytes() is None
    system(meminfo="MemTotal:  9 kB\nMemAvailable:    2000 kB\nSwapFree: 5 kB\n")
    assert memory.free_host_bytes() == 2_048_000
    system(limit="max\n", used="100\n")
    assert memory.free_host_bytes() == 2_048_000
    system(limit="1000000\n", used="400000\n")
    assert memory.free_host_bytes() == 600_000
    system(limit_1="9000\n", used_1="9001\n")
    assert memory.free_host_bytes() == 0


SCENARIO = clip_b16.config.scenario


def space_on(grid):
    config = clip_b16.config
    space = config.design_space(image=224, channels=3, context=77, vocab=49408)
    return dataclasses.replace(space, accelerator=grid)


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_table_that_does_not_fit_is_refused_before_anything_is_mapped(monkeypatch, where):
    monkeypatch.setattr(setup, "free_host_bytes", lambda: 10**9 if where == "host" else None)
    monkeypatch.setattr(setup, "free_device_bytes", lambda: 10**9 if where == "device" else None)
    setup._check_memory(space_on(JOINT_GRID), SCENARIO)
    if where == "device":
        setup._check_memory(space_on(WIDE_GRID), SCENARIO)  # 0.95 GB
        monkeypatch.setattr(setup, "free_device_bytes", lambda: 9 * 10**8)
    with pytest.raises(UserError) as refused:
        setup._check_memory(space_on(WIDE_GRID), SCENARIO)
    said = str(refused.value)
    assert "costs on 378,000 accelerators take" in said and "\n" not in said
    assert ("2.13 GB, of which 1 GB" if where == "host" else "0.945 GB on a device, of") in said
    most = int(said.split("until there are ")[1].split(" ")[0].replace(",", ""))
    assert 150_000 < most < 378_000


def test_weights_that_may_stay_need_a_table_of_twice_the_size():
    space = space_on(JOINT_GRID)
    stay = dataclasses.replace(SCENARIO, resident_weights=True)
    assert table_bytes(space, stay) == pytest.approx(2 * table_bytes(space, SCENARIO), rel=0.02)
