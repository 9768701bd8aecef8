"""What tests of exact searches share: the cost table of a small space."""

from __future__ import annotations

import pytest

from codesign.architecture import Architecture, Tower
from codesign.cost.table import CostTable, build_table
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices

SPACE = DesignSpace(
    base=Architecture(
        Tower(2, 16, 1, 32),
        Tower(2, 8, 1, 32),
        patch=2,
        image=8,
        channels=1,
        context=10,
        projection=32,
        head_dim=8,
        vocab=32,
    ),
    vision=TowerChoices(layers=(1, 2), width=(8, 16), heads=(1,), ffn=(16, 32)),
    text=TowerChoices(layers=(1, 2), width=(8,), heads=(1,), ffn=(16, 32)),
    accelerator=AcceleratorChoices(
        cores=(1,),
        pe_x=(4, 8),
        pe_y=(2, 4),
        l2_kib=(4, 8),
        l2_bytes_per_cycle=(8,),
        glb_mib=(1 / 64,),
    ),
)


@pytest.fixture(scope="session")
def table() -> CostTable:
    """Costs of every network of a space of 32 on eight chips."""
    return build_table(SPACE, Scenario(clock_mhz=100.0))
